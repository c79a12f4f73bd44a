"""What calls of one client wait for before they begin, and until which deadline.

A *turn* is one key's: one change of it at a time, since two of the same client would only refuse each other. A *place*
is one of `CALLS_MAX`: no more calls at a time than their requests find room for on the way to the acceptors. Both are
there for threads, and for tasks of one loop.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from troth.client.registers.patience import now_s
from troth.errors import Overloaded, Unavailable

CALLS_MAX = 128
"""Of one client at once; the others wait. Half of what a line has room for: what is there for nobody any more, since a
quorum has answered without that acceptor, takes up room as well."""

Lock = TypeVar("Lock", threading.Lock, asyncio.Lock)


def _used_up(key: bytes) -> Unavailable:
    return Unavailable(f"other calls of this client for {key!r:.60} have used up the time")


class Turns:
    """Threads take turns at a key. Its lock exists only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[bytes, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, key: bytes, deadline: float) -> Iterator[None]:
        """Hold *key*, waiting until *deadline* (of the monotonic clock) for it.

        Raises:
            Unavailable: it was not to be had by then.
        """
        with self._lock:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise _used_up(key)
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                _let_go(self._locks, key)


def _no_place() -> Overloaded:
    return Overloaded(f"{CALLS_MAX} calls of this client were under way for all of this one's time")


class Places:
    """Places for the calls of threads."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(CALLS_MAX)

    @contextmanager
    def one(self, deadline: float) -> Iterator[None]:
        """Hold a place, waiting until *deadline* (of the monotonic clock) for it.

        Raises:
            Overloaded: none was to be had by then.
        """
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _no_place()
        try:
            yield
        finally:
            self._free.release()


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
            _let_go(self._locks, key)


def _let_go(locks: dict[bytes, tuple[Lock, int]], key: bytes) -> None:
    lock, users = locks[key]
    if users == 1:
        del locks[key]
    else:
        locks[key] = (lock, users - 1)
