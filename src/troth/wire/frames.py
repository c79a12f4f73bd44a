"""Frames: how messages are laid on a byte stream.

Little-endian, version 2::

    +------------+------------+-----------+-- - - - - - - --+
    | length u32 | guard  u32 | check u64 | body            |
    +------------+------------+-----------+-- - - - - - - --+
    guard   the complement of `length`: a damaged length is seen at once, not after all that it seems to announce
    check   xxh3_64 of the body: TCP's own checksum lets one damaged segment in 65 536 through

A body is one msgpack value. The first frame in each direction is the handshake (wire/handshake.py). A length of 0
or above the limit agreed for the connection is a protocol error; nothing is allocated for it. A frame that is damaged
ends its connection: what was in it is sent again on the next one, as if the connection had broken.

Version 1 had a length and no more.
"""

import struct
from collections.abc import Sequence

from xxhash import xxh3_64, xxh3_64_intdigest

from troth.errors import DecodeError

HEAD = struct.Struct("<IIQ")
FRAME_BYTES_MAX = 16 << 20
"""Larger than any legal frame (a snapshot chunk, a batch of writes), small enough to refuse garbage at once."""

ANSWER_BYTES_MAX = 1 << 30
"""What a client takes from a server that has introduced itself: an answer holds all that was asked for."""

HANDSHAKE_BYTES_MAX = 4096
"""Until a connection has introduced itself it may not make us hold more than this."""

_HEAD_BYTES = HEAD.size
_ALL_ONES = 0xFFFF_FFFF
_pack = HEAD.pack
_unpack_from = HEAD.unpack_from


class FrameSplitter:
    """Cuts a byte stream into frame bodies; feed it what arrives."""

    __slots__ = ("_buffer", "_wanted", "limit")

    def __init__(self, limit: int = HANDSHAKE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._wanted = 0
        self.limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies completed by *data*, in order.

        Raises:
            DecodeError: an impossible length, or damage; the stream cannot be read any further.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._wanted:
                return []  # looking at it again for each piece would make large frames cost their square
            data = bytes(buffer)
            buffer.clear()
        bodies: list[bytes] = []
        at, end = 0, len(data)
        wanted = _HEAD_BYTES
        while end - at >= _HEAD_BYTES:
            length, guard, check = _unpack_from(data, at)
            if length ^ guard != _ALL_ONES or not 0 < length <= self.limit:
                raise _no_frame(length, guard, self.limit)
            at += _HEAD_BYTES
            if end - at < length:
                at -= _HEAD_BYTES
                wanted = _HEAD_BYTES + length
                break
            body = data[at : at + length]
            if xxh3_64_intdigest(body) != check:
                raise _damaged(length)
            bodies.append(body)
            at += length
        if at < end:
            buffer += memoryview(data)[at:]
            self._wanted = wanted
        return bodies


def head(body: bytes) -> bytes:
    """What stands in front of *body*."""
    length = len(body)
    return _pack(length, length ^ _ALL_ONES, xxh3_64_intdigest(body))


def head_of(pieces: Sequence[bytes | bytearray]) -> bytes:
    """What stands in front of a body of *pieces*."""
    length = sum(map(len, pieces))
    check = xxh3_64()
    for piece in pieces:
        check.update(piece)
    return _pack(length, length ^ _ALL_ONES, check.intdigest())


def frame(body: bytes) -> bytes:
    """*body* with its head in front."""
    length = len(body)
    return _pack(length, length ^ _ALL_ONES, xxh3_64_intdigest(body)) + body


def first_frame(data: bytes | bytearray, limit: int) -> bytes | None:
    """The body of the frame that *data* begin with; None until all of it is there.

    Raises:
        DecodeError: it is no frame of up to *limit* bytes.
    """
    if len(data) < _HEAD_BYTES:
        return None
    length, guard, check = _unpack_from(data)
    if length ^ guard != _ALL_ONES or not 0 < length <= limit:
        raise _no_frame(length, guard, limit)
    if len(data) < _HEAD_BYTES + length:
        return None
    body = bytes(data[_HEAD_BYTES : _HEAD_BYTES + length])
    if xxh3_64_intdigest(body) != check:
        raise _damaged(length)
    return body


def _no_frame(length: int, guard: int, limit: int) -> DecodeError:
    if length ^ guard != _ALL_ONES:
        return DecodeError("the bytes are no frame: they are of another protocol, or were damaged on the way")
    return DecodeError(f"a frame of {length} bytes was announced; 1 to {limit} are allowed")


def _damaged(length: int) -> DecodeError:
    return DecodeError(
        f"a frame of {length} bytes was damaged on the way: its checksum is not that of its content"
    )
