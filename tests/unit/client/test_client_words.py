"""What callers write down: URLs, keys, comparisons; and the retry table."""

import doctest
import os
import random
import ssl
from typing import Any

import pytest

import troth
from troth.client import operations, retry, url
from troth.client.operations import prefix_end, span
from troth.client.retry import Action, action_for, class_of, error_of, in_words, is_definite, pause_s
from troth.client.url import parse_url
from troth.errors import (
    Compacted,
    LeadershipLost,
    MixedClusters,
    NotApplied,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    SessionExpired,
    TrothError,
    UsageError,
    WrongCluster,
)
from troth.kv.requests import Compare, CompareResult, CompareTarget
from troth.models import bounded, parse_level


@pytest.mark.parametrize("module", [operations, url])
def test_the_examples_in_docstrings_run(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0 and outcome.failed == 0


class Bytes(bytes):
    """As numpy's are: equal to bytes, and unknown to every codec."""


class Number(int):
    pass


def test_what_callers_write_down_is_of_plain_types() -> None:
    put = operations.Put(Bytes(b"k"), Bytes(b"v"), lease=Number(5))
    assert (type(put.key), type(put.value), type(put.lease)) == (bytes, bytes, int)
    assert (put.key, put.value, put.lease) == (b"k", b"v", 5)
    condition = operations.version(Bytes(b"k")) > Number(1)
    assert (type(condition.key), type(condition.number)) == (bytes, int)
    held = b"v"
    assert operations.as_bytes(held) is held


def test_urls_are_read() -> None:
    assert parse_url("troth://a:1,b:2,a:1/").addresses == ("a:1", "b:2")
    assert parse_url("troth://[::1]:7001").addresses == ("[::1]:7001",)
    assert parse_url("troth://unix:/run/a.sock,unix:/run/b%20c.sock").addresses == (
        "unix:/run/a.sock",
        "unix:/run/b c.sock",
    )
    assert parse_url("troth://unix:/run/user@1.sock").addresses == ("unix:/run/user@1.sock",)
    secure = parse_url("troth+tls://a:1?ca=ca.pem&cert=c.pem&key=c.key")
    assert (secure.tls, secure.ca, secure.cert, secure.key) == (True, "ca.pem", "c.pem", "c.key")
    assert not parse_url("troth://a:1").tls and parse_url("troth://a:1").ssl_context() is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("troth://me:secret@127.0.0.1:7001", "no users and passwords"),
        ("127.0.0.1:7001", "does not start with troth://"),
        ("http://a:1", "does not start with troth://"),
        ("troth://", "names no server"),
        ("troth://a", "not an address"),
        ("troth://a:", "not an address"),
        ("troth://:1", "not an address"),
        ("troth://a:70000", "not an address"),
        ("troth://a:x", "not an address"),
        ("troth://unix:relative", "unix:/absolute/path"),
        ("troth://a:1?ca=x", "belong to troth"),
        ("troth+tls://a:1?password=x", "unknown parameter password"),
        ("troth+tls://a:1?key=x", "without cert="),
    ],
)
def test_a_wrong_url_says_what_is_wrong(wrong: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_url(wrong)


def test_missing_tls_material_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"'/nowhere/ca\.pem'; `troth certs`"):
        parse_url("troth+tls://a:1?ca=/nowhere/ca.pem").ssl_context()


def test_prefix_spans_hold_exactly_the_keys_with_that_prefix() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        prefix = rng.randbytes(rng.randrange(4))
        key = rng.choice([prefix, b""]) + rng.choice([b"", b"\x00", b"\xff", rng.randbytes(2)])
        if not key:
            continue
        start, end = span(b"", None, prefix)
        inside = key >= start and (end == b"\x00" or key < end)
        assert inside == key.startswith(prefix), (prefix, key)
    assert prefix_end(b"\xff\xff") == b"\x00"


def test_text_is_stored_as_utf_8_and_bytes_of_a_command_line_as_they_were() -> None:
    assert operations.as_bytes("ключ") == "ключ".encode() and operations.as_bytes(b"\xff") == b"\xff"
    assert operations.as_bytes(os.fsdecode(b"a\xff\xfe")) == b"a\xff\xfe"
    with pytest.raises(UsageError, match="give bytes"):
        operations.as_bytes("\ud800")
    with pytest.raises(UsageError, match="not int"):
        operations.as_bytes(5)  # type: ignore[arg-type]


def test_comparisons_say_what_they_compare() -> None:
    assert (troth.value("k") == "v") == Compare(b"k", CompareTarget.VALUE, CompareResult.EQUAL, value=b"v")
    assert (troth.value("k") != b"v") == Compare(b"k", CompareTarget.VALUE, CompareResult.NOT_EQUAL, value=b"v")
    assert (troth.create_revision("k") < 5) == Compare(b"k", CompareTarget.CREATE, CompareResult.LESS, number=5)
    assert (troth.lease(prefix="p") > 0) == Compare(
        b"p", CompareTarget.LEASE, CompareResult.GREATER, number=0, range_end=b"q"
    )
    with pytest.raises(UsageError, match="not to the number"):
        _ = troth.value("k") == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(troth.value("k"))


@pytest.mark.parametrize("seconds", [0, -1, 1e6, 10**400, float("nan"), float("inf"), "1", True, 1j])
def test_a_bound_in_seconds_is_a_number_of_them(seconds: Any) -> None:
    with pytest.raises(UsageError, match="above 0 and below a million"):
        bounded(seconds=seconds)


@pytest.mark.parametrize("revisions", [-1, 1.5, "1", True, 1 << 63, 10**30])
def test_a_bound_in_revisions_is_a_number_that_can_be_sent(revisions: Any) -> None:
    assert bounded(revisions=(1 << 63) - 1).revisions_behind_max == (1 << 63) - 1
    with pytest.raises(UsageError, match="whole number"):
        bounded(revisions=revisions)


@pytest.mark.parametrize("text", ["bounded:99999999999999999999999", "bounded:-1", "bounded:nans", "bounded:infs"])
def test_a_level_that_is_written_with_an_impossible_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_level(text)


def test_only_a_port_that_sends_no_alerts_is_taken_for_one_without_tls() -> None:
    alert, garbage = ssl.SSLError("refused"), ssl.SSLError("no TLS")
    alert.reason, garbage.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED", "WRONG_VERSION_NUMBER"
    context = ssl.create_default_context()
    for error, tls, told in (
        (alert, context, "refused"),
        (garbage, context, "is this port one without TLS"),
        (ConnectionResetError("reset"), context, "is this port one without TLS"),
        (ConnectionResetError("reset"), None, "^reset$"),
    ):
        with pytest.raises(OSError, match=told) as caught, in_words(tls):
            raise error
        assert ("without TLS" in str(caught.value)) is ("without TLS" in told)


def test_the_retry_table_covers_every_class() -> None:
    assert action_for(NotLeader) is Action.FOLLOW
    assert action_for(Overloaded) is Action.BACK_OFF
    assert action_for(SessionExpired) is Action.RENEW_SESSION
    assert action_for(LeadershipLost) is Action.SAME_ID
    assert action_for(Compacted) is Action.FAIL
    assert action_for(TrothError) is Action.FAIL


def test_codes_name_their_classes() -> None:
    waiting: list[type[TrothError]] = [TrothError]
    seen: set[str] = set()
    while waiting:
        kind = waiting.pop()
        waiting.extend(set(kind.__subclasses__()) - {MixedClusters})  # a child of two
        if not kind.__module__.startswith("troth.errors"):
            continue
        assert kind.code not in seen, "two classes share a code"
        seen.add(kind.code)
        assert class_of(kind.code) is kind
        assert type(error_of(kind.code, "text")) is kind
    assert class_of("of a newer server") is OutcomeUnknown
    assert class_of(WrongCluster.code) is WrongCluster and class_of(MixedClusters.code) is MixedClusters
    assert is_definite(NotApplied) and not is_definite(OutcomeUnknown)
    compacted = error_of("compacted", "text", compact_revision=7)
    assert isinstance(compacted, Compacted) and compacted.compact_revision == 7


def test_pauses_grow_and_have_a_bound() -> None:
    low, high = retry.FOLLOW_PAUSE_S
    assert (pause_s(Action.FOLLOW, 9, 0.0), pause_s(Action.FOLLOW, 9, 1.0)) == (low, high)
    pauses = [pause_s(Action.BACK_OFF, attempt, 1.0) for attempt in range(100)]
    assert pauses == sorted(pauses) and pauses[-1] == retry.BACK_OFF_MAX_S
    assert pause_s(Action.BACK_OFF, 0, 0.0) == retry.BACK_OFF_S / 2
