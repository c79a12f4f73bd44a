"""The bytes of a snapshot file: written once, from begin to end, and read with every check.

Little-endian::

    +------------------+----------+----------+-- - - --+----------+
    | head             | chunk 0  | chunk 1  |         | end      |
    +------------------+----------+----------+-- - - --+----------+
    head    a `block`, magic "TROTHSNP", body: msgpack array of `SnapshotMeta`
    chunk   length u32 | number u32 | check u64 | data      check: xxh3_64 of the data, seeded with the number
    end     0xFFFFFFFF | count  u32 | check u64             check: xxh3_64 of all chunks' checks, in order

The end's check makes it one file: chunks of two snapshots of the same entry, written by two servers and mixed by an
interrupted transfer, do not add up.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import xxhash

from troth.core.interface import SnapshotMeta
from troth.errors import Corrupt, StorageError, SyncFailed
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
ADVICE = (
    "It is not used. An older snapshot with the log, or the leader's, takes its place; check the disk if this happens"
    " again"
)

_decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode


@contextmanager
def disk(name: str) -> Iterator[None]:
    """What the operating system refuses about the file *name* becomes a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{name}: {error}. Make room or repair the disk, then start this server again: nothing that was"
            " acknowledged is lost"
        ) from error


def sync(file: File, name: str) -> None:
    """Make what was written to *file* durable. Raises SyncFailed."""
    try:
        file.sync()
    except OSError as error:
        raise sync_failed(name, error) from error


def sync_failed(name: str, error: OSError) -> SyncFailed:
    return SyncFailed(
        f"{name}: fsync failed: {error}. What was written to it may be lost, so this process stops. See the"
        " kernel's log, check the disk, start again"
    )


class SnapshotWriter:
    """Writes one snapshot, in pieces of any length, over any time. Made by `SnapshotStore.begin`."""

    def __init__(
        self, files: FileSystem, meta: SnapshotMeta, publish: Callable[[str, SnapshotMeta], None]
    ) -> None:
        """*publish* is given the name of the file once that is whole and durable."""
        self._publish = publish
        self._files = files
        self._meta = meta
        self._name = names.snapshot_name(meta.last) + names.NEW
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._count = 0
        self._checks = xxhash.xxh3_64()
        self._offset = 0
        self._synced = 0
        with disk(self._name):
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
        sync(self._file, self._name)
        self._file.close()
        self._publish(self._name, self._meta)
        return self._meta

    def abort(self) -> None:
        """Forget it; what was written is removed."""
        self._file.close()
        with disk(self._name):
            self._files.remove(self._name)

    def _put_chunk(self, data: bytes) -> None:
        check = xxhash.xxh3_64_intdigest(data, self._count)
        self._checks.update(_CHECK.pack(check))
        self._put(_CHUNK.pack(len(data), self._count, check) + data)
        self._count += 1

    def _put(self, data: bytes) -> None:
        with disk(self._name):
            self._file.write_at(self._offset, data)
        self._offset += len(data)
        if self._offset - self._synced >= SYNC_EVERY_BYTES:
            sync(self._file, self._name)
            self._synced = self._offset


class Chunks:
    """Iterates over the data of a snapshot file, checking it. `offset` is how far the file is known to be intact."""

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self._name = name
        with disk(name):
            self._size = file.size()
        head = read(file, name, 0, block.HEAD_BYTES)
        length = block.sealed_bytes(head)
        if len(head) == block.HEAD_BYTES and length <= _HEAD_BYTES_MAX:
            head = read(file, name, 0, length)
        body = block.unseal(head, magic=MAGIC, version=VERSION, name=name, advice=ADVICE)
        try:
            self.meta = _decode_meta(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corrupt(f"{name} does not make sense: {error}. {ADVICE}", path=name) from error
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
        return Corrupt(f"{self._name}, byte {self.offset}: {why}. {ADVICE}", path=self._name)


def verify(file: File, name: str) -> SnapshotMeta:
    """What snapshot *file* holds, all checksums checked. Raises Corrupt."""
    chunks = Chunks(file, name)
    for _ in chunks:
        pass
    return chunks.meta


def intact_bytes(file: File, name: str, meta: SnapshotMeta) -> int:
    """How much of a partial *file* can be kept: up to the end of its last intact chunk; 0 if it is of another."""
    try:
        chunks = Chunks(file, name)
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
