"""A saved state proves itself: whatever is cut off, flipped or added is refused."""

import io
from collections.abc import Iterator

import pytest

from troth.errors import Corrupt
from troth.storage.backup import SEAL_BYTES, SealingSink, opened

STATE = bytes(range(256)) * 40


def sealed(state: bytes = STATE) -> bytes:
    out = io.BytesIO()
    sink = SealingSink(out)
    for at in range(0, len(state), 1000):
        sink.write(state[at : at + 1000])
    sink.seal()
    return out.getvalue()


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, SEAL_BYTES, 1000, 1 << 20])
def test_what_was_saved_comes_back_however_it_is_cut(size: int) -> None:
    assert b"".join(opened(cut(sealed(), size), path="f")) == STATE
    assert b"".join(opened(cut(sealed(b""), size), path="f")) == b""


@pytest.mark.parametrize("length", [0, 1, SEAL_BYTES - 1, SEAL_BYTES, len(STATE), len(STATE) + SEAL_BYTES - 1])
def test_a_file_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(Corrupt, match="cut off"):
        list(opened(cut(sealed()[:length], 1000), path="f"))


@pytest.mark.parametrize("at", [0, 5000, len(STATE) - 1, len(STATE) + 12, len(STATE) + SEAL_BYTES - 1])
def test_a_flipped_bit_is_refused(at: int) -> None:
    damaged = bytearray(sealed())
    damaged[at] ^= 1
    with pytest.raises(Corrupt, match="damaged"):
        list(opened(cut(bytes(damaged), 1000), path="f"))


def test_a_newer_format_is_refused_as_such() -> None:
    newer = bytearray(sealed())
    newer[len(STATE) + 8] = 2
    with pytest.raises(Corrupt, match="format 2"):
        list(opened([bytes(newer)], path="f"))
