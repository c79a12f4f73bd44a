"""Rules on transactions that random histories seldom lean on, one small history each."""

import pytest
from msgspec import structs

from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Process, Value
from troth.verify.recorder import Recorder
from troth.verify.transactions import check_transactions, judging, snapshot
from troth.verify.transactions.levels import ruled_out
from troth.verify.transactions.scans import check_counter, check_long_fork, check_set
from troth.verify.verdict import Status

Micros = tuple[tuple[str, str, Value], ...]
INFO = EventType.INFO


def in_turn(*steps: tuple[Process, Micros]) -> History:
    """Transactions that are ok, one after the other."""
    events = []
    for process, micros in steps:
        events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=micros))
        events.append(Event(type=EventType.OK, process=process, f="txn", value=micros))
    return pair(events)


def at_once(*transactions: Micros) -> History:
    """Transactions that are ok and all overlap, each of a process of its own."""
    events = [
        Event(type=EventType.INVOKE, process=at, f="txn", value=each) for at, each in enumerate(transactions)
    ]
    events += [Event(type=EventType.OK, process=at, f="txn", value=each) for at, each in enumerate(transactions)]
    return pair(events)


@pytest.mark.parametrize("between", [0, 1, 8])
@pytest.mark.parametrize(
    ("workload", "write", "nothing"),
    [("list-append", ("append", "x", 1), ("r", "x", ())), ("rw-register", ("w", "x", 1), ("r", "x", None))],
)
def test_real_time_holds_however_many_completed_in_between(
    workload: str, write: tuple[str, str, Value], nothing: tuple[str, str, Value], between: int
) -> None:
    def others(after: int) -> list[tuple[Process, Micros]]:
        return [(after + at, ((write[0], f"other {after + at}", 1),)) for at in range(between)]

    stale = in_turn(*others(100), (0, (write,)), *others(200), (1, (nothing,)))
    # One that began before and ended after the write, too.
    slow = Event(type=EventType.INVOKE, process=50, f="txn", value=((write[0], "slow", 1),))
    events = list(stale.events())
    at = next(at for at, event in enumerate(events) if event.process == 0)
    events[at : at + 2] = [slow, *events[at : at + 2], structs.replace(slow, type=EventType.OK)]
    stale = pair(events)
    verdict = check_transactions(stale, workload)
    assert verdict.status is Status.ILLEGAL and verdict.anomalies == ("G-single-realtime",)
    assert check_transactions(stale, workload, "strong-session-serializable")


def test_what_a_reader_appended_itself_hides_nobody_who_appended_before_it() -> None:
    """It sees the first transaction in x, before what it appended to x itself, but not in y."""
    fractured = at_once(
        (("append", "x", 1), ("append", "y", 1)),
        (("append", "x", 2), ("r", "x", (1, 2)), ("r", "y", ())),
        (("r", "y", (1,)),),
    )
    verdict = check_transactions(fractured, "list-append", "read-atomic")
    assert verdict.status is Status.ILLEGAL and "fractured-read" in verdict.anomalies


def test_anomalies_rule_out_what_their_definitions_say() -> None:
    assert ruled_out(["lost-update"]) >= {"snapshot-isolation", "repeatable-read", "strong-snapshot-isolation"}
    assert not ruled_out(["lost-update"]) & {"read-committed", "read-atomic", "causal"}
    assert ruled_out(["G1c-process"]) >= {"causal", "strong-session-read-committed", "strong-read-committed"}
    assert not ruled_out(["G1c-process"]) & {"read-committed", "read-atomic", "serializable"}
    for kind, strong in (
        ("not-snapshot-isolated", "strong-snapshot-isolation"),
        ("not-serializable", "strict-serializable"),
    ):
        assert strong in ruled_out([kind]) & ruled_out([kind + "-process"]) & ruled_out([kind + "-realtime"])
        assert not ruled_out([kind + "-realtime"]) & {
            "snapshot-isolation",
            "serializable",
            "strong-session-serializable",
        }


def test_a_search_that_was_cut_short_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """x = 1 was overwritten before the read began: only a search sees that, in registers."""
    stale = in_turn((0, (("w", "x", 1),)), (1, (("w", "x", 2),)), (2, (("r", "x", 1),)))
    assert check_transactions(stale, "rw-register").status is Status.ILLEGAL
    for name in ("STEPS_FIRST", "_STEPS_MAX"):
        monkeypatch.setattr(judging, name, -1_000)
    verdict = check_transactions(stale, "rw-register")
    assert verdict.status is Status.UNKNOWN and "no execution that explains the reads was found" in verdict.reason


@pytest.mark.parametrize("bound", ["_MEMBERS_MAX", "_ATTEMPTS_MAX"])
def test_orders_of_unread_appends_that_were_not_all_tried_prove_nothing(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write skew, and both append to z: whichever is first, the other should have seen it."""
    skew = at_once(
        (("r", "x", ()), ("append", "y", 1), ("append", "z", 1)),
        (("r", "y", ()), ("append", "x", 2), ("append", "z", 2)),
        (("r", "x", (2,)), ("r", "y", (1,))),
    )
    assert check_transactions(skew, "list-append", "snapshot-isolation").status is Status.ILLEGAL
    monkeypatch.setattr(snapshot, bound, 0)
    verdict = check_transactions(skew, "list-append", "snapshot-isolation")
    assert verdict.status is Status.UNKNOWN and "stayed open" in verdict.reason


def test_a_way_that_stays_open_leaves_the_verdict_open() -> None:
    """One branch writes y = 1 as another does, which says nothing of y; the other overwrites what was read."""
    fork = ("either", (("w", "x", 1), ("w", "y", 1)), (("w", "x", 1), ("w", "x", 2)))
    events = [Event(type=EventType.INVOKE, process=0, f="txn", value=(fork,))]
    for process, micros in ((1, (("w", "y", 1),)), (2, (("r", "x", 1),))):
        events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=micros))
        events.append(Event(type=EventType.OK, process=process, f="txn", value=micros))
    assert check_transactions(pair(events), "rw-register").status is Status.UNKNOWN
    # With a y of its own it is the way that was taken.
    events[1:3] = []
    assert check_transactions(pair(events), "rw-register").status is Status.OK


def test_an_add_under_way_need_not_be_in_the_last_read() -> None:
    recorder = Recorder()
    recorder.invoke(0, "add", value=1)
    recorder.invoke(1, "read")
    recorder.ok(1, value=())
    recorder.ok(0)
    assert check_set(recorder.history())


def test_the_last_read_of_a_set_is_the_one_invoked_last() -> None:
    """An earlier one that took longer need not have seen what was added meanwhile; that one must have."""
    recorder = Recorder()
    recorder.invoke(0, "read")
    recorder.invoke(1, "add", value=1)
    recorder.ok(1)
    recorder.invoke(2, "read")
    recorder.ok(2, value=())
    recorder.ok(0, value=(1,))
    verdict = check_set(recorder.history())
    assert verdict.anomalies == ("lost",)


def test_a_decrement_that_crashed_may_have_been_read() -> None:
    for kind, seen in (("decrement", -3), ("increment", 3)):
        recorder = Recorder()
        recorder.invoke(0, kind, value=3)
        recorder.info(0)
        recorder.invoke(1, "read")
        recorder.ok(1, value=seen)
        assert check_counter(recorder.history()), kind
        recorder.invoke(2, "read")
        recorder.ok(2, value=-seen)
        assert not check_counter(recorder.history()), kind


def test_reads_that_see_more_may_fork_from_those_that_see_less() -> None:
    writes = [(at, (("w", key, 1),)) for at, key in enumerate("xyz")]
    first = (("r", "x", 1), ("r", "y", None), ("r", "z", None))
    forked = (("r", "x", None), ("r", "y", 1), ("r", "z", 1))
    beyond = (("r", "x", 1), ("r", "y", 1), ("r", "z", None))
    assert check_long_fork(in_turn(*writes, (8, first), (9, forked))).anomalies == ("long-fork",)
    assert check_long_fork(in_turn(*writes, (8, first), (9, beyond)))


def test_real_time_holds_past_what_is_on_another_cycle() -> None:
    """The first transaction completes, then one that overlapped it, which the last misses; and the first has read what
    the last appends."""
    slow, early, last = (("append", "y", 1),), (("r", "z", (5,)),), (("append", "z", 5), ("r", "y", ()))
    events = [
        Event(type=kind, process=process, f="txn", value=micros)
        for kind, process, micros in (
            (EventType.INVOKE, 0, slow),
            (EventType.INVOKE, 1, early),
            (EventType.OK, 1, early),
            (EventType.OK, 0, slow),
            (EventType.INVOKE, 2, last),
            (EventType.OK, 2, last),
        )
    ]
    verdict = check_transactions(pair(events), "list-append", "strong-read-committed")
    assert verdict.status is Status.ILLEGAL and {*verdict.anomalies} == {"G1c-realtime", "G-single-realtime"}
