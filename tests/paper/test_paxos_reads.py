"""Reads without a slot: who must confirm them, and when a leader may answer at all."""

import pytest
from paxos_stage import TIMEOUT, accept, ballot, entry, paxos, prepare, slot

from troth.core.interface import ReadState
from troth.core.paxos.messages import Heartbeat, HeartbeatReply, Outbid, Prepare, Promise, TimeoutNow
from troth.ids import LogIndex, Tick


def test_a_read_waits_for_a_round_that_began_after_it_arrived() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.propose(1)
    stage.settle()
    stage.tick(1, 2)
    older = stage.drop(lambda flying: isinstance(flying.message, Heartbeat))[0].message
    assert isinstance(older, Heartbeat)
    stage.read(1, 7)
    stage.drop()
    for acceptor in (2, 3):
        stage.hand(acceptor, 1, HeartbeatReply(stage[1].view.ballot, older.token, LogIndex(1)))
    assert stage[1].reads == [], "answers to an older round prove nothing"
    stage.hand(2, 1, HeartbeatReply(stage[1].view.ballot, older.token + 1, LogIndex(1)))
    assert stage[1].reads == [ReadState(7, LogIndex(1))]


@pytest.mark.parametrize(("phase1", "phase2", "needed"), [(3, 3, 3), (4, 2, 2), (2, 4, 4), (5, 1, 1), (4, 4, 2)])
def test_a_read_is_confirmed_by_as_many_as_block_every_phase_1_quorum(
    phase1: int, phase2: int, needed: int
) -> None:
    """With phase-1 quorums of q1 out of n that is n - q1 + 1, the leader itself included; not a majority."""
    stage = paxos((1, 2, 3, 4, 5), phase1_size=phase1, phase2_size=phase2)
    stage.elect(1)
    stage.run(3)
    stage.read(1, 7)
    token = max(each.token for each in stage.sent(Heartbeat, 1) if isinstance(each, Heartbeat))
    stage.drop()
    for confirmed in range(2, needed + 1):
        assert stage[1].reads == []
        stage.hand(confirmed, 1, HeartbeatReply(stage[1].view.ballot, token, LogIndex(0)))
    assert [read.context for read in stage[1].reads] == [7]


def test_a_new_leader_answers_no_read_before_the_window_it_recovered_is_chosen() -> None:
    """What may be chosen already must be known to be."""
    stage = paxos()
    stage.load_slots(1, slot(1, 0, 2, b"may be chosen"), promised=ballot(0, 2))
    while stage.role(1) != "Leader":
        stage.tick_all()
        stage.deliver()
    stage.drop()
    stage.read(1, 7)
    for acceptor in (2, 3):
        stage.hand(acceptor, 1, HeartbeatReply(stage[1].view.ballot, 99, LogIndex(0)))
    assert stage[1].reads == []
    stage.run(6)
    assert stage[1].reads == [ReadState(7, LogIndex(1))]


def test_a_leader_that_is_cut_off_confirms_no_read() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.isolate(1)
    stage.read(1, 7)
    stage.run(3 * TIMEOUT)
    assert stage[1].reads == []
    assert stage[1].reads_refused == [7]


def test_a_leader_that_was_outbid_confirms_no_read() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.now = Tick(stage.now + TIMEOUT)
    stage.isolate(1)
    stage.elect(2)
    stage.heal()
    stage.read(1, 7)
    stage.run(6)
    assert stage[1].reads == []
    assert stage[1].reads_refused == [7]


def test_a_follower_asks_the_leader_and_reads_its_own_state() -> None:
    stage = paxos()
    stage.elect(1)
    stage.propose(1)
    stage.run(3)
    stage.read(3, 5)
    stage.settle()
    assert stage[3].reads == [ReadState(5, LogIndex(1))]


def test_a_followers_read_whose_answer_is_lost_is_refused_in_the_end() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.read(3, 5)
    stage.drop()
    stage.run(TIMEOUT + 1)
    assert stage[3].reads_refused == [5]


def test_reads_without_a_leader_are_refused() -> None:
    stage = paxos()
    stage.read(2, 5)
    assert stage[2].reads_refused == [5]


def test_reads_that_wait_are_bounded() -> None:
    stage = paxos(reads_pending_max=2)
    stage.elect(1)
    stage.isolate(1)
    for context in range(5):
        stage.read(1, context)
    assert stage[1].reads_refused == [2, 3, 4]


def test_a_lease_counts_from_the_sending_of_its_round_and_ends() -> None:
    stage = paxos(lease_reads=True, clock_drift_percent=10)
    stage.now = Tick(2 * TIMEOUT)
    stage.elect(1)
    stage.run(4)
    stage.read(1, 7)
    assert len(stage[1].reads) == 1
    until = stage[1].reads[0].valid_until
    assert 0 < until <= stage.now + TIMEOUT * 90 // 100
    stage.isolate(1)
    stage.now = until
    stage.read(1, 8)
    assert len(stage[1].reads) == 1, "the lease is over, and a round must confirm it"


def test_a_lease_whose_round_is_answered_late_ends_no_later() -> None:
    """The others' patience began when they heard the round, not when their answers arrived."""
    stage = paxos(lease_reads=True, clock_drift_percent=10)
    stage.now = Tick(2 * TIMEOUT)
    stage.elect(1)
    stage.drop()
    stage.tick(1, 2)
    began = stage.now
    stage.deliver(lambda flying: isinstance(flying.message, Heartbeat))
    answers = stage.drop(lambda flying: isinstance(flying.message, HeartbeatReply))
    stage.tick(1, 7)
    for late in answers:
        stage.hand(late.sender, 1, late.message)
    stage.read(1, 7)
    assert [read.valid_until for read in stage[1].reads] == [began + stage.config.lease_ticks]


def test_who_has_confirmed_a_lease_promises_nothing_until_it_must_be_over() -> None:
    """Also when a message with a higher ballot that is no prepare has come in between, and after a restart."""
    stage = paxos(lease_reads=True)
    stage.now = Tick(2 * TIMEOUT)
    stage.elect(1)
    stage.run(4)
    stage.crash(2)
    stage.restart(2)
    stage.drop()
    stage.hand(3, 2, Outbid(ballot(8, 3)))
    stage.hand(3, 2, Prepare(ballot(9, 3), LogIndex(1)))
    assert stage.sent(Promise, 2) == []
    stage.now = Tick(stage.now + TIMEOUT)
    stage.hand(3, 2, Prepare(ballot(9, 3), LogIndex(1)))
    assert len(stage.sent(Promise, 2)) == 1


def test_a_transfer_ends_the_lease() -> None:
    stage = paxos(lease_reads=True)
    stage.now = Tick(2 * TIMEOUT)
    stage.elect(1)
    stage.run(4)
    stage.transfer(1, 3)
    stage.drop()
    stage.read(1, 7)
    assert stage[1].reads == []


def test_a_late_call_to_stand_does_not_break_the_lease_of_who_has_led_since() -> None:
    """Between a ballot and the next round's of another server there is room for others: here (1, 1), (2, 2), (2, 3)."""
    stage = paxos(lease_reads=True)
    stage.now = Tick(2 * TIMEOUT)
    stage.elect(1)
    stage.run(4)
    stage.transfer(1, 3)
    [call] = stage.drop(lambda flying: isinstance(flying.message, TimeoutNow))
    stage.isolate(3)
    stage.crash(1)
    stage.restart(1)
    stage.elect(2)
    stage.run(4)
    stage.read(2, 7)
    assert [read.valid_until > stage.now for read in stage[2].reads] == [True]
    stage.cut.clear()
    stage.isolate(2)
    stage.hand(1, 3, call.message)
    asked = stage.sent(Prepare, 3, 1)
    assert [each.ballot for each in asked if isinstance(each, Prepare)] == [ballot(2, 3)]
    stage.hand(3, 1, asked[0])
    assert stage.sent(Promise, 1) == []
    stage.now = Tick(stage.now + TIMEOUT)
    stage.hand(3, 1, asked[0])
    assert len(stage.sent(Promise, 1, 3)) == 1


def test_a_call_to_stand_does_not_break_the_lease_of_a_higher_ballot_of_the_same_round() -> None:
    """Two servers may have used one round: (5, 1) has called, and (5, 2) leads."""
    stage = paxos(lease_reads=True)
    stage.now = Tick(3 * TIMEOUT)
    stage.hand(2, 1, Heartbeat(ballot(5, 2), LogIndex(0), 7))
    stage.hand(3, 1, prepare(ballot(6, 3), transfer=1))
    assert stage.sent(Promise, 1, 3) == []
    stage.hand(3, 1, prepare(ballot(6, 3), transfer=2))
    assert len(stage.sent(Promise, 1, 3)) == 1, "the one that leads has called"


def test_a_call_to_stand_does_not_break_a_lease_that_was_confirmed_before_a_restart() -> None:
    """Whose it was is forgotten: it may be the lease of a ballot that was not on the disk yet."""
    stage = paxos(lease_reads=True)
    stage.now = Tick(2 * TIMEOUT)
    stage.elect(1)
    stage.run(4)
    stage.crash(2)
    stage.restart(2)
    stage.drop()
    stage.hand(3, 2, prepare(ballot(9, 3), transfer=1))
    assert stage.sent(Promise, 2) == []


def test_a_cluster_of_one_confirms_itself() -> None:
    stage = paxos((1,))
    stage.elect(1)
    stage.propose(1)
    stage.read(1, 3)
    assert stage[1].reads == [ReadState(3, LogIndex(1))]


def test_an_acceptor_that_promised_more_does_not_confirm() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.hand(3, 2, accept(ballot(9, 3), entry(1, 9)))
    stage.drop()
    stage.hand(1, 2, Heartbeat(stage[1].view.ballot, LogIndex(0), 50))
    assert stage.sent(HeartbeatReply, 2) == []
