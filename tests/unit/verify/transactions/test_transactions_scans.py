"""The scans find the mistake they are about, and nothing in a history without it."""

import pytest

from troth.errors import UsageError
from troth.verify.formats.edn import Record
from troth.verify.history import History, Value
from troth.verify.recorder import Recorder
from troth.verify.transactions.scans import (
    SCANS,
    check_bank,
    check_counter,
    check_long_fork,
    check_set,
    check_set_full,
    check_unique_ids,
)
from troth.verify.verdict import Status


def history(*operations: tuple[str, Value, Value] | tuple[str, Value, Value, str]) -> History:
    """(f, argument, result), one after the other; a fourth field says fail or info."""
    recorder = Recorder()
    for process, (f, argument, result, *how) in enumerate(operations):
        recorder.invoke(process, f, value=argument)
        if how == ["fail"]:
            recorder.fail(process)
        elif how == ["info"]:
            recorder.info(process)
        else:
            recorder.ok(process, value=result)
    return recorder.history()


def accounts(*balances: Value) -> Record:
    return Record(enumerate(balances))


def test_bank() -> None:
    assert check_bank(history(("read", None, accounts(5, 5)), ("read", None, accounts(10, 0))))
    wrong = check_bank(history(("read", None, accounts(5, 5)), ("read", None, accounts(5, 4))))
    assert wrong.anomalies == ("wrong-total",)
    assert wrong.counterexample is not None
    assert wrong.counterexample.operation == 1
    assert check_bank(history(("read", None, accounts(5, 5))), total=11).status is Status.ILLEGAL
    overdrawn = history(("read", None, accounts(11, -1)))
    assert check_bank(overdrawn).anomalies == ("negative-value",)
    assert check_bank(overdrawn, negative=True)
    assert check_bank(history(("read", None, accounts(11, None)))).anomalies == ("wrong-balance",)
    with pytest.raises(UsageError):
        check_bank(history(("read", None, 7)))


def reads(**seen: Value) -> Value:
    return tuple(("r", key, value) for key, value in seen.items())


def test_long_fork() -> None:
    writes = (("txn", (("w", "x", 1),), (("w", "x", 1),)), ("txn", (("w", "y", 1),), (("w", "y", 1),)))
    forked = history(*writes, ("txn", None, reads(x=1, y=None)), ("txn", None, reads(x=None, y=1)))
    assert check_long_fork(forked).anomalies == ("long-fork",)
    chained = history(*writes, ("txn", None, reads(x=1, y=None)), ("txn", None, reads(x=1, y=1)))
    assert check_long_fork(chained)
    with pytest.raises(UsageError, match="each key once"):
        check_long_fork(history(*writes, writes[0]))
    tried = (("write", "x", None, "fail"), ("write", "x", None))
    assert check_long_fork(history(*tried, ("txn", None, reads(x=1, y=None))))


def test_set() -> None:
    adds = (("add", 1, 1), ("add", 2, None, "info"), ("add", 3, None, "fail"))
    assert check_set(history(*adds, ("read", None, (1, 2))))
    assert check_set(history(*adds, ("read", None, (2,)))).anomalies == ("lost",)
    assert check_set(history(*adds, ("read", None, (1, 3)))).anomalies == ("unexpected",)
    assert check_set(history(*adds)).status is Status.UNKNOWN


def test_set_full() -> None:
    adds = (("add", 1, 1), ("add", 2, None, "info"))
    assert check_set_full(history(*adds, ("read", None, (1,)), ("read", None, (1, 2))))
    assert check_set_full(history(*adds, ("read", None, (1,)), ("read", None, ()))).anomalies == ("lost",)
    # The crashed add was seen once, so it is in for good.
    assert check_set_full(history(*adds, ("read", None, (1, 2)), ("read", None, (1,)))).anomalies == ("lost",)
    flickering = history(*adds, ("read", None, ()), ("read", None, (1,)))
    assert check_set_full(flickering)
    assert check_set_full(flickering, linearizable=True).anomalies == ("stale",)
    assert check_set_full(history(*adds, ("read", None, (9,)))).anomalies == ("unexpected",)
    twice = check_set_full(history(*adds, ("read", None, (1, 2, 1))))
    assert twice.anomalies == ("duplicated",) and "1 is in it more than once" in twice.reason
    assert check_set_full(history(*adds)).status is Status.UNKNOWN


def test_counter() -> None:
    adds = (("add", 2, 2), ("add", 5, None, "info"), ("decrement", 1, 1), ("add", 9, None, "fail"))
    for value, fits in ((1, True), (6, True), (0, False), (7, False), (None, False)):
        assert bool(check_counter(history(*adds, ("read", None, value)))) is fits
    with pytest.raises(UsageError):
        check_counter(history(("add", "x", "x")))


def test_unique_ids() -> None:
    assert check_unique_ids(history(("generate", None, 1), ("generate", None, 2)))
    assert check_unique_ids(history(("generate", None, 1), ("generate", None, 1))).anomalies == ("duplicate-id",)


def test_every_scan_accepts_an_empty_history() -> None:
    for name, scan in SCANS.items():
        assert scan(history()).status in (Status.OK, Status.UNKNOWN), name
