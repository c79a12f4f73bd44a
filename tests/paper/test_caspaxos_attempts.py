"""What a change knows of its own accepts: an attempt that nobody holds is no reason for doubt, nor for waiting."""

import msgspec
import pytest
from caspaxos import Table

from troth.core.register import changes
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    Ballot,
    ConfigId,
    Configure,
    Conflict,
    Full,
    Prepare,
    WrongConfig,
)
from troth.core.register.proposer import Proposer
from troth.core.register.round import Phase, Round
from troth.core.register.task import Send
from troth.errors import OutcomeUnknown, QuotaExceeded, Unavailable
from troth.ids import NodeId

KEY = b"k"


def kept() -> tuple[Table, Proposer]:
    """A proposer that has changed the key, and needs no prepare for the next change."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"1")))
    return table, proposer


def accepts(task: Round) -> dict[int, Send]:
    sends = task.take()
    assert all(isinstance(send.request, Accept) for send in sends)
    return {send.to: send for send in sends}


def ends_without_answers(task: Round) -> BaseException | None:
    """The error when nobody is reached any more until the time is over."""
    for _ in range(5):
        for send in task.take():
            task.on_lost(send, sent=False)
        task.resume()
    task.give_up()
    assert task.outcome is not None
    return task.outcome.error


def test_an_accept_that_left_for_nobody_has_not_happened() -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    assert isinstance(ends_without_answers(task), Unavailable)
    assert not task.attempts


@pytest.mark.parametrize("arrived", [1, 2, 3])
def test_an_accept_that_may_have_reached_one_acceptor_is_in_doubt(arrived: int) -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    for number, send in accepts(task).items():
        task.on_lost(send, sent=number == arrived)
    assert isinstance(ends_without_answers(task), OutcomeUnknown)


def test_an_acceptor_that_was_not_reached_does_not_hide_what_became_of_a_change() -> None:
    """Marks are forgotten; only that nobody can hold the attempt says that the change may be made anew."""
    table, proposer = kept()
    task = proposer.change(KEY, changes.apply(lambda held: (held or b"") + b"+"))
    for send in accepts(task).values():
        task.on_lost(send, sent=False)
    for rival in range(2, 30):
        table.run(table.proposer(rival).change(KEY, changes.put(b"%d" % rival)))
    outcome = table.run(task)
    assert (outcome.value, outcome.changed) == (b"29+", True)


def test_a_stranger_that_refuses_an_accept_is_not_waited_for() -> None:
    """It belongs to another set, so it does not take the accept, now or ever; with the refusals of the others nobody
    does, and the change is made anew."""
    table, proposer = kept()
    task = proposer.change(KEY, changes.apply(lambda held: (held or b"") + b"+"))
    first = accepts(task)
    strange = msgspec.structs.replace(table.config, id=ConfigId(77, 1))
    task.on_reply(first[3], WrongConfig(strange))
    (attempt,) = task.attempts
    assert 3 not in attempt.open and 3 not in attempt.doubtful
    for rival in range(2, 30):
        table.run(table.proposer(rival).change(KEY, changes.put(b"%d" % rival)))
    for number in (1, 2):
        task.on_reply(first[number], table.hand(first[number]))
    assert not task.attempts, "all have refused it"
    outcome = table.run(task, up=(1, 2))
    assert (outcome.value, outcome.changed) == (b"29+", True)


def test_an_acceptor_that_does_not_follow_has_refused_the_accept() -> None:
    table, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    send = accepts(task)[2]
    task.on_reply(send, WrongConfig(None))
    (attempt,) = task.attempts
    (tell,) = task.take()
    assert isinstance(tell.request, Configure)
    assert 2 in attempt.open, "it is told, and asked again"
    task.on_reply(tell, table.acceptors[NodeId(2)].describe())
    (again,) = task.take()
    assert 2 in attempt.open
    task.on_reply(again, WrongConfig(None))
    assert 2 not in attempt.open and 2 not in attempt.doubtful
    assert not task.take()


def test_an_acceptor_that_could_not_be_told_has_refused_the_accept() -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    task.on_reply(accepts(task)[2], WrongConfig(None))
    (tell,) = task.take()
    task.on_lost(tell)
    (attempt,) = task.attempts
    assert 2 not in attempt.open and 2 not in attempt.doubtful


def test_an_accept_that_was_taken_and_lost_stays_in_doubt() -> None:
    """Only the answer of one acceptor is known; the two others may hold it as well."""
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    sends = accepts(task)
    task.on_reply(sends[1], Accepted())
    task.on_lost(sends[2])
    task.on_lost(sends[3], sent=False)
    (attempt,) = task.attempts
    assert (attempt.open, attempt.doubtful) == (set(), {1, 2})
    task.resume()
    assert all(isinstance(send.request, Prepare) for send in task.take())


def test_an_accept_that_every_acceptor_has_no_room_for_has_not_happened() -> None:
    """Two are a quorum less; the third is waited for, since only with its answer nothing can have happened."""
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    sends = accepts(task)
    for number in (1, 2):
        task.on_reply(sends[number], Full("no room"))
    assert task.outcome is None and not task.pause
    task.on_reply(sends[3], Full("no room"))
    assert task.outcome is not None and isinstance(task.outcome.error, QuotaExceeded)


@pytest.mark.parametrize("lost", [False, True])
def test_an_accept_that_one_acceptor_may_have_had_room_for_is_tried_again(lost: bool) -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    sends = accepts(task)
    for number in (1, 2):
        task.on_reply(sends[number], Full("no room"))
    if lost:
        task.on_lost(sends[3])
    else:
        task.on_reply(sends[3], Accepted())
    assert task.outcome is None and task.pause
    task.give_up()
    assert task.outcome is not None and isinstance(task.outcome.error, OutcomeUnknown)  # type: ignore[unreachable]


def test_who_may_still_answer_an_earlier_accept_holds_up_no_new_one() -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    for number in (2, 3):
        task.on_lost(first[number], sent=False)
    task.resume()
    prepares = {send.to: send for send in task.take()}
    for number in (2, 3):
        task.on_reply(prepares[NodeId(number)], Full("no room"))
    assert task.attempts[-1].open and task.pause, "another attempt follows"


def test_what_is_heard_of_one_attempt_tells_nothing_of_another() -> None:
    table, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    for number in (2, 3):
        task.on_lost(first[number], sent=False)  # it may be at 1 only, which has not answered
    task.resume()
    table.step(task, reach=(2, 3), answer=(2, 3))
    second = accepts(task)
    assert len(task.attempts) == 2
    task.on_reply(first[1], Conflict(Ballot(99, 9)))
    (attempt,) = task.attempts
    assert (attempt.ballot, attempt.open) == (second[1].request.ballot, {1, 2, 3})  # type: ignore[union-attr]


def test_an_accept_that_has_not_left_when_its_phase_ends_never_will() -> None:
    """An acceptor of an older epoch was told, and would be asked again; a newer epoch comes in between."""
    table, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    task.on_reply(first[2], WrongConfig(None))
    newer = msgspec.structs.replace(table.config, id=ConfigId(table.config.id.cluster, 2))
    task.on_reply(first[1], WrongConfig(newer))
    (attempt,) = task.attempts
    assert (attempt.open, attempt.doubtful) == ({3}, {3})


def test_who_has_agreed_in_a_phase_has_agreed_whatever_comes_later() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"1"))
    sends = {send.to: send for send in task.take()}
    task.on_reply(sends[NodeId(1)], table.hand(sends[NodeId(1)]))
    task.on_lost(sends[NodeId(1)])
    task.on_reply(sends[NodeId(2)], table.hand(sends[NodeId(2)]))
    assert task.phase is Phase.ACCEPTING


def test_an_accept_without_an_answer_is_waited_for_behind_its_phase_and_no_longer() -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    for number in (2, 3):
        task.on_lost(first[number], sent=False)
    task.resume()
    prepares = task.take()
    assert all(task.is_current(send) for send in prepares)
    for send in prepares:
        task.on_lost(send)
    assert task.is_current(first[1])
    assert not any(task.is_current(send) for send in (first[2], first[3], *prepares))
    task.give_up()
    assert not task.is_current(first[1])


def test_two_attempts_are_told_apart_by_their_ballots() -> None:
    table, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    for number in (2, 3):
        task.on_lost(first[number], sent=False)
    task.resume()
    table.step(task, reach=(2, 3), answer=(2, 3))
    second = accepts(task)
    older, newer = task.attempts
    task.on_reply(second[1], Accepted())
    assert (older.open, newer.open) == ({1}, {2, 3})
    task.on_reply(first[1], Accepted())
    assert (older.open, newer.open) == (set(), {2, 3})


def test_one_acceptor_that_is_asked_again_hides_no_refusal_of_another() -> None:
    table, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    task.on_reply(first[2], WrongConfig(None))
    task.on_reply(first[3], WrongConfig(msgspec.structs.replace(table.config, id=ConfigId(77, 1))))
    (attempt,) = task.attempts
    assert attempt.open == attempt.doubtful == {1, 2}


def test_what_phase_1_has_found_is_void_in_another_configuration() -> None:
    table, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    task._parked = (None, ZERO)
    following = msgspec.structs.replace(table.config, id=ConfigId(table.config.id.cluster, 2))
    task.on_reply(first[2], WrongConfig(following))
    assert task.phase is Phase.PREPARING
    assert all(isinstance(send.request, Prepare) for send in task.take())


def test_what_comes_when_a_change_is_over_takes_nothing_up_again() -> None:
    _, proposer = kept()
    task = proposer.change(KEY, changes.put(b"2"))
    first = accepts(task)
    task._parked = (None, ZERO)
    task.give_up()
    task.on_lost(first[1])
    assert not task.take()
