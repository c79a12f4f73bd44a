"""Transactions of which nobody knows which branch ran, or what it would have written."""

import json

import pytest

from troth.errors import DecodeError
from troth.verify.check import check
from troth.verify.formats.read import read_history
from troth.verify.guess import guess
from troth.verify.history import History, Value
from troth.verify.report.page import html
from troth.verify.transactions import check_transactions
from troth.verify.verdict import Status

FORK = ["either", [["w", "x", "1"], ["w", "y", "1"]], [["w", "x", "2"], ["w", "z", "2"]]]


def history_of(*rows: tuple[int, str, str, Value]) -> History:
    """Of (process, type, f, value); gets and puts are of x."""
    lines = [
        {"process": process, "type": kind, "f": f, "value": value} | ({} if f == "txn" else {"key": "x"})
        for process, kind, f, value in rows
    ]
    return read_history('{"troth_history": 1}\n' + "\n".join(json.dumps(line) for line in lines))


def reading(asked: Value, *seen: tuple[str, str | None]) -> History:
    """A transaction that crashes, and then one that reads."""
    micros = [["r", key, value] for key, value in seen]
    return history_of((0, "invoke", "txn", asked), (1, "invoke", "txn", []), (1, "ok", "txn", micros))


def test_a_branch_must_be_a_list_of_operations() -> None:
    for wrong in (["either", "x", []], ["either", [["w", "x", "1"]], None], ["either", [], [["w", "x"]]]):
        with pytest.raises(DecodeError, match=r"line 2, column 1: .* in a txn, expected"):
            history_of((0, "invoke", "txn", [wrong]))


@pytest.mark.parametrize(
    ("seen", "legal"),
    [
        ((("x", "1"), ("y", "1"), ("z", None)), True),
        ((("x", "2"), ("y", None), ("z", "2")), True),
        ((("x", None), ("y", None), ("z", None)), True),
        ((("x", "1"), ("z", "2")), False),
        ((("y", "1"), ("z", "2")), False),
        ((("x", "2"), ("z", None)), False),
    ],
)
def test_one_branch_or_the_other_or_none(seen: tuple[tuple[str, str | None], ...], legal: bool) -> None:
    history = reading([FORK], *seen)
    found = guess(history)
    assert (found.object, found.model) == ("rw-register", "strict-serializable")
    assert bool(check(history, object="multi-register")) is legal
    verdict = check_transactions(history, found.object, found.model)
    assert verdict.status is (Status.OK if legal else Status.ILLEGAL)
    assert verdict.not_ == (() if legal else ("strict-serializable",)) and not verdict.also_not
    assert html(verdict, title="branches", command="")


def test_values_of_both_branches_were_not_written_twice() -> None:
    """One of them ran at most."""
    asked = [["either", [["w", "x", "1"], ["w", "y", "1"]], [["w", "x", "1"]]]]
    assert guess(reading(asked)).object == "rw-register"
    assert check_transactions(reading(asked, ("x", "1"), ("y", None)))


def test_what_is_legal_one_way_is_not_blamed_for_another() -> None:
    """The first way that is tried, in which all that was read was written, misses y."""
    asked = [["either", [["w", "x", "1"], ["w", "y", "1"]], [["w", "x", "1"]]], ["w", "y", "2"]]
    told = (("x", "1"), ("y", "2"))
    assert check_transactions(reading(asked, *told)) and check(reading(asked, *told), object="multi-register")


def test_nothing_is_said_of_a_crash_that_may_have_done_anything() -> None:
    history = reading(None, ("x", "7"))
    for verdict in (
        check_transactions(history, "rw-register"),
        check(history, object="multi-register"),
        check(history, "sequential", "multi-register"),
    ):
        assert verdict.status is Status.UNKNOWN and not verdict.anomalies
        assert "process 0: txn -> ?" in verdict.reason or verdict.model == "sequential"
    # Unless it need not have happened.
    history = reading(None, ("x", None))
    assert check_transactions(history, "rw-register") and check(history, object="multi-register")
    assert check(history, "sequential", "multi-register")


def test_what_was_illegal_before_such_a_crash_stays_illegal() -> None:
    before = [(1, "invoke", "get", None), (1, "ok", "get", "7")]
    crash = [(0, "invoke", "txn", None)]
    assert check(history_of(*before, *crash), object="multi-register").status is Status.ILLEGAL
    verdict = check(history_of(*before, *crash, *before), object="multi-register")
    assert verdict.counterexample is not None and verdict.counterexample.operation == 0
    assert check(history_of(*crash, *before), object="multi-register").status is Status.UNKNOWN
    begun = history_of(before[0], *crash, before[1])
    assert check(begun, object="multi-register").status is Status.UNKNOWN


def test_a_branch_may_do_nothing_and_branches_stand_in_branches() -> None:
    """Of what comes with it, that it ran says nothing of the branch."""
    asked = [["w", "x", "1"], ["either", [["either", [["w", "y", "1"]], [["w", "y", "2"]]]], []]]
    for y, legal in ((None, True), ("1", True), ("2", True), ("3", False)):
        for history in (reading(asked, ("x", "1"), ("y", y)), reading(asked, ("y", y))):
            assert guess(history).object == "rw-register"
            assert bool(check(history, object="multi-register")) is legal, y
            assert bool(check_transactions(history, "rw-register")) is legal, y


def test_too_many_ways_leave_the_verdict_open() -> None:
    many = [["either", [["w", "x", str(at)]], [["w", "x", str(-at)]]] for at in range(1, 10)]
    # One transaction of 512 ways; then four of four, of which 256 histories would have to be judged.
    for rows in (
        [(0, "invoke", "txn", many)],
        [
            (
                at,
                "invoke",
                "txn",
                [["either", [["w", "x", f"{at}{side}"]], [["w", "y", f"{at}{side}"]]] for side in "ab"],
            )
            for at in range(4)
        ],
    ):
        seen = "9" if len(rows) == 1 else "3b"
        others = [["r", "x", f"{at}a"] for at in range(4)] if len(rows) > 1 else []
        read = [(9, "invoke", "txn", []), (9, "ok", "txn", [*others, ["r", "x", seen]])]
        verdict = check_transactions(history_of(*rows, *read), "rw-register", "read-committed")
        assert verdict.status is Status.UNKNOWN and "too many ways" in verdict.reason
        assert "unknown" in verdict.text().lower()
