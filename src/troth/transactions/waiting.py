"""How the code that threads and asyncio share waits, and goes on in the background."""

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol, TypeVar

from typing_extensions import override

from troth.errors import UsageError
from troth.transactions.daemons import Daemons, do

T = TypeVar("T")

LATER_THREADS = 32
LATER_MAX = 1024
END_WITHIN_S = 10.0
"""What goes on in the background is not waited for any longer."""
TIMEOUT_MAX_S = 2_147_483
"""PostgreSQL counts milliseconds in 32 bits."""


def checked_timeout(timeout: object) -> float | None:
    """*timeout* in seconds; None: no bound, which infinity means too.

    Raises:
        UsageError: no number, or more than databases can count.
    """
    if timeout is None or timeout == float("inf"):
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout <= TIMEOUT_MAX_S:
        raise UsageError(f"timeout={timeout!r}: seconds, {TIMEOUT_MAX_S} at most, or None")
    return timeout


def _nothing_to_drain() -> None:
    """Nothing was ever given to the background."""


class Flag(Protocol):
    """Something that may be waited for, and is set once."""

    def set(self) -> None:
        """Let who waits go on."""

    def wait(self, seconds_max: float) -> object:
        """Until it is set, or the time is up."""


class Waiting(Protocol):
    """How to wait, and how to go on in the background: differs between threads and asyncio."""

    is_async: ClassVar[bool]
    """Whether drivers of asyncio can be waited for; no others then."""

    def flag(self) -> Flag:
        """One that is not set."""

    def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do *work*, which may block, and return what it returns."""

    def in_line(self, work: Callable[[], None]) -> None:
        """Do *work*, for which all wait that come here: when the first may go on, so may the others."""

    def later(self, work: Callable[[], None]) -> None:
        """Do *work* soon, without the caller."""

    def apart(self, work: Callable[[], T], within_s: float) -> Callable[[], T]:
        """Begin *work*, which may never end. The function that is returned waits for what it returns, and raises
        TimeoutError when that is not here *within_s* after it was begun."""

    def close(self, last: Callable[[], None]) -> None:
        """Wait for what goes on in the background, within bounds; then do *last*, which may block, and be gone."""


class InThreads(Waiting):
    """For callers that are threads."""

    is_async = False

    def __init__(self) -> None:
        self._pool: Daemons | None = None
        self._drain: Callable[[], object] = _nothing_to_drain
        self._slots = threading.BoundedSemaphore(LATER_MAX)
        self._lock = threading.Lock()
        self._is_closed = False

    @override
    def flag(self) -> Flag:
        return threading.Event()

    @override
    def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        return work(*arguments)

    @override
    def in_line(self, work: Callable[[], None]) -> None:
        work()

    @override
    def later(self, work: Callable[[], None]) -> None:
        """Here and now if too much waits already, after `close`, or if no thread is to be had."""
        if not self._slots.acquire(blocking=False):
            work()
            return

        def done() -> None:
            try:
                work()
            finally:
                self._slots.release()

        with self._lock:
            if not self._is_closed:
                try:
                    self._given().submit(done)
                    return
                except RuntimeError:
                    pass  # Python is ending, or could start no thread
        done()

    def _given(self) -> Daemons:
        """The threads of the background; at the end they are waited for, also by a program that closes nothing."""
        if self._pool is None:
            self._pool = Daemons(LATER_THREADS, "troth 2pc later")
            self._drain = weakref.finalize(self, self._pool.end, END_WITHIN_S)
        return self._pool

    @override
    def apart(self, work: Callable[[], T], within_s: float) -> Callable[[], T]:
        until = time.monotonic() + within_s
        future: Future[T] = Future()
        try:
            threading.Thread(target=do, args=(work, future), name="troth 2pc apart", daemon=True).start()
        except RuntimeError:
            do(work, future)  # Python is ending, or could start no thread
        return lambda: future.result(max(0.0, until - time.monotonic()))

    @override
    def close(self, last: Callable[[], None]) -> None:
        with self._lock:
            self._is_closed = True
        try:
            self._drain()  # beyond its bound a database hangs: recovery finishes what it was being told
        finally:
            last()
