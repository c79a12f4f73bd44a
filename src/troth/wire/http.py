"""What is said to whoever speaks HTTP to a port of troth's own protocol: curl, a health check, a client of etcd.

Just to hang up is not enough. A client of gRPC takes a broken connection for a server that is not up yet, and dials
again until its time is over, which it may not have; only an answer to its call ends that. So of HTTP/2 there is as much
here as an answer needs, which is little: what a call says is skipped, and what it is told never changes. ::

    +------------+---------+----------+------------+-- - - - - - - --+
    | length u24 | type u8 | flags u8 | stream u32 | payload         |     big-endian, behind the client's preface
    +------------+---------+----------+------------+-- - - - - - - --+

Source: RFC 9113 §3.4, §4.1, §6; RFC 7541 §6 (header blocks); gRPC over HTTP2, "Trailers-Only".
"""

from typing import ClassVar, Protocol

from troth.errors import DecodeError

REASON = (
    "this port speaks troth's own protocol, neither HTTP nor gRPC: use `troth` or its library, not etcd's clients"
)

CALLS_MAX = 16
"""Calls on one connection that are answered; whoever does not read the answers must not make us hold more."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_VERBS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ")
_HEAD_BYTES = 9
_FRAME_BYTES_MAX = 1 << 14
"""What a peer may send that was told nothing else."""
_HEADERS, _SETTINGS = 1, 4
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_UNIMPLEMENTED = b"12"


class Visitor(Protocol):
    """A conversation with a client of another protocol."""

    name: ClassVar[str]

    def hear(self, data: bytes) -> bytes:
        """What is answered to *data*.

        Raises:
            DecodeError: nothing more is.
        """

    @property
    def is_over(self) -> bool:
        """Whether all was said."""


class Http1:
    """HTTP/1.0 and 1.1: one answer, whatever was asked."""

    name: ClassVar[str] = "HTTP"
    is_over = False

    def hear(self, data: bytes) -> bytes:
        if self.is_over:
            return b""
        self.is_over = True
        body = f"{REASON}\n".encode()
        return (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


class Http2:
    """HTTP/2: every call is answered as gRPC answers one that it does not know."""

    name: ClassVar[str] = "HTTP/2 (gRPC)"
    is_over = False

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._calls = 0
        self._is_open = False

    def hear(self, data: bytes) -> bytes:
        buffer = self._buffer
        buffer += data
        answer = b""
        if not self._is_open:
            if len(buffer) < len(_PREFACE):
                return b""
            if not buffer.startswith(_PREFACE):
                raise DecodeError("a preface of HTTP/2 was begun and not ended")
            del buffer[: len(_PREFACE)]
            self._is_open = True
            answer = _frame(_SETTINGS, 0, 0)
        while len(buffer) >= _HEAD_BYTES:
            length, kind, flags = int.from_bytes(buffer[:3]), buffer[3], buffer[4]
            if length > _FRAME_BYTES_MAX:
                raise DecodeError(f"a frame of HTTP/2 has {length} bytes")
            if len(buffer) < _HEAD_BYTES + length:
                break
            stream = int.from_bytes(buffer[5:_HEAD_BYTES])
            del buffer[: _HEAD_BYTES + length]
            if kind == _SETTINGS and not flags & _ACK:
                answer += _frame(_SETTINGS, _ACK, 0)
            elif kind == _HEADERS:
                answer += self._answer(stream)
        return answer

    def _answer(self, stream: int) -> bytes:
        self._calls += 1
        if self._calls > CALLS_MAX:
            raise DecodeError(f"more than {CALLS_MAX} calls of HTTP/2")
        return _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _REFUSAL)


def visitor(begun: bytes | bytearray) -> Visitor | None:
    """How to talk to whoever has *begun* so; None when that is no HTTP."""
    if begun.startswith(_PREFACE[:16]):
        return Http2()
    return Http1() if begun.startswith(_VERBS) else None


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _literal(text: bytes) -> bytes:
    if len(text) >= 0x7F:
        raise ValueError(f"{len(text)} bytes have a length of more than one byte")
    return bytes([len(text)]) + text


_REFUSAL = (
    b"\x88"  # :status: 200 has number 8 in the static table
    + (b"\x0f\x10" + _literal(b"application/grpc"))  # content-type has number 31, a name alone
    + (b"\x00" + _literal(b"grpc-status") + _literal(_UNIMPLEMENTED))
    + (b"\x00" + _literal(b"grpc-message") + _literal(REASON.encode()))
)
