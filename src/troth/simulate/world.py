"""Virtual time: a heap of things to happen, and the order in which they do.

Time is an int of microseconds and moves only from one event to the next. Events at the same microsecond happen in
the order in which they were planned. Nodes do not see this time but the ticks of their own clock (`LocalClock`).
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

from troth.errors import InvariantViolation, UsageError
from troth.ids import Tick
from troth.simulate.plan import TICK_US

Action: TypeAlias = Callable[..., None]

COLLECT_AFTER = 500_000
"""So many more objects are there before the collector looks for garbage."""

EVENTS_AT_ONCE_MAX = 1_000_000
"""So much happens at one microsecond only if somebody asks for a moment again and again that never passes."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Nearly all that a run makes goes by itself, so the collector looks seldom, and never at what was there before.
    What the last run has left, which nobody holds any more, is still young and goes now."""
    gc.collect(1)
    thresholds = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, 1_000, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


class World:
    """The event loop of a simulation. `events` counts what has happened so far."""

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0
        self._planned = 0
        self._heap: list[tuple[int, int, Action, tuple[Any, ...]]] = []

    def after(self, delay_us: int, action: Action, *arguments: Any) -> None:
        """Let *action* happen *delay_us* from now."""
        self._planned += 1
        heappush(self._heap, (self.now_us + delay_us, self._planned, action, arguments))

    def forget(self, planned: Callable[[Action, tuple[Any, ...]], bool]) -> None:
        """Take back what is *planned*."""
        self._heap[:] = [each for each in self._heap if not planned(each[2], each[3])]
        heapify(self._heap)

    def run_until(self, end_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let things happen until *end_us*, or until *stop* says so after an event; True in that case.

        Raises:
            UsageError: that is over.
            InvariantViolation: time does not go on (`EVENTS_AT_ONCE_MAX`).
        """
        if end_us < self.now_us:
            raise UsageError(f"time can not go back from {self.now_us} to {end_us}")
        moved_at, heap = self.events, self._heap
        while heap and heap[0][0] <= end_us:
            at_us, _, action, arguments = heappop(heap)
            if at_us > self.now_us:
                self.now_us, moved_at = at_us, self.events
            elif self.events - moved_at > EVENTS_AT_ONCE_MAX:
                raise InvariantViolation(f"time stands still at {at_us} us")
            self.events += 1
            action(*arguments)
            if stop is not None and stop():
                return True
        self.now_us = end_us
        return False


class LocalClock:
    """A node's monotonic clock: it never falls, but may run fast or slow and jump ahead."""

    def __init__(self, world: World, offset_us: int) -> None:
        self._world = world
        self._base_world_us = world.now_us
        self._base_local_us = offset_us
        self._rate_permille = 1000

    def local_us(self) -> int:
        return self._base_local_us + (self._world.now_us - self._base_world_us) * self._rate_permille // 1000

    def ticks(self) -> Tick:
        """What `now` is for the engine."""
        passed_us = (self._world.now_us - self._base_world_us) * self._rate_permille // 1000
        return Tick((self._base_local_us + passed_us) // TICK_US)

    def world_us(self, ticks: int) -> int:
        """How long, in world time, this clock needs for *ticks*."""
        return ticks * TICK_US * 1000 // self._rate_permille

    def set_rate(self, permille: int) -> None:
        """Run at *permille* thousandths of the right speed from now on."""
        self._base_local_us = self.local_us()
        self._base_world_us = self._world.now_us
        self._rate_permille = permille

    def jump(self, ticks: int) -> None:
        """Leap ahead, as a clock does that was read only before and after a long sleep of the machine."""
        self._base_local_us += ticks * TICK_US
