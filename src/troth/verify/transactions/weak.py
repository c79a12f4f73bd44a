"""Read committed, read atomic and causal consistency as axioms over a commit order, in near-linear time.

Biswas & Enea ("On the Complexity of Checking Transactional Consistency", OOPSLA 2019, figure 2) define the three by one
scheme. A commit order co is a total order of transactions that contains wr (who read from whom) and so (session order),
such that for every transaction t3 that reads key x from t1, and every other t2 that writes x:

==============  ==================================================================================  ==========
read committed  if t3 read anything from t2 before that read of x, t2 comes before t1 in co         "committed"
read atomic     if t2 comes just before t3 in so or wr                                              "atomic"
causal          if t2 comes before t3 in so and wr, over any number of steps                        "causal"
==============  ==================================================================================  ==========

The premises do not speak of co, so the edges they force can be collected once; a co exists exactly when those edges,
with wr and so, have no cycle. Only one t2 a (session, key) is needed: the last, since earlier ones precede it.

The bounds are those of "AWDIT: An Optimal Weak Database Isolation Tester" (PLDI 2025): for a transaction and one it
read from, the smaller of "keys read" and "keys written" is walked, O(n^1.5) in all; causal costs O(n k) for k sessions,
up to a logarithm, by vector clocks and the places of each session's writes of a key.

Without sessions (so empty) read atomic is that of Cerone, Bernardi & Gotsman 2015. Where the order of versions is known
besides (list-append), it is handed in as further edges of co.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct

from troth.verify.history import Value
from troth.verify.transactions.graph import Ints, OutOfTime, components, rows, sweep

INITIAL: Final = -1
_CYCLE_EDGES_MAX: Final = 4_000_000
"""Edges looked at, more or less, in search of a short cycle."""

Axiom: TypeAlias = Literal["committed", "atomic", "causal"]


class Forced(Struct, frozen=True, kw_only=True):
    """Why `before` must be committed before `after`: `reader` read `key` from `after` though it knew `before`."""

    before: int
    after: int
    reader: int
    key: Value


class WeakViolation(Struct, frozen=True, kw_only=True):
    """A cycle of transactions, each before the next; forced[i] says why when wr, so or ww do not (None)."""

    nodes: tuple[int, ...]
    forced: tuple[Forced | None, ...]


class WeakHistory(Struct, kw_only=True):
    """What the axioms need.

    count: number of transactions; alive: those committed, by order within their sessions.
    sessions: by transaction; None where sessions do not count.
    reads: by transaction, (key, who it was read from, or INITIAL) in program order.
    writes: by transaction, the keys written.
    order: (sources, targets) of edges that co must contain besides wr and so.
    before: (sources, targets) of the session order, consecutive ones.
    """

    count: int
    alive: Sequence[int]
    sessions: Sequence[int] | None
    reads: Sequence[Sequence[tuple[Value, int]]]
    writes: Sequence[Sequence[Value]]
    order: tuple[list[int], list[int]]
    before: tuple[list[int], list[int]]


def weak_violation(history: WeakHistory, axiom: Axiom, expired: Callable[[], bool]) -> WeakViolation | None:
    """Why no commit order satisfies *axiom*, or None if one does.

    Raises:
        OutOfTime: undecided when *expired* said so.
    """
    return _Axioms(history, expired).check(axiom)


class _Axioms:
    def __init__(self, history: WeakHistory, expired: Callable[[], bool]) -> None:
        self.history, self.expired = history, expired
        self.writes = [dict.fromkeys(keys) for keys in history.writes]
        self.wr_sources: list[int] = []
        self.wr_targets: list[int] = []
        for reader in history.alive:
            for _, writer in history.reads[reader]:
                if writer not in (INITIAL, reader):
                    self.wr_sources.append(writer)
                    self.wr_targets.append(reader)

    def check(self, axiom: Axiom) -> WeakViolation | None:
        history = self.history
        known_sources = [*self.wr_sources, *history.before[0]]
        known_targets = [*self.wr_targets, *history.before[1]]
        plain = (np.array(known_sources, dtype=np.int64), np.array(known_targets, dtype=np.int64))
        order = self._sorted(plain)
        if order is None:
            return self._cycle(plain, [])
        if axiom == "committed":
            forced = self._committed()
        elif axiom == "atomic":
            forced = self._atomic()
        else:
            forced = self._causal(order)
        for edge in forced:
            if edge.after == INITIAL:
                # The initial state precedes every write, so it cannot follow one.
                return WeakViolation(nodes=(edge.before, edge.reader), forced=(None, edge))
        sources = np.array([*known_sources, *history.order[0], *(edge.before for edge in forced)], dtype=np.int64)
        targets = np.array([*known_targets, *history.order[1], *(edge.after for edge in forced)], dtype=np.int64)
        keep = sources != targets
        whole = (sources[keep], targets[keep])
        return None if self._sorted(whole) is not None else self._cycle(whole, forced)

    def _sorted(self, edges: tuple[Ints, Ints]) -> list[int] | None:
        count, alive = self.history.count, list(self.history.alive)
        indegree = np.bincount(edges[1], minlength=count).tolist()
        taken = sweep(rows(count, *edges), indegree, alive, None)
        return taken if len(taken) == len(alive) else None

    def _committed(self) -> list[Forced]:
        forced: list[Forced] = []
        for reader in self.history.alive:
            reads = self.history.reads[reader]
            if len(reads) < 2:
                continue
            first: dict[int, int] = {}
            places: dict[Value, list[tuple[int, int]]] = {}
            for at, (key, writer) in enumerate(reads):
                first.setdefault(writer, at)
                places.setdefault(key, []).append((at, writer))
            for other, at in first.items():
                if other in (INITIAL, reader):
                    continue
                for key in _smaller(places, self.writes[other]):
                    for later, writer in places[key]:
                        if later > at and writer not in (other, reader):
                            forced.append(Forced(before=other, after=writer, reader=reader, key=key))
        return forced

    def _atomic(self) -> list[Forced]:
        forced: list[Forced] = []
        sessions = self.history.sessions
        # A crashed transaction comes before nothing that its process did later.
        followed = {*self.history.before[0]}
        latest: dict[tuple[int, Value], int] = {}
        for reader in self.history.alive:
            sources: dict[Value, dict[int, None]] = {}
            for key, writer in self.history.reads[reader]:
                if writer != reader:
                    sources.setdefault(key, {})[writer] = None
            if sessions is not None:
                for key, writers in sources.items():
                    other = latest.get((sessions[reader], key))
                    if other is not None:
                        self._force(forced, other, writers, reader, key)
                for key in self.history.writes[reader] if reader in followed else ():
                    latest[sessions[reader], key] = reader
            for other in dict.fromkeys(writer for writers in sources.values() for writer in writers):
                if other != INITIAL:
                    for key in _smaller(sources, self.writes[other]):
                        self._force(forced, other, sources[key], reader, key)
        return forced

    def _force(self, forced: list[Forced], other: int, writers: dict[int, None], reader: int, key: Value) -> None:
        for writer in writers:
            if writer != other:
                forced.append(Forced(before=other, after=writer, reader=reader, key=key))

    def _causal(self, order: list[int]) -> list[Forced]:
        """Vector clocks in a topological order of so and wr; a transaction's clock counts those before it, by lane.

        A lane is a session; a transaction that its session does not order (crashed, or sessions do not count) is a
        lane of its own.
        """
        history = self.history
        lane_of, place, lanes = self._lanes()
        into: list[list[int]] = [[] for _ in range(history.count)]
        # The session's own past comes first: it mostly holds the rest.
        for source, target in zip(*history.before, strict=True):
            into[target].append(source)
        for source, target in zip(self.wr_sources, self.wr_targets, strict=True):
            into[target].append(source)
        clocks: dict[int, list[int]] = {}
        written: dict[Value, dict[int, list[int]]] = {}
        for lane, members in enumerate(lanes):
            for node in members:
                for key in history.writes[node]:
                    written.setdefault(key, {}).setdefault(lane, []).append(place[node])
        forced: list[Forced] = []
        for count, node in enumerate(order):
            if not count & 1023 and self.expired():
                raise OutOfTime
            known = [0] * len(lanes)
            for source in into[node]:
                lane, at = lane_of[source], place[source]
                if known[lane] > at:
                    # Known already, and with it all that it knew.
                    continue
                known = [a if a > b else b for a, b in zip(known, clocks[source], strict=True)]
                known[lane] = max(known[lane], at + 1)
            clocks[node] = known
            for key, writer in dict.fromkeys(history.reads[node]):
                if writer == node:
                    continue
                for lane, places in written.get(key, {}).items():
                    seen = known[lane]
                    if seen:
                        at = bisect_left(places, seen)
                        if at:
                            other = lanes[lane][places[at - 1]]
                            if other not in (writer, node):
                                forced.append(Forced(before=other, after=writer, reader=node, key=key))
        return forced

    def _lanes(self) -> tuple[dict[int, int], dict[int, int], list[list[int]]]:
        lane_of: dict[int, int] = {}
        place: dict[int, int] = {}
        lanes: list[list[int]] = []
        following = dict(zip(*self.history.before, strict=True))
        for node in self.history.alive:
            if node in lane_of:
                continue
            lanes.append([])
            at: int | None = node
            while at is not None and at not in lane_of:
                lane_of[at] = len(lanes) - 1
                place[at] = len(lanes[-1])
                lanes[-1].append(at)
                at = following.get(at)
        return lane_of, place, lanes

    def _cycle(self, edges: tuple[Ints, Ints], forced: list[Forced]) -> WeakViolation:
        """A short cycle: breadth first from a few edges inside one strong component."""
        adjacency = rows(self.history.count, *edges)
        component = components(adjacency)
        plain = {*zip(self.wr_sources, self.wr_targets, strict=True), *zip(*self.history.before, strict=True)}
        plain.update(zip(*self.history.order, strict=True))
        reasons = {(edge.before, edge.after): edge for edge in reversed(forced)}
        starts = [
            (a, b)
            for a, b in zip(edges[0].tolist(), edges[1].tolist(), strict=True)
            if component[a] == component[b]
        ]
        best: list[int] = []
        for source, target in starts[: min(200, 1 + _CYCLE_EDGES_MAX // len(edges[0]))]:
            path = _path(adjacency, component, target, source)
            if not best or len(path) < len(best):
                best = path
            if len(best) == 2:
                break
        # A session's order is told in one step, however long it is.
        steps = {*zip(*self.history.before, strict=True)}
        best = [
            node
            for before, node, after in zip([best[-1], *best], best, [*best[1:], best[0]], strict=False)
            if (before, node) not in steps or (node, after) not in steps
        ]
        pairs = list(zip(best, [*best[1:], best[0]], strict=True))
        return WeakViolation(
            nodes=tuple(best), forced=tuple(None if pair in plain else reasons.get(pair) for pair in pairs)
        )


def _smaller(mine: Mapping[Value, object], theirs: Mapping[Value, object]) -> list[Value]:
    """Keys in both, by walking the smaller."""
    if len(mine) <= len(theirs):
        return [key for key in mine if key in theirs]
    return [key for key in theirs if key in mine]


def _path(adjacency: list[list[int]], component: list[int], start: int, goal: int) -> list[int]:
    came = {start: -1}
    layer = [start]
    while goal not in came:
        following = []
        for node in layer:
            for target in adjacency[node]:
                if component[target] == component[goal] and target not in came:
                    came[target] = node
                    following.append(target)
        layer = following
    path = []
    node = goal
    while node >= 0:
        path.append(node)
        node = came[node]
    return path[::-1]
