"""Read one segment, whatever state it is in: intact records, and the places where bytes are bad."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from troth.errors import IdentityLost, StorageError
from troth.ids import NodeId
from troth.ports import File
from troth.storage import record
from troth.storage.record import (
    ALIGN_BYTES,
    RECORD_HEAD_BYTES,
    SECTOR_BYTES,
    SEGMENT_HEAD_BYTES,
    Body,
    Head,
    Kind,
    SlotsBody,
)

WINDOW_BYTES = 1 << 20


class Found(msgspec.Struct, frozen=True, gc=False):
    """An intact record in ``[offset, end)`` of its segment."""

    offset: int
    end: int
    head: Head
    body: Body | SlotsBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """Bytes at `offset` that should be a record or a header and are not. `proven`: no torn write looks like this."""

    offset: int
    reason: str
    proven: bool


Item: TypeAlias = Found | Bad


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one segment file holds. `blank`: not even a whole header, as a crash at its creation leaves it."""

    number: int
    file: File
    blank: bool
    owner: NodeId | None
    """As its header says; None when the header is not intact."""
    items: tuple[Item, ...]


class Reader:
    """Bytes of one file through a window, so that a segment is never in memory as a whole. Read errors are typed."""

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self._name = name
        self._window = memoryview(b"")
        self._start = 0
        self.size = file.size()

    def at(self, offset: int, size: int) -> memoryview:
        """Up to *size* bytes from *offset*; shorter only at the end of the file."""
        lo = offset - self._start
        if lo >= 0 and lo + size <= len(self._window):
            return self._window[lo : lo + size]
        size = max(0, min(size, self.size - offset))
        if lo < 0 or lo + size > len(self._window):
            self._window = memoryview(read(self._file, self._name, offset, max(size, WINDOW_BYTES)))
            self._start, lo = offset, 0
        return self._window[lo : lo + size]

    def is_zero_from(self, offset: int) -> bool:
        """Whether only zeros follow."""
        while offset < self.size:
            part = self.at(offset, WINDOW_BYTES)
            if not is_zero(part):
                return False
            offset += len(part)
        return True


def read(file: File, name: str, offset: int, size: int) -> bytes:
    """`File.read_at`, with a failing disk reported as such: never a short or empty answer."""
    try:
        return file.read_at(offset, size)
    except OSError as error:
        raise StorageError(
            f"{name} can not be read at byte {offset}: {error}. The disk is failing: see the kernel's log, and"
            " replace the disk; then start this server on an empty data directory as a new member"
        ) from error


def is_zero(part: bytes | memoryview) -> bool:
    return bytes(part).count(0) == len(part)


def scan(file: File, number: int, owner: NodeId, version: int = record.VERSION) -> Segment:
    """Read the segment *number*, which should have format *version*.

    Raises:
        StorageError: the disk can not be read, or the format is another one or newer than this program.
    """
    name = record.segment_name(number)
    reader = Reader(file, name)
    head = bytes(reader.at(0, SEGMENT_HEAD_BYTES))
    wanted = record.encode_segment_head(number, owner, version)
    if head != wanted and wanted.startswith(head.rstrip(b"\0")) and reader.is_zero_from(len(head)):
        return Segment(number=number, file=file, blank=True, owner=None, items=())
    items: list[Item] = []
    found_version, found_owner = record.decode_segment_head(head, number)
    if found_version is not None and found_version > record.SLOTS_VERSION:
        raise StorageError(
            f"{name} has format version {found_version}, this program knows up to {record.SLOTS_VERSION}: start the"
            " newer version that wrote it"
        )
    if found_version is not None and found_version != version:
        raise StorageError(
            f"{name} was written by another consensus engine (format version {found_version}, not {version}): start"
            " this server with the one that its data directory was made with"
        )
    if found_owner is None:
        items.append(Bad(offset=0, reason="the segment's header is not intact", proven=True))
    seed = record.segment_seed(number, owner if found_owner is None else found_owner)
    items.extend(_records(reader, seed))
    return Segment(number=number, file=file, blank=False, owner=found_owner, items=tuple(items))


def check_owner(segment: Segment, owner: NodeId) -> None:
    """Raise IdentityLost when *segment* was written by another server."""
    if segment.owner is not None and segment.owner != owner:
        raise IdentityLost(
            f"{record.segment_name(segment.number)} belongs to server {segment.owner:x}, but this data directory's"
            f" identity is server {owner:x}: put back the files that belong together, or start this server on an"
            " empty data directory as a new member"
        )


def _records(reader: Reader, seed: int) -> Iterator[Item]:
    offset = SEGMENT_HEAD_BYTES
    floor = -1
    while True:
        raw = reader.at(offset, RECORD_HEAD_BYTES)
        head = record.decode_record_head(raw, seed)
        if head is None:
            if reader.is_zero_from(offset):
                return
            proven = wholly_written(reader.at(offset, RECORD_HEAD_BYTES), offset, RECORD_HEAD_BYTES)
            yield Bad(offset=offset, reason="there is no intact record header", proven=proven)
            further = _next_head(reader, offset + ALIGN_BYTES, seed, floor)
            if further is None:
                return
            offset = further
            continue
        size = head.record_bytes
        end = offset + size
        floor = head.sequence
        whole = reader.at(offset, size)
        content = whole[RECORD_HEAD_BYTES : RECORD_HEAD_BYTES + head.length]
        if len(content) != head.length or record.check_body(content) != head.body_check:
            proven = wholly_written(whole, offset, size)
            yield Bad(offset=offset, reason="a record's content is not what was written", proven=proven)
        else:
            try:
                slots = head.kind in (Kind.SLOTS, Kind.SLOTS_ANEW)
                body = record.decode_slots_body(content) if slots else record.decode_body(content)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                yield Bad(offset=offset, reason=f"a record does not make sense: {error}", proven=True)
            else:
                yield Found(offset, end, head, body)
        offset = end


def _next_head(reader: Reader, offset: int, seed: int, floor: int) -> int | None:
    """Where the next intact record header begins, at or after *offset*; with a higher sequence than *floor*."""
    while offset < reader.size:
        part = bytes(reader.at(offset, WINDOW_BYTES))
        hit = part.find(record.RECORD_MAGIC)
        while hit >= 0:
            where = offset + hit
            if where % ALIGN_BYTES == 0:
                head = record.decode_record_head(reader.at(where, RECORD_HEAD_BYTES), seed)
                if head is not None and head.sequence > floor:
                    return where
            hit = part.find(record.RECORD_MAGIC, hit + 1)
        # Windows begin at multiples of ALIGN_BYTES as records do, so no magic straddles two of them.
        offset += len(part)
    return None


def wholly_written(part: memoryview, offset: int, size: int) -> bool:
    """Whether all of ``[offset, offset + size)`` was written once, by the look of *part*.

    Lost sectors read as zeros; a write that stopped half-way (a full disk) leaves zeros at its end.
    """
    if len(part) < size or not part[size - 1]:
        return False
    lo = 0
    while lo < size:
        hi = min(size, lo + SECTOR_BYTES - (offset + lo) % SECTOR_BYTES)
        if is_zero(part[lo:hi]):
            return False
        lo = hi
    return True
