"""The bytes of the write-ahead log: segments, and the records in them.

A log is a run of segment files ``wal-<number>.log`` with consecutive numbers. All integers are little-endian.

Segment header, 40 bytes, synced before the first record is written::

    0        8            12           16         24         32         40
    +--------+------------+------------+----------+----------+----------+
    | magic  | version u32| zero   u32 |number u64|owner u64 |check u64 |
    +--------+------------+------------+----------+----------+----------+
    magic "TROTHWAL", owner: the node id, check: xxh3_64 of bytes 0..32
    version 1: the log of Raft (record kinds 1 and 2); 2: the slots of a Paxos acceptor (kinds 3 and 4)
    These 40 bytes keep their meaning in all later versions, so that a newer log is told from a damaged one.

Record, aligned to 8 bytes, directly after the header or the previous record; after the last one the file is zeros::

    0        3     4          8            16            20           28          32
    +--------+-----+----------+------------+-------------+------------+-----------+------ - - ---+---------+
    |magic   |kind | length   | sequence   | unsynced    | body check | head check| body         | pad     |
    |"TWL"   | u8  | u32      | u64        | u32         | u64        | u32       | length bytes | 1..8 B  |
    +--------+-----+----------+------------+-------------+------------+-----------+------ - - ---+---------+

    kind        1 CHANGE: adds to what came before
                2 ANEW: all earlier entries are void; the log is what this record and later ones say
                3 SLOTS: values accepted in single slots, in any order; each replaces what its slot held
                4 SLOTS_ANEW: all earlier slots are void
    sequence    number of the record, one more for each, across segments
    unsynced    how many records directly before this one were not known to be durable when it was written
    body check  xxh3_64 of the body
    head check  xxh32 of bytes 0..28, seeded with segment number and owner: a stray copy of a record is not one
    body        msgpack array `Body`, in kinds 3 and 4 `SlotsBody`: one `Persist`, and what must survive when older
                segments are dropped
    pad         0xA5 up to the next multiple of 8, never empty: a record's last sector is never all zeros

Every record repeats the newest hard state and the log's last entry id. So one record is atomic (term, vote and
entries stand under one checksum), every segment can be read without the older ones, and any later intact record
proves the hard state even if an earlier one rotted.

A record of slots says nothing about the slots in front of it or behind, so a lost one could have been about any: what
was damaged is never found to be covered. In return each record names the oldest segment that is still needed, and the
slot up to which only a snapshot counts; so a segment that was dropped is told from one that was lost.

What a crash may leave behind. Writes since the last sync may be there or not, sector (512 bytes) by sector, in any
order; a sector that is not there reads as zeros, because everything behind the last record is zeros before a record
is written there. Hence a bad record

- that is followed by an intact one which says that the bad one was durable (``sequence - unsynced``), or
- in a segment that is not the last (a segment is synced before the next is created), or
- whose every sector and last byte hold something (so all of it was written, and some of it has changed since)

is damage to durable bytes. Any other is a torn write that nobody was told of, and it and all behind it are cut.
What this can not see: a durable last record, hit so that a whole sector of it became zeros.
"""

import struct
from enum import IntEnum

import msgspec
import xxhash

from troth.core.interface import Entry, EntryId, HardState, Slot, SnapshotMeta
from troth.errors import invariant
from troth.ids import LogIndex, NodeId

VERSION = 1
SLOTS_VERSION = 2
SECTOR_BYTES = 512
ALIGN_BYTES = 8

SEGMENT_MAGIC = b"TROTHWAL"
SEGMENT_HEAD = struct.Struct("<8sIIQQ")
SEGMENT_HEAD_BYTES = SEGMENT_HEAD.size + 8

RECORD_MAGIC = b"TWL"
RECORD_HEAD = struct.Struct("<3sBIQIQ")
RECORD_CHECK = struct.Struct("<I")
RECORD_HEAD_BYTES = RECORD_HEAD.size + RECORD_CHECK.size
_WHOLE_HEAD = struct.Struct(RECORD_HEAD.format + RECORD_CHECK.format.lstrip("<"))
BODY_BYTES_MAX = (1 << 32) - 1

_CHECK64 = struct.Struct("<Q")
_PAD = b"\xa5" * ALIGN_BYTES


class Kind(IntEnum):
    CHANGE = 1
    ANEW = 2
    SLOTS = 3
    SLOTS_ANEW = 4


class Amnesia(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """This server has lost durable bytes: it must not vote, campaign or be counted until it has caught up.

    `until` is a lower bound of what it may have acknowledged. With `hard_state_lost` it may also have voted in a
    term that it does not remember.
    """

    until: EntryId
    hard_state_lost: bool


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one record says. `last` is the log's last entry after it; `entries` are contiguous and end at `last`."""

    hard_state: HardState
    last: EntryId
    entries: tuple[Entry, ...] = ()
    snapshot: SnapshotMeta | None = None
    amnesia: Amnesia | None = None


class SlotsBody(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one record of an acceptor says. Slots up to `chosen` hold chosen values; slots up to `floor` count no
    longer, a snapshot has taken their place; segments before the number `oldest` are not needed."""

    hard_state: HardState
    chosen: LogIndex
    floor: LogIndex
    oldest: int
    slots: tuple[Slot, ...] = ()
    snapshot: SnapshotMeta | None = None
    amnesia: Amnesia | None = None


class Head(msgspec.Struct, frozen=True, gc=False):
    """A record header whose checksum holds."""

    kind: int
    length: int
    sequence: int
    unsynced: int
    body_check: int

    @property
    def durable_before(self) -> int:
        """All records with a smaller sequence were durable when this one was written."""
        return self.sequence - self.unsynced

    @property
    def record_bytes(self) -> int:
        return RECORD_HEAD_BYTES + padded_bytes(self.length)


encode_body = msgspec.msgpack.Encoder().encode
decode_body = msgspec.msgpack.Decoder(Body).decode
decode_slots_body = msgspec.msgpack.Decoder(SlotsBody).decode
check_body = xxhash.xxh3_64_intdigest


def segment_name(number: int) -> str:
    return f"wal-{number:016x}.log"


def segment_seed(number: int, owner: NodeId) -> int:
    """Seed of the head checks of one segment (32 bits)."""
    return (number * 0x9E3779B1 ^ owner ^ owner >> 32) & 0xFFFF_FFFF


def padded_bytes(length: int) -> int:
    """Bytes that a body of *length* takes with its padding."""
    return (length // ALIGN_BYTES + 1) * ALIGN_BYTES


def encode_segment_head(number: int, owner: NodeId, version: int = VERSION) -> bytes:
    head = SEGMENT_HEAD.pack(SEGMENT_MAGIC, version, 0, number, owner)
    return head + _CHECK64.pack(xxhash.xxh3_64_intdigest(head))


def decode_segment_head(data: bytes, number: int) -> tuple[int, NodeId] | tuple[None, None]:
    """Version and owner of the segment *number* that begins with *data*; None if its header is not intact."""
    if len(data) == SEGMENT_HEAD_BYTES:
        magic, version, _, found_number, owner = SEGMENT_HEAD.unpack_from(data)
        (check,) = _CHECK64.unpack_from(data, SEGMENT_HEAD.size)
        intact = check == xxhash.xxh3_64_intdigest(data[: SEGMENT_HEAD.size])
        if intact and magic == SEGMENT_MAGIC and found_number == number:
            return version, NodeId(owner)
    return None, None


def encode_record_head(*, kind: Kind, body: bytes, sequence: int, unsynced: int, seed: int) -> bytes:
    invariant(len(body) <= BODY_BYTES_MAX, "a record is too large", length=len(body))
    head = RECORD_HEAD.pack(RECORD_MAGIC, kind, len(body), sequence, unsynced, check_body(body))
    return head + RECORD_CHECK.pack(xxhash.xxh32_intdigest(head, seed))


def padding(length: int) -> bytes:
    """What follows a body of *length* bytes."""
    return _PAD[: ALIGN_BYTES - length % ALIGN_BYTES]


def decode_record_head(data: bytes | memoryview, seed: int) -> Head | None:
    """The header at the start of *data*, or None if there is no intact one."""
    if len(data) < RECORD_HEAD_BYTES:
        return None
    magic, kind, length, sequence, unsynced, body_check, check = _WHOLE_HEAD.unpack_from(data)
    if magic != RECORD_MAGIC or check != xxhash.xxh32_intdigest(data[: RECORD_HEAD.size], seed):
        return None
    return Head(kind, length, sequence, unsynced, body_check)
