"""Whether appends that nobody read can be ordered so that snapshot isolation holds.

Under snapshot isolation two transactions that write one key do not overlap: one commits before the other starts. Where
a read shows who was first there is an edge for it; of the elements that nobody read (a tail), any order is possible,
and it can matter: two transactions that each read what the other overwrites may overlap, unless both write one key.

The search orders tails one by one, keeping the graph of starts and commits (see `cycles`) free of cycles. Transactions
outside the core of the graph come before or after all of it and are ordered so without loss: an edge between them along
a topological order closes no cycle. Inside the core everything is tried, within bounds.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from troth.verify.transactions.cycles import CycleSearch
from troth.verify.transactions.graph import Ints, OutOfTime, rows, sweep

_ATTEMPTS_MAX: Final = 3_000
_WORK_MAX: Final = 40_000_000
_MEMBERS_MAX: Final = 400


def tails_fit(
    search: CycleSearch, tails: Sequence[Sequence[int]], level: int, expired: Callable[[], bool]
) -> bool | None:
    """Whether some order of every tail keeps starts and commits free of cycles; None when that stayed open.

    Args:
        search: the graph; at *level* it has no cycle without adjacent rw edges.
        tails: transactions that wrote the same key in an unknown order.
        level: 0, PROCESS or REALTIME.
    """
    number = {node: at for at, node in enumerate(search.core)}
    groups = [group for tail in tails if len(group := [number[node] for node in tail if node in number]) > 1]
    if not groups:
        return True
    size = search.size
    sources, targets = search.start_commit_edges(level)
    total = 2 * size + search.chain_count
    attempts = 0

    def sorts(extra: list[tuple[int, int]]) -> list[int] | None:
        """A topological order with the *extra* (commit of a, start of b) edges, if there is one."""
        nonlocal attempts
        attempts += 1
        if expired():
            raise OutOfTime
        more: Ints = np.array([(a + size, b) for a, b in extra], dtype=np.int64).reshape(-1, 2)
        everything = (np.concatenate((sources, more[:, 0])), np.concatenate((targets, more[:, 1])))
        indegree = np.bincount(everything[1], minlength=total).tolist()
        taken = sweep(rows(total, *everything), indegree, list(range(total)), None)
        return taken if len(taken) == total else None

    first = sorts([])
    if first is None:
        return False
    place = {node: at for at, node in enumerate(first)}
    for guess in (lambda node: place[node + size], lambda node: place[node], lambda node: search.core[node]):
        ordered = [sorted(group, key=guess) for group in groups]
        if sorts([pair for group in ordered for pair in pairwise(group)]) is not None:
            return True
    if sum(len(group) for group in groups) > _MEMBERS_MAX:
        return None
    affordable = min(_ATTEMPTS_MAX, _WORK_MAX // (len(sources) + total))

    def extend(at: int, left: tuple[int, ...], extra: list[tuple[int, int]], last: int) -> bool | None:
        """Depth first: who is next in group *at*."""
        if not left:
            if at + 1 == len(groups):
                return True
            return extend(at + 1, tuple(groups[at + 1]), extra, -1)
        open_end = False
        for node in left:
            if attempts > affordable:
                return None
            chosen = extra if last < 0 else [*extra, (last, node)]
            if sorts(chosen) is None:
                continue
            rest = tuple(other for other in left if other != node)
            outcome = extend(at, rest, chosen, node)
            if outcome:
                return True
            open_end = open_end or outcome is None
        return None if open_end else False

    return extend(0, tuple(groups[0]), [], -1)
