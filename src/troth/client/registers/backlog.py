"""Deleted keys whose tombstones are collected beside a client's calls, each once. What finds no room, or fails, stays a
tombstone, which is safe; `collect` tries again."""

from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.reach import Reach
from troth.errors import TrothError

COLLECTIONS_MAX = 1024
"""Deleted keys of one client that wait to be collected; beyond it their tombstones stay until `collect` is called."""

COLLECTED_AT_ONCE = 4
"""A collection that is begun has half a second, so that it holds up nobody who writes the key. A thousand at once would
all need longer, and leave behind them promises and accepts instead of tombstones that are gone."""


class Backlog:
    """For threads: one of its own collects a key at a time."""

    def __init__(self, reach: Reach, lock: AbstractContextManager[object]) -> None:
        """*lock* is held while *reach* is closed: no key is handed to a thread that has ended."""
        self._reach = reach
        self._lock = lock
        self._keys: set[bytes] = set()
        """Those that wait, and the one that is being collected."""
        self._collector: ThreadPoolExecutor | None = None

    def add(self, key: bytes, collect: Callable[[bytes], object]) -> None:
        """Let *collect*, a method of the client, collect *key* soon, if there is room. It is not kept: a client that
        nobody has any more ends."""
        with self._lock:
            if self._reach.closed or key in self._keys or len(self._keys) >= COLLECTIONS_MAX:
                return
            self._keys.add(key)
            if self._collector is None:
                self._collector = ThreadPoolExecutor(1, thread_name_prefix="troth collector")
            self._collector.submit(self._one, key, collect)

    def _one(self, key: bytes, collect: Callable[[bytes], object]) -> None:
        try:
            collect(key)
        except TrothError:
            pass
        finally:
            with self._lock:
                self._keys.discard(key)

    def close(self) -> None:
        """What waits stays as it is."""
        if self._collector is not None:
            self._collector.shutdown(wait=False, cancel_futures=True)


class AsyncBacklog:
    """For tasks of one loop: a few are collected at a time, the others wait their turn."""

    def __init__(self, reach: AsyncReach, collect: Callable[[bytes], Awaitable[object]]) -> None:
        self._reach = reach
        self._collect = collect
        self._keys: set[bytes] = set()
        """Those that wait, and those that are being collected."""
        self._waiting: deque[bytes] = deque()

    def add(self, key: bytes) -> None:
        """Collect *key* soon, if there is room."""
        if key not in self._keys and len(self._keys) < COLLECTIONS_MAX:
            self._keys.add(key)
            self._waiting.append(key)
            self._go_on()

    @property
    def _has_room(self) -> bool:
        return len(self._keys) - len(self._waiting) < COLLECTED_AT_ONCE

    def _go_on(self) -> None:
        while self._waiting and self._has_room and not self._reach.closed:
            self._reach.aside(partial(self._one, self._waiting.popleft()), self._go_on)

    async def _one(self, key: bytes) -> None:
        try:
            await self._collect(key)
        finally:
            self._keys.discard(key)
