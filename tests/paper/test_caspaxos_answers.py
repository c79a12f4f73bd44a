"""CASPaxos §2.1: what the answers of each phase amount to, also those that make no sense and those that come late."""

from collections.abc import Callable

import msgspec
import pytest
from caspaxos import Table, ballot, state

from troth.core.register import changes
from troth.core.register.messages import (
    MARKS_KEPT,
    ZERO,
    Accept,
    Accepted,
    Ballot,
    Collected,
    ConfigId,
    Conflict,
    Full,
    Holding,
    Mark,
    Prepare,
    Promise,
    ReplyMessage,
    State,
)
from troth.core.register.proposer import Proposer
from troth.core.register.round import OVERTAKE_TRIES_MAX, Phase, Round
from troth.core.register.states import Change, Write
from troth.core.register.task import Send
from troth.errors import AlreadyDecided, OutcomeUnknown, QuotaExceeded
from troth.ids import NodeId

KEY = b"k"
NOTHING = Promise(ZERO, None, ZERO)


def answer(task: Round, *replies: ReplyMessage) -> list[Send]:
    """Hand *replies* to what *task* has just sent, to the first acceptors; the sends."""
    sends = task.take()
    for send, reply in zip(sends, replies, strict=False):
        task.on_reply(send, reply)
    return sends


def go_on(task: Round) -> None:
    """Its pause, if it makes one, is over."""
    if task.pause:
        task.resume()


def lose(task: Round) -> list[Send]:
    """Everything that *task* has just sent may have arrived, and nothing comes back."""
    sends = task.take()
    for send in sends:
        task.on_lost(send)
    return sends


def ballot_of(sends: list[Send]) -> Ballot:
    (only,) = {send.request.ballot for send in sends}  # type: ignore[union-attr]
    return only


def accepted_state(sends: list[Send]) -> State:
    (request, *_) = [send.request for send in sends]
    assert isinstance(request, Accept)
    return request.state


# ---- answers that fit no question ----


def preparing() -> Round:
    return Table().proposer(1).change(KEY, changes.put(b"v"))


def accepting() -> Round:
    task = preparing()
    answer(task, NOTHING, NOTHING)
    return task


def reading() -> Round:
    return Table().proposer(1).read(KEY)


@pytest.mark.parametrize(
    ("begun", "phase", "reply"),
    [
        (preparing, Phase.PREPARING, Accepted()),
        (preparing, Phase.PREPARING, Holding(ZERO, None)),
        (accepting, Phase.ACCEPTING, NOTHING),
        (accepting, Phase.ACCEPTING, Collected(True)),
        (reading, Phase.READING, Accepted()),
        (reading, Phase.READING, NOTHING),
    ],
)
def test_an_answer_to_another_question_is_as_good_as_none(
    begun: Callable[[], Round], phase: Phase, reply: ReplyMessage
) -> None:
    task = begun()
    assert task.phase is phase
    answer(task, reply, reply, reply)
    assert task.outcome is None
    assert task.pause or (task.phase is Phase.PREPARING and task.has_sends), "another attempt follows"


# ---- refusals ----


def test_the_first_refusal_is_followed_by_another_attempt_at_once() -> None:
    task = preparing()
    refused = answer(task, *[Conflict(ballot(9, 2))] * 2)
    assert not task.pause
    again = task.take()
    assert all(isinstance(send.request, Prepare) and task.is_current(send) for send in again)
    assert ballot_of(again) > ballot(9, 2) > ballot_of(refused)


def test_the_second_refusal_is_followed_by_a_pause() -> None:
    """Two proposers that come back at once each time would refuse each other for ever."""
    task = preparing()
    for again in range(1, 4):
        refused = Conflict(ballot(50 * again, client=50))
        answer(task, refused, refused)
        assert (task.pause > 0) == (again > 1)
        go_on(task)


def test_a_refused_ballot_overtakes_further_each_time_up_to_a_bound() -> None:
    task = preparing()
    ahead: list[int] = []
    for _ in range(OVERTAKE_TRIES_MAX + 4):
        last = ballot_of(answer(task, *[Conflict(ZERO)] * 2))
        go_on(task)
        ahead.append(task._ballot.round - last.round)
    assert ahead == [4 ** min(tries, OVERTAKE_TRIES_MAX) for tries in range(1, OVERTAKE_TRIES_MAX + 5)]


def test_who_was_not_refused_has_nobody_to_overtake_and_waits_longer_each_time() -> None:
    task = preparing()
    for tries in range(1, 5):
        last = ballot_of(lose(task))
        assert task.pause == tries
        task.resume()
        assert task._ballot.round == last.round + 1


def test_a_read_that_finds_no_quorum_goes_on_at_once() -> None:
    task = reading()
    lose(task)
    assert not task.pause
    assert task.phase is Phase.PREPARING


def test_an_acceptor_without_room_is_why_when_no_quorum_has_answered() -> None:
    task = preparing()
    answer(task, Full("its quota is used up"))
    task.give_up()
    assert task.outcome is not None
    assert isinstance(task.outcome.error, QuotaExceeded)
    assert str(task.outcome.error) == "its quota is used up"


# ---- rivals ----


def after_refusals(near: Proposer, *refusals: Ballot, found: Promise) -> None:
    """*near* is refused with *refusals*, comes back, and finds what the promises say."""
    task = near.change(KEY, changes.put(b"near"))
    answer(task, *map(Conflict, refusals))
    go_on(task)
    answer(task, found, found)
    assert task.phase is Phase.ACCEPTING


def holding(accepted: Ballot, *marks: Mark) -> Promise:
    return Promise(accepted, State(b"held", 9, ballot(1, 8), ZERO, marks), ZERO)


@pytest.mark.parametrize(
    ("found", "courtesy"),
    [
        # Its change is there, whoever has accepted something since.
        (holding(ballot(7, 3), Mark(ballot(5, 2), 1), Mark(ballot(7, 3), 2)), 3),
        (holding(ballot(7, 3), Mark(ballot(6, 2), 1), Mark(ballot(7, 3), 2)), 3),
        # What changed nothing leaves no mark.
        (holding(ballot(6, 2), Mark(ballot(4, 3), 1)), 3),
        # It had changed something before it refused us, and nothing since.
        (holding(ballot(7, 3), Mark(ballot(4, 2), 1), Mark(ballot(7, 3), 2)), 6),
        (NOTHING, 6),
    ],
)
def test_a_rival_that_got_its_way_had_time_enough(found: Promise, courtesy: int) -> None:
    near = Table().proposer(1)
    near.met(2, served=False)
    near.met(2, served=False)
    after_refusals(near, ballot(5, 2), ballot(5, 2), found=found)
    assert near.courtesy(2) == courtesy


def test_of_two_rivals_the_one_with_the_higher_ballot_was_in_the_way() -> None:
    near = Table().proposer(1)
    after_refusals(near, ballot(9, 2), ballot(5, 3), found=NOTHING)
    assert (near.courtesy(2), near.courtesy(3)) == (2, 0)


def test_a_rival_is_met_once() -> None:
    near = Table().proposer(1)
    task = near.change(KEY, changes.put(b"near"))
    answer(task, *[Conflict(ballot(5, 2))] * 2)
    answer(task, NOTHING, NOTHING)
    assert near.courtesy(2) == 2
    lose(task)
    task.resume()
    answer(task, NOTHING, NOTHING)
    assert near.courtesy(2) == 2


def test_nobody_is_a_rival_of_itself_and_where_nobody_refused_there_is_none() -> None:
    near = Table().proposer(1)
    after_refusals(near, ballot(5, 1), ballot(5, 1), found=NOTHING)
    answer(near.change(b"other", changes.put(b"v")), *[holding(ballot(7, 3))] * 2)
    assert (near.courtesy(1), near.courtesy(0)) == (0, 0)


# ---- reads ----


def test_one_state_at_two_ballots_is_not_chosen_by_being_seen_twice() -> None:
    """What lies between the two ballots may be what the next proposer finds."""
    table = Table()
    config, same, other = table.config.id, state(b"same", ballot(1, 7)), state(b"other", ballot(2, 8))
    table.ask(1, Accept(config, KEY, ballot(1, 7), same))
    table.ask(2, Accept(config, KEY, ballot(3, 9), same))
    table.ask(3, Accept(config, KEY, ballot(2, 8), other))
    task = table.proposer(1).read(KEY)
    table.step(task, reach=(1, 2), answer=(1, 2))
    assert task.outcome is None and task.phase is Phase.PREPARING
    assert table.run(task).value == b"same"
    assert table.run(table.proposer(2).read(KEY), up=(1, 3)).value == b"same"


def test_a_read_has_changed_nothing_and_tells_version_and_decision() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.propose(b"v")))
    outcome = table.run(table.proposer(2).read(KEY))
    assert (outcome.value, outcome.version, outcome.changed, outcome.decided) == (b"v", 1, False, True)
    table.ask(1, Accept(table.config.id, b"none", ballot(1), State(None, 0, ballot(1), ZERO)))
    outcome = table.run(table.proposer(2).read(b"none"))
    assert (outcome.value, outcome.version, outcome.tombstone) == (None, 0, True)


# ---- several attempts of one change ----


def plus(held: bytes | None) -> bytes:
    return (held or b"") + b"+"


def test_an_earlier_attempt_that_was_applied_is_found_behind_a_later_one() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.apply(plus))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    for send in table.step(task, reach=(3,)):
        task.on_lost(send)
    task.resume()
    for send in table.step(task, reach=(1, 2), answer=(1, 2)):
        assert isinstance(send.request, Prepare)
    lose(task)
    assert len(task.attempts) == 2
    outcome = table.run(task, up=(1, 3))
    assert (outcome.value, outcome.version, outcome.changed) == (b"+", 1, True)
    assert table.run(table.proposer(2).read(KEY)).value == b"+"


def test_a_change_whose_mark_was_the_last_to_go_is_in_doubt() -> None:
    table = Table()
    table.run(table.proposer(40).change(KEY, changes.put(b"before")))
    task = table.proposer(1).change(KEY, changes.apply(plus))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task, reach=(1, 2, 3))
    for client in range(2, 2 + MARKS_KEPT):
        table.run(table.proposer(client).change(KEY, changes.put(b"other")))
    for send in sends:
        task.on_lost(send)
    assert isinstance(table.run(task).error, OutcomeUnknown)


def test_one_attempt_that_may_yet_be_refused_is_waited_for_whatever_the_others_are() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"mine"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    *unsent, slow = task.take()
    for send in unsent:
        task.on_lost(send, sent=False)
    task.resume()
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    lose(task)
    for client in range(2, 30):
        table.run(table.proposer(client).change(KEY, changes.put(b"other")))
    for _ in ("refused", "promised"):
        go_on(task)
        table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    assert task.phase is Phase.PREPARING and not task.pause
    assert task.outcome is None
    reply = table.hand(slow)
    assert isinstance(reply, Conflict)
    task.on_reply(slow, reply)
    assert task.outcome is not None and isinstance(task.outcome.error, OutcomeUnknown)  # type: ignore[unreachable]


def test_where_nothing_is_held_a_high_fence_hides_what_became_of_a_change() -> None:
    task = accepting()
    for send in task.take()[:2]:
        task.on_lost(send)
    task.resume()
    collected = Promise(ZERO, None, ballot(99))
    answer(task, collected, collected)
    assert task.outcome is None
    assert not task.has_sends, "the third acceptor may still say that it has refused"


def test_nothing_is_accepted_as_what_it_is() -> None:
    """No change was made, so it is version 0; it is born with its ballot, above the fence that was met."""
    wanted = iter((b"v", None))
    task = Table().proposer(1).change(KEY, changes.apply(lambda held: next(wanted)))
    answer(task, NOTHING, NOTHING)
    lose(task)
    task.resume()
    prepares = answer(task, *[Promise(ZERO, None, ballot(0, 5))] * 2)
    assert accepted_state(task.take()) == State(None, 0, ballot_of(prepares), ballot(0, 5))


@pytest.mark.parametrize("change", [changes.put(b"v"), changes.cas(b"v", b"v")])
def test_what_is_decided_stays_so_though_the_same_is_written(change: Change) -> None:
    table = Table()
    assert table.run(table.proposer(1).change(KEY, changes.propose(b"v"))).decided
    assert isinstance(table.run(table.proposer(2).change(KEY, change)).error, AlreadyDecided)
    assert table.run(table.proposer(3).read(KEY)).decided
    assert isinstance(table.run(table.proposer(3).change(KEY, changes.put(b"w"))).error, AlreadyDecided)


def test_what_is_decided_is_not_decided_anew() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.propose(b"one")))
    outcome = table.run(table.proposer(2).change(KEY, lambda held: Write(value=b"two", decide=True)))
    assert isinstance(outcome.error, AlreadyDecided)
    assert table.run(table.proposer(3).read(KEY)).value == b"one"
    assert table.acceptors[NodeId(1)].slots[KEY].state is not None


def test_a_promise_that_was_made_in_an_older_configuration_is_not_kept_for_a_newer_one() -> None:
    """It came with the accept, from the acceptors of then; the client has heard meanwhile that there are others."""
    table = Table()
    proposer = table.proposer(1)
    task = proposer.change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    proposer.adopt(msgspec.structs.replace(table.config, id=ConfigId(table.config.id.cluster, 2)))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    assert task.outcome is not None and task.outcome.changed
    assert proposer.take_prepared(KEY) is None
