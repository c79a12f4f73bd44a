"""Dependency graphs as arrays of integers: topological sweeps in time, strong components, shortest cycles.

Nodes are transactions 0..n-1; an edge has a kind (a bit). Real time is never stored as edges, of which there may be
n times the number of processes: a sweep over the two orders of invocations and completions says the same in O(n).

Sources: Kahn 1962 (topological sorting), Tarjan 1972 (strong components, here without recursion).
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

WW: Final = 1
WR: Final = 2
RW: Final = 4
PROCESS: Final = 8
REALTIME: Final = 16
DATA: Final = WW | WR | RW

KIND_NAMES: Final = {WW: "ww", WR: "wr", RW: "rw", PROCESS: "process", REALTIME: "realtime"}

Ints = NDArray[np.int64]


class OutOfTime(Exception):
    """Whoever asked does not want to wait any longer."""


def never() -> bool:
    """The deadline of a check that may take as long as it needs."""
    return False


class Edges:
    """A growing list of edges, later an adjacency in rows."""

    __slots__ = ("kinds", "sources", "targets")

    def __init__(self) -> None:
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.kinds: list[tuple[int, int]] = []
        """(kind, index of its first edge), for edges added in runs of one kind"""

    def run(self, kind: int) -> tuple[Callable[[int], None], Callable[[int], None]]:
        """Begin a run of edges of one kind; returns how to add a source and a target."""
        self.kinds.append((kind, len(self.sources)))
        return self.sources.append, self.targets.append

    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """(sources, targets, kinds), loops left out."""
        sources = np.array(self.sources, dtype=np.int64)
        targets = np.array(self.targets, dtype=np.int64)
        kinds = np.zeros(len(sources), dtype=np.int64)
        ends = [first for _, first in self.kinds[1:]] + [len(sources)]
        for (kind, first), end in zip(self.kinds, ends, strict=True):
            kinds[first:end] = kind
        keep = sources != targets
        return sources[keep], targets[keep], kinds[keep]


def rows(count: int, sources: Ints, targets: Ints) -> list[list[int]]:
    """Adjacency: for every node the list of its targets."""
    order = np.argsort(sources, kind="stable")
    flat = targets[order].tolist()
    ends = np.cumsum(np.bincount(sources, minlength=count)).tolist()
    found = []
    start = 0
    for end in ends:
        found.append(flat[start:end])
        start = end
    return found


class Clock(Struct, frozen=True, kw_only=True):
    """Positions of invocations and completions by node; `forever` is the completion of what never completed."""

    invoked: Sequence[int]
    completed: Sequence[int]
    forever: int


def sweep(adjacency: list[list[int]], indegree: list[int], alive: list[int], clock: Clock | None) -> list[int]:
    """Take nodes whose predecessors have all been taken, until none is left or every rest waits for another.

    With a *clock*, a node also waits for all nodes that completed before it was invoked. Everything is taken exactly
    when edges and real time together have no cycle.

    Args:
        adjacency: targets by node.
        indegree: by node, counting edges from alive nodes only; changed in place.
        alive: the nodes to take.

    Returns:
        The nodes taken, in a topological order. O(nodes log nodes + edges).
    """
    taken: list[int] = []
    if clock is None:
        taken = [node for node in alive if indegree[node] == 0]
        for node in taken:
            for target in adjacency[node]:
                indegree[target] -= 1
                if indegree[target] == 0:
                    taken.append(target)
        return taken
    invoked, completed, forever = clock.invoked, clock.completed, clock.forever
    by_invocation = sorted(alive, key=invoked.__getitem__)
    by_completion = sorted((node for node in alive if completed[node] < forever), key=completed.__getitem__)
    for node in alive:
        # One more, for time itself.
        indegree[node] += 1
    done = bytearray(len(adjacency))
    released, first_open = 0, 0
    count, open_count = len(by_invocation), len(by_completion)
    at = 0
    while True:
        while at < len(taken):
            node = taken[at]
            at += 1
            done[node] = 1
            for target in adjacency[node]:
                indegree[target] -= 1
                if indegree[target] == 0:
                    taken.append(target)
        while first_open < open_count and done[by_completion[first_open]]:
            first_open += 1
        limit = completed[by_completion[first_open]] if first_open < open_count else forever
        start = released
        # Equal positions are the two ends of an instant: it waits for what ended earlier, not for itself.
        while released < count and invoked[by_invocation[released]] <= limit:
            node = by_invocation[released]
            released += 1
            indegree[node] -= 1
            if indegree[node] == 0:
                taken.append(node)
        if released == start and at == len(taken):
            return taken


def components(adjacency: list[list[int]]) -> list[int]:
    """The number of every node's strong component; nodes with the same number reach each other. O(nodes + edges)."""
    count = len(adjacency)
    number = [0] * count
    low = [0] * count
    component = [-1] * count
    stack: list[int] = []
    counter, found = 0, 0
    for root in range(count):
        if number[root]:
            continue
        counter += 1
        number[root] = low[root] = counter
        stack.append(root)
        path = [root]
        pending = [iter(adjacency[root])]
        while path:
            node = path[-1]
            for target in pending[-1]:
                seen = number[target]
                if not seen:
                    counter += 1
                    number[target] = low[target] = counter
                    stack.append(target)
                    path.append(target)
                    pending.append(iter(adjacency[target]))
                    break
                if component[target] < 0 and seen < low[node]:
                    low[node] = seen
            else:
                path.pop()
                pending.pop()
                lowest = low[node]
                if path and lowest < low[path[-1]]:
                    low[path[-1]] = lowest
                if lowest == number[node]:
                    while True:
                        member = stack.pop()
                        component[member] = found
                        if member == node:
                            break
                    found += 1
    return component
