"""What an acceptor keeps: the log, the snapshots and the identity that servers have, in a directory of its own.

Each entry of the log (storage/record.py draws it) is a group of records, in the format of core/register/codec.py,
made durable by one sync. A snapshot's data are such groups, each with its length (u32, little-endian) in front; they
rebuild the acceptor as it was after the entry that the snapshot names. So torn tails, damage, failed syncs and newer
formats are dealt with where they are for servers.

The acceptor's id is drawn when the directory is new and lives in its identity file. Configurations name acceptors by
id, so one whose directory was wiped is a stranger that nobody asks.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from troth.core.interface import Entry, EntryId, EntryKind, Membership, Persist, SnapshotMeta
from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import decode_records, encode_records
from troth.core.register.messages import RecordMessage
from troth.errors import Corrupt, IdentityLost
from troth.ids import ClusterId, LogIndex, NodeId, Term
from troth.ports import FileSystem
from troth.storage.directory import DataDirectory, open_directory
from troth.storage.identity import Identity

SEGMENT_BYTES = 8 << 20
_LENGTH = struct.Struct("<I")
_TERM = Term(1)
_PIECE_RECORDS = 256
_NOBODY = Membership(voters=())


@dataclass(slots=True)
class AcceptorStore:
    """An open directory. `index` is that of the newest entry handed out by `persist`; `log_bytes` what stood in the log
    behind the newest snapshot when it was opened."""

    directory: DataDirectory
    index: LogIndex
    log_bytes: int

    def persist(self, records: list[RecordMessage]) -> Persist:
        """The write that makes *records* durable, all or none; to be appended in the order of the calls."""
        self.index = LogIndex(self.index + 1)
        entry = Entry(self.index, _TERM, EntryKind.COMMANDS, encode_records(records))
        return Persist(entries=(entry,))

    def append(self, persists: Sequence[Persist]) -> None:
        """As `WriteAheadLog.append`."""
        self.directory.log.append(persists)

    def sync(self) -> None:
        """As `WriteAheadLog.sync`."""
        self.directory.log.sync()

    def save(self, index: LogIndex, records: Iterable[RecordMessage]) -> None:
        """Write a snapshot of the state after *index*, which is durable in the log already. May run beside `append`.

        Raises:
            StorageError: the disk is full or failed; the log has everything.
        """
        snapshots = self.directory.snapshots
        snapshots.write(SnapshotMeta(EntryId(_TERM, index), _NOBODY), _pieces(records))
        snapshots.prune()

    def drop_before(self, index: LogIndex) -> None:
        """Remove log segments that a snapshot after *index* has made superfluous. Not beside `append`."""
        self.directory.log.compact(LogIndex(index + 1))

    def close(self) -> None:
        self.directory.close()


def open_acceptor(
    files: FileSystem, newborn: NodeId, *, bytes_max: int, segment_bytes: int = SEGMENT_BYTES
) -> tuple[AcceptorStore, Acceptor]:
    """The acceptor that lives in *files*; an empty directory becomes the home of one with the id *newborn*.

    Raises:
        Corrupt, IdentityLost, StorageError: as for a server's directory; what was promised there is not guessed.
    """
    who = Identity(ClusterId(0), newborn, "acceptor", _NOBODY)
    directory = open_directory(files, who, segment_bytes=segment_bytes)
    try:
        recovered = directory.recovered
        if recovered.amnesia is not None:
            raise IdentityLost(
                "this acceptor has lost durable records, so it may have promised what it does not know of: empty its "
                "directory, start it, and put the new acceptor in the place of the old one (`troth paxos acceptors`)"
            )
        acceptor = Acceptor(directory.identity.node_id, bytes_max=bytes_max)
        covered = LogIndex(0)
        if recovered.snapshot is not None:
            covered = recovered.snapshot.last.index
            for record in _records_in(directory.snapshots.load(recovered.snapshot)):
                acceptor.apply(record)
        log_bytes = 0
        for entry in recovered.entries:
            if entry.index > covered:
                log_bytes += entry.size_bytes
                for record in decode_records(entry.payload):
                    acceptor.apply(record)
    except BaseException:
        directory.close()
        raise
    return AcceptorStore(directory, LogIndex(max(recovered.last.index, covered)), log_bytes), acceptor


def _pieces(records: Iterable[RecordMessage]) -> Iterator[bytes]:
    piece: list[RecordMessage] = []
    for record in records:
        piece.append(record)
        if len(piece) >= _PIECE_RECORDS:
            yield _framed(piece)
            piece = []
    yield _framed(piece)


def _framed(records: list[RecordMessage]) -> bytes:
    body = encode_records(records)
    return _LENGTH.pack(len(body)) + body


def _records_in(chunks: Iterable[bytes]) -> Iterator[RecordMessage]:
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            end = _LENGTH.size + length
            if len(buffer) < end:
                break
            yield from decode_records(bytes(buffer[_LENGTH.size : end]))
            del buffer[:end]
    if buffer:
        raise Corrupt("the acceptor's snapshot ends in the middle of a record", path="snapshot")
