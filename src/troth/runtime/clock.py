"""What time it is, in ticks; and the time that an event loop does not count."""

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


def _suspended_ns() -> int:
    # In this order: what passes between the two makes it too little, and never more than it was.
    return time.clock_gettime_ns(_CLOCK) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


_SUSPENDED_BEFORE_NS = _suspended_ns()
_NOISE_NS = 10_000_000


def suspended_s() -> float:
    """Seconds that this machine was suspended since the program began, which an event loop's time leaves out. 0.0
    exactly if it was not (or does not tell)."""
    slept_ns = _suspended_ns() - _SUSPENDED_BEFORE_NS
    return slept_ns / 1e9 if slept_ns > _NOISE_NS else 0.0
