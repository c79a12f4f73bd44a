"""Which cycles a dependency graph has, and a short one of each kind.

=============  =====================================================================================================
G0             ww edges only
G1c            ww and wr edges
G-single       exactly one rw edge
G-nonadjacent  rw edges, no two of them in a row
G2-item        rw edges
=============  =====================================================================================================

Each may lean on process edges (a session's own order) or on real time besides: then it is the -process or -realtime
variant. Whether there is one is decided exactly and in linear time for all but G-single, by strong components: an
edge lies on a cycle of edges of given kinds exactly when both its ends are in one component of them. For G-nonadjacent
the graph has two nodes a transaction, its start and its commit: ww, wr, process and real time lead from a commit to a
start, rw from a start to a commit, and every start to its own commit; its cycles are those without two rw edges in a
row (Cerone & Gotsman, PODC 2016, theorem 4.1, for D ; rw? with D = ww, wr and the rest).

Finding a shortest one needs a search from every edge that may be on it; that is bounded, so a reported cycle is short
but not always the shortest in a history that is full of them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from troth.verify.transactions.graph import (
    DATA,
    PROCESS,
    REALTIME,
    RW,
    WR,
    WW,
    Clock,
    Ints,
    OutOfTime,
    components,
    rows,
    sweep,
)
from troth.verify.transactions.walk import Walk, without_loops

Flags = NDArray[np.bool_]

_SEARCH_VISITS: Final = 400_000
"""Nodes visited at most in search of one kind of cycle, once some cycle was found or proven."""

_SUFFIX: Final = {0: "", PROCESS: "-process", REALTIME: "-realtime"}


class Cycle(Struct, frozen=True, kw_only=True):
    """A cycle: nodes[i] comes before nodes[i + 1] by an edge of kinds[i]; the last comes before the first."""

    anomaly: str
    nodes: tuple[int, ...]
    kinds: tuple[int, ...]


class CycleSearch:
    """The part of a dependency graph in which cycles can be.

    Args:
        count: number of nodes.
        alive: nodes that count (committed transactions).
        edges: (sources, targets, kinds) between alive nodes.
        process_edges: (sources, targets) of the order within processes.
        clock: real time, None when it is not known.
        expired: asked now and then.
    """

    def __init__(
        self,
        count: int,
        alive: Sequence[int],
        edges: tuple[Ints, Ints, Ints],
        process_edges: tuple[list[int], list[int]],
        clock: Clock | None,
        expired: Callable[[], bool],
    ) -> None:
        self.expired = expired
        sources, targets, kinds = edges
        extra_sources = np.array(process_edges[0], dtype=np.int64)
        extra_targets = np.array(process_edges[1], dtype=np.int64)
        # With real time at hand the order within processes follows from it, save where a crashed one is concerned.
        whole_sources = np.concatenate((sources, extra_sources))
        whole_targets = np.concatenate((targets, extra_targets))
        forward = rows(count, whole_sources, whole_targets)
        taken = sweep(forward, np.bincount(whole_targets, minlength=count).tolist(), list(alive), clock)
        self.order: tuple[int, ...] | None = None
        """All alive nodes in an order that every edge respects, real time included; None if there is none."""
        if len(taken) == len(alive):
            self.order = tuple(taken)
            self.core: list[int] = []
            self.rank: dict[int, int] = {node: at for at, node in enumerate(taken)}
            return
        if expired():
            raise OutOfTime
        gone = set(taken)
        rest = [node for node in alive if node not in gone]
        followers = self._followers(count, rest, (whole_sources, whole_targets), clock)
        behind = set(followers)
        self.core = [node for node in rest if node not in behind]
        self.rank = {node: at for at, node in enumerate([*taken, *self.core, *followers])}
        process = np.full(len(extra_sources), PROCESS, dtype=np.int64)
        whole = (whole_sources, whole_targets, np.concatenate((kinds, process)))
        self._narrow(count, whole, clock)
        # Between the first cycle and the last one most transactions are on none: keep the components alone.
        number = components(rows(self.size + self.chain_count, *self._selected(DATA | PROCESS | REALTIME)))
        sizes = Counter(number[: self.size])
        self.core = [node for node, component in zip(self.core, number, strict=False) if sizes[component] > 1]
        self._narrow(count, whole, clock)

    def _followers(self, count: int, rest: list[int], whole: tuple[Ints, Ints], clock: Clock | None) -> list[int]:
        """What can only follow cycles, in an order that edges respect: the same sweep, backwards."""
        inside = np.zeros(count, dtype=bool)
        inside[rest] = True
        keep = inside[whole[0]] & inside[whole[1]]
        sources, targets = whole[0][keep], whole[1][keep]
        back = None
        if clock is not None:
            back = Clock(
                invoked=[-position for position in clock.completed],
                completed=[-position for position in clock.invoked],
                forever=1,
            )
        indegree = np.bincount(sources, minlength=count).tolist()
        return sweep(rows(count, targets, sources), indegree, rest, back)[::-1]

    def _narrow(self, count: int, edges: tuple[Ints, Ints, Ints], clock: Clock | None) -> None:
        """Number the core 0..size-1 and keep its edges."""
        self.size = len(self.core)
        number = np.full(count, -1, dtype=np.int64)
        number[self.core] = np.arange(self.size)
        sources, targets = number[edges[0]], number[edges[1]]
        keep = (sources >= 0) & (targets >= 0)
        self.sources, self.targets, self.kinds = sources[keep], targets[keep], edges[2][keep]
        self.invoked: list[int] = []
        self.completed: list[int] = []
        self.chain_sources: list[int] = []
        self.chain_targets: list[int] = []
        self.chain_count = 0
        if clock is not None:
            self.invoked = [clock.invoked[node] for node in self.core]
            self.completed = [clock.completed[node] for node in self.core]
            self._chain(clock.forever)

    def _chain(self, forever: int) -> None:
        """Real time as a chain of extra nodes, one a completion: size edges say what size squared would.

        Nodes size + i are the chain; (node, chain) edges come from completions, (chain, node) edges go to invocations.
        """
        events = [(self.invoked[node], 0, node) for node in range(self.size)]
        events += [(at, 1, node) for node in range(self.size) if (at := self.completed[node]) < forever]
        events.sort()
        last = -1
        for _, is_end, node in events:
            if is_end:
                link = self.size + self.chain_count
                self.chain_count += 1
                self.chain_sources.append(node)
                self.chain_targets.append(link)
                if last >= 0:
                    self.chain_sources.append(last)
                    self.chain_targets.append(link)
                last = link
            elif last >= 0:
                self.chain_sources.append(last)
                self.chain_targets.append(node)

    def find(self, found: dict[str, Cycle], *, timed: bool) -> None:
        """Every kind of cycle that there is, the most particular names first, each with a short example.

        Where one kind is a case of another (see `levels.IMPLIED`) only the more particular is named.

        Args:
            found: where they go.
            timed: whether there is a clock, so that -realtime variants make sense.

        Raises:
            OutOfTime: before everything was looked at.
        """
        for base in ("G0", "G1c", "G-nonadjacent", "G2-item"):
            if not self.core:
                break
            for level in (0, PROCESS, REALTIME) if timed else (0, PROCESS):
                if self.expired():
                    raise OutOfTime
                names = _covering(base, level)
                if any(name in found for name in names):
                    continue
                cycle = self._find(base, level)
                if cycle is not None:
                    found[cycle.anomaly] = cycle

    def _find(self, base: str, level: int) -> Cycle | None:
        allowed = {"G0": WW, "G1c": WW | WR}.get(base, DATA) | level
        alternate = base == "G-nonadjacent"
        on_cycle = self._start_commit_components(level) if alternate else self._components(allowed)
        closing = {"G0": WW, "G1c": WR, "G-nonadjacent": RW, "G2-item": RW}[base]
        candidates = [
            (source, target)
            for source, target in zip(
                self.sources[on_cycle & (self.kinds == closing)].tolist(),
                self.targets[on_cycle & (self.kinds == closing)].tolist(),
                strict=True,
            )
        ]
        if not candidates:
            return None
        if alternate:
            single = self._shortest(candidates, WW | WR | level, False, "G-single" + _SUFFIX[level])
            if single is not None:
                return single
        return self._shortest(candidates, allowed, alternate, base + _SUFFIX[level])

    def _selected(self, allowed: int) -> tuple[Ints, Ints]:
        keep = (self.kinds & allowed) != 0
        sources, targets = self.sources[keep], self.targets[keep]
        if allowed & REALTIME:
            sources = np.concatenate((sources, np.array(self.chain_sources, dtype=np.int64)))
            targets = np.concatenate((targets, np.array(self.chain_targets, dtype=np.int64)))
        return sources, targets

    def _components(self, allowed: int) -> Flags:
        """By edge: whether both ends are in one component of the *allowed* edges."""
        # What was left out of the core is on no cycle; of crashed transactions the process edges count with real time.
        allowed |= PROCESS if allowed & REALTIME else 0
        sources, targets = self._selected(allowed)
        chain = self.chain_count if allowed & REALTIME else 0
        component = np.array(components(rows(self.size + chain, sources, targets)), dtype=np.int64)
        on_cycle: Flags = (component[self.sources] == component[self.targets]) & ((self.kinds & allowed) != 0)
        return on_cycle

    def _start_commit_components(self, level: int) -> Flags:
        """By edge: whether it is on a cycle of the graph of starts and commits."""
        size, chain = self.size, self.chain_count
        total = 2 * size + chain
        sources, targets = self.start_commit_edges(level)
        component = np.array(components(rows(total, sources, targets)), dtype=np.int64)
        start, commit = component[self.sources], component[self.targets + size]
        is_rw = self.kinds == RW
        rw_cycle = is_rw & (start == commit)
        other_cycle = ~is_rw & (component[self.sources + size] == component[self.targets])
        on_cycle: Flags = rw_cycle | other_cycle
        return on_cycle

    def start_commit_edges(self, level: int) -> tuple[Ints, Ints]:
        """The graph of starts (0..size-1) and commits (size..2 size-1); the chain of real time follows."""
        size = self.size
        level |= PROCESS if level & REALTIME else 0
        order = (self.kinds & (WW | WR | level)) != 0
        is_rw = self.kinds == RW
        every = np.arange(size)
        sources = [self.sources[order] + size, self.sources[is_rw], every]
        targets = [self.targets[order], self.targets[is_rw] + size, every + size]
        if level & REALTIME:
            chain_sources = np.array(self.chain_sources, dtype=np.int64)
            chain_targets = np.array(self.chain_targets, dtype=np.int64)
            # Completions are commits and invocations starts; links of the chain move up by size.
            sources.append(chain_sources + size)
            targets.append(np.where(chain_targets >= size, chain_targets + size, chain_targets))
        return np.concatenate(sources), np.concatenate(targets)

    def _shortest(
        self, candidates: list[tuple[int, int]], allowed: int, alternate: bool, name: str
    ) -> Cycle | None:
        """The shortest cycle through one of the candidate edges and back along *allowed* edges.

        Args:
            candidates: closing edges (source, target): the way sought leads from target to source.
            alternate: the closing edge is rw and no two rw edges may follow each other.
        """
        timed = bool(allowed & REALTIME)
        if timed:
            allowed |= PROCESS
        keep = (self.kinds & allowed) != 0
        # Of parallel edges the plainer kind comes first and is the one that is shown.
        order = np.lexsort((self.kinds[keep], self.sources[keep]))
        ends = np.cumsum(np.bincount(self.sources[keep], minlength=self.size)).tolist()
        pairs = list(zip(self.targets[keep][order].tolist(), self.kinds[keep][order].tolist(), strict=True))
        walk = Walk(
            pairs=pairs,
            ends=ends,
            invoked=self.invoked if timed else [],
            completed=self.completed if timed else [],
            expired=self.expired,
            alternate=alternate,
        )
        closing = {"G0": WW, "G1c": WR}.get(name.split("-")[0], RW)
        best: tuple[list[int], list[int]] | None = None
        for edge in candidates:
            path = walk.path(edge[1], edge[0], len(best[0]) - 2 if best is not None else self.size * 2)
            if path is not None and (best is None or len(path) < len(best[0]) - 1):
                nodes = [edge[0], edge[1], *(node for node, _ in path[:-1])]
                found = without_loops(nodes, [closing, *(kind for _, kind in path)])
                best = found or best
                if best is not None and len(best[0]) == 2:
                    break
            if walk.visits > _SEARCH_VISITS:
                break
        if best is None:
            return None
        nodes, kinds = best
        # A process's own order is told in one step, however long it is.
        kept = [at for at, kind in enumerate(kinds) if not at or not kind == kinds[at - 1] == PROCESS]
        nodes, kinds = [nodes[at] for at in kept], [kinds[at] for at in kept]
        # Told from the transaction that was invoked first.
        first = nodes.index(min(nodes))
        nodes, kinds = nodes[first:] + nodes[:first], kinds[first:] + kinds[:first]
        return Cycle(anomaly=name, nodes=tuple(self.core[node] for node in nodes), kinds=tuple(kinds))


def _covering(base: str, level: int) -> list[str]:
    """Names that make looking for *base* at *level* needless: cases of it with fewer kinds of edges."""
    names = []
    for weaker in (0, PROCESS, REALTIME):
        if weaker <= level:
            names.append(base + _SUFFIX[weaker])
            if base == "G1c":
                names.append("G0" + _SUFFIX[weaker])
            if base in ("G-nonadjacent", "G2-item"):
                names.append("G-single" + _SUFFIX[weaker])
                names.append("G-nonadjacent" + _SUFFIX[weaker])
    return names
