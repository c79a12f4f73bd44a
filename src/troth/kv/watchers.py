"""Watchers, and which of them watch a given key.

Finding them takes one look-up for the key itself, one for each length of the prefixes watched, and one for "this key
and all after it"; other ranges, which no client library makes, are tried one by one.
"""

from collections.abc import MutableMapping
from enum import IntEnum
from typing import TypeAlias, TypeVar

from sortedcontainers import SortedDict

from troth.kv.order import TO_THE_END
from troth.kv.requests import KeyValue


class State(IntEnum):
    """How a watcher stands to the hub; see `troth.kv.watch`."""

    SYNCED = 0
    UNSYNCED = 1
    PAUSED = 2


class Watcher:
    """One watch: a range of keys, filters, and the next revision it has not been told of."""

    __slots__ = (
        "key",
        "next_revision",
        "no_delete",
        "no_put",
        "owner",
        "prev_kv",
        "range_end",
        "state",
        "watch_id",
    )

    def __init__(
        self,
        *,
        owner: int,
        watch_id: int,
        key: bytes,
        range_end: bytes,
        next_revision: int,
        no_put: bool,
        no_delete: bool,
        prev_kv: bool,
    ) -> None:
        self.owner = owner
        self.watch_id = watch_id
        self.key = key
        self.range_end = range_end
        self.next_revision = next_revision
        self.no_put = no_put
        self.no_delete = no_delete
        self.prev_kv = prev_kv
        self.state = State.PAUSED

    def wants(self, version: KeyValue) -> bool:
        """Whether a change of a watched key is to be told."""
        return version.mod_revision >= self.next_revision and not (
            self.no_put if version.version else self.no_delete
        )


Watchers: TypeAlias = dict[Watcher, None]
"""An ordered set."""


class Group:
    """A set of watchers, and which of them watch a given key."""

    def __init__(self) -> None:
        self.members: Watchers = {}
        self._by_key: dict[bytes, Watchers] = {}
        self._by_prefix: dict[bytes, Watchers] = {}
        self._prefix_counts: SortedDict[int, int] = SortedDict()
        self._from_key: SortedDict[bytes, Watchers] = SortedDict()
        self._by_span: dict[tuple[bytes, bytes], Watchers] = {}

    def add(self, watcher: Watcher) -> None:
        """Take in a watcher that is not a member."""
        self.members[watcher] = None
        key, range_end = watcher.key, watcher.range_end
        if not range_end:
            self._by_key.setdefault(key, {})[watcher] = None
        elif range_end == TO_THE_END:
            self._from_key.setdefault(key, {})[watcher] = None
        elif range_end == _prefix_end(key):
            if key not in self._by_prefix:
                self._prefix_counts[len(key)] = self._prefix_counts.get(len(key), 0) + 1
            self._by_prefix.setdefault(key, {})[watcher] = None
        else:
            self._by_span.setdefault((key, range_end), {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """Let a member go."""
        del self.members[watcher]
        key, range_end = watcher.key, watcher.range_end
        if not range_end:
            _take_out(self._by_key, key, watcher)
        elif range_end == TO_THE_END:
            _take_out(self._from_key, key, watcher)
        elif range_end == _prefix_end(key):
            _take_out(self._by_prefix, key, watcher)
            if key not in self._by_prefix:
                self._prefix_counts[len(key)] -= 1
                if not self._prefix_counts[len(key)]:
                    del self._prefix_counts[len(key)]
        else:
            _take_out(self._by_span, (key, range_end), watcher)

    def watching(self, key: bytes) -> list[Watcher]:
        """The members that watch *key*."""
        found = list(self._by_key.get(key, ()))
        for length in self._prefix_counts:
            if length > len(key):
                break
            found += self._by_prefix.get(key[:length], ())
        if self._from_key:
            for start in self._from_key.irange(None, key):
                found += self._from_key[start]
        for (start, end), watchers in self._by_span.items():
            if start <= key < end:
                found += watchers
        return found


_Place = TypeVar("_Place", bytes, tuple[bytes, bytes])


def _take_out(places: MutableMapping[_Place, Watchers], place: _Place, watcher: Watcher) -> None:
    watchers = places[place]
    del watchers[watcher]
    if not watchers:
        del places[place]


def _prefix_end(prefix: bytes) -> bytes:
    """The range_end that makes [prefix, range_end) all keys with that prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else TO_THE_END
