"""Carries out snapshot work beside the loop: saving, streaming, receiving, dropping what is covered.

Reading the state is the loop's (it is the only one who may touch it), a chunk at a time, so that requests are
served in between; everything that touches a file is done by one worker (a thread). A chunk is taken only when the
one before is written, and not faster than `SAVE_BYTES_PER_SECOND`, so that a snapshot neither fills memory nor the
disk's queue.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import assert_never

from troth.core.interface import SnapshotMeta
from troth.errors import Corrupt, StorageError, SyncFailed
from troth.ids import Tick
from troth.replica.effects import (
    ClearAmnesia,
    CompactLog,
    LoadSnapshot,
    ReadChunk,
    SaveSnapshot,
    SnapshotWork,
    StoreChunk,
)
from troth.replica.replica import Replica
from troth.runtime.disk_machine import Worker
from troth.runtime.writer import LogWriter
from troth.storage.log import WriteAheadLog
from troth.storage.snapshot_file import SnapshotWriter
from troth.storage.snapshots import SnapshotGone, SnapshotStore

SAVE_BYTES_PER_SECOND = 128 << 20
RETRY_SECONDS = 10.0
"""How long a snapshot that could not be written (a full disk) is not tried again."""

_LOADED = object()

_log = logging.getLogger("troth.snapshots")


class SnapshotCounters:
    """What the metrics show of snapshots."""

    def __init__(self) -> None:
        self.saved_bytes = 0
        self.sent_bytes = 0
        self.received_bytes = 0


class SnapshotKeeper:
    """Executes `SnapshotWork` and reports to the replica; *wake* is called after each report."""

    def __init__(
        self,
        *,
        replica: Replica,
        store: SnapshotStore,
        log: WriteAheadLog,
        writer: LogWriter,
        worker: Worker,
        now: Callable[[], Tick],
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
        after_turn: Callable[..., object],
    ) -> None:
        """*after_turn* has a step (and its arguments) called when the loop has been round once."""
        self.counters = SnapshotCounters()
        self._replica = replica
        self._store = store
        self._log = log
        self._writer = writer
        self._now = now
        self._wake = wake
        self._fail = fail
        self._after_turn = after_turn
        self._loop = asyncio.get_running_loop()
        self._loading: Iterator[None] | None = None
        self._to_load: SnapshotMeta | None = None
        """What is loaded next; a newer one takes its place."""
        self._stopped = False
        self._worker = worker

    def start(self, work: SnapshotWork) -> None:
        """Begin one piece of work; its end is told to the replica."""
        match work:
            case SaveSnapshot():
                _Saving(self, work).begin()
            case ReadChunk():
                self.do(lambda: self._read_chunk(work))
            case StoreChunk():
                self.do(lambda: self._store_chunk(work))
            case LoadSnapshot():
                self._load(work.meta)
            case CompactLog():
                self._writer.call(lambda: self._log.compact(work.keep_from))
                self.do(lambda: self._store.prune(needed=work.meta, sending=work.sending))
            case ClearAmnesia():
                self._writer.call(self._clear_amnesia)
            case _:
                assert_never(work)

    def stop(self, seconds_max: float = 5.0) -> bool:
        """Finish the job at hand; False when the disk hangs."""
        self._stopped = True
        return self._worker.stop(seconds_max)

    # -- the worker's side -----------------------------------------------------------------------------------

    def do(self, job: Callable[[], None]) -> None:
        """Have *job* done beside the loop, after those before it."""
        self._worker.do(job)

    def report(self, tell: Callable[[], None]) -> None:
        """From the worker: have *tell* called on the loop, and the replica's outcome executed."""
        self._loop.call_soon_threadsafe(self._told, tell)

    def _told(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - as in a turn of the node: the replica's state is unknown now
            self._fail(error)
            return
        self._wake()

    def _read_chunk(self, work: ReadChunk) -> None:
        try:
            data = self._store.read(work.meta, work.offset, work.size)
            last = work.offset + len(data) >= self._store.size(work.meta)
        except SnapshotGone:
            self.report(lambda: self._replica.chunk_missing(work))
            return
        self.counters.sent_bytes += len(data)
        self.report(lambda: self._replica.chunk_read(work, data, last))

    def _store_chunk(self, work: StoreChunk) -> None:
        try:
            offset, complete = self._received(work)
        except SyncFailed:
            raise
        except StorageError as error:
            # The log has more need of what room there is: without it this server stops.
            _log.error("a snapshot is refused until there is room for it (%s)", error)
            self._store.discard(work.meta)
            self.report(lambda: self._replica.chunk_refused(work))
            return
        self.counters.received_bytes += len(work.data)
        self.report(lambda: self._replica.chunk_stored(work, offset, complete, self._now()))

    def _received(self, work: StoreChunk) -> tuple[int, bool]:
        """How much of the snapshot is here, with the bytes of *work*, and whether that is all of it."""
        if self._store.holds(work.meta):
            return work.offset, True  # its last chunk was repeated while all of it was checked
        offset = self._store.receive(work.meta, work.offset, work.data)
        if not work.last or offset != work.offset + len(work.data):
            return offset, False
        try:
            self._store.finish(work.meta)
        except Corrupt as error:
            _log.warning("a snapshot did not arrive intact, it is fetched again (%s)", error)
            return 0, False
        return offset, True

    def _clear_amnesia(self) -> None:
        self._log.clear_amnesia()
        self.report(self._replica.amnesia_cleared)

    # -- the loop's side -------------------------------------------------------------------------------------

    def _load(self, meta: SnapshotMeta) -> None:
        """Replace the state, in short steps: heartbeats and answers from the old state go on meanwhile."""
        self._to_load = meta
        if self._loading is None:
            self._load_next()

    def _load_next(self) -> None:
        meta, self._to_load = self._to_load, None
        self._loading = None if meta is None else self._replica.load_steps(meta, self._store.load(meta))
        if meta is not None:
            self._load_more(meta)

    def _load_more(self, meta: SnapshotMeta) -> None:
        steps = self._loading
        if steps is None or self._stopped:
            return
        try:
            if next(steps, _LOADED) is not _LOADED:
                self._after_turn(self._load_more, meta)
                return
        # A snapshot that was verified when it came and can not be read now is as bad as a log that can not.
        except Exception as error:  # noqa: BLE001
            self._fail(error)
            return
        _log.info("loaded a snapshot", extra={"facts": {"index": meta.last.index, "term": meta.last.term}})
        self._wake()
        self._load_next()

    @property
    def store(self) -> SnapshotStore:
        return self._store

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def saved(self, meta: SnapshotMeta, *, ok: bool) -> None:
        """On the loop: a snapshot is durable, or could not be written."""
        self._told(lambda: self._replica.snapshot_saved(meta, ok=ok))


class _Saving:
    """One snapshot being written: a chunk is read on the loop, written by the worker, and so on."""

    def __init__(self, keeper: SnapshotKeeper, work: SaveSnapshot) -> None:
        self._keeper = keeper
        self._meta = work.meta
        self._chunks: Iterator[bytes] = work.chunks
        self._began = keeper.loop.time()
        self._bytes = 0
        self._writer: SnapshotWriter | None = None

    def begin(self) -> None:
        self._keeper.do(self._open)

    def _open(self) -> None:
        def begin() -> None:
            self._writer = self._keeper.store.begin(self._meta)

        self._guarded(begin)

    def _guarded(self, action: Callable[[], object]) -> None:
        """In the worker: do *action*, then go on with the next chunk; a full disk ends the snapshot, not the server."""
        try:
            action()
        except SyncFailed:
            raise
        except StorageError as error:
            self._keeper.loop.call_soon_threadsafe(self._give_up, error)
            return
        self._keeper.loop.call_soon_threadsafe(self._pace)

    def _pace(self) -> None:
        due = self._began + self._bytes / SAVE_BYTES_PER_SECOND
        delay_s = due - self._keeper.loop.time()
        if delay_s > 0:
            self._keeper.loop.call_later(delay_s, self._next)
        else:
            self._next()

    def _next(self) -> None:
        writer = self._writer
        if writer is None:
            return
        chunk = next(self._chunks, None)
        if chunk is None:
            self._keeper.do(lambda: self._finish(writer))
            return
        self._bytes += len(chunk)
        self._keeper.counters.saved_bytes += len(chunk)
        self._keeper.do(lambda: self._guarded(lambda: writer.write(chunk)))

    def _finish(self, writer: SnapshotWriter) -> None:
        try:
            writer.finish()
        except SyncFailed:
            raise
        except StorageError as error:
            self._keeper.loop.call_soon_threadsafe(self._give_up, error)
            return
        self._keeper.loop.call_soon_threadsafe(self._done)

    def _done(self) -> None:
        took_s = self._keeper.loop.time() - self._began
        facts = {"index": self._meta.last.index, "bytes": self._bytes, "seconds": round(took_s, 3)}
        _log.info("saved a snapshot", extra={"facts": facts})
        self._keeper.saved(self._meta, ok=True)

    def _give_up(self, error: StorageError) -> None:
        _log.error("a snapshot could not be written; the log grows until one can be (%s)", error)
        writer, self._writer = self._writer, None
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        if writer is not None:
            self._keeper.do(writer.abort)
        self._keeper.loop.call_later(RETRY_SECONDS, partial(self._keeper.saved, self._meta, ok=False))
