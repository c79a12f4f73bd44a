"""Crashed transactions, sessions that go on after one, and what must stay short in long histories."""

import sys
from collections.abc import Callable
from types import FrameType

from troth.verify.completions import pair
from troth.verify.formats import read_history
from troth.verify.history import Event, EventType, History, Process, Value
from troth.verify.transactions import check_transactions
from troth.verify.verdict import Status

OK, INFO = EventType.OK, EventType.INFO

Micros = tuple[tuple[str, str, Value], ...]


def in_turn(*steps: tuple[Process, Micros] | tuple[Process, Micros, EventType]) -> History:
    """One after the other: (process, transaction) or, with another outcome than ok, (process, transaction, outcome)."""
    events = []
    for process, micros, *outcome in steps:
        events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=micros))
        events.append(Event(type=outcome[0] if outcome else OK, process=process, f="txn", value=micros))
    return pair(events)


def test_a_list_of_completed_transactions_may_hold_crashed_ones() -> None:
    # Elle's rule for info: it happened if somebody saw it; here its append was seen, so nothing came from thin air.
    history = read_history(
        "{:type :info, :process 0, :f :txn, :value [[:append :x 1]]}\n"
        "{:type :info, :process :nemesis, :f :start, :value nil}\n"
        "{:type :ok, :process 1, :f :txn, :value [[:r :x [1]]]}\n"
    )
    verdict = check_transactions(history, "list-append", "strong-session-serializable")
    assert verdict.status is Status.OK, verdict.reason
    assert [op.outcome for op in history.operations] == [INFO, OK]
    assert [fault.f for fault in history.faults] == ["start"]
    # They are instants all the same, of which real time says nothing.
    assert check_transactions(history, "list-append").status is Status.UNKNOWN


def test_a_crashed_write_binds_nothing_that_its_process_does_next() -> None:
    # It may take effect after the read of nil; a serial order (read, write, read) exists, so every weaker model holds.
    history = in_turn((0, (("w", "x", 1),), INFO), (0, (("r", "x", None),)), (1, (("r", "x", 1),)))
    for model in ("read-committed", "read-atomic", "causal", "serializable"):
        verdict = check_transactions(history, "rw-register", model, definition="axiomatic")
        assert verdict.status is Status.OK, (model, verdict.reason)
    done = in_turn((0, (("w", "x", 1),)), (0, (("r", "x", None),)), (1, (("r", "x", 1),)))
    assert check_transactions(done, "rw-register", "read-atomic", definition="axiomatic").status is Status.ILLEGAL


def test_axiomatic_read_committed_of_lists_looks_at_every_read() -> None:
    # Biswas & Enea 2019, figure 2: read committed lets a transaction read two versions of a key, in their order only.
    forwards = in_turn((0, (("r", "x", ()), ("r", "x", (1,)))), (1, (("append", "x", 1),)))
    assert check_transactions(forwards, "list-append", "read-committed", definition="axiomatic")
    assert not check_transactions(forwards, "list-append", "read-atomic", definition="axiomatic")
    missed = in_turn((0, (("append", "x", 1), ("r", "x", ()))))
    assert not check_transactions(missed, "list-append", "read-committed", definition="axiomatic")
    # It had read y from the second transaction, which appended to x after the first, and then read x without that.
    backwards = in_turn(
        (1, (("append", "x", 1),)),
        (2, (("append", "x", 2), ("append", "y", 1))),
        (0, (("r", "x", (1,)), ("r", "y", (1,)), ("r", "x", (1,)))),
        (1, (("r", "x", (1, 2)),)),
    )
    verdict = check_transactions(backwards, "list-append", "read-committed", definition="axiomatic")
    assert verdict.anomalies == ("non-monotonic-read",)


def test_the_order_of_a_session_is_told_in_one_step() -> None:
    appends: list[tuple[Process, Micros]] = [(0, (("append", "x", at),)) for at in range(1, 50)]
    stale = check_transactions(in_turn(*appends, (0, (("r", "x", ()),))), "list-append")
    assert stale.anomalies[0] == "G-single-process"
    assert [step.kind for step in stale.views[0].steps] == ["process", "rw"]
    writes: list[tuple[Process, Micros]] = [(0, (("w", "x", at),)) for at in range(1, 50)]
    stale = check_transactions(in_turn(*writes, (0, (("r", "x", 1),))), "rw-register", "causal")
    assert stale.anomalies == ("causality-violation",)
    assert len(stale.views[0].transactions) == 3


def test_what_was_proven_stays_so_when_time_runs_out_over_its_example() -> None:
    # x = 1 was overwritten before the read began, in other processes: only the search sees that. Ten independent
    # writes that overlap with everything give it more than it looks at between two questions for the time.
    wide: list[Micros] = [(("w", f"k{at}", at),) for at in range(10)]
    events = [
        Event(type=EventType.INVOKE, process=100 + at, f="txn", value=value) for at, value in enumerate(wide)
    ]
    for process, value in ((0, ("w", "x", 1)), (1, ("w", "x", 2)), (2, ("r", "x", 1))):
        events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=(value,)))
        events.append(Event(type=OK, process=process, f="txn", value=(value,)))
    events += [Event(type=OK, process=100 + at, f="txn", value=value) for at, value in enumerate(wide)]
    # What the example leaves out first, which leaves it as much to look at.
    for at in range(14):
        events += [
            Event(type=kind, process=3, f="txn", value=(("w", "z", at),)) for kind in (EventType.INVOKE, OK)
        ]
    history = pair(events)
    asked = 0

    def counting() -> bool:
        nonlocal asked
        asked += 1
        return False

    expected = check_transactions(history, "rw-register", expired=counting)
    assert expected.anomalies == ("not-serializable-realtime",)
    assert asked > 2

    def late() -> bool:
        nonlocal asked
        asked -= 1
        return asked <= 0

    asked -= 1  # so that time runs out at the last question, which is asked about the example
    verdict = check_transactions(history, "rw-register", expired=late)
    assert verdict.anomalies == ("not-serializable-realtime",), verdict.reason


def test_the_example_is_small_in_a_long_history_too() -> None:
    """Each transaction reads what the one before wrote, so that nothing can go without all behind it."""
    events: list[Event] = []

    def alone(process: int, *value: tuple[str, str, int]) -> None:
        events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=value))
        events.append(Event(type=OK, process=process, f="txn", value=value))

    alone(0, ("w", "x", 0), ("w", "y", 0))
    for at in range(1, 600):
        alone(at % 3, ("r", "x", at - 1), ("w", "x", at))
    alone(5, ("w", "y", 1))
    alone(6, ("r", "y", 0))
    for at in range(600, 900):
        alone(at % 3, ("r", "x", at - 1), ("w", "x", at))
    verdict = check_transactions(pair(events), "rw-register")
    assert verdict.anomalies == ("not-serializable-realtime",)
    assert verdict.counterexample is not None
    assert verdict.counterexample.involved == (0, 600, 601)


def test_a_crashed_write_that_is_seen_late_costs_no_more_than_another() -> None:
    def steps(count: int) -> int:
        seen: list[tuple[Process, Micros] | tuple[Process, Micros, EventType]] = [(1, (("w", "z", 1),), INFO)]
        seen += [(0, (("w", "x", at),)) for at in range(1, count)]
        history = in_turn(*seen, (0, (("r", "z", 1),)))
        return _lines(lambda: check_transactions(history, "rw-register"), "serial")

    assert 0 < steps(400) < 3 * steps(200)


def _lines(work: Callable[[], object], module: str) -> int:
    """How many lines of *module* are run by *work*."""
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return local

    def entered(frame: FrameType, event: str, argument: object) -> object:
        return local if frame.f_globals.get("__name__") == f"troth.verify.transactions.{module}" else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        assert work()
    finally:
        sys.settrace(before)
    return count


def test_long_lists_and_long_transactions_are_looked_at_once() -> None:
    def doubled(count: int) -> int:
        compared = 0

        class Element(int):
            def __eq__(self, other: object) -> bool:
                nonlocal compared
                compared += 1
                return int.__eq__(self, other)

            __hash__ = int.__hash__

        elements = tuple(Element(at) for at in range(count))
        appends = tuple(("append", "x", element) for element in elements)
        history = in_turn((0, appends), (1, (("r", "x", (*elements, elements[-1])),)))
        assert "duplicate-elements" in check_transactions(history, "list-append").anomalies
        return compared

    assert doubled(800) < 50_000

    def reads(count: int) -> int:
        keys = range(count)
        writes, looks = (tuple((f, f"k{key}", key) for key in keys) for f in ("w", "r"))
        return _lines(lambda: check_transactions(in_turn((0, writes), (1, looks)), "rw-register"), "register")

    assert reads(400) < 3 * reads(200)
