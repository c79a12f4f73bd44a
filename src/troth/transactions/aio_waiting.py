"""How the common code waits when it runs in a greenlet of an event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.util.concurrency import await_only, greenlet_spawn
from typing_extensions import override

from troth.transactions.waiting import END_WITHIN_S, LATER_MAX, Flag, Waiting

T = TypeVar("T")

THREADS = 64


class TaskFlag:
    """What common code in a greenlet of the loop waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds_max: float) -> None:
        await_only(self._within(seconds_max))

    async def _within(self, seconds_max: float) -> None:
        try:
            await asyncio.wait_for(self._event.wait(), seconds_max)
        except TimeoutError:
            pass


class InTasks(Waiting):
    """How the common code waits when it runs in a greenlet of the loop."""

    is_async = True

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="troth 2pc aio")
        # Of its own: those who wait for a snapshot would take all the others, and it needs one to be taken.
        self._line = ThreadPoolExecutor(1, thread_name_prefix="troth 2pc aio line")
        self._tasks: set[asyncio.Task[None]] = set()

    @override
    def flag(self) -> Flag:
        return TaskFlag()

    @override
    def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        return await_only(asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments))

    @override
    def in_line(self, work: Callable[[], None]) -> None:
        await_only(asyncio.get_running_loop().run_in_executor(self._line, work))

    @override
    def later(self, work: Callable[[], None]) -> None:
        """Here and now if too much waits already."""
        if len(self._tasks) >= LATER_MAX:
            work()
            return
        task = asyncio.ensure_future(greenlet_spawn(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @override
    def apart(self, work: Callable[[], T], within_s: float) -> Callable[[], T]:
        task = asyncio.ensure_future(greenlet_spawn(work))
        task.add_done_callback(seen)

        async def ended() -> T:
            await asyncio.wait([task], timeout=max(0.0, until - loop.time()))
            if task.done():
                return task.result()
            task.cancel()  # nobody waits for that to have an effect: it may not come
            raise TimeoutError

        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        return lambda: await_only(ended())

    @override
    def close(self, last: Callable[[], None]) -> None:
        """What goes on in the background has been waited for: `drained`."""
        try:
            self.blocking(last)
        finally:
            self.end()

    def end(self) -> None:
        """Have no threads any more."""
        self._threads.shutdown(wait=False)
        self._line.shutdown(wait=False)

    async def drained(self) -> None:
        """Wait for second phases that are still under way, within bounds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + END_WITHIN_S
        while self._tasks and loop.time() < until:
            await asyncio.wait(set(self._tasks), timeout=until - loop.time())


def seen(task: "asyncio.Future[Any]") -> None:
    """How *task* ended may interest nobody any more; asyncio would complain of an error that is never looked at."""
    if not task.cancelled():
        task.exception()


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for *work* to its end, whatever happens to the waiter: half of a commit helps nobody."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001  (raised by result())
            break
    if cancelled is not None:
        task.exception()  # seen: the cancellation is what the caller is told
        raise cancelled
    return task.result()
