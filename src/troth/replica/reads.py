"""Reads waiting to be as fresh as they were asked to be (models.ReadLevel).

===================  ================================================================================
level                served when
===================  ================================================================================
eventual             at once
session, sequential  the store has reached the revision that the client has seen
bounded(seconds)     the last confirmed read point of this replica is recent enough; else a new one is asked
bounded(revisions)   the store is at most so far behind what the leader, once confirmed, said was newest
linearizable         a read point asked for after the read arrived has been confirmed, and is applied
===================  ================================================================================

All reads of one turn of the loop share one read point (`Engine.read`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeAlias

from troth.core.interface import ReadState
from troth.ids import LogIndex, Tick

Serve: TypeAlias = Callable[[int], None]
"""Answers a read; the argument bounds how old the state is, in ticks (0: a read point vouches for it)."""

Refuse: TypeAlias = Callable[[str, str], None]
"""Answers a read that cannot be served: (code, text)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One read, or one message full of them."""

    serve: Serve
    refuse: Refuse
    deadline: Tick


@dataclass(slots=True)
class _Point:
    """A read point that was asked for at tick `asked`."""

    asked: Tick
    waiting: list[Waiting] = field(default_factory=list)


class ReadQueue:
    """Every read that cannot be answered yet, and what it waits for. Bounded by `count_max`."""

    def __init__(self, *, count_max: int) -> None:
        self._count_max = count_max
        self.new: list[Waiting] = []
        """Those for which no point was asked for yet."""
        self._asked: dict[int, _Point] = {}
        self._next_context = 1
        self._by_index: list[tuple[LogIndex, int, Tick, Tick, list[Waiting]]] = []
        self._by_revision: list[tuple[int, int, Waiting]] = []
        self._tie = 0
        self._fresh_as_of: Tick | None = None
        self.count = 0

    def __len__(self) -> int:
        return self.count

    @property
    def full(self) -> bool:
        return self.count >= self._count_max

    def age(self, now: Tick) -> int | None:
        """Ticks since the newest read point that this replica has reached was asked for; None: never."""
        return None if self._fresh_as_of is None else now - self._fresh_as_of

    # ---- coming ----

    def wait_point(self, waiting: Waiting) -> None:
        """Serve when a read point asked for from now on has been reached."""
        self.new.append(waiting)
        self.count += 1

    def wait_revision(self, revision: int, waiting: Waiting) -> None:
        """Serve when the store has reached *revision*."""
        self._tie += 1
        heappush(self._by_revision, (revision, self._tie, waiting))
        self.count += 1

    def ask(self, now: Tick) -> int | None:
        """The context to give to `Engine.read` for the reads that came since the last one; None: there are none."""
        if not self.new:
            return None
        context = self._next_context
        self._next_context += 1
        self._asked[context] = _Point(asked=now, waiting=self.new)
        self.new = []
        return context

    # ---- going ----

    def on_confirmed(self, state: ReadState) -> None:
        """The engine vouches for a read point; it is reached when its index is applied."""
        point = self._asked.pop(state.context, None)
        if point is not None:
            self._tie += 1
            heappush(self._by_index, (state.index, self._tie, point.asked, state.valid_until, point.waiting))

    def on_refused(self, context: int, code: str, text: str) -> None:
        """The engine cannot vouch (no leader, or a lost one)."""
        point = self._asked.pop(context, None)
        if point is not None:
            self._refuse(point.waiting, code, text)

    def release(self, applied: LogIndex, revision: int, now: Tick) -> None:
        """Serve everything that what is applied suffices for."""
        while self._by_index and self._by_index[0][0] <= applied:
            _, _, asked, valid_until, waiting = heappop(self._by_index)
            if valid_until and now >= valid_until:
                # The lease ran out before the state could be read (a pause, a slow apply): ask again.
                self.new.extend(waiting)
                continue
            if self._fresh_as_of is None or asked > self._fresh_as_of:
                self._fresh_as_of = asked
            self.count -= len(waiting)
            for each in waiting:
                each.serve(0)
        while self._by_revision and self._by_revision[0][0] <= revision:
            _, _, each = heappop(self._by_revision)
            self.count -= 1
            each.serve(0)

    def expire(self, now: Tick, code: str, text: str) -> None:
        """Refuse what has waited past its deadline."""
        for point in self._asked.values():
            point.waiting = list(self._keep(point.waiting, now, code, text))
        self.new = list(self._keep(self.new, now, code, text))
        for _, _, _, _, waiting in self._by_index:
            waiting[:] = list(self._keep(waiting, now, code, text))
        kept = [item for item in self._by_revision if item[2].deadline > now]
        if len(kept) != len(self._by_revision):
            late = [item[2] for item in self._by_revision if item[2].deadline <= now]
            self._by_revision = sorted(kept, key=lambda item: item[:2])
            self._refuse(late, code, text)

    def _keep(self, waiting: list[Waiting], now: Tick, code: str, text: str) -> Iterator[Waiting]:
        for each in waiting:
            if each.deadline > now:
                yield each
            else:
                self._refuse([each], code, text)

    def _refuse(self, waiting: list[Waiting], code: str, text: str) -> None:
        self.count -= len(waiting)
        for each in waiting:
            each.refuse(code, text)
