"""Snapshots: the whole state after one entry, as files that prove themselves (snapshot_file.py draws them).

A snapshot file is the same, byte for byte, on the server that made it and on every server that received it: what
travels is the file, so the receiver checks with the same checksums that the writer computed.

Written as ``*.new`` and received as ``*.part``; then synced, renamed to ``*.snap``, and the directory synced. So a
crash leaves a whole ``.snap`` or none; ``.new`` files are removed when the store is opened, and a ``.part``
is good as far as its chunks are intact, which is where the transfer goes on.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from troth.core.interface import EntryId, SnapshotMeta
from troth.errors import Corrupt, StorageError, SyncFailed, TrothError
from troth.ports import File, FileSystem
from troth.storage import names, snapshot_file
from troth.storage.scan import read
from troth.storage.snapshot_file import (
    ADVICE,
    Chunks,
    SnapshotWriter,
    disk,
    intact_bytes,
    sync,
    sync_failed,
    verify,
)


class SnapshotGone(TrothError):
    """The snapshot was pruned while it was being streamed: begin again with the newest one."""

    code = "snapshot_gone"


@dataclass(slots=True)
class _Incoming:
    """A snapshot that is being received: `size` bytes so far."""

    meta: SnapshotMeta
    file: File
    size: int
    synced: int


class SnapshotStore:
    """All snapshots of one data directory. Made by `open`; not for use by two threads at once."""

    def __init__(self, files: FileSystem) -> None:
        """Use `open`."""
        self._files = files
        self._good: dict[EntryId, SnapshotMeta] = {}
        self._damaged: dict[str, str] = {}
        self._reading: tuple[EntryId, File] | None = None
        self._incoming: _Incoming | None = None

    @classmethod
    def open(cls, files: FileSystem) -> "SnapshotStore":
        """Find the snapshots in *files* and check the newest ones until one is intact.

        Raises:
            StorageError: the disk can not be read, or a stranger's file is in the way.
        """
        store = cls(files)
        with disk("the data directory"):
            listed = files.names()
            for name in listed:
                if name.startswith("snapshot-") and name.endswith(names.NEW):
                    files.remove(name)
        for last in reversed(names.snapshots(listed)):
            if store.check(last) is not None:
                break
        return store

    @property
    def damaged(self) -> dict[str, str]:
        """Files that were found not to be intact, and why."""
        return dict(self._damaged)

    def newest(self) -> SnapshotMeta | None:
        """The newest intact snapshot."""
        return max(self._good.values(), key=lambda meta: meta.last.index, default=None)

    def check(self, last: EntryId) -> SnapshotMeta | None:
        """Read the snapshot that ends at *last* from begin to end; None if it is not intact (see `damaged`)."""
        name = names.snapshot_name(last)
        self._good.pop(last, None)
        try:
            with disk(name):
                file = self._files.open(name)
            try:
                meta = verify(file, name)
            finally:
                file.close()
            if meta.last != last:
                raise Corrupt(f"{name} holds the snapshot of another entry, {meta.last}. {ADVICE}", path=name)
        except Corrupt as error:
            self._damaged[name] = str(error)
            return None
        self._damaged.pop(name, None)
        self._good[last] = meta
        return meta

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin to write the snapshot *meta*; it exists once `SnapshotWriter.finish` has returned."""
        return SnapshotWriter(self._files, meta, self._publish)

    def write(self, meta: SnapshotMeta, parts: Iterable[bytes]) -> None:
        """Write the whole snapshot *meta*, whose data are *parts* joined."""
        writer = self.begin(meta)
        try:
            for part in parts:
                writer.write(part)
            writer.finish()
        except SyncFailed:
            raise
        except BaseException:
            writer.abort()
            raise

    def load(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """The data of *meta*, piece by piece, each checked.

        Raises:
            Corrupt: a piece is not what was written; do not use those that came before.
            StorageError: the disk can not be read.
            SnapshotGone: there is no such snapshot.
        """
        name = names.snapshot_name(meta.last)
        file = self._open(meta)
        try:
            chunks = Chunks(file, name)
            yield from chunks
        finally:
            file.close()

    def size(self, meta: SnapshotMeta) -> int:
        """Length of the file of *meta* in bytes: what `read` gives in all."""
        with disk(names.snapshot_name(meta.last)):
            return self._stream(meta).size()

    def read(self, meta: SnapshotMeta, offset: int, size: int) -> bytes:
        """Bytes ``[offset, offset + size)`` of the file of *meta*, for a follower; shorter only at its end."""
        return read(self._stream(meta), names.snapshot_name(meta.last), offset, size)

    def holds(self, meta: SnapshotMeta) -> bool:
        """Whether *meta* is here, and was found intact."""
        return self._good.get(meta.last) == meta

    def received(self, meta: SnapshotMeta) -> int:
        """How many bytes of the file of *meta* are here: go on from there. Survives a restart."""
        return self._incoming_for(meta).size

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """Take *data*, which stands at *offset* in the leader's file of *meta*. Returns what `received` now says.

        What is here already is skipped; what would leave a gap is refused: nothing changes, go on from the answer.
        """
        incoming = self._incoming_for(meta)
        name = names.part_name(meta.last)
        have = incoming.size
        if offset <= have < offset + len(data):
            fresh = data[have - offset :]
            with disk(name):
                incoming.file.write_at(have, fresh)
            incoming.size += len(fresh)
            if incoming.size - incoming.synced >= snapshot_file.SYNC_EVERY_BYTES:
                self._sync_incoming(incoming, name)
                incoming.synced = incoming.size
        return incoming.size

    def finish(self, meta: SnapshotMeta) -> None:
        """All of *meta* has been received: check it, make it durable, and let it count.

        Raises:
            Corrupt: the bytes do not add up; what was received is removed, begin again.
            StorageError: the disk failed.
        """
        incoming = self._incoming_for(meta)
        name = names.part_name(meta.last)
        try:
            if verify(incoming.file, name) != meta:
                raise Corrupt(f"{name} is not the snapshot that was announced. {ADVICE}", path=name)
        except Corrupt:
            self._drop_incoming()
            with disk(name):
                self._files.remove(name)
            raise
        self._sync_incoming(incoming, name)
        self._drop_incoming()
        self._publish(name, meta)

    def discard(self, meta: SnapshotMeta) -> None:
        """What has been received of *meta* is given up; its room is free again."""
        self._drop_incoming()
        name = names.part_name(meta.last)
        with disk(name):
            if name in self._files.names():
                self._files.remove(name)

    def prune(
        self, keep: int = 2, *, needed: SnapshotMeta | None = None, sending: Collection[EntryId] = ()
    ) -> None:
        """Remove all but the newest *keep* snapshots, *needed*, which the log leans on, and those in *sending*; those
        that are damaged; and transfers of older ones."""
        newest = self.newest()
        if newest is None:
            return
        with disk("the data directory"):
            listed = self._files.names()
            sound = [last for last in names.snapshots(listed) if names.snapshot_name(last) not in self._damaged]
            kept = {names.snapshot_name(last) for last in (*sound[-keep:], newest.last, *sending)}
            if needed is not None:
                kept.add(names.snapshot_name(needed.last))
            doomed = [names.snapshot_name(last) for last in names.snapshots(listed)]
            doomed = [name for name in doomed if name not in kept]
            receiving = None if self._incoming is None else names.part_name(self._incoming.meta.last)
            doomed += [name for name in names.parts(listed) if name != receiving]
            for name in doomed:
                self._files.remove(name)
                self._damaged.pop(name, None)
            if doomed:
                self._files.sync_directory()
        self._good = {last: meta for last, meta in self._good.items() if names.snapshot_name(last) in kept}

    def close(self) -> None:
        """Release the files."""
        self._drop_incoming()
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def _publish(self, written: str, meta: SnapshotMeta) -> None:
        """Give a written and synced file its final name."""
        name = names.snapshot_name(meta.last)
        with disk(name):
            self._files.rename(written, name)
        try:
            self._files.sync_directory()
        except OSError as error:
            raise sync_failed(name, error) from error
        if self._reading is not None and self._reading[0] == meta.last:
            self._reading[1].close()
            self._reading = None
        self._damaged.pop(name, None)
        self._good[meta.last] = meta

    def _open(self, meta: SnapshotMeta) -> File:
        name = names.snapshot_name(meta.last)
        try:
            with disk(name):
                return self._files.open(name)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise SnapshotGone(f"{name} is gone; stream the newest snapshot instead") from error
            raise

    def _stream(self, meta: SnapshotMeta) -> File:
        """The file of *meta*, kept open: a follower that is half through can end although it is pruned meanwhile."""
        if self._reading is None or self._reading[0] != meta.last:
            file = self._open(meta)
            if self._reading is not None:
                self._reading[1].close()
            self._reading = (meta.last, file)
        return self._reading[1]

    def _incoming_for(self, meta: SnapshotMeta) -> _Incoming:
        if self._incoming is not None and self._incoming.meta == meta:
            return self._incoming
        self._drop_incoming()
        name = names.part_name(meta.last)
        with disk(name):
            listed = self._files.names()
            for other in names.parts(listed):
                if other != name:
                    self._files.remove(other)
            if name in listed:
                file = self._files.open(name)
            else:
                file = self._files.create(name)
                self._files.sync_directory()
        size = intact_bytes(file, name, meta)
        with disk(name):
            file.truncate(size)
        self._incoming = _Incoming(meta, file, size, 0)
        return self._incoming

    def _sync_incoming(self, incoming: _Incoming, name: str) -> None:
        try:
            sync(incoming.file, name)
        except SyncFailed:
            # The next process would read these bytes in the page cache, find them intact, and go on behind them; its
            # own sync would succeed and write none of them.
            with suppress(OSError):
                self._files.remove(name)
            raise

    def _drop_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.file.close()
            self._incoming = None
