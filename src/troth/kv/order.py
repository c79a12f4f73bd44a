"""The order of the keys: which ones a range covers, the live and the dead ones (see keyspace.py).

It is made only when somebody asks for it. A write merely notes in ``moved`` that a key was born or died; what a range
pays is proportional to what moved since the last one: one by one when few keys moved, by one merge when many did. After
a load, or very many births, that would take long in one piece: who can wait takes `settle_steps` first.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import TypeVar

from sortedcontainers import SortedList

from troth.kv.deletion import Deletion, Index

T = TypeVar("T", bytes, int)

TO_THE_END = b"\0"
"""As a range_end: no upper bound."""

STEP_KEYS = 2048
"""Keys that are put in order in one step: some milliseconds. So few are put in order at once."""

_TOGETHER_MIN = 4096


class KeyOrder:
    """All keys of an index in order. The owner notes in `moved` each key that is born, dies or is freed."""

    __slots__ = ("_dead", "_index", "_live", "moved")

    def __init__(self, index: Index) -> None:
        self._index = index
        # A dict for its order: keys that were born in order are sorted in no time.
        self.moved: dict[bytes, None] = {}
        self._live = SortedList()
        self._dead = SortedList()

    # ---- what is where ---------------------------------------------------------------------------------------

    def live_count(self, key: bytes, range_end: bytes) -> int:
        """How many keys of a range with an end are live. O(log n)."""
        lo, hi = self._positions(key, range_end)
        return hi - lo

    def live_names(self, key: bytes, range_end: bytes, limit: int, *, last: bool) -> Iterator[bytes]:
        """The live keys of a range with an end; at most *limit* (0: all), the *last* ones if asked."""
        lo, hi = self._positions(key, range_end)
        if limit and hi - lo > limit:
            lo, hi = (hi - limit, hi) if last else (lo, lo + limit)
        names: Iterator[bytes] = self._live.islice(lo, hi)
        return names

    def dead_count(self, key: bytes, range_end: bytes) -> int:
        """How many keys of a range with an end are dead; more until the scavenger has been there, so replicas may
        differ in it. O(log n)."""
        self.settle()
        dead = self._dead
        lo: int = dead.bisect_left(key)
        hi: int = len(dead) if range_end == TO_THE_END else dead.bisect_left(range_end)
        return max(0, hi - lo)

    def dead_since(self, revision: int, key: bytes, range_end: bytes, enough: int) -> int:
        """How many keys of a range with an end have died at *revision* or later, and are dead, counted up to *enough*.

        Replicas agree about it for a *revision* that is not compacted: none of these is garbage.
        """
        self.settle()
        index, count = self._index, 0
        for name in _within(self._dead, key, range_end):
            versions = index[name]
            count += isinstance(versions, list) and versions[-1].mod_revision >= revision
            if count >= enough:
                break
        return count

    def names(self, key: bytes, range_end: bytes) -> list[bytes]:
        """The keys of a range with an end, dead ones included, in order."""
        lo, hi = self._positions(key, range_end)
        found: list[bytes] = list(self._live.islice(lo, hi))
        if self._dead:
            found.extend(_within(self._dead, key, range_end))
            found.sort()
        return found

    def names_page(self, key: bytes, range_end: bytes, count: int) -> list[bytes]:
        """The first *count* keys of a range with an end, dead ones included, in order; fewer only if it has no more."""
        self.settle()
        found: list[bytes] = []
        for order in (self._live, self._dead):
            found.extend(islice(_within(order, key, range_end), count))
        found.sort()
        return found[:count]

    def names_after(self, key: bytes, count: int) -> list[bytes]:
        """The next *count* keys above *key* (dead ones included) in order; fewer only at the end."""
        return self.names_page(key + b"\0", TO_THE_END, count)

    def _positions(self, key: bytes, range_end: bytes) -> tuple[int, int]:
        """The half-open slice of the live keys that a range covers."""
        self.settle()
        live = self._live
        lo: int = live.bisect_left(key)
        hi: int = len(live) if range_end == TO_THE_END else live.bisect_left(range_end)
        return lo, max(lo, hi)

    def forget(self) -> None:
        """Name no key any more."""
        self.moved.clear()
        self._live, self._dead = SortedList(), SortedList()

    # ---- bringing it up to date ------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether `settle` would take longer than others should wait: take `settle_steps` first."""
        return len(self.moved) > STEP_KEYS

    def settle_steps(self) -> Iterator[None]:
        """Bring the order nearly up to date in short steps, between which anything may happen. What moves meanwhile is
        not waited for."""
        for _ in range(len(self.moved) // STEP_KEYS):
            if self.is_behind:
                self.settle_some(STEP_KEYS)
                yield

    def settle_some(self, count: int) -> None:
        """Put *count* of the keys that moved where they belong."""
        moved = self.moved
        # From its end: a dict whose first entries are gone is slow to find the next.
        changed = [moved.popitem()[0] for _ in range(min(count, len(moved)))]
        changed.sort()
        self._place(changed)

    def settle(self) -> None:
        """Bring the order up to date."""
        moved = self.moved
        if not moved:
            return
        changed = sorted(moved)
        if len(changed) * 16 < len(self._live):
            self._place(changed)
        else:
            alive, died = self._parted(changed)
            # Sorting two sorted runs is one linear merge.
            self._live = SortedList([*(key for key in self._live if key not in moved), *alive])
            self._dead = SortedList([*(key for key in self._dead if key not in moved), *died])
        moved.clear()

    def _place(self, changed: list[bytes]) -> None:
        """Put each of *changed* where it belongs now."""
        live, dead = self._live, self._dead
        alive, died = self._parted(changed)
        gone = died if len(alive) + len(died) == len(changed) else set(changed).difference(alive)
        for key in gone:
            live.discard(key)
        if dead:
            for key in set(changed).difference(died):
                dead.discard(key)
        live.update([key for key in alive if key not in live] if live else alive)
        dead.update([key for key in died if key not in dead] if dead else died)

    def _parted(self, changed: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Those of *changed* that are alive, and those that are dead; the others are no more."""
        index = self._index
        alive: list[bytes] = []
        died: list[bytes] = []
        for key in changed:
            versions = index.get(key)
            if versions is not None:
                is_live = not isinstance(versions, list) or versions[-1].version
                (alive if is_live else died).append(key)
        return alive, died

    def move(self, deletion: Deletion) -> None:
        """The keys of *deletion* have died."""
        if self.moved or not self._died_together(deletion):
            self.moved.update(dict.fromkeys([version.key for version in deletion.live]))

    def _died_together(self, deletion: Deletion) -> bool:
        """Move the keys of a large deletion from the live to the dead, if they stand together: a fifth of what
        `settle` takes. The order is up to date."""
        live, count = self._live, len(deletion.live)
        if count < _TOGETHER_MIN:
            return False
        lo: int = live.bisect_left(deletion.live[0].key)
        hi = lo + count
        # As many live keys in ascending order, with the same ends: these are all that are there in between.
        if hi > len(live) or live[hi - 1] != deletion.live[-1].key:
            return False
        died = live[lo:hi]
        del live[lo:hi]
        self._dead.update(died)
        return True


def sorted_pages(items: list[T], count: int) -> Iterator[list[T]]:
    """*items*, sorted, in pages of *count*, each made in a short step; some are empty, while order is made."""
    runs: list[list[T]] = []
    for at in range(0, len(items), count):
        runs.append(sorted(items[at : at + count]))
        yield []
    ordered = merge(*runs)
    while page := list(islice(ordered, count)):
        yield page


def _within(order: SortedList, key: bytes, range_end: bytes) -> Iterable[bytes]:
    """Those of *order* that a range with an end covers."""
    if range_end == TO_THE_END:
        names: Iterable[bytes] = order.irange(key)
        return names
    return order.irange(key, range_end, (True, False)) if key < range_end else ()
