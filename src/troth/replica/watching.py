"""Watches and state downloads: what flows to clients for as long as they stay (kv/watch.py)."""

from collections.abc import Iterator

from troth.errors import InvalidRequest, Overloaded
from troth.ids import Tick
from troth.kv.requests import Failure
from troth.kv.watch import WatchHub, WatchRequest
from troth.replica.effects import ClientId
from troth.replica.leasing import LeasePath
from troth.replica.protocol import (
    SnapshotPart,
    WatchCancel,
    WatchCanceled,
    WatchCreate,
    WatchCreated,
    WatchEvents,
)
from troth.replica.state import ReplicaStart

PROGRESS_ALL = -1
"""The watch number under which the progress of all of a client's watches is told."""

FETCHES_MAX = 8
"""Downloads of the state at once; each keeps the versions alive that it began with."""


class WatchPath(LeasePath):
    """`WatchCreate` to `WatchEvents`; `FetchSnapshot` to `SnapshotPart`."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        self._hub = WatchHub(start.machine.store)
        self._progress_wanted: set[ClientId] = set()
        self._paused: set[ClientId] = set()
        self._fetches: dict[tuple[ClientId, int], Iterator[bytes]] = {}
        self._notified: dict[tuple[ClientId, int], int] = {}
        """Watches that want to hear how far they are, and the revision they were told last."""
        self._notify_at = start.now
        self._compact_revision = start.machine.store.compact_revision

    def client_paused(self, client: ClientId, paused: bool) -> None:
        """A client reads its answers too slowly (or fast enough again): its watches wait meanwhile."""
        if paused:
            self._paused.add(client)
            self._hub.pause(client)
        else:
            self._paused.discard(client)
            self._hub.resume(client)

    def _on_watch_create(self, client: ClientId, message: WatchCreate) -> None:
        if message.watch <= 0:
            text = "a watch number must be above 0"
            self._reply(client, WatchCanceled(message.watch, 0, 0, text, InvalidRequest.code))
            return
        created = self._hub.create(
            client,
            WatchRequest(
                key=message.key,
                range_end=message.range_end,
                start_revision=message.start_revision,
                no_put=message.no_put,
                no_delete=message.no_delete,
                prev_kv=message.prev_kv,
                watch_id=message.watch,
            ),
        )
        if isinstance(created, Failure):
            self._reply(client, WatchCanceled(message.watch, created.revision, 0, created.text, created.code))
            return
        self._reply(client, WatchCreated(message.watch, created.revision))
        if message.progress_notify:
            self._notified[client, message.watch] = 0 if message.start_revision else created.revision

    def _on_watch_cancel(self, client: ClientId, message: WatchCancel) -> None:
        self._notified.pop((client, message.watch), None)
        if self._hub.cancel(client, message.watch):
            self._reply(client, WatchCanceled(message.watch, self.machine.store.revision))

    def _tell_watchers(self) -> None:
        """Send what is new; a bounded amount, so that a watcher far behind does not hold everybody up."""
        if self._hub.has_work:
            for batch in self._hub.poll():
                watch = batch.owner, batch.watch_id
                if batch.canceled:
                    self._notified.pop(watch, None)
                    text = "etcdserver: mvcc: required revision has been compacted"
                    notice = WatchCanceled(batch.watch_id, batch.revision, batch.compact_revision, text)
                    self._reply(batch.owner, notice)
                else:
                    if watch in self._notified:
                        self._notified[watch] = batch.revision
                    self._reply(batch.owner, WatchEvents(batch.watch_id, batch.revision, batch.events))
            self._out.again |= self._hub.has_work
        for client in sorted(self._progress_wanted):
            revision = self._hub.progress(client)
            if revision is not None:
                self._progress_wanted.discard(client)
                self._reply(client, WatchEvents(PROGRESS_ALL, revision, []))

    def _notify_progress(self) -> None:
        """Tell idle watches how far they are: now and then, and together with a compaction. A watch that goes on at
        another server would otherwise ask for revisions that are gone, though it has missed nothing."""
        compact_revision = self.machine.store.compact_revision
        if self._now < self._notify_at and compact_revision == self._compact_revision:
            return
        self._notify_at = Tick(self._now + self._config.progress_notify_ticks)
        self._compact_revision = compact_revision
        for (client, watch), told in self._notified.items():
            revision = self._hub.progress(client, watch)
            if revision is not None and revision > told:
                self._notified[client, watch] = revision
                self._reply(client, WatchEvents(watch, revision, []))

    def _begin_fetch(self, client: ClientId, call: int) -> None:
        if client not in self._clients:
            return  # it went while the read point was confirmed
        if len(self._fetches) >= FETCHES_MAX:
            self._refuse_call(client, call, Overloaded.code, "too many downloads of the state are under way here")
            return
        self._fetches[client, call] = self.machine.dump()

    def _continue_fetches(self) -> None:
        """One part per tick for each download, which also keeps it from crowding out everything else."""
        for (client, call), chunks in list(self._fetches.items()):
            if client in self._paused:
                continue
            data = next(chunks, None)
            if data == b"":
                continue
            self._reply(client, SnapshotPart(call, data or b"", data is None))
            if data is None:
                del self._fetches[client, call]

    def _watcher_gone(self, client: ClientId) -> None:
        self._hub.cancel_owner(client)
        self._paused.discard(client)
        self._progress_wanted.discard(client)
        for watch in [watch for watch in self._notified if watch[0] == client]:
            del self._notified[watch]
        for key in [key for key in self._fetches if key[0] == client]:
            # Closing the iterator releases the versions that its view has pinned.
            chunks = self._fetches.pop(key)
            if hasattr(chunks, "close"):
                chunks.close()
