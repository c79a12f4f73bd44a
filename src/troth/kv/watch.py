"""Watches: who is told of which change, from which revision on.

Theory of operation
===================
A watcher is a position: the next revision that it has not been told of. It never holds events; they are read from
the log of the store whenever they can be delivered. Hence the memory that watches take does not depend on how slow
their consumers are, and a write costs nothing for a watcher that lags. There are three states:

* *synced*: knows all that the hub has gone through. `poll` takes the revisions that are new since the last poll,
  in order, and finds for each change the synced watchers that want it.
* *unsynced*: began in the past, or lagged. Each `poll` reads a bounded page of history for such watchers; one that
  has caught up becomes synced. A watcher of a single key reads that key's own history, the others share one pass
  over the log that starts at the one furthest behind.
* *paused*: its consumer takes nothing now. On `resume` it goes on where it was.

A revision is never split: pages end where a revision ends. One of very many changes takes several polls to go through
(`Telling`), at the end of which all its watchers are told all of it; who comes or goes meanwhile is told by another
page. A watcher whose next revision has been compacted
away is cancelled, and told the compact revision. What synced watchers have still to be told is pinned, so that a
compaction right after a write does not take the write away from them: `poll` after applying, always.
"""

from bisect import bisect_left
from operator import attrgetter

import msgspec

from troth.kv import refusals
from troth.kv.order import TO_THE_END
from troth.kv.requests import Event, Failure, KeyValue
from troth.kv.state import StoreState
from troth.kv.telling import Telling, event_of, page_of
from troth.kv.watchers import Group, State, Watcher, Watchers

PAGE_VERSIONS_MAX = 4096
PAGE_BYTES_MAX = 1024 * 1024

_NO_REVISION = 1 << 63
"""Where a pin holds nothing back."""

_mod_revision = attrgetter("mod_revision")


class WatchRequest(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """What to watch. An empty key counts as the first one; range_end as in Range.

    `start_revision` 0 means: what comes after now; below 0: all there ever was. `watch_id` 0 lets the hub choose.
    """

    key: bytes
    range_end: bytes = b""
    start_revision: int = 0
    no_put: bool = False
    no_delete: bool = False
    prev_kv: bool = False
    watch_id: int = 0


class WatchCreated(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The watch exists; `revision` is the store's."""

    watch_id: int
    revision: int


class WatchBatch(msgspec.Struct, frozen=True, array_like=True):
    """News for one watcher: the events of one or more whole revisions, or the end of the watch.

    With this, all up to `revision` has been delivered. If `canceled` the watch is gone because what it waited for
    was compacted away; `compact_revision` is the oldest revision that can still be watched.
    """

    owner: int
    watch_id: int
    revision: int
    events: list[Event]
    canceled: bool = False
    compact_revision: int = 0


class _Stream:
    """The watches of one owner."""

    __slots__ = ("next_id", "paused", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[int, Watcher] = {}
        self.next_id = 0
        self.paused = False


class WatchHub:
    """All watches on one store. An owner is a stream of watches with one consumer, named by a number.

    Args:
        store: what is watched. Call `poll` after each apply.
        watches_max: bound on the watches of all owners together.
        page_versions_max: bound on the changes that one poll looks at for synced watchers, and again for others.
        page_bytes_max: the same in bytes. Both are passed by the rest of a revision, which is never split.
    """

    def __init__(
        self,
        store: StoreState,
        *,
        watches_max: int = 100_000,
        page_versions_max: int = PAGE_VERSIONS_MAX,
        page_bytes_max: int = PAGE_BYTES_MAX,
    ) -> None:
        self._space = store.space
        self._watches_max = watches_max
        self._page_versions_max = page_versions_max
        self._page_bytes_max = page_bytes_max
        self._streams: dict[int, _Stream] = {}
        self.count = 0
        """All watches."""
        self._synced = Group()
        self._unsynced = Group()
        # Unsynced, but of one key only: those read that key's history.
        self._unsynced_keys: Watchers = {}
        # Synced watchers know all before this revision.
        self._next_revision = store.revision + 1
        self._telling: Telling | None = None
        self._pin = store.space.pin(store.revision)
        self._hold()

    def __len__(self) -> int:
        return self.count

    @property
    def has_work(self) -> bool:
        """Whether another `poll` would get somebody further now."""
        behind = bool(self._synced.members) and self._next_revision <= self._space.revision
        return behind or bool(self._unsynced.members) or bool(self._unsynced_keys) or self._telling is not None

    # ---- coming and going ------------------------------------------------------------------------------------

    def create(self, owner: int, request: WatchRequest) -> WatchCreated | Failure:
        """Begin a watch. One on a compacted revision is created too, and cancelled by the next poll (etcd)."""
        space = self._space
        key = request.key or b"\0"
        if request.range_end and request.range_end != TO_THE_END and request.range_end <= key:
            return self._refuse(refusals.WATCH_RANGE_EMPTY)
        if self.count >= self._watches_max:
            return self._refuse(refusals.TOO_MANY_WATCHES)
        stream = self._streams.get(owner)
        if stream is None:
            stream = self._streams[owner] = _Stream()
        watch_id = request.watch_id
        if not watch_id:
            while stream.next_id in stream.watchers:
                stream.next_id += 1
            watch_id = stream.next_id
            stream.next_id += 1
        elif watch_id in stream.watchers:
            return self._refuse(refusals.WATCH_ID_TAKEN)
        next_revision = max(0, request.start_revision) if request.start_revision else space.revision + 1
        watcher = Watcher(
            owner=owner,
            watch_id=watch_id,
            key=key,
            range_end=request.range_end,
            next_revision=next_revision,
            no_put=request.no_put,
            no_delete=request.no_delete,
            prev_kv=request.prev_kv,
        )
        stream.watchers[watch_id] = watcher
        self.count += 1
        if not stream.paused:
            self._place(watcher)
        return WatchCreated(watch_id, space.revision)

    def cancel(self, owner: int, watch_id: int) -> bool:
        """End a watch; nothing comes for it any more. False: there is none."""
        stream = self._streams.get(owner)
        watcher = None if stream is None else stream.watchers.get(watch_id)
        if watcher is None:
            return False
        self._forget(watcher)
        return True

    def cancel_owner(self, owner: int) -> None:
        """The owner is gone: end all its watches."""
        stream = self._streams.pop(owner, None)
        if stream is not None:
            for watcher in stream.watchers.values():
                self._displace(watcher)
            self.count -= len(stream.watchers)

    def pause(self, owner: int) -> None:
        """The owner takes no more batches for now. What it misses is read from the history later."""
        stream = self._streams.setdefault(owner, _Stream())
        if not stream.paused:
            stream.paused = True
            for watcher in stream.watchers.values():
                self._displace(watcher)

    def resume(self, owner: int) -> None:
        """The owner takes batches again."""
        stream = self._streams.setdefault(owner, _Stream())
        if stream.paused:
            stream.paused = False
            for watcher in stream.watchers.values():
                self._place(watcher)

    def attach(self, store: StoreState) -> None:
        """Go on with another store: the replica has installed a snapshot. Every watch continues where it was."""
        watchers = [watcher for stream in self._streams.values() for watcher in stream.watchers.values()]
        for watcher in watchers:
            self._displace(watcher)
        self._telling = None
        self._space.unpin(self._pin)
        self._space = store.space
        self._pin = self._space.pin(self._space.revision)
        self._hold()
        for watcher in watchers:
            if not self._streams[watcher.owner].paused:
                self._place(watcher)

    def progress(self, owner: int, watch_id: int | None = None) -> int | None:
        """The revision up to which the owner was told everything; None while one of its watches lags.

        With *watch_id* the same of a single watch (None as well if there is no such watch).
        """
        stream = self._streams.get(owner)
        watchers = {} if stream is None else stream.watchers
        if watch_id is not None:
            watcher = watchers.get(watch_id)
            if watcher is None:
                return None
            watchers = {watch_id: watcher}
        if any(watcher.state != State.SYNCED for watcher in watchers.values()):
            return None
        return self._next_revision - 1 if watchers else self._space.revision

    # ---- telling ---------------------------------------------------------------------------------------------

    def poll(self) -> list[WatchBatch]:
        """What there is to tell, a bounded amount of it; while `has_work`, poll again soon."""
        batches: list[WatchBatch] = []
        space = self._space
        if self._telling is None and self._synced.members and self._next_revision <= space.revision:
            page = self._page(space.log, space.log_position(self._next_revision), space.revision)
            self._telling = Telling(self._synced, page, page[-1].mod_revision)
        if self._telling is not None and not self._tell_more(self._telling, batches):
            return batches
        if self._unsynced_keys:
            self._catch_up_keys(batches)
        if self._unsynced.members:
            self._catch_up_ranges(batches)
        return batches

    def _catch_up_keys(self, batches: list[WatchBatch]) -> None:
        space = self._space
        known_revision = self._known_revision()
        budget = self._page_versions_max
        for watcher in list(self._unsynced_keys):
            if self._cancel_compacted(watcher, batches):
                continue
            versions = space.versions(watcher.key)
            position = bisect_left(versions, watcher.next_revision, key=_mod_revision)
            page = self._page(versions, position, known_revision)
            end = position + len(page)
            if end < len(versions) and versions[end].mod_revision <= known_revision:
                revision = page[-1].mod_revision
            else:
                revision = known_revision
            floor = space.compact_revision if watcher.prev_kv else known_revision
            events = [event_of(space, version, floor) for version in page if watcher.wants(version)]
            if events:
                batches.append(WatchBatch(watcher.owner, watcher.watch_id, revision, events))
            self._advance(watcher, revision)
            budget -= 1 + len(page)
            if budget <= 0:
                break

    def _catch_up_ranges(self, batches: list[WatchBatch]) -> None:
        space = self._space
        for watcher in list(self._unsynced.members):
            self._cancel_compacted(watcher, batches)
        if not self._unsynced.members:
            return
        known_revision = self._known_revision()
        start = min(watcher.next_revision for watcher in self._unsynced.members)
        page = self._page(space.log, space.log_position(start), known_revision)
        self._telling = Telling(self._unsynced, page, page[-1].mod_revision if page else known_revision)
        self._tell_more(self._telling, batches)

    def _tell_more(self, telling: Telling, batches: list[WatchBatch]) -> bool:
        """Go on with a page. At its end there is a batch for each who wants something of it, and the answer is True."""
        is_synced = telling.group is self._synced
        if not telling.go_on(
            self._space, 0 if is_synced else self._space.compact_revision, self._page_versions_max
        ):
            return False
        self._telling = None
        for watcher, events in telling.told.items():
            batches.append(WatchBatch(watcher.owner, watcher.watch_id, telling.page[-1].mod_revision, events))
        if is_synced:
            self._next_revision = telling.revision + 1
            self._hold()
        else:
            for watcher in telling.members:
                if watcher.next_revision <= telling.revision:
                    self._advance(watcher, telling.revision)
        return True

    def _page(self, versions: list[KeyValue], position: int, last_revision: int) -> list[KeyValue]:
        return page_of(
            versions,
            position,
            last_revision,
            versions_max=self._page_versions_max,
            bytes_max=self._page_bytes_max,
        )

    # ---- states ----------------------------------------------------------------------------------------------

    def _known_revision(self) -> int:
        """Up to where an unsynced watcher reads: where the synced ones are."""
        return self._next_revision - 1 if self._synced.members else self._space.revision

    def _advance(self, watcher: Watcher, revision: int) -> None:
        """An unsynced *watcher* knows all up to *revision* now."""
        watcher.next_revision = max(watcher.next_revision, revision + 1)
        if revision == self._known_revision():
            self._displace(watcher)
            self._place(watcher)

    def _place(self, watcher: Watcher) -> None:
        """Put a watcher that is in no group where it belongs."""
        if not self._synced.members:
            self._next_revision = self._space.revision + 1
        telling = self._telling
        missed = (
            telling is not None and telling.group is self._synced and watcher.next_revision <= telling.revision
        )
        if watcher.next_revision >= self._next_revision and not missed:
            watcher.state = State.SYNCED
            self._synced.add(watcher)
            self._hold()
        else:
            watcher.state = State.UNSYNCED
            if watcher.range_end:
                self._unsynced.add(watcher)
            else:
                self._unsynced_keys[watcher] = None

    def _displace(self, watcher: Watcher) -> None:
        """Take a watcher out of its group, if it is in one, and note how far it was told."""
        telling = self._telling
        if telling is not None and telling.members.pop(watcher, watcher) is None:
            telling.told.pop(watcher, None)
            if not telling.members:
                self._telling = None
        if watcher.state == State.SYNCED:
            watcher.next_revision = max(watcher.next_revision, self._next_revision)
            self._synced.remove(watcher)
            self._hold()
        elif watcher.state == State.UNSYNCED:
            if watcher.range_end:
                self._unsynced.remove(watcher)
            else:
                del self._unsynced_keys[watcher]
        watcher.state = State.PAUSED

    def _forget(self, watcher: Watcher) -> None:
        self._displace(watcher)
        del self._streams[watcher.owner].watchers[watcher.watch_id]
        self.count -= 1

    def _cancel_compacted(self, watcher: Watcher, batches: list[WatchBatch]) -> bool:
        """Cancel an unsynced *watcher* if what it waits for is gone."""
        space = self._space
        if watcher.next_revision >= space.compact_revision:
            return False
        self._forget(watcher)
        batches.append(
            WatchBatch(
                watcher.owner,
                watcher.watch_id,
                space.revision,
                [],
                canceled=True,
                compact_revision=space.compact_revision,
            )
        )
        return True

    def _hold(self) -> None:
        """Pin what synced watchers have still to be told, and what that replaced."""
        self._pin.revision = self._next_revision - 1 if self._synced.members else _NO_REVISION

    def _refuse(self, failure: Failure) -> Failure:
        space = self._space
        return refusals.at(failure, revision=space.revision, compact_revision=space.compact_revision)
