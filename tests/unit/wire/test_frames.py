"""Frames survive any cut of the stream; impossible lengths are refused before anything is held for them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import DecodeError
from troth.wire.frames import (
    FRAME_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    HEAD,
    FrameSplitter,
    first_frame,
    frame,
    head_of,
)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(1, 50), max_size=200))
def test_bodies_come_out_as_they_went_in_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(body) for body in bodies)
    splitter = FrameSplitter(FRAME_BYTES_MAX)
    found: list[bytes] = []
    at = 0
    for cut in cuts:
        found += splitter.feed(stream[at : at + cut])
        at += cut
    found += splitter.feed(stream[at:])
    assert found == bodies


def test_a_frame_is_given_out_as_soon_as_its_last_byte_is_there() -> None:
    splitter = FrameSplitter()
    stream = frame(b"abc") + frame(b"d")
    assert [splitter.feed(stream[at : at + 1]) for at in range(len(stream))] == [
        *([[]] * (HEAD.size + 2)),
        [b"abc"],
        *([[]] * HEAD.size),
        [b"d"],
    ]


@pytest.mark.parametrize("length", [0, HANDSHAKE_BYTES_MAX + 1, 0xFFFFFFFF])
def test_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError, match=str(length)):
        FrameSplitter().feed(HEAD.pack(length, length ^ 0xFFFFFFFF, 0))
    with pytest.raises(DecodeError, match=str(length)):
        first_frame(HEAD.pack(length, length ^ 0xFFFFFFFF, 0), HANDSHAKE_BYTES_MAX)


def test_an_impossible_length_is_refused_behind_a_good_frame_and_when_cut() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(frame(b"x") + b"\0\0") == [b"x"]
    with pytest.raises(DecodeError):
        splitter.feed(bytes(HEAD.size - 2))


def test_a_frame_has_a_byte_at_least_and_its_limit_at_most() -> None:
    for read in (FrameSplitter(10).feed, lambda stream: first_frame(stream, 10)):
        assert read(frame(b"0123456789")) in ([b"0123456789"], b"0123456789")
    for read in (FrameSplitter(10).feed, lambda stream: first_frame(stream, 10)):
        with pytest.raises(DecodeError, match="a frame of 0 bytes"):
            read(frame(b""))


def test_a_body_in_pieces_has_the_head_of_the_whole() -> None:
    assert head_of([b"one", bytearray(b"two"), b""]) + b"onetwo" == frame(b"onetwo")


def test_the_bytes_of_a_frame() -> None:
    golden = bytes.fromhex("03000000fcffffff50392f89945faf78") + b"abc"
    assert frame(b"abc") == golden
    assert first_frame(golden + b"more", HANDSHAKE_BYTES_MAX) == b"abc"
    assert [first_frame(golden[:size], HANDSHAKE_BYTES_MAX) for size in range(len(golden))] == [None] * len(golden)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_damaged_frame_is_refused_whatever_bit_it_is_and_never_read_as_another(
    body: bytes, data: st.DataObject
) -> None:
    stream = bytearray(frame(body))
    bit = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        FrameSplitter(FRAME_BYTES_MAX).feed(bytes(stream))
    with pytest.raises(DecodeError):
        first_frame(stream, FRAME_BYTES_MAX)


def test_the_limit_can_be_raised_once_the_other_side_is_known() -> None:
    splitter = FrameSplitter()
    splitter.limit = FRAME_BYTES_MAX
    body = bytes(HANDSHAKE_BYTES_MAX + 1)
    assert splitter.feed(frame(body)) == [body]


def test_a_large_frame_in_small_pieces_is_copied_once() -> None:
    body = bytes(8 << 20)
    stream = memoryview(frame(body))
    splitter = FrameSplitter(FRAME_BYTES_MAX)
    found: list[bytes] = []
    begin = time.process_time()
    for at in range(0, len(stream), 1024):
        found += splitter.feed(bytes(stream[at : at + 1024]))
    assert found == [body]
    # 8192 pieces of a frame of 8 MiB: copying all that is held for each would be 32 GiB, many seconds.
    assert time.process_time() - begin < 2
