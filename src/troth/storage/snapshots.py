"""Snapshots: the whole state after one entry, as files that prove themselves.

A snapshot file is the same, byte for byte, on the server that made it and on every server that received it: what
travels is the file, so the receiver checks with the same checksums that the writer computed. Little-endian::

    +------------------+----------+----------+-- - - --+----------+
    | head             | chunk 0  | chunk 1  |         | end      |
    +------------------+----------+----------+-- - - --+----------+
    head    a `block`, magic "TROTHSNP", body: msgpack array of `SnapshotMeta`
    chunk   length u32 | number u32 | check u64 | data      check: xxh3_64 of the data, seeded with the number
    end     0xFFFFFFFF | count  u32 | check u64             check: xxh3_64 of all chunks' checks, in order

The end's check makes it one file: chunks of two snapshots of the same entry, written by two servers and mixed by an
interrupted transfer, do not add up.

Written as ``*.new`` and received as ``*.part``; then synced, renamed to ``*.snap``, and the directory synced. So a
crash leaves a whole ``.snap`` or none; ``.new`` files are removed when the store is opened, and a ``.part``
is good as far as its chunks are intact, which is where the transfer goes on.
"""

import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec
import xxhash

from troth.core.interface import EntryId, SnapshotMeta
from troth.errors import Corrupt, StorageError, SyncFailed, TrothError
from troth.ports import File, FileSystem
from troth.storage import block, names
from troth.storage.scan import read

MAGIC = b"TROTHSNP"
VERSION = 1
CHUNK_BYTES = 256 << 10
CHUNK_BYTES_MAX = 16 << 20
SYNC_EVERY_BYTES = 8 << 20
"""A long file is synced this often while it is written, so that the last sync does not hold up the log's."""

_CHUNK = struct.Struct("<IIQ")
_CHECK = struct.Struct("<Q")
_END = 0xFFFF_FFFF
_HEAD_BYTES_MAX = 16 << 20
_ADVICE = (
    "It is not used. An older snapshot with the log, or the leader's, takes its place; check the disk if this happens"
    " again"
)

_decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode


class SnapshotGone(TrothError):
    """The snapshot was pruned while it was being streamed: begin again with the newest one."""

    code = "snapshot_gone"


@contextmanager
def _disk(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{name}: {error}. Make room or repair the disk, then start this server again: nothing that was"
            " acknowledged is lost"
        ) from error


def _sync(file: File, name: str) -> None:
    try:
        file.sync()
    except OSError as error:
        raise _sync_failed(name, error) from error


def _sync_failed(name: str, error: OSError) -> SyncFailed:
    return SyncFailed(
        f"{name}: fsync failed: {error}. What was written to it may be lost, so this process stops. See the"
        " kernel's log, check the disk, start again"
    )


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
        with _disk("the data directory"):
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
            with _disk(name):
                file = self._files.open(name)
            try:
                meta = _verify(file, name)
            finally:
                file.close()
            if meta.last != last:
                raise Corrupt(f"{name} holds the snapshot of another entry, {meta.last}. {_ADVICE}", path=name)
        except Corrupt as error:
            self._damaged[name] = str(error)
            return None
        self._damaged.pop(name, None)
        self._good[last] = meta
        return meta

    def begin(self, meta: SnapshotMeta) -> "SnapshotWriter":
        """Begin to write the snapshot *meta*; it exists once `SnapshotWriter.finish` has returned."""
        return SnapshotWriter(self, self._files, meta)

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
            chunks = _Chunks(file, name)
            yield from chunks
        finally:
            file.close()

    def size(self, meta: SnapshotMeta) -> int:
        """Length of the file of *meta* in bytes: what `read` gives in all."""
        with _disk(names.snapshot_name(meta.last)):
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
            with _disk(name):
                incoming.file.write_at(have, fresh)
            incoming.size += len(fresh)
            if incoming.size - incoming.synced >= SYNC_EVERY_BYTES:
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
            if _verify(incoming.file, name) != meta:
                raise Corrupt(f"{name} is not the snapshot that was announced. {_ADVICE}", path=name)
        except Corrupt:
            self._drop_incoming()
            with _disk(name):
                self._files.remove(name)
            raise
        self._sync_incoming(incoming, name)
        self._drop_incoming()
        self._publish(name, meta)

    def discard(self, meta: SnapshotMeta) -> None:
        """What has been received of *meta* is given up; its room is free again."""
        self._drop_incoming()
        name = names.part_name(meta.last)
        with _disk(name):
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
        with _disk("the data directory"):
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
        with _disk(name):
            self._files.rename(written, name)
        try:
            self._files.sync_directory()
        except OSError as error:
            raise _sync_failed(name, error) from error
        if self._reading is not None and self._reading[0] == meta.last:
            self._reading[1].close()
            self._reading = None
        self._damaged.pop(name, None)
        self._good[meta.last] = meta

    def _open(self, meta: SnapshotMeta) -> File:
        name = names.snapshot_name(meta.last)
        try:
            with _disk(name):
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
        with _disk(name):
            listed = self._files.names()
            for other in names.parts(listed):
                if other != name:
                    self._files.remove(other)
            if name in listed:
                file = self._files.open(name)
            else:
                file = self._files.create(name)
                self._files.sync_directory()
        size = _intact_bytes(file, name, meta)
        with _disk(name):
            file.truncate(size)
        self._incoming = _Incoming(meta, file, size, 0)
        return self._incoming

    def _sync_incoming(self, incoming: _Incoming, name: str) -> None:
        try:
            _sync(incoming.file, name)
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


class SnapshotWriter:
    """Writes one snapshot, in pieces of any length, over any time. Made by `SnapshotStore.begin`."""

    def __init__(self, store: SnapshotStore, files: FileSystem, meta: SnapshotMeta) -> None:
        self._store = store
        self._files = files
        self._meta = meta
        self._name = names.snapshot_name(meta.last) + names.NEW
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._count = 0
        self._checks = xxhash.xxh3_64()
        self._offset = 0
        self._synced = 0
        with _disk(self._name):
            self._file = files.create(self._name)
        try:
            self._put(block.seal(MAGIC, VERSION, msgspec.msgpack.encode(meta)))
        except StorageError:
            self.abort()
            raise

    def write(self, data: bytes) -> None:
        """Add *data*; it goes to the disk in chunks of `CHUNK_BYTES`.

        Raises:
            StorageError: the disk is full or failed; `abort`.
        """
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= CHUNK_BYTES:
            joined = b"".join(self._pending)
            whole = len(joined) - len(joined) % CHUNK_BYTES
            for offset in range(0, whole, CHUNK_BYTES):
                self._put_chunk(joined[offset : offset + CHUNK_BYTES])
            self._pending = [joined[whole:]]
            self._pending_bytes = len(joined) - whole

    def finish(self) -> SnapshotMeta:
        """Make the snapshot durable and let it count."""
        rest = b"".join(self._pending)
        if rest:
            self._put_chunk(rest)
        self._put(_CHUNK.pack(_END, self._count, self._checks.intdigest()))
        _sync(self._file, self._name)
        self._file.close()
        self._store._publish(self._name, self._meta)
        return self._meta

    def abort(self) -> None:
        """Forget it; what was written is removed."""
        self._file.close()
        with _disk(self._name):
            self._files.remove(self._name)

    def _put_chunk(self, data: bytes) -> None:
        check = xxhash.xxh3_64_intdigest(data, self._count)
        self._checks.update(_CHECK.pack(check))
        self._put(_CHUNK.pack(len(data), self._count, check) + data)
        self._count += 1

    def _put(self, data: bytes) -> None:
        with _disk(self._name):
            self._file.write_at(self._offset, data)
        self._offset += len(data)
        if self._offset - self._synced >= SYNC_EVERY_BYTES:
            _sync(self._file, self._name)
            self._synced = self._offset


class _Chunks:
    """Iterates over the data of a snapshot file, checking it. `offset` is how far the file is known to be intact."""

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self._name = name
        with _disk(name):
            self._size = file.size()
        head = read(file, name, 0, block.HEAD_BYTES)
        length = block.sealed_bytes(head)
        if len(head) == block.HEAD_BYTES and length <= _HEAD_BYTES_MAX:
            head = read(file, name, 0, length)
        body = block.unseal(head, magic=MAGIC, version=VERSION, name=name, advice=_ADVICE)
        try:
            self.meta = _decode_meta(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corrupt(f"{name} does not make sense: {error}. {_ADVICE}", path=name) from error
        self.offset = length

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        checks = xxhash.xxh3_64()
        while True:
            head = read(self._file, self._name, self.offset, _CHUNK.size)
            if len(head) < _CHUNK.size:
                raise self._corrupt("it ends too early")
            length, number, check = _CHUNK.unpack(head)
            if number != count:
                raise self._corrupt("a chunk is out of place")
            if length == _END:
                break
            if length > CHUNK_BYTES_MAX:
                raise self._corrupt("a chunk's length makes no sense")
            data = read(self._file, self._name, self.offset + _CHUNK.size, length)
            if len(data) < length or xxhash.xxh3_64_intdigest(data, number) != check:
                raise self._corrupt("a chunk is not what was written")
            checks.update(_CHECK.pack(check))
            count += 1
            self.offset += _CHUNK.size + length
            yield data
        if check != checks.intdigest():
            raise self._corrupt("the chunks do not belong together")
        if self.offset + _CHUNK.size != self._size:
            raise self._corrupt("something stands behind its end")

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self._name}, byte {self.offset}: {why}. {_ADVICE}", path=self._name)


def _verify(file: File, name: str) -> SnapshotMeta:
    """What snapshot *file* holds, all checksums checked. Raises Corrupt."""
    chunks = _Chunks(file, name)
    for _ in chunks:
        pass
    return chunks.meta


def _intact_bytes(file: File, name: str, meta: SnapshotMeta) -> int:
    """How much of a partial *file* can be kept: up to the end of its last intact chunk; 0 if it is of another."""
    try:
        chunks = _Chunks(file, name)
    except Corrupt:
        return 0
    if chunks.meta != meta:
        return 0
    try:
        for _ in chunks:
            pass
    except Corrupt:
        pass
    return chunks.offset
