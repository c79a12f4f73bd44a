"""Deleted keys whose tombstones are collected beside the asyncio client's calls."""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.request import COLLECTIONS_MAX
from troth.errors import TrothError

COLLECTED_AT_ONCE = 4
"""A collection that is begun has half a second, so that it holds up nobody who writes the key. A thousand at once would
all need longer, and leave behind them promises and accepts instead of tombstones that are gone."""


class Backlog:
    """Each key once; a few at a time, the others wait their turn."""

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
            self._reach.aside(partial(self._one, self._waiting.popleft()))

    async def _one(self, key: bytes) -> None:
        try:
            await self._collect(key)
        except TrothError:
            pass  # it stays a tombstone, which is safe; `collect` tries again
        finally:
            self._keys.discard(key)
        self._go_on()  # not if it was cancelled: its loop ends, and nothing is to begin there
