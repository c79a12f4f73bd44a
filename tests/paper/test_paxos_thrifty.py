"""Thrifty accepts (Moraru, Andersen, Kaminsky 2013, §5): as many are asked at once as choose a value, the rest later.

The leader is server 1 of five, a heartbeat is two ticks.
"""

import pytest
from paxos_stage import TIMEOUT, paxos, payloads

from troth.core.interface import Member, MembershipChange
from troth.core.paxos.messages import Accept, Heartbeat
from troth.ids import NodeId, Tick
from troth.simulate.stage import Stage

FIVE = (1, 2, 3, 4, 5)
HEARTBEAT = 2


def thrifty(**settings: int) -> Stage:
    """Server 1 leads, and has heard from everybody."""
    stage = paxos(FIVE, thrifty=True, **settings)
    stage.elect(1)
    stage.run(2 * HEARTBEAT)
    return stage


def asked(stage: Stage) -> set[int]:
    """Who is about to be sent a value."""
    return {
        int(flying.to)
        for flying in stage.in_flight
        if isinstance(flying.message, Accept) and flying.message.entries
    }


def commits(stage: Stage) -> list[int]:
    return [stage.commit(node) for node in FIVE]


def test_a_value_is_sent_at_once_to_as_many_as_choose_it() -> None:
    stage = thrifty()
    stage.propose(1, b"a")
    assert asked(stage) == {2, 3}
    stage.settle()
    assert commits(stage) == [1, 1, 1, 0, 0]


def test_without_it_everybody_is_asked() -> None:
    stage = paxos(FIVE)
    stage.elect(1)
    stage.run(2 * HEARTBEAT)
    stage.propose(1, b"a")
    assert asked(stage) == {2, 3, 4, 5}


def test_with_flexible_sizes_as_many_are_asked_as_they_say() -> None:
    stage = thrifty(phase1_size=4, phase2_size=2)
    stage.propose(1, b"a")
    assert asked(stage) == {2}
    stage.settle()
    assert stage.commit(1) == 1


def test_the_rest_hear_of_many_values_in_one_message_within_two_heartbeats() -> None:
    stage = thrifty()
    sent = 0
    for number in range(20):
        stage.propose(1, b"%d" % number)
        sent += bool(asked(stage) & {4, 5})
        stage.settle()
    assert sent == 0
    for _ in range(2 * HEARTBEAT):
        stage.tick_all()
        sent += len(stage.sent(Accept, to=4))
        stage.settle()
    assert sent == 1
    assert commits(stage) == [20] * 5
    assert payloads(stage, 4) == payloads(stage, 1)


def test_reads_in_a_row_have_the_rest_hear_no_more_often() -> None:
    """Each has a round of its own, but a heartbeat passes all the same."""
    stage = thrifty()
    for number in range(10):
        stage.read(1, number)
        assert not asked(stage)
        stage.settle()
        stage.propose(1)
        assert asked(stage) == {2, 3}
        stage.settle()


def test_who_is_spared_is_told_of_no_commit_that_it_lacks() -> None:
    stage = thrifty()
    stage.propose(1, b"a")
    told: set[int] = set()
    while stage.in_flight:
        told |= {int(flying.to) for flying in stage.in_flight if isinstance(flying.message, Heartbeat)}
        stage.deliver()
    assert told == {2, 3}


def test_the_silence_of_who_was_asked_costs_a_heartbeat_once() -> None:
    """The others choose the value in its place, and are then the ones who have more."""
    stage = thrifty()
    stage.crash(2)
    stage.propose(1, b"a")
    stage.settle()
    assert stage.commit(1) == 0
    stage.run(HEARTBEAT)
    assert stage.commit(1) == 1
    stage.propose(1, b"b")
    assert 2 not in asked(stage)
    stage.settle()
    assert stage.commit(1) == 2


def test_who_cannot_be_reached_is_not_asked() -> None:
    stage = thrifty()
    stage.crash(2)
    stage[1].engine.unreachable(NodeId(2))
    stage.propose(1, b"a")
    assert asked(stage) == {3, 4}
    stage.settle()
    assert stage.commit(1) == 1


def test_who_comes_back_is_asked_again_only_when_it_lacks_nothing() -> None:
    """A quorum does not wait until it has caught up."""
    stage = thrifty()
    stage.isolate(2)
    for _ in range(3):
        stage.propose(1)
        stage.run(HEARTBEAT)
    stage.heal()
    stage.propose(1)
    assert 2 not in asked(stage)
    stage.settle()
    assert stage.commit(1) == 4
    stage.run(3 * HEARTBEAT)
    stage.propose(1)
    assert asked(stage) == {2, 3}


@pytest.mark.parametrize("successor", [4, 5])
def test_who_was_spared_learns_what_was_chosen_when_it_leads(successor: int) -> None:
    """Phase 1 asks a quorum that meets the one which accepted it."""
    stage = thrifty()
    stage.propose(1, b"chosen")
    stage.settle()
    stage.crash(1)
    stage.now = Tick(stage.now + TIMEOUT)
    stage.elect(successor)
    stage.run(2 * HEARTBEAT)
    assert stage.leaders() == [successor]
    assert b"chosen" in payloads(stage, successor)


def test_a_new_leader_spares_nobody_before_what_was_open_is_chosen() -> None:
    stage = thrifty()
    stage.isolate(1, 2)
    stage.propose(1, b"open")
    stage.settle()
    stage.crash(1)
    stage.heal()
    stage.now = Tick(stage.now + TIMEOUT)
    stage.tick(2, 2 * TIMEOUT)
    while not stage.leaders():
        stage.deliver()
    for node in (3, 4):
        stage[node].syncs = False
    stage.settle()
    assert stage.commit(2) == 0
    assert b"open" in [each.entry.payload for each in stage[5].journal.durable.slots.values()]


def test_nobody_is_spared_while_members_change() -> None:
    """Both sets have to accept the joint membership, and a quorum of the new one has to know that it decides."""
    stage = paxos(FIVE, others=(6,), thrifty=True)
    stage.elect(1)
    stage.run(2 * HEARTBEAT)
    stage.change(1, MembershipChange(add_voters={NodeId(6): Member("n6")}, remove=(NodeId(5),)))
    assert asked(stage) == {2, 3, 4, 5}
    stage.settle()
    stage.run(4 * HEARTBEAT)
    assert stage.status(1).membership.voters == (1, 2, 3, 4, 6)
    before = stage.commit(1)
    stage.propose(1)
    assert len(asked(stage)) == 2
    stage.settle()
    assert stage.commit(1) == before + 1


def test_a_learner_is_not_spared() -> None:
    """It would never lack so little that it becomes a voter."""
    stage = paxos((1, 2, 3), others=(4,), thrifty=True)
    stage.elect(1)
    stage.change(1, MembershipChange(add_learners={NodeId(4): Member("n4", promote=False)}))
    stage.run(4 * HEARTBEAT)
    stage.propose(1)
    assert asked(stage) == {2, 4}


def test_who_is_to_take_over_gets_everything_at_once() -> None:
    stage = thrifty()
    stage.propose(1, b"a")
    stage.settle()
    assert stage.transfer(1, 5) is None
    stage.settle()
    assert stage.leaders() == [5]
    assert b"a" in payloads(stage, 5)


def test_who_was_spared_and_lacks_what_is_compacted_away_gets_a_snapshot() -> None:
    stage = thrifty()
    stage.propose(1, b"a")
    stage.settle()
    stage.compact(1)
    stage.run(2 * HEARTBEAT)
    assert set(stage[1].wanted) == {4, 5}
    for node in (4, 5):
        assert stage.install(1, node)
    stage.propose(1, b"b")
    stage.run(2 * HEARTBEAT)
    assert commits(stage) == [2] * 5
