"""Every version of every key, in memory: the data structure under the store.

Theory of operation
===================
Three views of one set of `KeyValue` versions, each shared by reference and never copied:

* ``index``: key -> its versions. A key that has a single version, and that a put, maps straight to it; any other
  maps to a list in revision order, in which a deletion is a *tombstone* (``version == 0``). So the newest state of
  a key is one dict look-up away, and a key written once costs no list.
* ``log``: all versions since the last compaction in the order in which they were written. Watchers and snapshots
  read it; it is also the work list of the scavenger.
* ``order``: the keys, sorted, made when somebody asks for a range (order.py). A write merely notes in ``moved`` that
  a key was born or died.

Compaction and scavenging
=========================
`compact(C)` only moves a number: from then on a version is *garbage* if a newer one exists at or below C, and a
tombstone is garbage if it is older than C (one written at C itself stays: a watch from C must still report it).
Garbage is freed by `scavenge` in bounded steps, whenever the caller has time, and invisible at once: nothing that
can be observed (reads, sizes, hashes, snapshots) depends on how far the scavenger is. A `Pin` holds it
back for a reader that is in the middle of the history.

``size_bytes`` counts what is not garbage. To move it at once on compaction, the log would have to be walked;
instead ``superseded_bytes`` sums up the sizes of all versions that ever got a successor, and `marks` remembers
that sum every `MARK_INTERVAL` revisions (and after large deletions), so that a compaction walks little more.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter, itemgetter

from troth.errors import invariant
from troth.kv.deletion import Deletion, Index
from troth.kv.order import TO_THE_END, KeyOrder
from troth.kv.requests import KeyValue

VERSION_OVERHEAD_BYTES = 192
"""Cost of a version beyond its key and value: the struct, two byte-string headers, its places in index and log."""

MARK_INTERVAL = 1024
"""Revisions between two marks, at most; a power of two."""

_LOG_TRIM_MIN = 1024
_MOVED_SLACK = 1024
_FREED = KeyValue(b"", 0, 0, 0, b"")

_mod_revision = attrgetter("mod_revision")
_first = itemgetter(0)


def cost_bytes(version: KeyValue) -> int:
    """What one version adds to the size of the store."""
    return len(version.key) + len(version.value) + VERSION_OVERHEAD_BYTES


def covers(key: bytes, range_end: bytes, name: bytes) -> bool:
    """Whether the range from *key* to *range_end* has *name* in it."""
    if not range_end:
        return name == key
    return key <= name and (range_end == TO_THE_END or name < range_end)


class Pin:
    """Keeps every version that is visible at *revision* or later from being freed."""

    __slots__ = ("revision",)

    def __init__(self, revision: int) -> None:
        self.revision = revision


class KeySpace:
    """All versions of all keys. It knows neither leases nor quotas nor requests.

    The hot loop of `Store.apply_batch` writes `index`, `log`, `moved` and the counters itself; everybody else goes
    through the methods.

    Invariant: ``log[log_head:]`` holds exactly the versions with ``mod_revision >= compact_revision`` that were
    written since the store was empty (or more, while a pin or a lazy scavenger keeps older ones), in order.
    """

    __slots__ = (
        "_base_mark",
        "_cursor",
        "_pins",
        "_target",
        "_unmarked",
        "compact_revision",
        "index",
        "log",
        "log_head",
        "marks",
        "moved",
        "order",
        "revision",
        "scavenged_revision",
        "size_bytes",
        "superseded_bytes",
    )

    def __init__(self) -> None:
        self.index: dict[bytes, KeyValue | list[KeyValue]] = {}
        self.log: list[KeyValue] = []
        self.log_head = 0
        self.order = KeyOrder(self.index)
        self.moved = self.order.moved
        self.revision = 1
        self.compact_revision = 0
        self.scavenged_revision = 0
        self.size_bytes = 0
        self.superseded_bytes = 0
        self.marks: list[tuple[int, int]] = []
        self._base_mark = (0, 0)
        self._unmarked = 0
        """Deletions since the last mark, at least: one revision may hold a million."""
        self._pins: list[Pin] = []
        self._target = 0
        self._cursor = 0

    # ---- point reads -----------------------------------------------------------------------------------------

    def get(self, key: bytes) -> KeyValue | None:
        """The live version of *key*, or None."""
        versions = self.index.get(key)
        if isinstance(versions, list):
            newest = versions[-1]
            return newest if newest.version else None
        return versions

    def get_at(self, key: bytes, revision: int) -> KeyValue | None:
        """What *key* was right after *revision*; right only for ``revision >= compact_revision``."""
        versions = self.index.get(key)
        if isinstance(versions, list):
            position = bisect_right(versions, revision, key=_mod_revision)
            if not position:
                return None
            version = versions[position - 1]
            return version if version.version else None
        return versions if versions is not None and versions.mod_revision <= revision else None

    def versions(self, key: bytes) -> list[KeyValue]:
        """All versions of *key* that are kept, tombstones included, oldest first. Not to be changed."""
        versions = self.index.get(key)
        if isinstance(versions, list):
            return versions
        return [] if versions is None else [versions]

    def _predecessor(self, version: KeyValue) -> KeyValue | None:
        versions = self.index.get(version.key)
        if not isinstance(versions, list):
            return None
        # A put and the deletion of the same key can share a revision (sibling transactions inside one).
        position = bisect_left(versions, version.mod_revision, key=_mod_revision)
        while position < len(versions) and versions[position] is not version:
            position += 1
        return versions[position - 1] if 0 < position < len(versions) else None

    # ---- writes ----------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, lease: int, revision: int) -> KeyValue:
        """Write a version of *key* at *revision*; `commit` follows once all of the revision is written."""
        versions = self.index.get(key)
        if versions is None:
            version = KeyValue(key, revision, revision, 1, value, lease)
            self.index[key] = version
            self.moved[key] = None
        else:
            newest = versions[-1] if isinstance(versions, list) else versions
            if newest.version:
                version = KeyValue(newest.key, newest.create_revision, revision, newest.version + 1, value, lease)
                self.superseded_bytes += cost_bytes(newest)
            else:
                version = KeyValue(newest.key, revision, revision, 1, value, lease)
                self.moved[key] = None
            if isinstance(versions, list):
                versions.append(version)
            else:
                self.index[key] = [versions, version]
        self.log.append(version)
        self.size_bytes += cost_bytes(version)
        return version

    def delete_all(self, deletion: Deletion) -> None:
        """Write tombstones over live versions, one for each of their keys; `commit` follows."""
        self.index.update(deletion.pairs)
        for tombstone in deletion.listed:
            versions = self.index[tombstone.key]
            # What was a list when the deletion was made ready may have been reduced to its newest version since.
            if isinstance(versions, list):
                versions.append(tombstone)
            else:
                self.index[tombstone.key] = [versions, tombstone]
        self.order.move(deletion)
        self.log += deletion.tombstones
        tombstones_bytes = deletion.keys_bytes + VERSION_OVERHEAD_BYTES * len(deletion.tombstones)
        self.size_bytes += tombstones_bytes
        self.superseded_bytes += 2 * tombstones_bytes + deletion.values_bytes
        self._unmarked += len(deletion.tombstones)

    def slices(self, key: bytes, range_end: bytes, count: int) -> Iterator[tuple[Index, list[KeyValue]]]:
        """The live versions of a range, *count* at a time, each time with the index that holds them."""
        while True:
            live = self.live(key, range_end, count)
            yield self.index, live
            if len(live) < count or not range_end:
                return
            key = live[-1].key + b"\0"

    def unwritten_since(self, revision: int, key: bytes, range_end: bytes) -> bool:
        """Whether nothing in a range has been written after *revision*, which is the present one or a recent one."""
        return not any(covers(key, range_end, version.key) for version in self.written_since(revision))

    def written_since(self, revision: int) -> list[KeyValue]:
        """The versions written after *revision*, which is the present one or a recent one."""
        return self.log[self.log_position(revision + 1) :]

    def commit(self, revision: int) -> None:
        """All writes of *revision* are in: make it the current one."""
        self.revision = revision
        if not revision & (MARK_INTERVAL - 1) or self._unmarked >= MARK_INTERVAL:
            self.marks.append((revision, self.superseded_bytes))
            self._unmarked = 0

    # ---- ranges -----------------------------------------------------------------------------------------------

    def live_count(self, key: bytes, range_end: bytes) -> int:
        """How many keys of a range are live. O(log n)."""
        if not range_end:
            return 0 if self.get(key) is None else 1
        return self.order.live_count(key, range_end)

    def live(self, key: bytes, range_end: bytes, limit: int = 0, *, last: bool = False) -> list[KeyValue]:
        """The live versions of a range in key order; at most *limit* (0: all), the *last* ones if asked."""
        if not range_end:
            version = self.get(key)
            return [] if version is None else [version]
        index = self.index
        names = self.order.live_names(key, range_end, limit, last=last)
        return [versions[-1] if isinstance(versions := index[name], list) else versions for name in names]

    def live_at(self, key: bytes, range_end: bytes, revision: int) -> list[KeyValue]:
        """The versions of a range that were live right after *revision*, in key order."""
        names: Iterable[bytes] = self.order.names(key, range_end) if range_end else (key,)
        versions = (self.get_at(name, revision) for name in names)
        return [version for version in versions if version is not None]

    # ---- the log ---------------------------------------------------------------------------------------------

    def log_position(self, revision: int) -> int:
        """The position in `log` of the first version written at *revision* or later."""
        return bisect_left(self.log, revision, lo=self.log_head, key=_mod_revision)

    # ---- compaction ------------------------------------------------------------------------------------------

    def compact(self, revision: int) -> None:
        """Make garbage of all that is not visible at *revision* or later; ``compact_revision < revision``."""
        superseded = self._superseded_at(revision)
        self.size_bytes -= superseded - self._base_mark[1]
        self._base_mark = (revision, superseded)
        del self.marks[: bisect_right(self.marks, revision, key=_first)]
        self.compact_revision = revision

    def _superseded_at(self, revision: int) -> int:
        """What `superseded_bytes` was right after *revision*."""
        position = bisect_right(self.marks, revision, key=_first)
        marked_revision, total = self.marks[position - 1] if position else self._base_mark
        for place in range(self.log_position(marked_revision + 1), self.log_position(revision + 1)):
            version = self.log[place]
            replaced = self._predecessor(version)
            if replaced is not None and replaced.version:
                total += cost_bytes(replaced)
            if not version.version:
                total += cost_bytes(version)
        return total

    def pin(self, revision: int) -> Pin:
        """Hold the scavenger back from *revision* on, until `unpin`. The holder may raise ``pin.revision``."""
        invariant(
            revision >= self.compact_revision,
            "pins what is compacted",
            revision=revision,
            compact_revision=self.compact_revision,
        )
        pin = Pin(revision)
        self._pins.append(pin)
        return pin

    @property
    def is_pinned(self) -> bool:
        """Whether somebody is in the middle of the history."""
        return bool(self._pins)

    def unpin(self, pin: Pin) -> None:
        """Let go; a second time changes nothing."""
        self._pins = [held for held in self._pins if held is not pin]

    def scavenge(self, versions_max: int) -> bool:
        """Free garbage, looking at no more than *versions_max* versions. True: there is more to be done now."""
        target = self.compact_revision
        for pin in self._pins:
            target = min(target, pin.revision)
        if target > self._target:
            self._target = target
            self._cursor = self.log_head
        elif self.scavenged_revision == self._target:
            return False
        target = self._target
        log = self.log
        cursor = self._cursor
        stop = min(len(log), cursor + versions_max)
        while cursor < stop:
            version = log[cursor]
            if version.mod_revision > target:
                stop = cursor
                break
            self._free_below(version.key, target)
            if version.mod_revision < target:
                log[cursor] = _FREED
                self.log_head = cursor + 1
            cursor += 1
        self._cursor = cursor
        finished = cursor == len(log) or log[cursor].mod_revision > target
        if finished:
            self.scavenged_revision = target
        # Cutting the head off moves the rest: do it when the head is a fair part of the whole.
        head = self.log_head
        if head * 16 >= len(log) and (head >= _LOG_TRIM_MIN or finished):
            del log[:head]
            self._cursor -= head
            self.log_head = 0
        if len(self.moved) > 2 * len(self.index) + _MOVED_SLACK:
            # Keys that came and went without anybody asking for order would pile up here.
            self.order.settle_some(2 * versions_max)
        return not finished

    def _free_below(self, key: bytes, target: int) -> None:
        """Drop the versions of *key* that nobody can see at *target* or later."""
        versions = self.index.get(key)
        if not isinstance(versions, list):
            return
        # Of several written at *target* itself, a watch from there is still told all.
        newest = bisect_left(versions, target, key=_mod_revision)
        if newest == len(versions) or versions[newest].mod_revision > target:
            newest -= 1
        if newest > 0:
            del versions[:newest]
        oldest = versions[0]
        if not oldest.version and oldest.mod_revision < target:
            del versions[0]
        if not versions:
            del self.index[key]
            self.moved[key] = None
        elif len(versions) == 1 and versions[0].version:
            self.index[key] = versions[0]

    # ---- loading, in this order: begin_load, load_base*, load_log*, finish_load ------------------------------

    def begin_load(self, compact_revision: int) -> None:
        """Only on a new key space."""
        # Where the revision was moved on (`Store.bump_revision`) nothing was written at it that would tell of it.
        self.revision = max(self.revision, compact_revision)
        self.compact_revision = self.scavenged_revision = self._target = compact_revision
        self._base_mark = (compact_revision, 0)

    def load_base(self, version: KeyValue) -> None:
        """Take over one of `history.base_versions`."""
        self.index[version.key] = version
        self.moved[version.key] = None
        self.size_bytes += cost_bytes(version)

    def load_log(self, version: KeyValue) -> None:
        """Take over one of `history.log_versions`, oldest first."""
        if version.mod_revision != self.revision:
            self.finish_load()
            self.revision = version.mod_revision
        versions = self.index.get(version.key)
        if versions is None:
            self.index[version.key] = version if version.version else [version]
            newest = None
        elif isinstance(versions, list):
            newest = versions[-1]
            versions.append(version)
        else:
            newest = versions
            self.index[version.key] = [versions, version]
        if newest is not None and newest.version:
            self.superseded_bytes += cost_bytes(newest)
        if not version.version:
            self.superseded_bytes += cost_bytes(version)
            self._unmarked += 1
        self.size_bytes += cost_bytes(version)
        self.moved[version.key] = None
        self.log.append(version)

    def finish_load(self) -> None:
        """All of the current revision is loaded."""
        if self.revision == self.compact_revision:
            # What this revision itself deleted counts as freed, as it does after `compact`.
            self._base_mark = (self.revision, self.superseded_bytes)
            self.size_bytes -= self.superseded_bytes
        self.commit(self.revision)
