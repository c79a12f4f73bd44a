"""Histories: pairing, recording, building from operations."""

import pytest

from troth.errors import DecodeError, UsageError
from troth.verify.completions import pair
from troth.verify.history import FOREVER, Event, EventType, History, Operation, show
from troth.verify.recorder import Recorder


def op(process: int, invoked: int, completed: int, f: str = "read") -> Operation:
    """A read of nil."""
    return Operation(
        index=0, process=process, f=f, key=None, argument=None, result=None, outcome=EventType.OK, invoked=invoked,
        completed=completed,
    )  # fmt: skip


def test_recorder_makes_a_history() -> None:
    """ok, fail, info, never completed, and faults."""
    recorder = Recorder()
    recorder.invoke(0, "put", key="x", value="1", time=1)
    recorder.fault("partition", value="n1", time=2)
    recorder.invoke(1, "get", key="x", time=2)
    recorder.ok(0, value="1", time=3)
    recorder.fail(1, error="refused", time=4)
    recorder.invoke(0, "put", key="x", value="2", time=5)
    recorder.info(0, error="timeout", time=6)
    recorder.invoke(2, "get", key="y", time=7)
    history = recorder.history()
    assert [operation.outcome.value for operation in history.operations] == ["ok", "fail", "info", "info"]
    assert history.timeline == [0, 2, 1, 3, 4, 6]
    assert history.operations[3].completed == FOREVER
    assert history.all_keys() == ("x", "y")
    assert len(list(history.events())) == 8
    assert "4 operations" in repr(history)


def test_completing_nothing_is_a_usage_error() -> None:
    """The recorder's caller has a bug."""
    with pytest.raises(UsageError, match="has invoked none"):
        Recorder().ok(0)


def test_a_history_of_completions_only_is_instants() -> None:
    """Elle accepts them; one invoke anywhere and they are an error."""
    done = Event(type=EventType.OK, process=0, f="txn", value=())
    assert pair([done, done]).timeline == [0, 1, 2, 3]
    with pytest.raises(DecodeError, match="expected an invoke first"):
        pair([done, Event(type=EventType.INVOKE, process=1, f="txn")])


def test_operations_are_ordered_by_invocation_and_ties_overlap() -> None:
    """An operation that starts when another ends is concurrent with it."""
    history = History.of([op(1, 5, 9), op(0, 1, 5)])
    assert [operation.process for operation in history.operations] == [0, 1]
    assert history.timeline == [0, 2, 1, 3]


@pytest.mark.parametrize("operations", [[op(0, 1, 5), op(0, 3, 9)], [op(0, 5, 1)]])
def test_impossible_operations_are_refused(operations: list[Operation]) -> None:
    """A process does one thing at a time, and nothing ends before it begins."""
    with pytest.raises(UsageError):
        History.of(operations)


def test_where_keeps_what_is_asked_for() -> None:
    """Indexes are dealt anew, positions stay."""
    history = History.of([op(0, 1, 2), op(0, 3, 4), op(1, 5, 6)])
    part = history.where([2, 0])
    assert [(operation.index, operation.invoked) for operation in part.operations] == [(0, 0), (1, 4)]
    assert part.timeline == [0, 1, 2, 3]


def test_values_are_shown_as_people_write_them() -> None:
    """nil, lists, sets, long strings."""
    assert show((None, "a", frozenset({2, 1}), True, False)) == '[nil, "a", {1, 2}, true, false]'
    assert len(show("x" * 500)) < 70
    assert show("a\0b\n\x1b[2Jé") == r'"a\x00b\n\x1b[2Jé"'
