"""How fast a plan may copy."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from troth.hashing.errors import BadSetting


class Throttle:
    """A token bucket over bytes: `admit` waits until the bytes copied so far are within the rate.

    Time comes from outside, since this package has no clock::

        Throttle(bytes_per_second=20e6, clock=time.monotonic, sleep=time.sleep)
    """

    def __init__(
        self,
        *,
        bytes_per_second: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        burst_bytes: float | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """Args:
        bytes_per_second: the rate, above 0.
        clock: seconds, never falling.
        sleep: waits so many seconds.
        burst_bytes: how much may go at once after a rest; one second's worth by default.
        lock: a ``threading.Lock()`` where `Plan.apply` copies in several threads.

        Raises:
            BadSetting: a rate that is not positive.
        """
        if not bytes_per_second > 0:  # nor is nan a rate
            raise BadSetting(f"bytes_per_second must be above 0, not {bytes_per_second}")
        self._rate = bytes_per_second
        self._burst = bytes_per_second if burst_bytes is None else burst_bytes
        self._clock = clock
        self._sleep = sleep
        self._lock = lock or nullcontext()
        self._tokens = self._burst
        self._filled_at = clock()

    def admit(self) -> None:
        """Wait until the debt of earlier copies is paid."""
        with self._lock:
            self._fill()
            debt_bytes = -self._tokens
        if debt_bytes > 0:
            self._sleep(debt_bytes / self._rate)

    def spend(self, copied_bytes: int) -> None:
        """Account for *copied_bytes*; the next `admit` waits if that was too much."""
        with self._lock:
            self._tokens -= copied_bytes

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
