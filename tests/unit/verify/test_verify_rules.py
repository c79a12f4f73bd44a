"""Rules of the weaker models that random histories seldom lean on, one small history each."""

import pytest
from typing_extensions import override

from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Reading, Value
from troth.verify.models import ILLEGAL, Call, Lock
from troth.verify.verdict import Status

INVOKE, OK, INFO = EventType.INVOKE, EventType.OK, EventType.INFO
Step = tuple[int, str, str, Value, Value]
FAIL = object()
WEAK = ("causal", "causal+", "causal-weak", "pram", "session-guarantees")


def one_by_one(*steps: Step) -> History:
    """(process, f, key, argument, result), none overlapping; a result of FAIL is a failure."""
    events = []
    for process, f, key, argument, result in steps:
        kind = EventType.FAIL if result is FAIL else EventType.OK
        told = None if result is FAIL else result
        events.append(Event(type=EventType.INVOKE, process=process, f=f, key=key, value=argument))
        events.append(Event(type=kind, process=process, f=f, key=key, value=told))
    return pair(events)


def w(process: int, key: str, value: Value) -> Step:
    return (process, "write", key, value, value)


def r(process: int, key: str, value: Value) -> Step:
    return (process, "read", key, None, value)


def test_an_older_read_does_not_take_back_what_was_shown() -> None:
    """Reading x showed all that was written before it, whatever is read of y then."""
    written = (w(0, "y", 1), w(0, "z", 2), w(0, "x", 3))
    assert not check(one_by_one(*written, r(1, "x", 3), r(1, "y", 1), r(1, "z", None)), "monotonic-writes")
    assert check(one_by_one(*written, r(1, "y", 1), r(1, "z", None), r(1, "x", 3)), "monotonic-writes")


def test_what_a_writer_had_seen_last_is_what_its_readers_must_see() -> None:
    written = (w(0, "x", 1), w(0, "x", 2), r(1, "x", 1), r(1, "x", 2), w(1, "y", 3), r(2, "y", 3))
    assert not check(one_by_one(*written, r(2, "x", 1)), "writes-follow-reads")
    assert check(one_by_one(*written, r(2, "x", 2)), "writes-follow-reads")


@pytest.mark.parametrize("backwards", [False, True])
def test_causes_carry_through_any_number_of_sessions(backwards: bool) -> None:
    """Each but the first writes after it has read from the one before; the last misses what the first wrote."""
    order = [3, 2, 1, 0] if backwards else [0, 1, 2, 3]
    looks = [r(at, "nothing", None) for at in range(4)]
    chain = [
        w(order[0], "a", 1),
        *(r(order[1], "a", 1), w(order[1], "b", 2)),
        *(r(order[2], "b", 2), w(order[2], "c", 3)),
        r(order[3], "c", 3),
    ]
    lost, seen = (one_by_one(*looks, *chain, r(order[3], "a", value)) for value in (None, 1))
    for model in ("causal", "causal+", "causal-weak"):
        assert not check(lost, model) and check(seen, model), model
    assert check(lost, "pram")


@pytest.mark.parametrize(
    "step", [(0, "write", "x", 1, FAIL), (0, "cas", "x", (None, 1), FAIL), (0, "cas", "x", (7, 1), False)]
)
def test_what_did_not_happen_cannot_be_read(step: Step) -> None:
    for model in WEAK:
        verdict = check(one_by_one(step, r(1, "x", 1)), model)
        assert verdict.anomalies == ("thin-air-read",), model
        assert check(one_by_one(step, r(1, "x", None)), model), model


def test_a_cas_back_to_an_old_value_makes_it_the_newest() -> None:
    steps = (w(0, "x", 1), w(0, "x", 2), (0, "cas", "x", (2, 1), True), (0, "cas", "x", (1, 3), True))
    assert check(one_by_one(*steps), "bounded", "kv", versions_behind_max=2)
    wrong = (*steps[:3], (0, "cas", "x", (2, 3), True))
    assert not check(one_by_one(*wrong), "bounded", "kv", versions_behind_max=2)


def test_what_was_removed_is_not_lost() -> None:
    changed = ((0, "add", "s", 1, None), (0, "add", "s", 2, None), (0, "remove", "s", 1, None))
    assert check(one_by_one(*changed, (1, "read", "s", None, (2,))), "eventual", "set")
    lost = check(one_by_one(*changed, (1, "read", "s", None, ())), "eventual", "set")
    assert lost.status is Status.ILLEGAL and "it lacks 2" in lost.reason


@pytest.mark.parametrize("seen", [-3, 3])
def test_a_crashed_decrement_may_be_what_the_last_reads_show(seen: int) -> None:
    events = [
        Event(type=INVOKE, process=0, f="decrement", value=3),
        Event(type=INFO, process=0, f="decrement"),
        Event(type=INVOKE, process=1, f="read"),
        Event(type=OK, process=1, f="read", value=seen),
    ]
    assert bool(check(pair(events), "eventual", "counter")) is (seen < 0)


def test_the_quiet_time_counts_from_the_return_of_the_last_update() -> None:
    """It took ten milliseconds; a read at twelve shows nothing yet if the store has five to settle."""
    for asked, status in ((12, Status.UNKNOWN), (15, Status.ILLEGAL)):
        events = [
            Event(type=INVOKE, process=0, f="write", value=1, time=0),
            Event(type=OK, process=0, f="write", value=1, time=10_000_000),
            Event(type=INVOKE, process=1, f="read", time=asked * 1_000_000),
            Event(type=OK, process=1, f="read", value=None, time=20_000_000),
        ]
        assert check(pair(events), "eventual", "register", quiet_ns=5_000_000).status is status


def lease(process: int, token: Value, at: int, *, kind: EventType = OK) -> list[Event]:
    return [
        Event(type=INVOKE, process=process, f="acquire", key="l", time=at),
        Event(type=kind, process=process, f="acquire", key="l", value=token, time=at + 1),
    ]


@pytest.mark.parametrize(("begun", "legal"), [(98, False), (99, True)])
def test_a_lease_is_over_when_its_time_has_passed(begun: int, legal: bool) -> None:
    """A hundred from 0; the other is told at 99 or at 100 that it holds the lock."""
    assert bool(check(pair([*lease(0, (1, 100), 0), *lease(1, (2, 100), begun)]), "lock-safety")) is legal


def test_tokens_of_what_crashed_were_given_to_nobody() -> None:
    held = [*lease(0, 7, 0, kind=INFO), *lease(1, 3, 2)]
    assert check(pair(held), "lock-safety")
    assert not check(pair([*lease(0, (7, 1), 0), *lease(1, 3, 2)]), "lock-safety")


def test_a_writer_is_fenced_off_by_the_largest_token_not_by_the_last() -> None:
    def written(process: int, token: int) -> tuple[Event, Event]:
        asked = Event(type=INVOKE, process=process, f="write", key="l", value=(token, "v"))
        return asked, Event(type=OK, process=process, f="write", key="l", value=(token, "v"))

    # The two that overlap may have been accepted in either order.
    (slow, slow_done), newest = written(0, 3), written(1, 5)
    overlapping = [slow, *newest, slow_done]
    assert check(pair(overlapping), "lock-safety")
    assert check(pair([*overlapping, *written(2, 4)]), "lock-safety").anomalies == ("stale-write",)
    assert check(pair([*overlapping, *written(2, 5)]), "lock-safety")


def test_an_older_answer_does_not_make_the_newest_revision_unknown() -> None:
    """The put of revision 3 is answered after that of revision 5; whatever is asked for then comes after both."""
    events = [
        Event(type=INVOKE, process=0, f="put", key="a", value="slow"),
        Event(type=INVOKE, process=1, f="put", key="b", value="new"),
        Event(type=OK, process=1, f="put", key="b", value="new", revision=5),
        Event(type=OK, process=0, f="put", key="a", value="slow", revision=3),
        Event(type=INFO, process="watch/1", f="watch", value=("a", "", 1, 3, ((3, "a", "slow"),))),
    ]
    for revision, legal in ((4, False), (6, True)):
        last = [
            Event(type=INVOKE, process=2, f="put", key="c", value="late"),
            Event(type=OK, process=2, f="put", key="c", value="late", revision=revision),
        ]
        verdict = check(pair([*events, *last]), "watch")
        assert verdict.anomalies == (() if legal else ("revision-goes-back",))


def test_what_crashed_comes_after_what_its_process_did_before() -> None:
    """It may not explain an earlier read of its own process, but one of another."""
    for reader, legal in ((0, False), (1, True)):
        events = [
            Event(type=INVOKE, process=reader, f="read"),
            Event(type=OK, process=reader, f="read", value=1),
            Event(type=INVOKE, process=0, f="add", value=1),
            Event(type=INFO, process=0, f="add"),
        ]
        assert bool(check(pair(events), "sequential", "counter")) is legal


def test_what_crashed_need_not_have_happened() -> None:
    """Process 0 takes the lock after process 1 in the only order; then there is no room for process 2, which would have
    to be told a token."""
    events = [Event(type=INVOKE, process=2, f="acquire")]
    for process, f, token in ((0, "acquire", 2), (1, "acquire", 1), (1, "release", None)):
        events += [Event(type=INVOKE, process=process, f=f), Event(type=OK, process=process, f=f, value=token)]
    assert not check(pair(events), "linearizable", Strict())
    verdict = check(pair(events), "sequential", Strict())
    assert verdict and verdict.witness == (2, 3, 1)


class Strict(Lock):
    """A lock that nobody acquires without being told so."""

    @override
    def step(self, state: Value, call: Call) -> Value:
        return super().step(state, call) if call.known else ILLEGAL


def test_a_transaction_reads_what_it_wrote_itself() -> None:
    before = (0, "txn", "", None, (("w", "x", 1),))
    own = (("r", "x", 1), ("w", "x", 2), ("r", "x", 2))
    assert check(one_by_one(before, (1, "txn", "", None, own)), "linearizable", "multi-register")
    for wrong in ((("r", "x", 2), *own[1:]), (*own[:2], ("r", "x", 1))):
        assert not check(one_by_one(before, (1, "txn", "", None, wrong)), "linearizable", "multi-register")


@pytest.mark.parametrize(
    ("f", "element", "says", "legal"),
    [
        *(("add", 1, True, False), ("add", 1, False, True), ("add", 2, True, True), ("add", 2, False, False)),
        *(("remove", 1, True, True), ("remove", 1, False, False)),
        *(("remove", 2, True, False), ("remove", 2, False, True)),
    ],
)
def test_a_set_that_says_whether_it_changed_is_held_to_it(f: str, element: int, says: bool, legal: bool) -> None:
    """1 is in it, 2 is not."""
    steps = ((0, "add", "s", 1, True), (0, f, "s", element, says))
    assert bool(check(one_by_one(*steps), "linearizable", "set")) is legal


def test_a_cas_that_failed_for_another_reason_observed_nothing() -> None:
    """In a log in which a failed cas is an observation, one that timed out is none."""
    for error, legal in ((None, False), ("timed out", True)):
        events = [
            Event(type=INVOKE, process=0, f="cas", value=(None, 1)),
            Event(type=EventType.FAIL, process=0, f="cas", value=(None, 1), error=error),
        ]
        history = pair(events, reading=Reading(failed="observed"))
        for object in ("cas-register", "multi-register"):
            assert bool(check(history, "linearizable", object)) is legal, object


def test_the_later_of_two_tokens_is_blamed_and_writes_without_one_are_not() -> None:
    verdict = check(pair([*lease(0, (7, 1), 0), *lease(1, (3, 1), 2)]), "lock-safety")
    assert verdict.anomalies == ("token-order",)
    assert verdict.counterexample is not None and verdict.counterexample.operation == 1
    for value in ((), ("text", 1), "text", None):
        events = [Event(type=kind, process=0, f="write", key="l", value=value) for kind in (INVOKE, OK)]
        assert check(pair(events), "lock-safety"), value


def test_what_a_transaction_of_two_writes_is_shown_as() -> None:
    """Not as the compare-and-set that a pair would be."""
    writes = (("w", "a", "1"), ("w", "b", "2"))
    asked = [
        Event(type=INVOKE, process=0, f="txn", value=writes),
        Event(type=OK, process=0, f="txn", value=writes, revision=2),
    ]
    for shown, legal in (
        (((2, "a", "1"), (2, "b", "2")), True),
        (((2, "a", "1"),), False),
        (((2, "a", "2"),), False),
    ):
        told = Event(type=INFO, process="watch/1", f="watch", value=("a", "c", 1, 2, shown))
        assert bool(check(pair([*asked, told]), "watch")) is legal, shown


def test_a_read_of_nil_that_says_nothing_shows_no_convergence() -> None:
    events = list(one_by_one(w(0, "x", 1), r(1, "x", None)).events())
    for nil_read, status in (("value", Status.ILLEGAL), ("unknown", Status.UNKNOWN)):
        history = pair(events, reading=Reading(nil_read=nil_read))  # type: ignore[arg-type]
        assert check(history, "eventual", "register").status is status
