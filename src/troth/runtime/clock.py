"""What time it is, in ticks."""

import time

from troth.ids import Tick

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Ticks since a moment in the past. The first ones are past already: an engine may be told that it was started a
    while ago.

    Time goes on while the machine is suspended, which Linux's CLOCK_MONOTONIC does not count: a leader would wake up
    with its lease as it was, and the others would have elected another one long ago.
    """

    def __init__(self, tick_ms: int) -> None:
        self.tick_ms = tick_ms
        self._tick_ns = tick_ms * 1_000_000
        self._begin_ns = time.clock_gettime_ns(_CLOCK) - 10_000 * self._tick_ns

    def now(self) -> Tick:
        return Tick((time.clock_gettime_ns(_CLOCK) - self._begin_ns) // self._tick_ns)
