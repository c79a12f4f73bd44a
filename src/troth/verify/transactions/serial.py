"""Searching for an execution that explains reads of registers: one transaction after the other, or under snapshots.

The dependency graph of a register history is only partly known, since nothing shows which of two writes came first.
No cycle in it is therefore no proof that all is well. This search makes the proof: it runs transactions on a store, in
an order that respects everything known, until all have run (the run is a witness) or every way has failed (there is
none: serializability is NP-complete, Papadimitriou 1979, so that may take too long; then the answer stays open).

A run is a sequence of steps: a transaction starts (its snapshot is the store at that moment) and commits (its writes
are installed). For serializability both happen at once. For snapshot isolation two transactions that write one key may
not both be between start and commit: one of them would have had to abort (first committer wins, Berenson et al. 1995).

What keeps it short:

* a version is only overwritten when everybody who read it has started, so a wrong turn is noticed at once;
* transactions that only read run as soon as they can: that can never be in anybody's way;
* candidates are tried in the order of their completion, which for a store that works is mostly the order of commits;
* states (who ran, which versions stand) are visited once.
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from troth.verify.history import Value
from troth.verify.transactions.graph import Clock, OutOfTime

INITIAL: Final = -1
_NOBODY: Final = -2
_CANDIDATES_MAX: Final = 256
_MEMO_NODES_MAX: Final = 4_096


class SearchBudget(Struct, frozen=True, kw_only=True):
    """steps_max: how many steps may be tried, undone ones included. expired: asked now and then."""

    steps_max: int
    expired: Callable[[], bool]


class Search(Struct, frozen=True, kw_only=True):
    """What came out: an order of commits, or none; `proven` says whether none means that there is none."""

    order: tuple[int, ...] | None
    proven: bool


class Task(Struct, frozen=True, kw_only=True):
    """What is to be run.

    alive: transactions. reads: by transaction, (key, writer or INITIAL). writes: by transaction, keys.
    before: (sources, targets): the source commits before the target starts.
    started_before: (sources, targets): the source starts before the target commits (anti-dependencies).
    clock: real time to respect, if any. rank: transactions with a smaller one are tried first.
    snapshots: whether start and commit are apart.
    """

    count: int
    alive: Sequence[int]
    reads: Sequence[Sequence[tuple[Value, int]]]
    writes: Sequence[Sequence[Value]]
    before: tuple[Sequence[int], Sequence[int]]
    started_before: tuple[Sequence[int], Sequence[int]]
    clock: Clock | None
    rank: Sequence[int]
    snapshots: bool = False


def run(task: Task, budget: SearchBudget) -> Search:
    """Look for a run of all of `task.alive`.

    Raises:
        OutOfTime: *budget* ran out of time, not of steps.
    """
    return _Run(task, budget).search()


class _Run:
    """Depth first over steps. Step 2 t starts transaction t (and commits it, without snapshots), 2 t + 1 commits it."""

    def __init__(self, task: Task, budget: SearchBudget) -> None:
        self.task, self.budget = task, budget
        count = task.count
        self.waiting_start = [0] * count
        self.waiting_commit = [0] * count
        self.on_commit: list[list[int]] = [[] for _ in range(count)]
        self.on_start: list[list[int]] = [[] for _ in range(count)]
        for source, target in zip(*task.before, strict=True):
            if source != target:
                self.on_commit[source].append(target)
                self.waiting_start[target] += 1
        for source, target in zip(*task.started_before, strict=True):
            if source != target:
                self.on_start[source].append(target)
                if task.snapshots:
                    self.waiting_commit[target] += 1
                else:
                    self.waiting_start[target] += 1
        self.keys: dict[Value, int] = {}
        number = self.keys.setdefault
        self.reads = [
            [(number(key, len(self.keys)), writer) for key, writer in task.reads[t]] for t in range(count)
        ]
        self.writes = [
            [number(key, len(self.keys)) for key in dict.fromkeys(task.writes[t])] for t in range(count)
        ]
        self.current = [INITIAL] * len(self.keys)
        self.replaced: list[list[int]] = [[] for _ in self.keys]
        """by key, versions that were replaced, the latest last"""
        self.readers: dict[tuple[int, int], int] = {}
        for node in task.alive:
            for read in self.reads[node]:
                self.readers[read] = self.readers.get(read, 0) + 1
        self.writing = bytearray(len(self.keys))
        self.committed = bytearray(count)
        self.begun: dict[int, None] = {}
        """started, not committed"""
        self.order: list[int] = []
        self.trimmed = False
        clock = task.clock
        if clock is not None:
            invoked, completed = clock.invoked, clock.completed
            line = sorted(task.alive, key=invoked.__getitem__)
            self.ends = sorted((t for t in task.alive if completed[t] < clock.forever), key=completed.__getitem__)
        else:
            line = sorted(task.alive, key=task.rank.__getitem__)
            self.ends = []
        self.ready = {t: None for t in line if not self.waiting_start[t]}
        # Who has not started, as a ring: steps are undone in reverse, so a link that was cut can be tied again.
        self.following = [count] * (count + 1)
        self.preceding = [count] * (count + 1)
        for one, other in zip([count, *line], [*line, count], strict=True):
            self.following[one], self.preceding[other] = other, one
        self.end_at = 0

    def search(self) -> Search:
        """Iterative, since histories are longer than stacks are deep."""
        total = len(self.task.alive)
        memo: set[tuple[int, int, tuple[int, ...]]] | None = set() if total <= _MEMO_NODES_MAX else None
        place = {node: at for at, node in enumerate(self.task.alive)}
        started_mask, committed_mask = 0, 0
        path: list[tuple[int, list[int]]] = []
        choices = self._choices()
        tried = 0
        while True:
            if len(self.order) == total:
                return Search(order=tuple(self.order), proven=True)
            while not choices:
                if not path:
                    return Search(order=None, proven=not self.trimmed)
                step, choices = path.pop()
                self._undo(step)
                bit = 1 << place[step >> 1]
                if memo is not None:
                    if step & 1:
                        committed_mask ^= bit
                    else:
                        started_mask ^= bit
            step = choices.pop()
            tried += 1
            if not tried & 1023 and self.budget.expired():
                raise OutOfTime
            if tried > self.budget.steps_max:
                return Search(order=None, proven=False)
            self._do(step)
            path.append((step, choices))
            if memo is not None:
                bit = 1 << place[step >> 1]
                if step & 1:
                    committed_mask ^= bit
                else:
                    started_mask ^= bit
                state = (started_mask, committed_mask, tuple(self.current))
                if state in memo:
                    choices = []
                    continue
                memo.add(state)
            choices = self._choices()

    def _choices(self) -> list[int]:
        """Steps that can be next, the best one last. A step that harms nobody is the only one."""
        task, found = self.task, []
        for node in self.begun:
            if not self.writes[node]:
                return [2 * node + 1]
            if not self.waiting_commit[node] and self._may_overwrite(node, _NOBODY):
                found.append(2 * node + 1)
        for node in self._candidates():
            current = self.current
            if any(current[key] != writer for key, writer in self.reads[node]):
                continue
            if not self.writes[node]:
                return [2 * node]
            if task.snapshots:
                if any(self.writing[key] for key in self.writes[node]):
                    continue
            elif not self._may_overwrite(node, node):
                continue
            found.append(2 * node)
        rank = task.rank
        # Commits first: who started has read already.
        found.sort(key=lambda step: (not step & 1, rank[step >> 1]), reverse=True)
        return found

    def _candidates(self) -> Sequence[int]:
        """Transactions that could start as far as order and time go."""
        clock = self.task.clock
        if clock is None:
            nodes = list(self.ready)
            if len(nodes) > _CANDIDATES_MAX:
                reading = [node for node in nodes if not self.writes[node]]
                nodes.sort(key=self.task.rank.__getitem__)
                self.trimmed = True
                nodes = nodes[:_CANDIDATES_MAX] + reading
            return nodes
        limit = clock.completed[self.ends[self.end_at]] if self.end_at < len(self.ends) else clock.forever
        found = []
        node = self.following[-1]
        while node < self.task.count and clock.invoked[node] <= limit:
            if not self.waiting_start[node]:
                found.append(node)
            node = self.following[node]
        return found

    def _may_overwrite(self, node: int, reader: int) -> bool:
        """Whether everybody who read the versions that *node* replaces has started; *reader* does so now."""
        for key in self.writes[node]:
            version = self.current[key]
            left = self.readers.get((key, version), 0)
            if left and not (left == 1 and reader >= 0 and (key, version) in self.reads[reader]):
                return False
        return True

    def _do(self, step: int) -> None:
        node = step >> 1
        if not step & 1:
            self.following[self.preceding[node]] = self.following[node]
            self.preceding[self.following[node]] = self.preceding[node]
            self.ready.pop(node, None)
            for read in self.reads[node]:
                self.readers[read] -= 1
            waiting = self.waiting_commit if self.task.snapshots else self.waiting_start
            for other in self.on_start[node]:
                waiting[other] -= 1
                if not self.task.snapshots and not waiting[other]:
                    self.ready[other] = None
            if self.task.snapshots:
                self.begun[node] = None
                for key in self.writes[node]:
                    self.writing[key] = 1
        if step & 1 or not self.task.snapshots:
            self.committed[node] = 1
            self.order.append(node)
            self.begun.pop(node, None)
            for key in self.writes[node]:
                self.replaced[key].append(self.current[key])
                self.current[key] = node
                self.writing[key] = 0
            for other in self.on_commit[node]:
                self.waiting_start[other] -= 1
                if not self.waiting_start[other]:
                    self.ready[other] = None
            while self.end_at < len(self.ends) and self.committed[self.ends[self.end_at]]:
                self.end_at += 1

    def _undo(self, step: int) -> None:
        node = step >> 1
        if step & 1 or not self.task.snapshots:
            self.committed[node] = 0
            self.order.pop()
            for key in self.writes[node]:
                self.current[key] = self.replaced[key].pop()
                self.writing[key] = 1 if self.task.snapshots else 0
            for other in self.on_commit[node]:
                if not self.waiting_start[other]:
                    self.ready.pop(other, None)
                self.waiting_start[other] += 1
            if self.task.snapshots:
                self.begun[node] = None
            if self.task.clock is not None and self.task.clock.completed[node] < self.task.clock.forever:
                while (
                    self.end_at
                    and self.task.clock.completed[self.ends[self.end_at - 1]] >= self.task.clock.completed[node]
                ):
                    self.end_at -= 1
        if not step & 1:
            self.following[self.preceding[node]] = self.preceding[self.following[node]] = node
            for read in self.reads[node]:
                self.readers[read] += 1
            waiting = self.waiting_commit if self.task.snapshots else self.waiting_start
            for other in self.on_start[node]:
                if not self.task.snapshots and not waiting[other]:
                    self.ready.pop(other, None)
                waiting[other] += 1
            if not self.waiting_start[node]:
                self.ready[node] = None
            self.begun.pop(node, None)
            if self.task.snapshots:
                for key in self.writes[node]:
                    self.writing[key] = 0
