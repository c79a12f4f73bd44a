"""Keys and values on one line of a table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.cli.output import shown


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"hello world", "hello world"),
        ("привет".encode(), "привет"),
        (b"\xb4q", r"\xb4q"),
        (rb"\xb4q", r"\\xb4q"),
        (b"a\\b", r"a\\b"),
        (b"two\nlines\t\0", r"two\nlines\t\x00"),
        ("день\n".encode() + b"\xff", r"день\n\xff"),
        ("\x85\u200b".encode(), r"\u0085\u200b"),
        ("\U000e0001".encode(), r"\U000e0001"),
    ],
)
def test_text_is_shown_as_it_is_and_all_else_escaped_once(raw: bytes, text: str) -> None:
    assert shown(raw) == text


def read_back(text: str) -> bytes:
    def meant(escape: re.Match[str]) -> str:
        kind, digits = escape[0][1], escape[0][2:]
        if kind == "x":
            return bytes([int(digits, 16)]).decode(errors="surrogateescape")
        return chr(int(digits, 16)) if digits else {"\\": "\\", "n": "\n", "t": "\t", "r": "\r"}[kind]

    escapes = r"\\(x..|u.{4}|U.{8}|.)"
    return re.sub(escapes, meant, text).encode(errors="surrogateescape")


PARTS = [b"\\", b"x", b"b4", b"\xb4", b"n", b"\n", "\x85".encode(), b"\x85", b"u0085", b"\xc3", b"\xa4"]


@given(st.lists(st.sampled_from(PARTS), max_size=6).map(b"".join) | st.binary(max_size=20))
def test_what_is_shown_takes_one_line_and_means_only_one_thing(raw: bytes) -> None:
    assert shown(raw).isprintable()
    assert read_back(shown(raw)) == raw
