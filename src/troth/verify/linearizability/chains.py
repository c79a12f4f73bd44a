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
from collections.abc import Container, Iterable, Sequence
from itertools import pairwise
from typing import Final, cast

from msgspec import Struct

from troth.verify.history import FOREVER, EventType, Operation, Value, show
from troth.verify.linearizability.keys import Key

_NOTHING: Final = object()


class Chain(Struct, gc=False):
    """Writes in their one possible order, each with what was read right after it, or _NOTHING; and the zone.

    None as the first of them is the initial value.
    """

    steps: list[tuple[Operation | None, Value]]
    f: int = FOREVER
    s: int = -1


class Found(Struct, frozen=True):
    """`conflict` is "" when the key is linearizable; otherwise it says in words what contradicts what."""

    conflict: str
    chains: list[Chain] = []
    loose: list[Operation] = []
    """Writes and appends that nobody observed."""


def examine(key: Key) -> Found | None:
    """Decide one key; None when its texts cannot be told apart after all."""
    unseen = dict(key.written)
    if key.appended:
        if key.changed or key.initial not in (None, ""):
            return None
        texts = [text for text in unseen if text.__class__ is str or isinstance(text, str | tuple)]
        if len(texts) < len(unseen):
            # Something that cannot be part of anything.
            return None
        chains = _taken_apart(key, sorted(set(map(len, texts)) - {0}, reverse=True), unseen)
    else:
        chains = _linked(key, unseen)
    found = Found(chains) if isinstance(chains, str) else _fit(key, chains, unseen)
    # One way of taking values apart that fits is proof enough; one that does not proves nothing unless it is the only.
    return None if found.conflict and key.appended and not _told_apart(key.written) else found


def _linked(key: Key, unseen: dict[Value, Operation]) -> str | list[Chain]:
    """The chains of a key without appends, which go on by cas; or what contradicts that there are such.

    What is in them is taken out of *unseen*.
    """
    written, initial = key.written, key.initial
    chains: dict[Value, Chain] = {}
    for value in key.first_return:
        if value in written:
            chains[value] = Chain([(unseen.pop(value), value)])
        elif value == initial:
            chains[value] = Chain([(None, value)])
        else:
            return f"{show(value)} was read but never written"
    return _by_cas(key, chains, unseen) if key.changed else list(chains.values())


def _by_cas(key: Key, chains: dict[Value, Chain], unseen: dict[Value, Operation]) -> str | list[Chain]:
    """Chains of one write each, joined where a cas goes from one to the next."""
    written = key.written
    following: dict[Value, Value] = {}
    for before, after in key.changed.items():
        if written[after].outcome is EventType.INFO and not _wanted(key, after):
            continue
        if before != key.initial and before not in written:
            return f"a cas from {show(before)} succeeded, which was never written"
        following[before] = after
        for value in (before, after):
            if value not in chains:
                chains[value] = Chain([(unseen.pop(value, None), _NOTHING)])
    inner = set(following.values())
    joined: list[Chain] = []
    for value, chain in chains.items():
        if value in inner:
            continue
        if value in written and written[value].f == "cas":
            return f"{show(value)} is read, but the cas to it cannot have succeeded"
        joined.append(chain)
        while value in following:
            value = following[value]
            chain.steps += chains[value].steps
    if sum(len(chain.steps) for chain in joined) < len(chains):
        return "cas in a circle: none of them can be first"
    return joined


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


def _taken_apart(key: Key, lengths: Sequence[int], unseen: dict[Value, Operation]) -> str | list[Chain]:
    """The chains of a key with appends, from the values read; or the first contradiction.

    What is in them is taken out of *unseen*.
    """
    written, initial = key.written, key.initial
    values: list[str] = []
    # By what was put first, None where it was appended to nothing.
    begun: dict[Value, Chain] = {}
    is_text = True
    for value in key.first_return:
        if value.__class__ is str and value:
            values.append(value)
        elif value is None or value in ("", ()):
            if value != initial:
                return f"{show(value)} was read, but the key starts as {show(initial)}"
            begun[None] = Chain([(None, value)])
        elif isinstance(value, str | tuple):
            # A list is taken apart as a text is.
            values.append(cast(str, value))
            is_text = False
        else:
            return f"{show(value)} was read but never written"
    # What goes on from a value comes later, and mostly right behind it.
    values.sort(key=None if is_text else len)
    known = ""
    steps: list[tuple[Operation | None, Value]] = []
    for value in values:
        offset, size, end = len(known), len(value), value[-1]
        if not offset or value in written or value[:offset] != known:
            head = _standing(value, 0, written, lengths)
            if head is None:
                return f"{show(value)} was read, but nobody wrote how it begins"
            root = None if written[head].f == "append" else head
            if root in begun:
                steps = begun[root].steps
                known = cast(str, steps[-1][1] or "")
            else:
                begun[root] = Chain([(unseen.pop(root, None), _NOTHING)])
                steps = begun[root].steps
                known = root or ""
            offset = len(known)
            if offset and value[:offset] != known:
                return f"{show(value)} and {show(known)} were both read, and neither can become the other"
        while offset < size:
            text = value[offset : value.index(end, offset) + 1]
            op = unseen.pop(text, None)
            if op is None or op.f != "append":
                standing = _standing(value, offset, written, lengths)
                if standing is None:
                    return f"{show(value)} was read, but nobody wrote what stands in it at {offset}"
                text, op = standing, unseen.pop(standing, None)
                if op is None or op.f != "append":
                    return f"{show(value)} was read, but {show(text)} cannot stand where it does"
            steps.append((op, _NOTHING))
            offset += len(text)
        steps[-1] = steps[-1][0], value
        known = value
    return list(begun.values())


def _standing(value: str, offset: int, written: Container[Value], lengths: Sequence[int]) -> str | None:
    """The text that stands in *value* at *offset*, None if there is none."""
    # Mostly a text ends in something that stands nowhere else in it.
    text = value[offset : value.index(value[-1], offset) + 1]
    if text in written:
        return text
    for length in lengths:
        text = value[offset : offset + length]
        if text in written:
            return text
    return None


def _fit(key: Key, chains: list[Chain], unseen: dict[Value, Operation]) -> Found:
    """Check the chains against real time and against one another."""
    first_return, last_invoke = key.first_return, key.last_invoke
    ok = EventType.OK
    loose = [op for op in unseen.values() if op.outcome is ok]
    forward: list[tuple[int, int]] = []
    backward: list[tuple[int, int]] = []
    for chain in chains:
        f, s = FOREVER, -1
        for op, value in chain.steps:
            if op is None:
                f = -1
            else:
                done = op.completed if op.outcome is ok else FOREVER
                if op.invoked > s:
                    s = op.invoked
                if done < f:
                    f = done
                if done < s:
                    return Found(f"{op.describe()} returned before something that must precede it was invoked")
            if value is not _NOTHING:
                done = first_return[value]
                if done < s:
                    return Found(f"{show(value)} was read before something in it was invoked")
                if done < f:
                    f = done
                if last_invoke[value] > s:
                    s = last_invoke[value]
        chain.f, chain.s = f, s
        if f < s:
            forward.append((f, s))
        elif f >= 0:
            backward.append((s, f))
    forward.sort()
    for (_, end), (start, _) in pairwise(forward):
        if start < end:
            return Found(f"two values must both be held between events {start} and {end}")
    if not forward:
        return Found("", chains, loose)
    starts = [start for start, _ in forward]
    for op in loose:
        at = bisect_right(starts, op.invoked) - 1
        if at >= 0 and op.completed < forward[at][1]:
            return Found(f"[{op.index}] {op.describe()} lies wholly inside the time of a value that excludes it")
    for s, f in backward:
        at = bisect_right(starts, s) - 1
        if at >= 0 and f < forward[at][1]:
            return Found(f"a value written and read between events {s} and {f} lies inside the time of another")
    return Found("", chains, loose)


def order(key: Key, found: Found) -> list[tuple[int, int]]:
    """A legal order as (instant, operation index); instants are 2 p just before the event at position p, 2 p + 1 just
    after it. Only for a key without conflict."""
    forward = sorted((chain.f, chain.s) for chain in found.chains if chain.f < chain.s)
    starts = [f for f, _ in forward]

    def anywhere(s: int) -> tuple[int, int]:
        at = bisect_right(starts, s) - 1
        return (2 * forward[at][1] + 1, 1) if at >= 0 and s < forward[at][1] else (2 * s + 1, 0)

    rows: list[tuple[int, int, int, int, int]] = []
    readers: dict[Value, list[Operation]] = {}
    for op in key.reads:
        readers.setdefault(key.seen.get(op.index, op.result), []).append(op)
    for number, chain in enumerate(found.chains):
        rank = 0
        instant = max(2 * chain.f, 0)
        if chain.f >= chain.s:
            instant, rank = anywhere(chain.s)
        step = 0
        for write, value in chain.steps:
            level = [] if write is None else [write]
            seen = [] if value is _NOTHING else readers[value]
            for op in (*level, *sorted(seen, key=_invoked)):
                instant = max(instant, 2 * op.invoked + 1)
                rows.append((instant, rank, number, step, op.index))
                step += 1
    for op in found.loose:
        instant, rank = anywhere(op.invoked)
        rows.append((instant, rank, len(found.chains) + op.invoked, 0, op.index))
    rows.sort()
    return [(row[0], row[4]) for row in rows]


def _invoked(op: Operation) -> int:
    return op.invoked
