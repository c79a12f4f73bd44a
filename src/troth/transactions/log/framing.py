"""The bytes of the embedded decision log.

A log is a directory; each coordinator has a directory in it, and there its files ``decisions-<number>.log``. Only the
file with the highest number is written. All integers are little-endian.

Header, 40 bytes::

    0        8            12           16         24         32         40
    +--------+------------+------------+----------+----------+----------+
    | magic  | version u32| zero   u32 |number u64|owner u64 |check u64 |
    +--------+------------+------------+----------+----------+----------+
    magic "TROTH2PC", owner: the log's name (8 characters), check: xxh3_64 of bytes 0..32

Records follow, framed as those of the write-ahead log are (storage/record.py draws them), aligned to 8 bytes; behind
the last one the file is zeros. Each record is one sync: the body is a msgpack array of everything that was decided
together (core/twophase/records.py). The first record, of kind ANEW, is an `Opened`; the others are of kind CHANGE.

What a crash may leave behind: the last record torn, sector by sector, since the one before it was synced before it was
written; so it is cut, and nobody had been told of it. A bad record with an intact one behind it, or whose every sector
and last byte hold something (storage/record.py says why), is damage to durable bytes, and refused. What this can not
see: the last record, hit so that a whole sector of it became zeros.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec
import xxhash

from troth.core.twophase.records import Opened, Record
from troth.errors import Corrupt, NotApplied
from troth.ids import NodeId
from troth.storage import record
from troth.storage.record import ALIGN_BYTES, RECORD_HEAD_BYTES, Kind
from troth.storage.scan import wholly_written

WHAT_TO_DO = (
    "Begin a new log: move the whole directory of this one away (no file alone: names would be used again), and"
    " resolve what is prepared by hand. A copy from a backup has forgotten what was decided since, and aborts it"
)

VERSION = 1
MAGIC = b"TROTH2PC"
HEAD = struct.Struct("<8sIIQQ")
CHECK = struct.Struct("<Q")
HEAD_BYTES = HEAD.size + CHECK.size
NUMBERS_END = (1 << 64) - 1
"""No file has this number or a higher one: the one after it would have no place in a header."""

_encode = msgspec.msgpack.Encoder().encode
_decode_opened = msgspec.msgpack.Decoder(Opened).decode
_decode_records = msgspec.msgpack.Decoder(tuple[Record, ...]).decode


def file_name(number: int) -> str:
    return f"decisions-{number:016x}.log"


def number_of(name: str) -> int | None:
    """The number in a file's name; None if it is not one of ours."""
    middle = name[len("decisions-") : -len(".log")]
    try:
        number = int(middle, 16)
    except ValueError:
        return None
    return number if name == file_name(number) and number < NUMBERS_END else None


def owner_of(log_id: str) -> NodeId:
    return NodeId(int.from_bytes(log_id.encode("ascii"), "little"))


def encode_head(number: int, log_id: str) -> bytes:
    head = HEAD.pack(MAGIC, VERSION, 0, number, owner_of(log_id))
    return head + CHECK.pack(xxhash.xxh3_64_intdigest(head))


def encode_opened(opened: Opened, *, number: int, log_id: str) -> bytes:
    """The first record of file *number*."""
    return _frame(Kind.ANEW, _encode(opened), 0, number, log_id)


def encode_batch(records: tuple[Record, ...], *, sequence: int, number: int, log_id: str) -> bytes:
    """The record with *sequence* (1, 2, ...) of file *number*.

    Raises:
        NotApplied: it could not be read back, and nobody could read the file any more.
    """
    try:
        body = _encode(records)
        _decode_records(body)  # structs take any type when they are made
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise NotApplied(f"the decision log could not read this back: {error}") from error
    return _frame(Kind.CHANGE, body, sequence, number, log_id)


@lru_cache(maxsize=64)
def _seed(number: int, log_id: str) -> int:
    return record.segment_seed(number, owner_of(log_id))


def _frame(kind: Kind, body: bytes, sequence: int, number: int, log_id: str) -> bytes:
    head = record.encode_record_head(
        kind=kind, body=body, sequence=sequence, unsynced=0, seed=_seed(number, log_id)
    )
    return head + body + record.padding(len(body))


class Found(NamedTuple):
    """One intact record: its content, and where it ends."""

    content: Opened | tuple[Record, ...]
    sequence: int
    end: int


def scan(
    data: bytes, *, number: int, log_id: str, path: str, start: int = 0, sequence: int = 0
) -> Iterator[Found]:
    """The intact records of *data*, the file's bytes from *start* on (0: with the header), up to the first bad one.

    Raises:
        Corrupt: a bad record was written as a whole, or has an intact one behind it; or the file is another's.
    """
    at = 0
    if start == 0:
        if not _has_head(data, number, log_id, path):
            return
        at = HEAD_BYTES
    while True:
        found = _record_at(data, at, start, sequence, number, log_id, path)
        if found is None:
            break
        yield found
        at = found.end - start
        sequence += 1
    for later in _marked(data, at + ALIGN_BYTES):
        head = record.decode_record_head(memoryview(data)[later:], _seed(number, log_id))
        if head is not None and head.sequence > sequence and _body(data, later, head) is not None:
            raise Corrupt(
                f"{path}: record {sequence} at byte {start + at} is damaged, and record {head.sequence} behind it is"
                f" intact: decisions that were durable are lost. {WHAT_TO_DO}",
                path=path,
            )
    head = record.decode_record_head(memoryview(data)[at:], _seed(number, log_id))
    size = RECORD_HEAD_BYTES if head is None else head.record_bytes
    if wholly_written(memoryview(data)[at : at + size], start + at, size):
        raise Corrupt(
            f"{path}: record {sequence} at byte {start + at} is damaged: all of it was written, and some of it has"
            f" changed since, so a decision that was durable is lost. {WHAT_TO_DO}",
            path=path,
        )


def _marked(data: bytes, start: int) -> Iterator[int]:
    """Where records may begin from *start* on, one after the other; most of what is searched are zeros."""
    found = data.find(record.RECORD_MAGIC, start)
    while 0 <= found < len(data) - RECORD_HEAD_BYTES:
        if (found - start) % ALIGN_BYTES == 0:
            yield found
        found = data.find(record.RECORD_MAGIC, found + 1)


def _has_head(data: bytes, number: int, log_id: str, path: str) -> bool:
    if len(data) < HEAD_BYTES:
        return False
    magic, version, _, found, owner = HEAD.unpack_from(data)
    (check,) = CHECK.unpack_from(data, HEAD.size)
    if check != xxhash.xxh3_64_intdigest(data[: HEAD.size]) or magic != MAGIC:
        if any(data[HEAD_BYTES : HEAD_BYTES + RECORD_HEAD_BYTES]):
            raise Corrupt(f"{path}: the header is damaged. {WHAT_TO_DO}", path=path)
        return False
    if version > VERSION:
        raise Corrupt(f"{path} has format {version}; this troth reads up to {VERSION}. Upgrade it", path=path)
    if found != number or owner != owner_of(log_id):
        raise Corrupt(f"{path} belongs to another log or has another number: it was copied here", path=path)
    return True


def _record_at(
    data: bytes, at: int, start: int, sequence: int, number: int, log_id: str, path: str
) -> Found | None:
    head = record.decode_record_head(memoryview(data)[at:], _seed(number, log_id))
    if head is None or head.sequence != sequence:
        return None
    body = _body(data, at, head)
    if body is None:
        return None
    try:
        content = _decode_opened(body) if head.kind == Kind.ANEW else _decode_records(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path}: record {sequence} is not what this troth writes: {error}", path=path) from error
    return Found(content, sequence, start + at + head.record_bytes)


def _body(data: bytes, at: int, head: record.Head) -> bytes | None:
    body = data[at + RECORD_HEAD_BYTES : at + RECORD_HEAD_BYTES + head.length]
    whole = len(data) >= at + head.record_bytes
    return body if whole and record.check_body(body) == head.body_check else None
