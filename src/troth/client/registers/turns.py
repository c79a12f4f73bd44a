"""What calls of one client wait for before they begin, and until which deadline.

A *turn* is one key's: one change of it at a time, since two of the same client would only refuse each other. A *place*
is one of `CALLS_MAX`: no more calls at a time than their requests find room for on the way to the acceptors. Both are
there for threads, and for tasks of one loop.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from troth.client.registers.patience import now_s
from troth.errors import Overloaded, TrothError, Unavailable

CALLS_MAX = 128
"""Of one client at once; the others wait. Half of what a line has room for: what is there for nobody any more, since a
quorum has answered without that acceptor, takes up room as well."""

LOOK_AGAIN_S = 0.1
LOOK_AGAIN_MAX_S = 4.0
"""Whoever waits looks again though no bell has rung, since a Ctrl-C may come between another's leaving and its bell:
after the first, then after twice as long each time, up to the second. Hundreds may wait for an acceptor that hangs."""

T = TypeVar("T")


class _Queues:
    """Threads are let in as they came, `room` of each queue at a time.

    A caller waits, or is in, for as long as its bell stands in the queue, and nothing else says so. Whatever moment
    Ctrl-C comes at, a `finally` takes the bell out, by one call of a dict's method: CPython raises no KeyboardInterrupt
    between the beginning of a `finally` and its first call. It does at the beginning of a context manager's `__exit__`,
    and behind the call that has just got a lock.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._queues: dict[bytes, dict[threading.Lock, None]] = {}

    def run(self, key: bytes, deadline: float, work: Callable[[], T], refusal: Callable[[bytes], TrothError]) -> T:
        """Do *work* once the queue of *key* lets us in; *refusal*: it has not by *deadline*."""
        bell = threading.Lock()
        bell.acquire()
        queue: dict[threading.Lock, None] = {}
        try:
            with self._lock:
                queue = self._queues.setdefault(key, queue)
                queue[bell] = None
            rest_s = LOOK_AGAIN_S
            while len(queue) > self._room and bell not in list(queue)[: self._room]:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise refusal(key)
                bell.acquire(timeout=min(left_s, rest_s))
                rest_s = min(2 * rest_s, LOOK_AGAIN_MAX_S)
            return work()
        finally:
            queue.pop(bell, None)
            self._on_left(key, queue)

    def _on_left(self, key: bytes, queue: dict[threading.Lock, None]) -> None:
        with self._lock:
            if not queue and self._queues.get(key) is queue:  # not the one that others have begun since
                del self._queues[key]
            elif len(queue) >= self._room:
                for bell in list(queue)[: self._room]:
                    if bell.locked():
                        bell.release()


def _used_up(key: bytes) -> Unavailable:
    return Unavailable(f"other calls of this client for {key!r:.60} have used up the time")


def _no_place(_: bytes = b"") -> Overloaded:
    return Overloaded(f"{CALLS_MAX} calls of this client were under way for all of this one's time")


class Turns:
    """Threads take turns at a key, in the order in which they came."""

    def __init__(self) -> None:
        self._queues = _Queues(1)

    def run(self, key: bytes, deadline: float, work: Callable[[], T]) -> T:
        """Do *work* in a turn at *key*, waiting until *deadline* (of the monotonic clock) for it.

        Raises:
            Unavailable: it was not to be had by then.
        """
        return self._queues.run(key, deadline, work, _used_up)


class Places:
    """Places for the calls of threads; who came first has the next one that is free."""

    def __init__(self) -> None:
        self._queues = _Queues(CALLS_MAX)

    def run(self, deadline: float, work: Callable[[], T]) -> T:
        """Do *work* in a place, waiting until *deadline* (of the monotonic clock) for it.

        Raises:
            Overloaded: none was to be had by then.
        """
        return self._queues.run(b"", deadline, work, _no_place)


class AsyncPlaces:
    """Places for the calls of tasks."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CALLS_MAX)

    @asynccontextmanager
    async def one(self, deadline: float) -> AsyncIterator[None]:
        """Hold a place, waiting until *deadline* (of the loop's clock) for it.

        Raises:
            Overloaded: none was to be had by then.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - now_s())):
                await self._free.acquire()
        except TimeoutError:
            raise _no_place() from None
        try:
            yield
        finally:
            self._free.release()


class AsyncTurns:
    """Tasks take turns at a key."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: bytes, deadline: float) -> AsyncIterator[None]:
        """Hold *key*, waiting until *deadline* (of the loop's clock) for it.

        Raises:
            Unavailable: it was not to be had by then.
        """
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            try:
                async with asyncio.timeout(max(0.0, deadline - now_s())):
                    await lock.acquire()
            except TimeoutError:
                raise _used_up(key) from None
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
