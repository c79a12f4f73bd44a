"""When a replica takes a snapshot of its state, and how snapshots go to others and come from them (snapshots.py)."""

from collections.abc import Iterator

from troth.core.interface import SnapshotMeta, Trace
from troth.ids import LogIndex, Tick
from troth.replica.admin import AdminPath
from troth.replica.effects import CompactLog, ReadChunk, SaveSnapshot, StoreChunk
from troth.replica.peers import SnapshotAck
from troth.replica.snapshots import SnapshotReceiver, SnapshotSender
from troth.replica.state import ReplicaStart

LOG_GROWTH_MAX = 8
"""So many times `snapshot_log_bytes` (and `snapshot_log_entries`) the log may grow where the state is as large: it is
held in memory, and replayed at the next start."""


class SnapshotPath(AdminPath):
    """What the driver's snapshot work comes to."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        config = start.config
        self._snapshot = start.snapshot
        self._saving = False
        self._set_due()
        self._doubtful = False
        """Whether the newest snapshot may be damaged on the disk, so that another must take its place."""
        self._saved_in_doubt = False
        """Whether the one that is being saved is to take the place of a doubtful one."""
        self._sender = SnapshotSender(
            chunk_bytes=config.chunk_bytes,
            bytes_per_tick=max(1, config.snapshot_bytes_per_second // config.ticks_per_second),
            patience_ticks=config.ticks_per_second,
            tries_max=10,
        )
        self._receiver = SnapshotReceiver()
        self._length_bytes = 0
        """Of the log from the start of this process up to the newest snapshot that was begun."""
        self._lengths_before = 0
        """The same up to the one before it."""
        self._lengths: dict[LogIndex, int] = {}
        """The same up to each snapshot behind which the log may still be kept, by its index."""
        self._loading: SnapshotMeta | None = None
        self._preparing: Iterator[None] | None = None

    def snapshot_saved(self, meta: SnapshotMeta, *, ok: bool) -> None:
        """`SaveSnapshot` has ended; if *ok* the snapshot is durable, and the log before it can go."""
        was_doubtful, self._saving = self._saved_in_doubt, False
        if meta.last.index < self._snapshot.last.index:
            return  # a newer one was installed meanwhile, and the log may begin behind that
        if not ok:
            # It is due still: the log, which grows where there was no room for it, must not wait for as much again.
            self._log_bytes += self._length_bytes - self._lengths_before
            self._length_bytes = self._lengths_before
            self._lengths.pop(meta.last.index, None)
            self._doubtful |= was_doubtful
            return
        before, self._snapshot = self._snapshot, meta
        self._set_due()
        keep_from = LogIndex(max(1, meta.last.index + 1 - self._config.log_kept_entries))
        # Who is being sent an earlier snapshot, or loads it, goes on from the log: without it each snapshot would be
        # too old by the time it is loaded, while others write much.
        sender, progress = self._sender, self.engine.status().progress
        lagging = [max(peer.match, sender.sent_to(node)) for node, peer in progress.items() if peer.active]
        oldest = self._oldest_kept(before, meta)
        keep_from = min(keep_from, LogIndex(max(oldest, min(lagging, default=keep_from)) + 1))
        self.engine.compact(meta, keep_from)
        self._out.snapshot_work.append(CompactLog(meta=meta, keep_from=keep_from, sending=sender.sending))
        self._out.events.append(Trace(name="snapshot", facts={"last": meta.last}))

    def _oldest_kept(self, before: SnapshotMeta, meta: SnapshotMeta) -> LogIndex:
        """Behind which of the earlier snapshots the log may be kept: the one *before* *meta* at least, and no more than
        `lag_bytes_max` for others."""
        lengths = self._lengths
        length_bytes = lengths.pop(meta.last.index, 0)
        for index in [index for index in lengths if length_bytes - lengths[index] > self._config.lag_bytes_max]:
            del lengths[index]
        oldest = min(lengths, default=before.last.index)
        lengths[meta.last.index] = length_bytes
        return min(oldest, before.last.index)

    def chunk_read(self, work: ReadChunk, data: bytes, last: bool) -> None:
        """`ReadChunk` has the bytes; *last*: they end the snapshot."""
        term, leader = self.engine.leader()
        if leader != self.engine.node_id:
            return  # in the name of the present term it would make the receiver follow one who does not lead
        chunk = self._sender.chunk_read(work, data, last, term)
        if chunk is not None:
            self._out.send.append((work.peer, chunk))

    def chunk_missing(self, work: ReadChunk) -> None:
        """The snapshot that `ReadChunk` names is gone (a newer one has replaced it)."""
        self._sender.give_up(work.peer, self.engine)

    def chunk_stored(self, work: StoreChunk, offset: int, complete: bool, now: Tick) -> None:
        """`StoreChunk` is done: everything before *offset* is durable; *complete*: the snapshot is whole."""
        self._now = now
        self._receiver.stored()
        if complete:
            self.engine.snapshot_received(work.sender, work.term, work.meta, now)
            if self.engine.commit_index < work.meta.last.index:
                # It was not taken (its sender leads no longer, say). "Done" would be believed, and nothing else helps.
                return
        self._out.send.append((work.sender, SnapshotAck(work.meta.last, offset, complete)))

    def chunk_refused(self, work: StoreChunk) -> None:
        """There is no room for the snapshot of `StoreChunk`, and none of it is kept."""
        self._receiver.stored()
        self._out.send.append((work.sender, SnapshotAck(work.meta.last, 0, False, refused=True)))

    def _set_due(self) -> None:
        """How much log the next snapshot waits for: about as much as the state is large, within bounds, or a large
        state would be written again and again for little that is new."""
        least = self._config.snapshot_log_bytes
        self._due_bytes = max(least, min(self.machine.saved_bytes, LOG_GROWTH_MAX * least))
        self._due_entries = self._config.snapshot_log_entries * self._due_bytes // least

    def _maybe_snapshot(self) -> None:
        """Begin a snapshot, unless one is made or loaded already, or what has committed in one piece is half applied
        (core/interface.py, duty 3): the log has grown enough since the last one, or that one is doubtful."""
        if self._saving or self._loading is not None or self._preparing is not None:
            return
        if self._applied == self._snapshot.last.index and not self._doubtful:
            return
        self._saving, self._saved_in_doubt, self._doubtful = True, self._doubtful, False
        self._lengths_before = self._length_bytes
        self._length_bytes += self._log_bytes
        self._log_bytes = 0
        self._lengths[self._applied] = self._length_bytes
        meta = self.engine.snapshot_meta(self._applied)
        self._out.snapshot_work.append(SaveSnapshot(meta=meta, chunks=self.machine.dump()))
