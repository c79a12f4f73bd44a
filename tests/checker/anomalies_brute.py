"""Which anomalies a small list-append history has, from their definitions: all pairs, all cycles."""

from collections.abc import Iterator
from itertools import combinations, pairwise, permutations

from troth.verify.history import EventType, Value

from .transactions_brute import Txn, must_precede

OK, INFO, FAIL = EventType.OK, EventType.INFO, EventType.FAIL
List = tuple[Value, ...]
Edge = tuple[int, int, str]

PLAIN = frozenset(
    {
        "thin-air-read", "G1a", "G1b", "duplicate-elements", "incompatible-order", "dirty-update", "future-read",
        "internal", "lost-update",
    }
)  # fmt: skip
"""Those that need no cycle."""
DATA = {
    "G0": {"ww"},
    "G1c": {"ww", "wr"},
    **{name: {"ww", "wr", "rw"} for name in ("G-single", "G-nonadjacent", "G2-item")},
}
LEVELS = {"": set[str](), "-process": {"process"}, "-realtime": {"process", "realtime"}}


class Lists:
    """What a history says: who appended what, who read what, the order of the elements of keys whose reads agree."""

    def __init__(self, txns: list[Txn]) -> None:
        self.txns = txns
        self.writer = {(key, value): txn for txn in txns for f, key, value in txn.micros if f != "r"}
        self.reads = [
            (txn, key, value if isinstance(value, tuple) else ())
            for txn in txns
            if txn.outcome is OK
            for f, key, value in txn.micros
            if f == "r"
        ]
        broken = {key for _, key, value in self.reads if len(set(value)) < len(value)}
        broken |= {key for _, key, _, _ in self.clashes()}
        self.order: dict[Value, List] = {key: () for _, key in self._keys() if key not in broken}
        for _, key, value in self.reads:
            if key in self.order:
                self.order[key] = max(self.order[key], value, key=len)

    def _keys(self) -> Iterator[tuple[Txn, Value]]:
        return ((txn, key) for txn in self.txns for _, key, _ in txn.micros)

    def clashes(self) -> Iterator[tuple[Txn, Value, List, List]]:
        for (txn, key, one), (_, other_key, other) in combinations(self.reads, 2):
            if key == other_key and one[: len(other)] != other and other[: len(one)] != one:
                yield txn, key, one, other

    def outcome(self, key: Value, element: Value) -> EventType | None:
        txn = self.writer.get((key, element))
        return None if txn is None else txn.outcome


def plain(lists: Lists) -> set[str]:
    """The anomalies without a cycle."""
    found: set[str] = set()
    for txn, key, value in lists.reads:
        outcomes = [lists.outcome(key, element) for element in value]
        found |= {"thin-air-read"} if None in outcomes else set()
        found |= {"G1a"} if FAIL in outcomes else set()
        found |= {"duplicate-elements"} if len(set(value)) < len(value) else set()
        last = lists.writer.get((key, value[-1])) if value else None
        if last is not None and last is not txn and last.outcome is not FAIL:
            found |= {"G1b"} if [v for f, k, v in last.micros if f != "r" and k == key][-1] != value[-1] else set()
    found |= {"incompatible-order"} if any(lists.clashes()) else set()
    for key, order in lists.order.items():
        outcomes = [lists.outcome(key, element) for element in order]
        for first, second in combinations(range(len(order)), 2):
            between = set(outcomes[first + 1 : second])
            if outcomes[first] is FAIL and outcomes[second] is OK and between <= {INFO}:
                found.add("dirty-update")
    updated: list[tuple[Value, List, int]] = []
    for txn in (txn for txn in lists.txns if txn.outcome is OK):
        found |= set(_within(txn))
        for key in {key for f, key, _ in txn.micros if f != "r"}:
            mine = [(f, value) for f, k, value in txn.micros if k == key]
            if mine[0][0] == "r":
                updated.append((key, mine[0][1] if isinstance(mine[0][1], tuple) else (), txn.number))
    found |= {"lost-update"} if any(a[:2] == b[:2] for a, b in combinations(updated, 2)) else set()
    return found


def _within(txn: Txn) -> Iterator[str]:
    """What a transaction contradicts itself in."""
    for at, (f, key, value) in enumerate(txn.micros):
        if f != "r":
            continue
        seen = value if isinstance(value, tuple) else ()
        if any(g != "r" and k == key and v in seen for g, k, v in txn.micros[at:]):
            yield "future-read"
        known: List | None = None
        mine: List = ()
        for g, k, v in txn.micros[:at]:
            if k == key and g == "r":
                known, mine = v if isinstance(v, tuple) else (), ()
            elif k == key:
                mine = (*mine, v)
        if (known is not None and seen != (*known, *mine)) or seen[len(seen) - len(mine) :] != mine:
            yield "internal"


def cycles(lists: Lists) -> set[str]:
    """The anomalies with a cycle, each with all that it is a case of."""
    edges = set(_edges(lists))
    return {
        base + suffix
        for base, kinds in DATA.items()
        for suffix, more in LEVELS.items()
        if any(_is(base, cycle) for cycle in _cycles(edges, kinds | more))
    }


def _is(base: str, kinds: list[str]) -> bool:
    count = kinds.count("rw")
    if base == "G-single":
        return count == 1
    if base == "G-nonadjacent":
        return count > 0 and not any(one == other == "rw" for one, other in pairwise((*kinds, kinds[0])))
    return count > 0 or base != "G2-item"


def _edges(lists: Lists) -> Iterator[Edge]:
    seen = {(key, element) for _, key, value in lists.reads for element in value}
    alive = {
        txn.number
        for txn in lists.txns
        if txn.outcome is OK
        or (txn.outcome is INFO and any((key, value) in seen for f, key, value in txn.micros if f != "r"))
    }
    for first, second in permutations([txn for txn in lists.txns if txn.number in alive], 2):
        for level in ("process", "realtime"):
            if must_precede(first, second, level):
                yield first.number, second.number, level
    for key, order in lists.order.items():
        known = [element for element in order if (w := lists.writer.get((key, element))) and w.number in alive]
        tail = [
            element
            for (other, element), txn in lists.writer.items()
            if other == key and txn.number in alive and element not in order
        ]
        number = {element: lists.writer[key, element].number for element in (*known, *tail)}
        for at, element in enumerate(known):
            yield from ((number[element], number[later], "ww") for later in (*known[at + 1 :], *tail))
        for reader, other, value in lists.reads:
            if other == key:
                before = [element for element in value if element in known]
                yield from ((number[element], reader.number, "wr") for element in before[-1:])
                # Whoever made the next version; of several that nobody read any may have.
                following = known[len(before) :][:1] or tail
                yield from ((reader.number, number[element], "rw") for element in following)


def _cycles(edges: set[Edge], kinds: set[str]) -> Iterator[list[str]]:
    """The kinds of the edges of every cycle that comes to no transaction twice."""
    after: dict[int, list[tuple[int, str]]] = {}
    for source, target, kind in edges:
        if kind in kinds and source != target:
            after.setdefault(source, []).append((target, kind))

    def onward(path: list[int], steps: list[str]) -> Iterator[list[str]]:
        for target, kind in after.get(path[-1], ()):
            if target == path[0]:
                yield [*steps, kind]
            elif target > path[0] and target not in path:
                yield from onward([*path, target], [*steps, kind])

    for start in after:
        yield from onward([start], [])
