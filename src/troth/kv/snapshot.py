"""The whole state as a stream of bytes, read at one revision while writes go on; and back again.

Byte format, version 2
======================
A stream of frames; where the stream is cut into chunks means nothing::

    frame   length   4 bytes, little endian: size of the payload
            payload  msgpack: a struct below as an array, its tag first

    stream  Header       (1) magic "troth-kv", format 2, revision, compact_revision, lease ids chosen so far
            LeasePage*   (2) [id, ttl_s, grant] ...     by id, ascending; grant: the log index of its grant
            AlarmPage    (3) [member, alarm] ...        by member and type
            BasePage*    (4) KeyValue ...               versions older than compact_revision visible at it, by key
            LogPage*     (5) KeyValue ...               versions since compact_revision, as written; a deletion
                                                        has version 0
            End          (6) how many leases, base versions and log versions there were

A crash while it is written leaves a stream without its End, which is refused. Damage is not looked for: whoever
stores the bytes adds a checksum. The stream is the same on every replica at the same point of the log.
Version 1 lacks the index of a grant, which is 0 then: not known.

Which leases hold which keys is not written: the newest version of each key says it.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self, TypeAlias, assert_never

import msgspec

from troth.errors import DecodeError
from troth.kv.history import base_versions, log_versions
from troth.kv.keyspace import KeySpace
from troth.kv.leases import LeaseTable
from troth.kv.order import sorted_pages
from troth.kv.requests import AlarmMember, KeyValue

MAGIC = "troth-kv"
FORMAT = 2
FORMAT_MIN = 1
FRAME_BYTES_DEFAULT = 256 * 1024
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""No frame is larger: one version, or DEFAULT and one version more. A length above it is not a length."""

_LENGTH_BYTES = 4
_VERSION_BYTES = 48
_PAGE_ITEMS = 4096


class Header(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    magic: str
    format: int
    revision: int
    compact_revision: int
    lease_ids_chosen: int


class LeaseRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    id: int
    ttl_s: int
    grant: int = 0


class LeasePage(msgspec.Struct, frozen=True, array_like=True, tag=2):
    leases: list[LeaseRecord]


class AlarmPage(msgspec.Struct, frozen=True, array_like=True, tag=3):
    alarms: list[AlarmMember]


class BasePage(msgspec.Struct, frozen=True, array_like=True, tag=4):
    versions: list[KeyValue]


class LogPage(msgspec.Struct, frozen=True, array_like=True, tag=5):
    versions: list[KeyValue]


class End(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    leases_count: int
    base_count: int
    log_count: int


_Frame: TypeAlias = Header | LeasePage | AlarmPage | BasePage | LogPage | End


class SnapshotView:
    """The state of a store at the moment it was made. Keeps that history in memory until it is closed."""

    def __init__(self, space: KeySpace, leases: LeaseTable, alarms: list[AlarmMember]) -> None:
        self.revision = space.revision
        self.compact_revision = space.compact_revision
        self._space = space
        self._pin = space.pin(space.compact_revision)
        self._ttl_s = leases.ttl_s.copy()
        self._grants = leases.grants.copy()
        self._lease_ids_chosen = leases.chosen_count
        self._alarms = alarms
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()

    def close(self) -> None:
        """Let the history go; iterators of this view end with an error. A second time changes nothing."""
        self.closed = True
        self._space.unpin(self._pin)

    def chunks(self, frame_bytes: int = FRAME_BYTES_DEFAULT) -> Iterator[bytes]:
        """The stream from its start, one frame of about *frame_bytes* at a time; some are empty, while order is made.

        Raises:
            ValueError: the view was closed meanwhile.
        """
        encode = msgspec.msgpack.Encoder().encode
        for frame in self._frames(frame_bytes):
            payload = b"" if frame is None else encode(frame)
            yield payload and len(payload).to_bytes(_LENGTH_BYTES, "little") + payload
            if self.closed:
                raise ValueError("the snapshot view is closed")

    def _frames(self, frame_bytes: int) -> Iterator[_Frame | None]:
        yield Header(MAGIC, FORMAT, self.revision, self.compact_revision, self._lease_ids_chosen)
        ttl_s, grants = self._ttl_s, self._grants
        for page in sorted_pages(list(ttl_s), _PAGE_ITEMS):
            yield LeasePage([LeaseRecord(lease, ttl_s[lease], grants[lease]) for lease in page]) if page else None
        yield AlarmPage(self._alarms)
        if self.compact_revision:
            yield from self._space.order.settle_steps()
        base_count = log_count = 0
        for versions in _pages(base_versions(self._space, self.compact_revision), frame_bytes):
            base_count += len(versions)
            yield BasePage(versions)
        log = log_versions(self._space, self.compact_revision, self.revision)
        for versions in _pages(log, frame_bytes):
            log_count += len(versions)
            yield LogPage(versions)
        yield End(len(self._ttl_s), base_count, log_count)


def _pages(versions: Iterator[KeyValue], page_bytes: int) -> Iterator[list[KeyValue]]:
    """*versions* in lists of about *page_bytes*; where they are cut depends on nothing but the versions."""
    page: list[KeyValue] = []
    size_bytes = 0
    for version in versions:
        page.append(version)
        size_bytes += len(version.key) + len(version.value) + _VERSION_BYTES
        if size_bytes >= page_bytes:
            yield page
            page = []
            size_bytes = 0
    if page:
        yield page


def state_hash(space: KeySpace, revision: int) -> Generator[None, None, int]:
    """Fingerprint of the history that is visible between the last compaction and *revision*, in short steps.

    Writes, and further compactions, may go on between them: that history is kept from the first step, which does
    nothing else, to the last, or `close`.
    """
    digest = hashlib.blake2b(digest_size=8)
    encode = msgspec.msgpack.Encoder().encode
    compact_revision = space.compact_revision
    pin = space.pin(compact_revision)
    try:
        yield
        if compact_revision:
            yield from space.order.settle_steps()
        digest.update(encode([compact_revision]))
        for versions in (
            base_versions(space, compact_revision),
            log_versions(space, compact_revision, revision),
        ):
            for page in _pages(versions, FRAME_BYTES_DEFAULT):
                digest.update(encode(page))
                yield
            digest.update(b"\xc0")
    finally:
        space.unpin(pin)
    return int.from_bytes(digest.digest(), "little")


def load_snapshot(
    chunks: Iterable[bytes], space: KeySpace, leases: LeaseTable
) -> Generator[None, None, list[AlarmMember]]:
    """Fill a new key space and lease table from a stream, in short steps; returns the alarms.

    Raises:
        DecodeError: the stream is not a snapshot, of an unknown format, or not whole.
    """
    loader = _Loader(space, leases)
    decode = msgspec.msgpack.Decoder(_Frame).decode
    try:
        for payload in _payloads(chunks):
            loader.on_frame(decode(payload))
            yield
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a snapshot of the store: {error}") from error
    if not loader.finished:
        raise DecodeError("the snapshot ends too early; fetch it again")
    yield from loader.attach()
    return loader.alarms


def _payloads(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Put together the frames of a stream that may be cut anywhere."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start >= _LENGTH_BYTES:
            size = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "little")
            if size > FRAME_BYTES_MAX:
                raise DecodeError(f"not a snapshot of the store: a frame of {size} bytes")
            end = start + _LENGTH_BYTES + size
            if len(buffer) < end:
                break
            yield bytes(buffer[start + _LENGTH_BYTES : end])
            start = end
        del buffer[:start]
    if buffer:
        raise DecodeError("the snapshot ends in the middle of a frame; fetch it again")


class _Loader:
    """Takes the frames of a stream, which must come in the order of the format."""

    def __init__(self, space: KeySpace, leases: LeaseTable) -> None:
        self.alarms: list[AlarmMember] = []
        self._space = space
        self._leases = leases
        self._header: Header | None = None
        self._kind_last = 0
        self._last_revision = 0
        self._base_count = 0
        self._log_count = 0

    @property
    def finished(self) -> bool:
        return self._kind_last == _KINDS[End]

    def on_frame(self, frame: _Frame) -> None:
        """Take the next frame. Raises DecodeError if it cannot stand here."""
        kind = _KINDS[type(frame)]
        if self._header is None and isinstance(frame, Header):
            self._on_header(frame)
            self._kind_last = kind
            return
        if self._header is None or isinstance(frame, Header) or kind < self._kind_last or self.finished:
            raise DecodeError(f"the snapshot is out of order: a frame of kind {kind} after {self._kind_last}")
        self._kind_last = kind
        match frame:
            case LeasePage():
                for lease in frame.leases:
                    self._leases.grant(lease.id, lease.ttl_s, lease.grant)
            case AlarmPage():
                self.alarms += frame.alarms
            case BasePage():
                self._on_base(frame.versions, self._header)
            case LogPage():
                self._on_log(frame.versions, self._header)
            case End():
                self._on_end(frame, self._header)
            case _:
                assert_never(frame)

    def _on_header(self, header: Header) -> None:
        if header.magic != MAGIC:
            raise DecodeError(f"not a snapshot of the store: it begins with {header.magic!r}")
        if not FORMAT_MIN <= header.format <= FORMAT:
            raise DecodeError(
                f"snapshot format {header.format} is unknown; this version of troth reads {FORMAT_MIN} to {FORMAT}"
            )
        self._header = header
        self._leases.chosen_count = header.lease_ids_chosen
        self._space.begin_load(header.compact_revision)
        self._last_revision = header.compact_revision

    def _on_base(self, versions: list[KeyValue], header: Header) -> None:
        for version in versions:
            if version.mod_revision >= header.compact_revision or not version.version:
                raise DecodeError("the snapshot has a version of the log among the older ones")
            self._space.load_base(version)
        self._base_count += len(versions)

    def _on_log(self, versions: list[KeyValue], header: Header) -> None:
        for version in versions:
            if not self._last_revision <= version.mod_revision <= header.revision:
                raise DecodeError(f"the snapshot has revision {version.mod_revision} out of order")
            self._last_revision = version.mod_revision
            self._space.load_log(version)
        self._log_count += len(versions)

    def _on_end(self, end: End, header: Header) -> None:
        loaded = End(len(self._leases), self._base_count, self._log_count)
        if loaded != end or self._space.revision != header.revision:
            raise DecodeError(f"the snapshot is not whole: {loaded} at revision {self._space.revision}, not {end}")
        self._space.finish_load()

    def attach(self) -> Iterator[None]:
        """What is not written, in short steps: which leases hold which keys."""
        every = iter(self._space.index.values())
        while page := list(islice(every, _PAGE_ITEMS)):
            for versions in page:
                newest = versions[-1] if isinstance(versions, list) else versions
                if newest.lease:
                    if newest.lease not in self._leases:
                        raise DecodeError(f"the snapshot has a key on lease {newest.lease:x} and no such lease")
                    self._leases.attach(newest.lease, newest.key)
            yield


_KINDS: dict[type[_Frame], int] = {Header: 1, LeasePage: 2, AlarmPage: 3, BasePage: 4, LogPage: 5, End: 6}
