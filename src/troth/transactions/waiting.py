"""How the code that threads and asyncio share waits, and goes on in the background."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from troth.errors import UsageError

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


class Flag(Protocol):
    """Something that may be waited for, and is set once."""

    def set(self) -> None:
        """Let who waits go on."""

    def wait(self, seconds_max: float) -> object:
        """Until it is set, or the time is up."""


class Waiting(Protocol):
    """How to wait, and how to go on in the background: differs between threads and asyncio."""

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

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
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
        untaken = threading.Lock()

        def done() -> None:
            if untaken.acquire(blocking=False):
                try:
                    work()
                finally:
                    self._slots.release()

        with self._lock:
            if not self._is_closed:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(LATER_THREADS, thread_name_prefix="troth 2pc later")
                try:
                    self._pool.submit(done)
                    return
                except RuntimeError:
                    pass  # Python is ending, or could start no thread; it may be in the queue all the same
        done()

    @override
    def apart(self, work: Callable[[], T], within_s: float) -> Callable[[], T]:
        until = time.monotonic() + within_s
        future: Future[T] = Future()

        def do() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            # No pool's, whose threads Python waits for when it ends.
            threading.Thread(target=do, name="troth 2pc apart", daemon=True).start()
        except RuntimeError:
            do()  # Python is ending, or could start no thread
        return lambda: future.result(max(0.0, until - time.monotonic()))

    @override
    def close(self, last: Callable[[], None]) -> None:
        with self._lock:
            self._is_closed = True
        try:
            if self._pool is not None:
                self.apart(self._pool.shutdown, END_WITHIN_S)()
        except TimeoutError:
            pass  # a database hangs: recovery finishes what it was being told
        finally:
            last()
