"""Runs of the transactions of a register history, or of some of them: what `serial` is asked, and the fewest without.

When no run of all explains what was read, some are left out as long as no run explains the rest. Any may be left out,
with what others read from it left open: a run of all, without it, is a run of the others. So what remains proves it.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from troth.verify.history import FOREVER, Value
from troth.verify.transactions.append import AppendInference
from troth.verify.transactions.graph import PROCESS, REALTIME, RW, OutOfTime, rows, sweep
from troth.verify.transactions.micro import Transactions
from troth.verify.transactions.register import RegisterInference
from troth.verify.transactions.serial import INITIAL, Search, SearchBudget, Task, run

Reads: TypeAlias = list[Sequence[tuple[Value, int]]]
Writes: TypeAlias = list[Sequence[Value]]
Inference: TypeAlias = AppendInference | RegisterInference
Edges: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]]

STEPS_FIRST: Final = 20_000
_TRIED_MAX: Final = 2_000_000
"""Transactions that leaving some out may look at, those of every try added up."""
_STEPS_EACH: Final = 4_000


class Runs:
    """The transactions that happened, and what is known of their order."""

    def __init__(
        self, transactions: Transactions, inference: Inference, alive: list[int], expired: Callable[[], bool]
    ) -> None:
        self.transactions, self.inference = transactions, inference
        self.alive, self.expired = alive, expired
        self.edges = inference.edges.arrays()
        self.process_edges = transactions.process_edges(alive)
        self.every_read = False
        """Whether a read of what the transaction itself replaced counts, too."""
        self._known: tuple[Reads, Writes] | None = None

    def accesses(self, *, every_read: bool) -> tuple[Reads, Writes]:
        """By transaction: which writer's version of which key it read, and the keys it wrote."""
        inference, count = self.inference, len(self.transactions)
        if every_read:
            every: Reads = [()] * count
            for node in self.alive:
                every[node] = inference.all_reads(node)
            return every, self.accesses(every_read=False)[1]
        if self._known is None:
            reads: Reads = [()] * count
            writes: Writes = [()] * count
            for node in self.alive:
                reads[node] = inference.external_reads(node)
                writes[node] = inference.keys_written(node)
            self._known = reads, writes
        return self._known

    def run(self, level: int, *, snapshots: bool, steps_max: int, alive: list[int] | None = None) -> Search:
        """Look for a run of those *alive*, all by default.

        Raises:
            OutOfTime: before it was found out.
        """
        transactions, count = self.transactions, len(self.transactions)
        reads, writes = self.accesses(every_read=self.every_read)
        sources, targets, kinds = self.edges
        process_edges = self.process_edges
        if alive is None:
            alive = self.alive
        else:
            inside = np.zeros(count, dtype=bool)
            inside[alive] = True
            keep = inside[sources] & inside[targets]
            sources, targets, kinds = sources[keep], targets[keep], kinds[keep]
            process_edges = transactions.process_edges(alive)
            there, every = {INITIAL, *alive}, reads
            reads = [()] * count
            for node in alive:
                reads[node] = [read for read in every[node] if read[1] in there]
        is_rw = kinds == RW
        before = [sources[~is_rw].tolist(), targets[~is_rw].tolist()]
        if level == PROCESS:
            before[0] += process_edges[0]
            before[1] += process_edges[1]
        rank = [
            end if end < FOREVER else begin + transactions.history.length
            for begin, end in zip(transactions.invoked, transactions.completed, strict=True)
        ]
        task = Task(
            count=count,
            alive=alive,
            reads=[tuple(dict.fromkeys(mine)) for mine in reads],
            writes=writes,
            before=(before[0], before[1]),
            started_before=(sources[is_rw].tolist(), targets[is_rw].tolist()),
            clock=transactions.clock() if level == REALTIME else None,
            rank=rank,
            snapshots=snapshots,
        )
        return run(task, SearchBudget(steps_max=steps_max + 4 * len(alive), expired=self.expired))

    def fewest(self, level: int, *, snapshots: bool) -> list[int]:
        """A few of them that no run explains; with *alive* there is none.

        Leaves out halves, then quarters, and so on (Zeller and Hildebrandt 2002), the last transactions first.
        """
        left, spent = list(self.alive), 0
        size, shrinking = len(left) // 2, True
        while (size or shrinking) and spent < _TRIED_MAX:
            size, shrinking = max(size, 1), False
            at = len(left)
            while at > 0 and spent < _TRIED_MAX:
                fewer = left[: max(0, at - size)] + left[at:]
                at -= size
                spent += len(self.transactions)
                try:
                    found = self.run(level, snapshots=snapshots, steps_max=_STEPS_EACH, alive=fewer)
                except OutOfTime:
                    # What was proven stays so.
                    return left
                if found.order is None and found.proven:
                    left, shrinking = fewer, True
            size //= 2
        return left

    def topological(self, *, sessions: bool) -> list[int]:
        """An order that respects the graph, and each session's own."""
        sources, targets, _ = self.edges
        if sessions:
            sources = np.concatenate((sources, np.array(self.process_edges[0], dtype=np.int64)))
            targets = np.concatenate((targets, np.array(self.process_edges[1], dtype=np.int64)))
        count = len(self.transactions)
        return sweep(
            rows(count, sources, targets), np.bincount(targets, minlength=count).tolist(), self.alive, None
        )
