"""Transactions as people write them."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from troth.cli.txn import parse_comparison, parse_operation, parse_script
from troth.client.replies import DeleteReply, PutReply, RangeReply, TxnReply
from troth.errors import UsageError
from troth.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    KeyValue,
    Put,
    Range,
)
from troth.models import LevelName

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("value(a) = 1", Compare(b"a", CompareTarget.VALUE, CompareResult.EQUAL, value=b"1")),
        ('value("a b") != "x y"', Compare(b"a b", CompareTarget.VALUE, CompareResult.NOT_EQUAL, value=b"x y")),
        ("version(a/b)>0", Compare(b"a/b", CompareTarget.VERSION, CompareResult.GREATER, number=0)),
        ("mod( a ) < 41", Compare(b"a", CompareTarget.MOD, CompareResult.LESS, number=41)),
        ("create(a) == 7", Compare(b"a", CompareTarget.CREATE, CompareResult.EQUAL, number=7)),
        ("lease(a) = 7f", Compare(b"a", CompareTarget.LEASE, CompareResult.EQUAL, number=0x7F)),
    ],
)
def test_comparisons(text: str, expected: Compare) -> None:
    assert parse_comparison(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "value(a)", "size(a) = 1", "version(a) = many", "a = 1", "value() = 1", "value(a) >= 1", "value(a)<=1"],
)
def test_what_is_no_comparison_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_comparison(text)


@pytest.mark.parametrize("text", ["value(a) =", "value(a) = ", "value(a) ==  ", "version(a) >\t"])
def test_nothing_is_not_taken_for_a_blank(text: str) -> None:
    """As a variable of the shell gives it that is not set."""
    with pytest.raises(UsageError, match="write '' for an empty value"):
        parse_comparison(text)
    assert parse_comparison("value(a) = ''").value == b""
    assert parse_comparison("value(a) = ' '").value == b" "
    with pytest.raises(UsageError, match="not a comparison"):
        parse_comparison("value( ) = 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("put a 'b c'", Put(b"a", b"b c")),
        ("get a", Range(b"a")),
        ("get a c", Range(b"a", b"c")),
        ("get --prefix a/", Range(b"a/", b"a0")),
        ("del a", DeleteRange(b"a")),
        ("del --prefix a/", DeleteRange(b"a/", b"a0")),
        ("get a/ --prefix", Range(b"a/", b"a0")),
        ("del '#tmp' --prefix", DeleteRange(b"#tmp", b"#tmq")),
        ("get a --from-key", Range(b"a", b"\0")),
        ("del --from-key ''", DeleteRange(b"\0", b"\0")),
        ("get -- --prefix", Range(b"--prefix")),
        ("get --prefix -- --x", Range(b"--x", b"--y")),
        ("put -- --a --b", Put(b"--a", b"--b")),
        ("put a -1", Put(b"a", b"-1")),
    ],
)
def test_operations(text: str, expected: object) -> None:
    assert parse_operation(text) == expected


@pytest.mark.parametrize("text", ["", "put a", "put a b c", "get", "get a b c", "mov a b", "put 'a b", "put a --"])
def test_what_is_no_operation_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_operation(text)


@pytest.mark.parametrize(
    "text",
    [
        "del a --prev-kv",
        "get --limit=3 a",
        "del a b --keys-only",
        "put a --lease=77",
        "put --prev-kv a",
        "put a b --prefix",
    ],
)
def test_a_flag_that_an_operation_does_not_have_is_taken_for_nothing_else(text: str) -> None:
    """As the end of a span, it would have deleted keys that nobody has named."""
    with pytest.raises(UsageError, match=f"no flag '{text[text.index('--') :].split(' ')[0]}'.* behind '--'"):
        parse_operation(text)


@pytest.mark.parametrize(
    "text", ["get a c --prefix", "del --prefix", "del --prefix --from-key a", "get --prefix --prefix a"]
)
def test_a_span_is_named_in_one_way(text: str) -> None:
    with pytest.raises(UsageError, match="is not an operation"):
        parse_operation(text)


def test_a_script_has_three_parts() -> None:
    compare, success, failure = parse_script(["version(a) = 0\n", "\n", "put a 1\n", "put b 2\n", "\n", "get a\n"])
    assert (len(compare), len(success), len(failure)) == (1, 2, 1)
    assert parse_script(["version(a) = 0"])[1:] == ([], [])


def test_the_command_reads_a_script_and_prints_each_answer(run: Run, fake: Any) -> None:
    level = LevelName.LINEARIZABLE
    responses = [
        PutReply(revision=5, server="n1"),
        RangeReply([KeyValue(b"a", 1, 5, 1, b"1")], 1, False, 5, "n1", level, 0),
        DeleteReply(2, [], 5, "n1"),
    ]
    client = fake(txn=TxnReply(succeeded=True, responses=responses, revision=5, server="n1"))
    result = run("txn", input="version(a) = 0\n\nput a 1\nget a\ndel b c\n")
    assert result.stdout.splitlines() == ["succeeded", "  put", "  a = 1", "  deleted 2"]
    assert client.calls[0][2]["success"] == [Put(b"a", b"1"), Range(b"a"), DeleteRange(b"b", b"c")]


def test_a_script_that_is_broken_off_is_not_told_as_in_doubt(run: Run, fake: Any) -> None:
    class Interrupted(io.BytesIO):
        def read1(self, _size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    client = fake(txn=None)
    result = run("txn", input=Interrupted())
    assert result.exit_code == 130 and "Nothing was sent" in result.stderr and "may" not in result.stderr
    assert client.calls == []


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_a_script_typed_on_a_terminal_is_asked_for(run: Run, fake: Any) -> None:
    fake(txn=TxnReply(succeeded=True, responses=[], revision=5, server="n1"))
    assert "an empty line" not in run("txn", input="").stderr
    assert "an empty line" in run("txn", input=Terminal()).stderr
