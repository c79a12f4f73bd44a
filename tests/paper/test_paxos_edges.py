"""Multi-Paxos where comparisons are sharp: what acceptors tell, what snapshots bring, whom a leader gives way to."""

from paxos_stage import TIMEOUT, accept, ballot, chosen, entry, joining, led, paxos, payloads, prepare

from troth.core.interface import (
    Accepted,
    MembershipChange,
    RefusalReason,
    Refused,
)
from troth.core.paxos.messages import Accept, AcceptReply, Heartbeat, HeartbeatReply
from troth.ids import LogIndex, NodeId

# ---- whom a leader gives way to ----


def test_a_leader_promises_to_who_it_has_called_itself() -> None:
    """Of two voters both must promise."""
    stage = led(1, 2)
    stage.transfer(1, 2)
    stage.run(4)
    assert stage.leaders() == [2]


def test_a_leader_promises_nothing_to_who_an_earlier_leader_called() -> None:
    """(1, 1) called it; (1, 2) leads since, and its lease may hold."""
    stage = paxos()
    stage.elect(2)
    stage.hand(3, 2, prepare(ballot(2, 3), transfer=1))
    assert stage.role(2) == "Leader"
    stage.hand(3, 2, prepare(ballot(2, 3), transfer=2))
    assert stage.role(2) == "Follower"


# ---- what an acceptor tells ----


def test_an_acknowledgement_behind_a_gap_names_all_slots_of_its_message() -> None:
    stage = paxos()
    stage.hand(1, 2, accept(ballot(1, 1), entry(2, 1), entry(3, 1)))
    assert stage.sent(AcceptReply, 2) == [AcceptReply(ballot(1, 1), LogIndex(0), LogIndex(2), LogIndex(3))]


def test_a_heartbeat_is_told_what_has_arrived_and_a_notice_nothing() -> None:
    stage = paxos()
    stage.hand(1, 2, accept(ballot(1, 1), entry(1, 1), entry(2, 1)))
    stage.drop()
    stage.hand(1, 2, Heartbeat(ballot(1, 1), LogIndex(1), 0))
    assert stage.sent(HeartbeatReply) == []
    stage.hand(1, 2, Heartbeat(ballot(1, 1), LogIndex(1), 5))
    assert stage.sent(HeartbeatReply) == [HeartbeatReply(ballot(1, 1), 5, LogIndex(2))]


# ---- snapshots ----


def test_a_compaction_keeps_the_membership_that_was_in_force_where_it_ends() -> None:
    stage = led(others=(4,))
    chosen(stage, 2)
    stage.change(1, MembershipChange(add_learners=joining(4)))
    stage.settle()
    chosen(stage, 2)
    stage.compact(1, keep_from=3)
    assert stage.status(1).first_index == 3
    engine = stage[1].engine
    assert (engine.membership_at(LogIndex(2)).learners, engine.membership_at(LogIndex(3)).learners) == ((), (4,))


def test_a_snapshot_brings_its_membership_and_says_so() -> None:
    stage = led(others=(4,))
    stage.isolate(3)
    stage.change(1, MembershipChange(add_learners=joining(4)))
    stage.settle()
    chosen(stage, 3)
    stage.compact(1)
    assert stage.install(1, 3)
    assert stage[3].view.membership.learners == (4,)
    assert stage.status(3).membership == stage.status(1).membership
    assert not stage.install(1, 3), "all of it is chosen here by now"


def test_what_is_accepted_behind_a_snapshot_counts_as_soon_as_it_is_installed() -> None:
    stage = led()
    stage.isolate(3)
    chosen(stage, 4)
    stage.compact(1)
    stage.heal()
    at = stage[1].view.ballot
    stage.hand(1, 3, accept(at, entry(5, 1), entry(6, 1)))
    stage.drop()
    stage.install(1, 3, report=False)
    assert stage.sent(AcceptReply, 3) == [AcceptReply(at, LogIndex(6))]


def test_what_was_said_to_be_chosen_behind_a_snapshot_is_learned_with_it() -> None:
    stage = led()
    stage.isolate(3)
    chosen(stage, 4)
    stage.compact(1)
    stage.heal()
    stage.hand(1, 3, accept(stage[1].view.ballot, entry(5, 1), entry(6, 1), chosen=5))
    assert stage.commit(3) == 0
    stage.install(1, 3, report=False)
    assert stage.commit(3) == 5


def test_a_restarted_acceptor_tells_how_far_it_has_what_its_leader_sent() -> None:
    stage = paxos()
    at = ballot(2, 1)
    stage.hand(1, 2, accept(at, entry(1, 2), entry(2, 2)))
    stage.crash(2)
    stage.restart(2)
    stage.drop()
    stage.hand(1, 2, Heartbeat(at, LogIndex(0), 7))
    assert stage.sent(HeartbeatReply) == [HeartbeatReply(at, 7, LogIndex(2))]


def test_who_was_sent_a_snapshot_is_asked_how_far_it_is() -> None:
    stage = led()
    stage.isolate(3)
    chosen(stage, 4)
    meta = stage.compact(1)
    stage.heal()
    stage.run(6)
    stage[1].engine.snapshot_sent(NodeId(3), meta, False)
    assert stage.status(1).progress[NodeId(3)].state == "probe"


def test_an_old_answer_of_who_is_being_sent_a_snapshot_asks_for_no_other() -> None:
    stage = led()
    stage.isolate(3)
    chosen(stage, 3)
    stage.compact(1)
    stage.heal()
    stage.run(6)
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    stage[1].engine.take_effects()
    stage[1].engine.receive(NodeId(3), AcceptReply(stage[1].view.ballot, LogIndex(1)), stage.now)
    assert stage[1].engine.take_effects().snapshots_wanted == ()
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"


# ---- members ----


def test_no_change_begins_before_the_last_is_announced() -> None:
    stage = led(others=(4, 5))
    stage.change(1, MembershipChange(add_voters=joining(4)))
    while stage[1].view.membership.voters != (1, 2, 3, 4) or stage[1].view.membership.is_joint:
        stage.tick_all()
        stage.deliver()
    assert stage.status(1).membership.is_joint, "chosen, and not announced"
    refused = stage.change(1, MembershipChange(add_voters=joining(5)))
    assert refused == Refused(RefusalReason.CHANGE_IN_PROGRESS, NodeId(1))


def test_a_leader_keeps_no_account_of_who_has_gone() -> None:
    stage = led()
    stage.change(1, MembershipChange(remove=(NodeId(3),)))
    stage.run(8)
    assert sorted(stage.status(1).progress) == [1, 2]


def test_the_slot_behind_a_leaving_is_a_value_if_one_waits() -> None:
    stage = led(others=(4,))
    stage.change(1, MembershipChange(add_voters=joining(4)))
    while not stage[1].view.membership.is_joint:
        stage.deliver()
    stage.propose(1, b"v")
    stage.run(8)
    assert not stage.status(1).membership.is_joint
    assert payloads(stage, 1)[-1] == b"v"


# ---- heartbeats ----


def test_a_heartbeat_tells_what_is_chosen_and_not_what_is_proposed() -> None:
    stage = led()
    chosen(stage, 1)
    stage.propose(1)
    stage.drop()
    stage.tick(1, 2)
    assert {message.chosen for message in stage.sent(Heartbeat, 1)} == {1}  # type: ignore[attr-defined]


def test_an_answer_to_an_earlier_heartbeat_does_not_say_that_anything_was_lost() -> None:
    stage = led()
    at = stage[1].view.ballot
    stage.tick(1, 2)
    token = max(message.token for message in stage.sent(Heartbeat, 1))  # type: ignore[attr-defined]
    stage.settle()
    stage.propose(1)
    stage.drop()
    stage.tick(1, 2)
    stage.drop()
    stage.hand(2, 1, HeartbeatReply(at, token, LogIndex(0)))
    assert stage.sent(Accept) == []
    stage.hand(2, 1, HeartbeatReply(at, token + 1, LogIndex(0)))
    assert len(stage.sent(Accept, 1, 2)) == 1


def test_who_lacks_but_the_last_compacted_slot_gets_the_snapshot() -> None:
    stage = led()
    chosen(stage, 2)
    stage.run(2)
    stage.isolate(3)
    chosen(stage, 1)
    stage.compact(1)
    stage.heal()
    stage.run(6)
    assert stage[1].wanted == [3]


def test_what_has_arrived_and_may_not_be_durable_counts_for_nothing() -> None:
    stage = led()
    for node in (2, 3):
        stage[node].syncs = False
    stage.propose(1)
    stage.settle()
    stage.run(4)
    assert stage.commit(1) == 0, "heartbeats are answered before the disk has it"
    stage.sync(2)
    stage.settle()
    assert stage.commit(1) == 1


def test_who_acknowledges_is_heard() -> None:
    """Also when all answers to heartbeats are lost."""
    stage = led()
    at = stage[1].view.ballot
    for _ in range(3 * TIMEOUT):
        stage.propose(1)
        stage.tick_all()
        stage.drop(lambda flying: isinstance(flying.message, HeartbeatReply))
        stage.deliver()
        stage.drop(lambda flying: isinstance(flying.message, HeartbeatReply))
        stage.deliver()
    assert (stage.leaders(), stage[1].view.ballot) == ([1], at)


def test_an_answer_to_an_older_round_takes_no_confirmation_back() -> None:
    stage = led(1, 2, 3, 4, 5)
    at = stage[1].view.ballot
    stage.tick(1, 2)
    stage.drop()
    stage.read(1, 7)
    token = max(message.token for message in stage.sent(Heartbeat, 1))  # type: ignore[attr-defined]
    stage.drop()
    stage.hand(2, 1, HeartbeatReply(at, token, LogIndex(0)))
    stage.hand(2, 1, HeartbeatReply(at, token - 1, LogIndex(0)))
    stage.hand(3, 1, HeartbeatReply(at, token, LogIndex(0)))
    assert [read.context for read in stage[1].reads] == [7]


def test_what_is_chosen_leaves_room_for_what_comes() -> None:
    stage = led(uncommitted_bytes_max=200)
    for _ in range(20):
        assert isinstance(stage.propose(1, b"x" * 50), Accepted)
        stage.settle()
