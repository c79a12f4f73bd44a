"""Threads that keep no program from ending."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")
_Piece = tuple[Callable[[], Any], "Future[Any]"]


class Daemons:
    """Like a ThreadPoolExecutor, whose threads Python waits for when it ends: of these it does not, so that a database
    that hangs may keep them."""

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max: Final = threads_max
        self._name = name
        self._queue: SimpleQueue[_Piece | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        """Threads that nothing was given to; too many only once all there may be have been started."""
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished: set[Future[Any]] = set()
        self._pid = os.getpid()

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Have *work* done soon.

        Raises:
            RuntimeError: no thread could be started; *work* is not done.
        """
        future: Future[T] = Future()
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._started < self._threads_max:
                    threading.Thread(
                        target=_work_off, args=(self._queue, self._idle), name=self._name, daemon=True
                    ).start()
                    self._started += 1
        # Before it counts as unfinished: interrupted in between, `end` would wait for work that nobody does.
        self._queue.put((work, future))
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    def end(self, within_s: float) -> None:
        """Wait for what was submitted, but not for longer than that; then the threads end as they become idle."""
        if os.getpid() != self._pid:
            return  # forked: the threads are the parent's
        wait(tuple(self._unfinished), within_s)
        for _ in range(self._started):
            self._queue.put(None)


def _work_off(queue: "SimpleQueue[_Piece | None]", idle: threading.Semaphore) -> None:
    while (piece := queue.get()) is not None:
        do(*piece)
        del piece  # or what has been done would be kept until there is more to do
        idle.release()


def do(work: Callable[[], T], future: "Future[T]") -> None:
    """Do *work*; *future* has what came of it."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
        future.set_exception(error)
    else:
        future.set_result(result)
