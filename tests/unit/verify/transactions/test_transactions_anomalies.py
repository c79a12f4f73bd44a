"""Each anomaly from the smallest history that has it, and what it rules out."""

import re
from xml.etree import ElementTree

import pytest

from troth.errors import UsageError
from troth.verify.completions import pair
from troth.verify.formats import read_history
from troth.verify.history import Event, EventType, History
from troth.verify.transactions import (
    TRANSACTION_MODELS,
    RegisterAssumptions,
    TransactionVerdict,
    check_transactions,
)
from troth.verify.transactions.levels import ANOMALIES, LEVELS, boundary, implied_levels, level_named, ruled_out
from troth.verify.verdict import Status

OK, FAIL, INFO = EventType.OK, EventType.FAIL, EventType.INFO
_MICRO = re.compile(r"([arw])([xyz])(_|\d*)")


def micros(text: str) -> tuple[tuple[str, str, object], ...]:
    """``ax1 rx12 wy3 rz_``: append 1 to x, read x = [1 2] (or 12 in a register history), write y = 3, read z = nil."""
    registers = "w" in text or "_" in text
    found: list[tuple[str, str, object]] = []
    for f, key, digits in _MICRO.findall(text):
        if f == "a":
            found.append(("append", key, int(digits)))
        elif f == "w":
            found.append(("w", key, int(digits)))
        elif registers or digits == "_":
            found.append(("r", key, None if digits in ("", "_") else int(digits)))
        else:
            found.append(("r", key, tuple(int(digit) for digit in digits)))
    return tuple(found)


def concurrent(*texts: str, outcomes: dict[int, EventType] | None = None) -> History:
    """All at the same time, each in a process of its own."""
    asked = [micros(text) for text in texts]
    events = [Event(type=EventType.INVOKE, process=at, f="txn", value=value) for at, value in enumerate(asked)]
    for at, value in enumerate(asked):
        events.append(Event(type=(outcomes or {}).get(at, OK), process=at, f="txn", value=value))
    return pair(events)


def in_turn(*steps: tuple[int, str]) -> History:
    """One after the other: (process, transaction)."""
    events = []
    for process, text in steps:
        events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=micros(text)))
        events.append(Event(type=OK, process=process, f="txn", value=micros(text)))
    return pair(events)


LISTS = {
    "G0": (concurrent("ax1ay1", "ax2ay2", "rx12ry21"), "read-uncommitted"),
    "G1a": (concurrent("ax1", "rx1", outcomes={0: FAIL}), "read-committed"),
    "G1b": (concurrent("ax1ax2", "rx1"), "read-committed"),
    "G1c": (concurrent("ax1ry1", "ax2ay1", "rx12ry1"), "read-committed"),
    "G-single": (concurrent("ax1ay1", "rx1ry"), "consistent-view"),
    "G2-item": (concurrent("rxay1", "ryax1"), "repeatable-read"),
    "lost-update": (concurrent("rxax1", "rxax2"), "cursor-stability"),
    "internal": (concurrent("ax1rx"), "read-atomic"),
    "future-read": (concurrent("rx1ax1"), "read-committed"),
    "dirty-update": (concurrent("ax1", "ax2", "rx12", outcomes={0: FAIL}), "read-committed"),
    "incompatible-order": (concurrent("ax1", "ax2", "rx12", "rx21"), "read-committed"),
    "duplicate-elements": (concurrent("ax1", "rx11"), "read-uncommitted"),
    "cyclic-versions": (concurrent("ax1ax2", "rx21"), "read-uncommitted"),
    "thin-air-read": (concurrent("ax1", "rx12"), "read-uncommitted"),
}


@pytest.mark.parametrize("anomaly", sorted(LISTS))
def test_lists_show_the_anomaly_and_what_it_rules_out(anomaly: str) -> None:
    history, weakest = LISTS[anomaly]
    verdict = check_transactions(history)
    assert verdict.status is Status.ILLEGAL
    assert anomaly in verdict.anomalies
    assert weakest in (*verdict.not_, *verdict.also_not)
    assert weakest in boundary([anomaly])[0]


def test_alternating_antidependencies_break_snapshot_isolation_but_not_read_atomic() -> None:
    """T1 -rw-> T2 -wr-> T3 -rw-> T4 -wr-> T1: no two rw in a row, no cycle with just one."""
    history = concurrent("rxrz1", "ax1ay1", "ry1rz", "az1")
    verdict = check_transactions(history, "list-append", "snapshot-isolation")
    assert verdict.anomalies == ("G-nonadjacent",)
    assert "snapshot-isolation" in verdict.not_
    assert check_transactions(history, "list-append", "read-atomic")


def test_write_skew_is_snapshot_isolated_and_not_serializable() -> None:
    history = concurrent("rxryax1", "rxryay1")
    assert check_transactions(history, model="snapshot-isolation")
    verdict = check_transactions(history, model="serializable")
    assert verdict.status is Status.ILLEGAL
    assert verdict.anomalies == ("G2-item",)
    assert verdict.not_ == ("repeatable-read",)


def test_unread_appends_to_one_key_forbid_write_skew_under_snapshot_isolation() -> None:
    """Both append to z: one must commit before the other starts, whoever it is, and each read too little for that."""
    history = concurrent("rxryax1az1", "rxryay1az2")
    verdict = check_transactions(history, model="snapshot-isolation")
    assert verdict.status is Status.ILLEGAL
    assert verdict.anomalies[0] == "not-snapshot-isolated"
    assert set(verdict.views[0].transactions) == {0, 1}


def test_stale_read_breaks_only_the_strong_models() -> None:
    history = in_turn((0, "ax1"), (1, "rx"))
    verdict = check_transactions(history)
    assert verdict.anomalies == ("G-single-realtime",)
    assert verdict.not_ == ("strong-snapshot-isolation",)
    assert verdict.also_not == ("strict-serializable",)
    for model in ("serializable", "strong-session-serializable", "causal"):
        assert check_transactions(history, model=model)


def test_missing_ones_own_write_breaks_the_session_models() -> None:
    history = in_turn((0, "ax1"), (0, "rx"))
    verdict = check_transactions(history, model="strong-session-serializable")
    assert "G-single-process" in verdict.anomalies
    assert check_transactions(history, model="serializable")
    assert not check_transactions(history, model="causal")


def test_a_cycle_of_writes_and_real_time() -> None:
    history = in_turn((0, "ax2"), (1, "ax1"), (2, "rx12"))
    verdict = check_transactions(history)
    assert verdict.anomalies == ("G0-realtime",)
    assert verdict.not_ == ("strong-read-uncommitted",)


def test_a_crashed_transaction_counts_when_seen_and_its_reads_never() -> None:
    crashed = {1: INFO}
    assert check_transactions(concurrent("ax1ay1", "ax2ry", "rx12ry1", outcomes=crashed))
    # Seen as it was, it happened: it overwrote what it had not seen.
    half_seen = concurrent("rx1", "ax1ay1", "ry", outcomes=crashed)
    assert check_transactions(half_seen)
    both = concurrent("rx1ry", "ax1ay1", outcomes=crashed)
    assert "fractured-read" in check_transactions(both, model="read-atomic").anomalies


def test_a_crashed_process_may_take_effect_after_its_next_transaction() -> None:
    events = [
        Event(type=EventType.INVOKE, process=0, f="txn", value=micros("ax1")),
        Event(type=INFO, process=0, f="txn", value=micros("ax1")),
        Event(type=EventType.INVOKE, process=0, f="txn", value=micros("rx")),
        Event(type=OK, process=0, f="txn", value=micros("rx")),
        Event(type=EventType.INVOKE, process=0, f="txn", value=micros("rx1")),
        Event(type=OK, process=0, f="txn", value=micros("rx1")),
    ]
    assert check_transactions(pair(events))


def test_elements_appended_twice_leave_the_verdict_open() -> None:
    verdict = check_transactions(concurrent("ax1", "ax1", "rx11"))
    assert verdict.status is Status.UNKNOWN
    assert "more than once" in verdict.reason
    # What other keys show still counts.
    assert not check_transactions(concurrent("ax1", "ax1", "ry1"))


def test_time_running_out_is_said() -> None:
    history = concurrent("rxryax1", "rxryay1")
    assert check_transactions(history, expired=lambda: True).status is Status.UNKNOWN
    ticks = iter(range(100))
    late = check_transactions(history, clock=lambda: float(next(ticks)), seconds_max=0.5)
    assert late.status is Status.UNKNOWN
    assert "out of time" in late.reason


def test_without_invocations_real_time_stays_open() -> None:
    events = [Event(type=OK, process=at, f="txn", value=micros(text)) for at, text in enumerate(("rx1", "ax1"))]
    verdict = check_transactions(pair(events))
    assert verdict.status is Status.UNKNOWN
    assert "invoked" in verdict.reason
    assert check_transactions(pair(events), model="strong-session-serializable")


def test_without_real_time_what_is_left_of_a_strong_model_is_still_decided() -> None:
    """Registers whose sessions contradict each other, in a list of completions."""
    texts = ((0, "wx1"), (0, "ry_"), (1, "wy1"), (1, "rx_"))
    events = [Event(type=OK, process=process, f="txn", value=micros(text + "_")) for process, text in texts]
    assert register(pair(events)).status is Status.ILLEGAL
    assert register(pair(events[:3])).status is Status.UNKNOWN
    assert register(pair(events), "serializable")


def test_the_verdict_tells_the_cycle() -> None:
    verdict = check_transactions(concurrent("rxay1", "ryax1"))
    text = verdict.text()
    assert "T1 < T2, because T1 observed the initial (nil) state of x, which T2 changed by appending 1." in text
    assert text.count("a contradiction!") == 1
    assert len(text.splitlines()) <= 20
    assert verdict.counterexample is not None
    assert set(verdict.counterexample.involved) == {0, 1}
    assert any("However" in line for line in verdict.counterexample.cycle)


@pytest.mark.parametrize("anomaly", sorted(LISTS))
def test_the_picture_is_well_formed(anomaly: str) -> None:
    verdict = check_transactions(LISTS[anomaly][0])
    for at in range(len(verdict.views)):
        root = ElementTree.fromstring(verdict.svg(at))
        boxes = root.findall(".//{http://www.w3.org/2000/svg}rect")
        assert len(boxes) == len(verdict.views[at].transactions)
        arrows = root.findall(".//{http://www.w3.org/2000/svg}g[@class]")
        assert len(arrows) == len(verdict.views[at].steps)
    assert verdict.svg(99) == ""


def test_braces_in_keys_and_values_survive_the_sentences() -> None:
    events = [
        Event(type=EventType.INVOKE, process=0, f="txn", value=(("append", "{0}", "<{1}>"), ("r", "{y}", ()))),
        Event(type=EventType.INVOKE, process=1, f="txn", value=(("append", "{y}", "&"), ("r", "{0}", ()))),
        Event(type=OK, process=0, f="txn", value=(("append", "{0}", "<{1}>"), ("r", "{y}", ()))),
        Event(type=OK, process=1, f="txn", value=(("append", "{y}", "&"), ("r", "{0}", ()))),
    ]
    verdict = check_transactions(pair(events))
    assert "{y}" in verdict.text()
    assert ElementTree.fromstring(verdict.svg()) is not None


def test_wrong_questions_are_refused() -> None:
    history = concurrent("ax1")
    for wrong in (
        {"model": "linearisable"},
        {"model": "cursor-stability"},
        {"workload": "queue"},
    ):
        with pytest.raises(UsageError):
            check_transactions(history, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no transaction"):
        check_transactions(pair([Event(type=OK, process=0, f="read", value=3)]))
    with pytest.raises(UsageError, match="both appends and writes"):
        check_transactions(pair([Event(type=OK, process=0, f="txn", value=(("w", "x", 1), ("append", "x", 2)))]))
    with pytest.raises(UsageError, match="return lists"):
        check_transactions(pair([Event(type=OK, process=0, f="txn", value=(("r", "x", 1),))]), "list-append")


def register(history: History, model: str = "strict-serializable", **assume: bool) -> TransactionVerdict:
    return check_transactions(history, "rw-register", model, assume=RegisterAssumptions(**assume))


REGISTERS = {
    "G1a": concurrent("wx1", "wy2rx1", outcomes={0: FAIL}),
    "G1b": concurrent("wx1wx2", "wy2rx1"),
    "G1c": concurrent("wx1ry2", "wy2rx1"),
    "G-single": concurrent("wx1wy1", "rx1ry_"),
    "G2-item": concurrent("rx_wy1", "ry_wx1"),
    "lost-update": concurrent("rx_wx1", "rx_wx2"),
    "internal": concurrent("wx1rx_"),
    "non-repeatable-read": concurrent("wx1", "rx_rx1"),
    "future-read": concurrent("rx1wx1"),
    "thin-air-read": concurrent("wy1rx1"),
}


@pytest.mark.parametrize("anomaly", sorted(REGISTERS))
def test_registers_show_the_anomaly(anomaly: str) -> None:
    verdict = register(REGISTERS[anomaly])
    assert verdict.status is Status.ILLEGAL
    assert anomaly in verdict.anomalies


def test_what_was_written_can_be_replaced_in_any_order_unless_more_is_assumed() -> None:
    """T1 writes x=1 y=2, T2 writes x=2 y=1, and later both x=2 and y=2 are read: with ordered keys that is a G0."""
    history = in_turn((0, "wx1wy2"), (1, "wx2wy1"), (0, "rx2wz1"), (1, "ry2wz2"))
    assert register(history, "read-committed")
    verdict = register(history, "read-uncommitted", sequential_keys=True)
    assert verdict.anomalies[0] == "G0"
    assert "came later in the version order" in verdict.text()


def test_versions_in_a_circle_under_linearizable_keys() -> None:
    history = in_turn((0, "wx1"), (1, "wx2"), (2, "rx1wy1"), (2, "rx2wy2"), (0, "rx1wy3"))
    assert "cyclic-versions" in register(history, linearizable_keys=True).anomalies


def test_serializability_without_a_cycle_of_known_edges_is_refuted_by_exhaustion() -> None:
    """Both orders of the two writes of x contradict what was read; no single known edge says so."""
    history = concurrent("wx1wy1", "wx2wy2", "rx1ry2wz1")
    verdict = register(history, "serializable")
    assert verdict.status is Status.ILLEGAL
    assert set(verdict.views[0].transactions) >= {0, 1, 2}
    assert check_transactions(history, "rw-register", "read-committed")


def test_awdit_files_are_judged_with_sessions() -> None:
    stale_session = "w x 1\n---\nr x 2\n---\nr x 1\n===\nw x 2\n"
    history = read_history(stale_session, format="awdit")
    assert check_transactions(history, model="read-committed")
    assert check_transactions(history, model="read-atomic")
    assert not check_transactions(history, model="causal")
    verdict = check_transactions(history, model="serializable")
    assert verdict.status is Status.ILLEGAL
    assert check_transactions(history, model="serializable", definition="adya")


def test_axiomatic_read_committed_wants_reads_that_move_forward() -> None:
    history = concurrent("wx1", "rx1wx2wy2", "ry2rx1wz1")
    verdict = check_transactions(history, model="read-committed", definition="axiomatic")
    assert verdict.anomalies == ("non-monotonic-read",)
    assert check_transactions(history, model="read-committed", definition="adya")
    assert "though" in verdict.text()


def test_the_table_is_closed() -> None:
    for level in LEVELS.values():
        assert set(level.implies) <= set(LEVELS)
        assert set(level.forbids) <= set(ANOMALIES)
        assert ruled_out(level.forbids[:1]) >= {level.name}
        assert level.name in implied_levels(level.name)
    assert implied_levels("strict-serializable") == set(LEVELS)
    assert level_named("PL-3").name == "serializable"
    assert set(TRANSACTION_MODELS) < set(LEVELS)
    assert boundary(()) == ((), ())
    assert boundary(("G0",))[0] == ("read-uncommitted",)


def test_an_empty_history_satisfies_everything() -> None:
    for model in TRANSACTION_MODELS:
        assert check_transactions(pair([]), model=model)
