"""The first frame says who speaks; anything else is told so."""

from pathlib import Path

import msgspec
import pytest

from troth.errors import DecodeError
from troth.ids import ClusterId, NodeId
from troth.wire.handshake import Hello, Rejected, Welcome, decode_greeting, encode_greeting

GREETINGS = [
    Hello("client", 1),
    Hello("peer", 1, ClusterId(2**63 - 1), NodeId(5), NodeId(6), "n1"),
    Welcome(1, ClusterId(7), NodeId(8), "n2"),
    Rejected("wrong_cluster", "this server belongs to cluster 9"),
]


@pytest.mark.parametrize("greeting", GREETINGS)
def test_greetings_survive_the_wire(greeting: Hello | Welcome | Rejected) -> None:
    assert decode_greeting(encode_greeting(greeting)) == greeting


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"GET / HTTP/1.1", b"\x80", encode_greeting(GREETINGS[0])[:-1]])
def test_other_protocols_are_refused_by_name(garbage: bytes) -> None:
    with pytest.raises(DecodeError, match="not the troth protocol"):
        decode_greeting(garbage)


def test_a_field_of_a_later_version_is_ignored() -> None:
    body = encode_greeting(Hello("client"))
    assert body[0] & 0xF0 == 0x80, "a small msgpack map"
    extended = bytes([body[0] + 1]) + body[1:] + b"\xa5later\x01"
    assert decode_greeting(extended) == Hello("client")


def test_the_bytes_of_version_1_are_still_read() -> None:
    golden = Path(__file__).parent / "golden" / "greetings-1.bin"
    lines = golden.read_bytes().split(b"\n--\n")
    assert [decode_greeting(line) for line in lines] == GREETINGS
    assert [encode_greeting(greeting) for greeting in GREETINGS] == lines


def test_a_text_that_is_no_utf8_is_no_greeting() -> None:
    """The decoder says so with an error of its own kind, which must not reach the loop: it would end the server."""
    body = encode_greeting(Hello("client", name="abcd")).replace(b"abcd", b"\xff\xfe\xfd\xfc")
    with pytest.raises(DecodeError):
        decode_greeting(body)


def test_a_greeting_nested_without_end_is_no_greeting() -> None:
    """4 KiB are enough to exhaust the decoder's depth, in a field that nobody reads; that must not reach the loop."""
    body = msgspec.msgpack.encode({"type": "troth-hello", "kind": "client", "later": 0})
    with pytest.raises(DecodeError):
        decode_greeting(body[:-1] + b"\x91" * 3900 + b"\x00")
