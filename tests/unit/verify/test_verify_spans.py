"""Reads of spans and drains, which are taken apart: no piece escapes what is asked of its process, or of its answer."""

import json

import pytest

from troth.verify.check import check
from troth.verify.formats import read_history
from troth.verify.history import History, Value
from troth.verify.verdict import Status

OF_SESSIONS = ("read-your-writes", "session", "session-guarantees", "pram", "causal", "causal+", "sequential")
Step = tuple[int, str, Value, Value, Value]
"""(process, f, key, asked, told)"""


def recorded(*steps: Step) -> History:
    """Operations one after the other."""
    rows = []
    for process, f, key, asked, told in steps:
        named = {"process": process, "f": f} | ({} if key is None else {"key": key})
        rows += [{**named, "type": "invoke", "value": asked}, {**named, "type": "ok", "value": told}]
    return read_history("".join(json.dumps(row) + "\n" for row in rows))


def put(process: int, key: str, value: str) -> Step:
    return (process, "put", key, value, value)


def span(process: int, *shown: list[str]) -> Step:
    """A read of the keys from a up to c."""
    return (process, "range", None, ["a", "c"], list(shown))


@pytest.mark.parametrize("model", OF_SESSIONS)
@pytest.mark.parametrize(
    ("shown", "status"), [([["a", "1"]], Status.OK), ([], Status.UNKNOWN), ([["a", "9"]], Status.ILLEGAL)]
)
def test_a_span_is_read_by_the_process_that_asked(model: str, shown: list[list[str]], status: Status) -> None:
    """It cannot be ok that a process misses its own write, whether it asks for the key or for a span."""
    history = recorded(put(0, "a", "1"), span(0, *shown))
    verdict = check(history, model)
    assert verdict.status is status
    assert verdict.history is history
    if status is Status.UNKNOWN:
        assert "what each process did before" in verdict.reason


def test_a_piece_keeps_its_place_among_what_its_process_did() -> None:
    steps = [put(0, "a", "1"), put(0, "b", "2"), span(1, ["a", "1"], ["b", "2"]), span(1, ["a", "1"], ["b", "2"])]
    verdict = check(recorded(*steps), "sequential")
    assert verdict and verdict.witness == tuple(range(6))
    back = [*steps[:3], span(1, ["b", "2"])]
    assert check(recorded(*back), "monotonic-reads").status is Status.UNKNOWN


@pytest.mark.parametrize(("told", "status"), [([1], Status.OK), ([2, 1], Status.OK), ([], Status.UNKNOWN)])
def test_a_drain_is_of_the_process_that_asked(told: list[int], status: Status) -> None:
    """Nobody orders what the other process enqueued; its own element it must find."""
    own = (0, "enqueue", None, 1, 1)
    history = recorded(own, (0, "drain", None, None, told), (1, "enqueue", None, 2, 2))
    assert check(history, "sequential", "unordered-queue").status is status


@pytest.mark.parametrize(
    ("model", "object"),
    [
        *((model, "kv") for model in ("linearizable", "sequential", "causal", "session-guarantees", "eventual")),
        ("linearizable", "multi-register"),
        ("sequential", "multi-register"),
    ],
)
@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ([["a", "1"], ["zz", "9"]], "outside of the span"),
        ([["a", "1"], ["c", "3"]], "outside of the span"),
        ([["a", "1"], ["a", "1"]], "twice in one answer"),
        ([["a", "1"], ["a", "2"]], "twice in one answer"),
    ],
)
def test_a_span_shows_keys_of_its_own_and_each_once(
    model: str, object: str, shown: list[list[str]], why: str
) -> None:
    verdict = check(recorded(put(0, "a", "1"), put(0, "c", "3"), span(1, *shown)), model, object)
    assert verdict.status is Status.ILLEGAL
    assert why in verdict.text()


def leased(end: str, f: str = "put", told: Value = "2") -> History:
    """A put of 1, an update of the same key under a lease that ended as said, and a get that found nothing."""
    asked = ["1", "2"] if f == "cas" else "2"
    rows = [
        {"process": 0, "type": "invoke", "f": "put", "key": "a", "value": "1"},
        {"process": 0, "type": "ok", "f": "put", "key": "a", "value": "1"},
        {"process": 1, "type": "invoke", "f": f, "key": "a", "value": asked, "lease": 5},
        {"process": 1, "type": end, "f": f, "key": "a", "value": told},
        {"process": 2, "type": "invoke", "f": "get", "key": "a"},
        {"process": 2, "type": "ok", "f": "get", "key": "a", "value": None},
    ]
    return read_history("".join(json.dumps(row) + "\n" for row in rows))


def test_what_was_never_put_under_a_lease_does_not_go_with_it() -> None:
    assert check(leased("ok"))
    assert check(leased("info"))
    assert not check(leased("fail"))
    assert check(leased("ok", "cas", ["1", "2"]))
    assert not check(leased("ok", "cas", False))
