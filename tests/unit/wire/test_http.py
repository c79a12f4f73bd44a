"""What clients of other protocols are told."""

import http.client
import io
from typing import cast

import pytest

from troth.errors import DecodeError
from troth.wire.http import CALLS_MAX, REASON, visitor

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, WINDOW_UPDATE = 4, 1, 8


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each."""
    found = []
    while data:
        length = int.from_bytes(data[:3])
        found.append((data[3], data[4], int.from_bytes(data[5:9]), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def fields(block: bytes) -> dict[str, str]:
    """A header block of two fields from the static table, and literal ones behind."""
    start = b"\x88\x0f\x10"
    assert block.startswith(start)
    at, words = len(start), []
    while at < len(block):
        at += block[at] == 0  # a literal name follows
        words.append(block[at + 1 : at + 1 + block[at]].decode())
        at += 1 + block[at]
    names = [":status", "content-type", *words[1::2]]
    return dict(zip(names, ["200", words[0], *words[2::2]], strict=True))


class Socket(io.BytesIO):
    def makefile(self, _mode: str) -> io.BytesIO:
        return self


@pytest.mark.parametrize("verb", ["GET", "PUT", "POST", "DELETE", "OPTIONS"])
def test_http_1_is_answered_once_in_words(verb: str) -> None:
    met = visitor(f"{verb} /health HTTP/1.1\r\n".encode())
    assert met is not None and not met.is_over
    answer = http.client.HTTPResponse(cast("http.client.socket.socket", Socket(met.hear(b"GET ..."))))
    answer.begin()
    assert answer.status == 400 and answer.read().decode() == f"{REASON}\n"
    assert met.is_over and met.hear(b"more") == b""


@pytest.mark.parametrize("cut", [16, 17, len(PREFACE), len(PREFACE) + 5, 1000])
def test_every_call_of_grpc_is_refused_for_good(cut: int) -> None:
    said = (
        PREFACE
        + frame(SETTINGS, payload=bytes(6))
        + frame(SETTINGS, flags=1)
        + frame(WINDOW_UPDATE, payload=bytes(4))
    )
    said += frame(HEADERS, 1, b"what it asks") + frame(0, 1, b"data") + frame(HEADERS, 3, b"and more")
    met = visitor(said[:cut])
    assert met is not None
    answers = frames(met.hear(said[:cut]) + met.hear(said[cut:]))
    assert [each[:3] for each in answers] == [(SETTINGS, 0, 0), (SETTINGS, 1, 0), (HEADERS, 5, 1), (HEADERS, 5, 3)]
    assert fields(answers[2][3]) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "12",
        "grpc-message": REASON,
    }
    assert not met.is_over


@pytest.mark.parametrize(
    "said",
    [
        PREFACE[:20] + b"XXXX",
        PREFACE + (1 << 20).to_bytes(3) + bytes(6),
        PREFACE + b"".join(frame(HEADERS, 2 * number + 1) for number in range(CALLS_MAX + 1)),
    ],
    ids=["no preface", "a large frame", "many calls"],
)
def test_nobody_can_make_us_hold_much(said: bytes) -> None:
    met = visitor(said)
    assert met is not None
    with pytest.raises(DecodeError):
        met.hear(said)


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01 a TLS client", b"PRINT A", b"GETTING", b"HTTP/1.1 200 OK"])
def test_others_are_left_alone(begun: bytes) -> None:
    assert visitor(begun) is None
