"""Registers and keys in which everything written is told apart: linearizability in O(n log n), without search.

When every written (or appended) text occurs once, a read says not only what was last but all that happened since the
last overwrite: "abc" was put "a", then append "b", then append "c". So every key falls into *chains*: an overwrite
(or the initial value), then the appends and cas that somebody observed, in the order observed, each followed by
the reads that saw exactly that. Inside a chain the order is given; what is left to ask is whether chains fit
beside one another:

(a) Within a chain, no operation returns before one that must precede it is invoked.
(b) Let f be the earliest return in a chain and s its latest invocation. If f < s the chain must own all of [f, s] (a
    forward zone), and owning that is enough. Two forward zones may not overlap.
(c) Otherwise the whole chain fits at any instant in [s, f] (a backward zone), which must not lie inside a forward
zone.

Writes and appends that nobody observed are chains of one, except that an append does not end the chain before it: it
only must stay out of forward zones. Crashed operations that were not observed drop out; observed ones never return.

This extends the clusters of Gibbons & Korach, "Testing shared memories", SIAM J. Comput. 26(4), 1997, section 4.2 (a
cluster is a chain of one) by the read-map with read-modify-write: (b) holds because giving every operation of a chain
the instant max(f, latest invocation up to it) keeps the chain's order inside [f, s] and, by (a), everybody's
interval.

Texts must be told apart inside a concatenation, too: no text may be a prefix of another. Where that fails, or
anything is written twice, or a failed cas must be placed, `register.search` decides.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from msgspec import Struct

from troth.verify.history import FOREVER, EventType, Operation, Value, show
from troth.verify.linearizability.keys import Key


class _Initial:
    """Stands for the initial value as the root of a chain."""

    __slots__ = ()


_ROOT: Final = _Initial()
_NOTHING: Final = object()
_CIRCLE: Final = "cas in a circle: none of them can be first"


class Chain(Struct):
    """Operations in their one possible order: the writer of `root`, whoever read it, the writer of what follows, ..."""

    root: Value
    f: int
    s: int


class Found(Struct, frozen=True):
    """`conflict` is "" when the key is linearizable; otherwise it says in words what contradicts what."""

    conflict: str
    chains: list[Chain] = []
    following: dict[Value, Value] = {}
    """text -> the one right after it in its chain"""
    loose: list[Operation] = []
    """Writes and appends that nobody observed."""

    def levels(self, chain: Chain) -> list[Value]:
        """The texts of a chain in their order."""
        found = [chain.root]
        while found[-1] in self.following:
            found.append(self.following[found[-1]])
        return found


def examine(key: Key) -> Found | None:
    """Decide one key; None when its texts cannot be told apart after all."""
    written, initial = key.written, key.initial
    following: dict[Value, Value] = {}
    # The last text of a value read -> that value.
    read_from: dict[Value, Value] = {}
    conflict = ""
    if key.appended:
        if key.changed or initial not in (None, ""):
            return None
        texts = [text for text in written if text.__class__ is str or isinstance(text, str | tuple)]
        if len(texts) < len(written):
            # Something that cannot be part of anything.
            return None
        conflict = _parse(key, initial, sorted(set(map(len, texts)), reverse=True), following, read_from)
    else:
        for value in key.first_return:
            if value in written:
                read_from[value] = value
            elif value == initial:
                read_from[_ROOT] = value
            else:
                conflict = f"{show(value)} was read but never written"
        for before, after in key.changed.items():
            if written[after].outcome is EventType.INFO and not _wanted(key, after):
                continue
            if before != initial and before not in written:
                conflict = f"a cas from {show(before)} succeeded, which was never written"
            following[_ROOT if before == initial else before] = after
    found = Found(conflict) if conflict else _fit(key, following, read_from)
    # One way of taking values apart that fits is proof enough; one that does not proves nothing unless it is the only.
    return None if found.conflict and key.appended and not _told_apart(written) else found


def _wanted(key: Key, value: Value) -> bool:
    """Whether anything says that *value* was reached: a read, or a cas from it that is itself certain or wanted."""
    for _ in range(len(key.changed) + 1):
        if value in key.first_return:
            return True
        if value not in key.changed:
            return False
        value = key.changed[value]
        if key.written[value].outcome is EventType.OK:
            return True
    return False


def _told_apart(written: Iterable[Value]) -> bool:
    """Whether a concatenation of these texts can be taken apart in one way only: none is a prefix of another."""
    texts = [text for text in written if isinstance(text, str)]
    lists = [text for text in written if isinstance(text, tuple)]
    if (texts and lists) or len({len(text) for text in lists}) > 1:
        return False
    texts.sort()
    # A text that is a prefix of another is one of its right neighbour, too.
    return not any(map(str.startswith, texts[1:], texts))


def _parse(
    key: Key, initial: Value, lengths: list[int], following: dict[Value, Value], read_from: dict[Value, Value]
) -> str:
    """Take every value read apart into the texts it is made of. Returns the first contradiction, "" if none."""
    written = key.written
    values: list[str | tuple[Value, ...]] = []
    for value in key.first_return:
        if value.__class__ is str and value:
            values.append(value)
        elif value is None or value in ("", ()):
            if value != initial:
                return f"{show(value)} was read, but the key starts as {show(initial)}"
            read_from[_ROOT] = value
        elif isinstance(value, str | tuple):
            values.append(value)
        else:
            return f"{show(value)} was read but never written"
    # Shorter values first: a value is then found to go on from the longest one that is its beginning.
    values.sort(key=len)
    placed: set[Value] = set()
    # The longest value so far of every chain and its last text, by its root; longer ones must begin with it.
    ends: dict[Value, tuple[str | tuple[Value, ...], Value]] = {}
    for value in values:
        size = len(value)
        for length in lengths:
            head = value[:length]
            if head in written:
                break
        else:
            return f"{show(value)} was read, but nobody wrote how it begins"
        if written[head].f == "append":
            root: Value = _ROOT
            offset, node = 0, root
        else:
            root = head
            offset, node = len(head), head
        end = ends.get(root)
        if end is not None:
            known, node = end
            offset = len(known)
            if value[:offset] != known:
                return f"{show(value)} and {show(known)} were both read, and neither can become the other"
        while offset < size:
            text = value[offset:]
            # Mostly one text is new.
            if size - offset > lengths[0] or text not in written:
                for length in lengths:
                    text = value[offset : offset + length]
                    if text in written:
                        break
                else:
                    return f"{show(value)} was read, but nobody wrote what stands in it at {offset}"
            if text in placed or written[text].f != "append":
                return f"{show(value)} was read, but {show(text)} cannot stand where it does"
            placed.add(text)
            following[node] = text
            node = text
            offset += len(text)
        read_from[node] = value
        ends[root] = (value, node)
    return ""


def _fit(key: Key, following: dict[Value, Value], read_from: dict[Value, Value]) -> Found:
    """Check the chains against real time and against one another."""
    written, first_return, last_invoke = key.written, key.first_return, key.last_invoke
    ok = EventType.OK
    inner = set(following.values())
    roots: list[Value] = [_ROOT] if _ROOT in following or _ROOT in read_from else []
    loose: list[Operation] = []
    for text, op in written.items():
        if text in inner:
            continue
        if text in read_from or text in following:
            roots.append(text)
        elif op.outcome is ok:
            loose.append(op)
    if key.changed:
        for text in roots:
            if text is not _ROOT and written[text].f == "cas":
                return Found(f"{show(text)} is read, but the cas to it cannot have succeeded")
    chains: list[Chain] = []
    forward: list[tuple[int, int]] = []
    backward: list[tuple[int, int]] = []
    left = len(inner)
    for root in roots:
        f, s = FOREVER, -1
        node: Value = root
        while True:
            if node is _ROOT:
                f = -1
            else:
                op = written[node]
                done = op.completed if op.outcome is ok else FOREVER
                if op.invoked > s:
                    s = op.invoked
                if done < f:
                    f = done
                if done < s:
                    return Found(f"{op.f} {show(node)} returned before something that must precede it was invoked")
            value = read_from.get(node, _NOTHING)
            if value is not _NOTHING:
                done = first_return[value]
                if done < s:
                    return Found(f"{show(value)} was read before something in it was invoked")
                if done < f:
                    f = done
                if last_invoke[value] > s:
                    s = last_invoke[value]
            node = following.get(node, _NOTHING)
            if node is _NOTHING:
                break
            left -= 1
            if left < 0:
                return Found(_CIRCLE)
        chains.append(Chain(root, f, s))
        if f < s:
            forward.append((f, s))
        elif root is not _ROOT:
            backward.append((s, f))
    if left:
        return Found(_CIRCLE)
    forward.sort()
    for (_, end), (start, _) in pairwise(forward):
        if start < end:
            return Found(f"two values must both be held between events {start} and {end}")
    if not forward:
        return Found("", chains, following, loose)
    starts = [start for start, _ in forward]
    for op in loose:
        at = bisect_right(starts, op.invoked) - 1
        if at >= 0 and op.completed < forward[at][1]:
            return Found(f"[{op.index}] {op.describe()} lies wholly inside the time of a value that excludes it")
    for s, f in backward:
        at = bisect_right(starts, s) - 1
        if at >= 0 and f < forward[at][1]:
            return Found(f"a value written and read between events {s} and {f} lies inside the time of another")
    return Found("", chains, following, loose)


def order(key: Key, found: Found) -> list[tuple[int, int]]:
    """A legal order as (instant, operation index); instants are 2 p just before the event at position p, 2 p + 1 just
    after it. Only for a key without conflict."""
    forward = sorted((chain.f, chain.s) for chain in found.chains if chain.f < chain.s)
    starts = [f for f, _ in forward]

    def anywhere(s: int) -> tuple[int, int]:
        at = bisect_right(starts, s) - 1
        return (2 * forward[at][1] + 1, 1) if at >= 0 and s < forward[at][1] else (2 * s + 1, 0)

    level_of: dict[Value, tuple[int, int]] = {}
    rows: list[tuple[int, int, int, int, int, int]] = []
    for number, chain in enumerate(found.chains):
        for depth, node in enumerate(found.levels(chain)):
            level_of[node] = (number, depth)
    readers: dict[Value, list[Operation]] = {}
    nodes = _nodes(key, found)
    for op in key.reads:
        readers.setdefault(nodes[key.seen.get(op.index, op.result)], []).append(op)
    for number, chain in enumerate(found.chains):
        rank = 0
        instant = max(2 * chain.f, 0)
        if chain.f >= chain.s:
            instant, rank = anywhere(chain.s)
        step = 0
        for node in found.levels(chain):
            level = [] if node is _ROOT else [key.written[node]]
            for op in (*level, *sorted(readers.get(node, ()), key=_invoked)):
                instant = max(instant, 2 * op.invoked + 1)
                rows.append((instant, rank, number, step, 0, op.index))
                step += 1
    for op in found.loose:
        instant, rank = anywhere(op.invoked)
        rows.append((instant, rank, len(found.chains) + op.invoked, 0, 0, op.index))
    rows.sort()
    return [(row[0], row[5]) for row in rows]


def _invoked(op: Operation) -> int:
    return op.invoked


def _nodes(key: Key, found: Found) -> dict[Value, Value]:
    """Value read -> the node of its chain, worked out from the chains."""
    nodes: dict[Value, Value] = {}
    for chain in found.chains:
        state: str | tuple[Value, ...] | None = None
        for node in found.levels(chain):
            if node is _ROOT:
                nodes[None] = nodes[""] = nodes[()] = node
                nodes.setdefault(key.initial, node)
                continue
            if key.seen or key.written[node].f != "append":
                nodes[node] = node
                state = node if isinstance(node, str | tuple) else None
                continue
            if isinstance(state, str) and isinstance(node, str):
                joined: str | tuple[Value, ...] = state + node
            elif isinstance(state, tuple) and isinstance(node, tuple):
                joined = (*state, *node)
            else:
                # The first append to an absent value.
                joined = node if isinstance(node, str | tuple) else ()
            state = joined
            nodes[state] = node
    return nodes
