"""Frames: how messages are laid on a byte stream.

::

    frame = | length: u32 little endian | body: `length` bytes |

A body is one msgpack value. The first frame in each direction is the handshake (wire/handshake.py). A length of 0
or above the limit agreed for the connection is a protocol error; nothing is allocated for it.
"""

import struct

from troth.errors import DecodeError

LENGTH = struct.Struct("<I")
FRAME_BYTES_MAX = 16 << 20
"""Larger than any legal frame (a snapshot chunk, a batch of writes), small enough to refuse garbage at once."""

ANSWER_BYTES_MAX = 1 << 30
"""What a client takes from a server that has introduced itself: an answer holds all that was asked for."""

HANDSHAKE_BYTES_MAX = 4096
"""Until a connection has introduced itself it may not make us hold more than this."""


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
            DecodeError: an impossible length; the stream cannot be read any further.
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
        wanted = 4
        while end - at >= 4:
            (length,) = LENGTH.unpack_from(data, at)
            if not 0 < length <= self.limit:
                raise DecodeError(f"a frame of {length} bytes was announced; 1 to {self.limit} are allowed")
            if end - at - 4 < length:
                wanted = 4 + length
                break
            bodies.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        if at < end:
            buffer += memoryview(data)[at:]
            self._wanted = wanted
        return bodies


def frame(body: bytes) -> bytes:
    """*body* with its length in front."""
    return LENGTH.pack(len(body)) + body
