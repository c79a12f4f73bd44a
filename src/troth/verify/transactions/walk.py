"""Shortest ways through a dependency graph, with two rw edges in a row or without."""

from collections.abc import Callable
from itertools import pairwise

from troth.verify.transactions.graph import REALTIME, RW, OutOfTime


class Walk:
    """Breadth-first search over edges and, implicitly, real time."""

    def __init__(
        self,
        *,
        pairs: list[tuple[int, int]],
        ends: list[int],
        invoked: list[int],
        completed: list[int],
        expired: Callable[[], bool],
        alternate: bool,
    ) -> None:
        self.pairs, self.ends, self.expired, self.alternate = pairs, ends, expired, alternate
        self.invoked, self.completed = invoked, completed
        self.latest_first = sorted(range(len(invoked)), key=lambda node: -invoked[node])
        self.visits = 0

    def path(self, start: int, goal: int, length_max: int) -> list[tuple[int, int]] | None:
        """The shortest way from *start* to *goal* as (node, kind of the edge to it), shorter than *length_max* + 1.

        With `alternate`, an rw edge is thought to lead to *start* and another to follow *goal*.
        """
        # A state is 2 * node + 1 if the edge to it was rw (kept at 0 where that does not matter).
        first = 2 * start + 1 if self.alternate else 2 * start
        came: dict[int, tuple[int, int]] = {first: (-1, 0)}
        layer = [first]
        released = 0
        for _ in range(length_max):
            following: list[int] = []
            if self.expired():
                raise OutOfTime
            for state in layer:
                node = state >> 1
                self.visits += 1
                for target, kind in self.pairs[self.ends[node - 1] if node else 0 : self.ends[node]]:
                    after = 2 * target
                    if kind == RW and self.alternate:
                        if state & 1 or target == goal:
                            continue
                        after += 1
                    if after not in came:
                        came[after] = (state, kind)
                        following.append(after)
                if self.invoked:
                    # Whatever was invoked after this one completed; later invocations were reached before.
                    limit = self.completed[node]
                    while released < len(self.latest_first):
                        target = self.latest_first[released]
                        if self.invoked[target] <= limit:
                            break
                        released += 1
                        if 2 * target not in came:
                            came[2 * target] = (state, REALTIME)
                            following.append(2 * target)
            if 2 * goal in came:
                return self._back(came, 2 * goal)
            if not following:
                return None
            layer = following
        return None

    def _back(self, came: dict[int, tuple[int, int]], state: int) -> list[tuple[int, int]]:
        steps: list[tuple[int, int]] = []
        while came[state][0] >= 0:
            before, kind = came[state]
            steps.append((state >> 1, kind))
            state = before
        steps.reverse()
        return steps


def without_loops(nodes: list[int], kinds: list[int]) -> tuple[list[int], list[int]] | None:
    """The same cycle, or a part of it, that is nowhere twice.

    Only a way without two rw edges in a row may come to a node twice: by rw and by another edge, and go on by either.
    Of its two parts there the one with an rw edge and no two in a row is taken. If there is none, one part is a cycle
    without rw edges, which has a name of its own.
    """
    while len(set(nodes)) < len(nodes):
        later = next(at for at, node in enumerate(nodes) if node in nodes[:at])
        first = nodes.index(nodes[later])
        parts = (
            (nodes[first:later], kinds[first:later]),
            (nodes[:first] + nodes[later:], kinds[:first] + kinds[later:]),
        )
        for part_nodes, part in parts:
            if RW in part and not any(one == other == RW for one, other in pairwise((*part, part[0]))):
                nodes, kinds = part_nodes, part
                break
        else:
            return None
    return nodes, kinds
