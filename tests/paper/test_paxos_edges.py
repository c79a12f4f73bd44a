"""Multi-Paxos where comparisons are sharp: what acceptors tell, what snapshots bring, whom a leader gives way to."""

import pytest
from paxos_stage import TIMEOUT, accept, ballot, entry, paxos, payloads, prepare, promise_of, slot

from troth.core.interface import (
    Accepted,
    Effects,
    EntryKind,
    Member,
    MembershipChange,
    Message,
    RefusalReason,
    Refused,
    Slot,
)
from troth.core.membership import encode_membership
from troth.core.paxos.messages import Accept, AcceptReply, Heartbeat, HeartbeatReply, Probe, Promise, TimeoutNow
from troth.ids import LogIndex, NodeId, Tick
from troth.simulate.stage import Actor, Stage, membership_of


def led(*voters: int, others: tuple[int, ...] = (), **settings: int) -> Stage:
    stage = paxos(voters or (1, 2, 3), others=others, **settings)
    stage.elect(1)
    stage.run(4)
    return stage


def joining(*nodes: int) -> dict[NodeId, Member]:
    return {NodeId(node): Member(f"n{node}") for node in nodes}


def chosen(stage: Stage, count: int) -> None:
    for _ in range(count):
        stage.propose(1)
        stage.settle()


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


def test_who_was_sent_a_snapshot_is_asked_how_far_it_is() -> None:
    stage = led()
    stage.isolate(3)
    chosen(stage, 4)
    meta = stage.compact(1)
    stage.heal()
    stage.run(6)
    stage[1].engine.snapshot_sent(NodeId(3), meta, False)
    assert stage.status(1).progress[NodeId(3)].state == "probe"


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
    for _ in range(3 * TIMEOUT):
        stage.propose(1)
        stage.tick_all()
        stage.drop(lambda flying: isinstance(flying.message, HeartbeatReply))
        stage.deliver()
        stage.drop(lambda flying: isinstance(flying.message, HeartbeatReply))
        stage.deliver()
    assert stage.leaders() == [1]


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


# ---- what is said in one turn ----


def in_one_turn(stage: Stage, sender: int, to: int, *messages: Message) -> None:
    for message in messages:
        stage[to].engine.receive(NodeId(sender), message, stage.now)
    stage.pump(to)


def test_acknowledgements_at_two_ballots_of_one_leader_stay_two() -> None:
    stage = paxos()
    first, second = ballot(1, 1), ballot(2, 1)
    values = [entry(index, 1) for index in (1, 2, 3)]
    in_one_turn(stage, 1, 2, accept(first, *values), accept(second, entry(1, 1)))
    assert stage.sent(AcceptReply, 2) == [AcceptReply(first, LogIndex(3)), AcceptReply(second, LogIndex(1))]


def test_acknowledgements_of_what_is_behind_gaps_stay_two() -> None:
    stage = paxos()
    at = ballot(1, 1)
    in_one_turn(stage, 1, 2, accept(at, entry(3, 1)), accept(at, entry(5, 1)))
    assert stage.sent(AcceptReply, 2) == [
        AcceptReply(at, LogIndex(0), LogIndex(index), LogIndex(index)) for index in (3, 5)
    ]


def test_two_pages_of_a_promise_stay_two() -> None:
    stage = paxos()
    stage.now = Tick(TIMEOUT)
    in_one_turn(stage, 1, 2, prepare(ballot(1, 1)), prepare(ballot(1, 1), 4))
    assert [message.start for message in stage.sent(Promise, 2)] == [1, 4]  # type: ignore[attr-defined]


# ---- after a restart, and after a change ----


def test_what_was_chosen_before_a_restart_counts_as_received_whatever_its_ballot() -> None:
    stage = paxos()
    stage.load_slots(2, slot(1, 1, 1), slot(2, 1, 1), promised=ballot(2, 1), chosen=2)
    stage.hand(1, 2, Heartbeat(ballot(2, 1), LogIndex(2), 5))
    assert stage.sent(HeartbeatReply) == [HeartbeatReply(ballot(2, 1), 5, LogIndex(2))]


def test_memberships_are_told_as_they_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = led(others=(4,))
    told, carry_out = [], stage._carry_out

    def looked_at(actor: Actor, effects: Effects) -> None:
        if actor.node_id == 1 and effects.membership is not None:
            told.append((effects.membership.voters, effects.membership.outgoing, stage.commit(1)))
        carry_out(actor, effects)

    monkeypatch.setattr(stage, "_carry_out", looked_at)
    stage.change(1, MembershipChange(add_voters=joining(4)))
    stage.run(8)
    assert told == [((1, 2, 3, 4), (1, 2, 3), 1), ((1, 2, 3, 4), (), 3)], "the leaving one slot late, and no later"


# ---- who may lead ----


def membership_slot(index: int, voters: tuple[int, ...], outgoing: tuple[int, ...] = ()) -> Slot:
    payload = encode_membership(membership_of(voters, outgoing=outgoing))
    return Slot(ballot(1, 2), entry(index, 1, payload, EntryKind.MEMBERSHIP))


def test_one_of_two_sets_makes_no_leader() -> None:
    stage = paxos(others=(4, 5, 6))
    for node in (1, 2, 3):
        stage.load_slots(node, membership_slot(1, (4, 5, 6), (1, 2, 3)), promised=ballot(1, 2), chosen=1)
    stage.isolate(1, 2, 3)
    stage.run(6 * TIMEOUT)
    assert stage.leaders() == []
    assert {stage[node].view.ballot for node in (1, 2, 3)} == {ballot(1, 2)}


def test_who_is_leaving_stands_until_that_is_announced() -> None:
    """The new voters may lack what is compacted away."""
    stage = paxos()
    slots = (membership_slot(1, (2, 3), (1, 2, 3)), membership_slot(2, (2, 3)))
    stage.load_slots(1, *slots, promised=ballot(1, 2), chosen=2)
    stage.tick(1, TIMEOUT)
    assert stage.role(1) == "PreCandidate"
    assert {message.start for message in stage.sent(Probe, 1)} == {3}  # type: ignore[attr-defined]
    stage.load_slots(1, *slots, slot(3, 1, 2), promised=ballot(1, 2), chosen=3)
    stage.tick(1, 2 * TIMEOUT)
    assert stage.role(1) == "Follower"


def test_a_candidate_hears_no_leader_any_more() -> None:
    """Nor does it stand in the way of the next, if its own attempt comes to nothing."""
    stage = led()
    stage.hand(1, 3, TimeoutNow(stage[1].view.ballot))
    assert stage.role(3) == "Candidate"
    stage.drop()
    stage.hand(2, 3, prepare(ballot(3, 2)))
    assert len(stage.sent(Promise, 3, 2)) == 1


def test_a_candidate_has_patience_for_each_page_anew() -> None:
    stage = paxos(append_bytes_max=1)
    stage.load_slots(1, promised=ballot(1, 2))
    stage.load_slots(2, *(slot(index, 1, 2) for index in range(1, 41)), promised=ballot(1, 2))
    stage.isolate(3)
    stage.tick(1, TIMEOUT)
    while stage.role(1) != "Candidate":
        assert stage.deliver()
    at = stage[1].view.ballot
    for _ in range(2 * TIMEOUT):
        stage.tick(1)
        stage.deliver(lambda flying: flying.to == 2)
        stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Leader"
    assert stage[1].view.ballot == at


def test_what_a_leader_recovers_counts_here_once_it_is_durable_at_its_own_ballot() -> None:
    stage = paxos()
    stage.load_slots(1, slot(1, 1, 2), promised=ballot(1, 2))
    stage.tick(1, TIMEOUT)
    while not stage.sent(Promise, 2, 1):
        stage.deliver()
    stage[1].syncs = False
    stage.deliver(lambda flying: flying.sender == 2)
    assert stage.role(1) == "Leader"
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.sender == 2)
    assert stage.commit(1) == 0
    stage.sync(1)
    assert stage.commit(1) == 1


def test_a_new_leader_finishes_a_change_though_nobody_writes() -> None:
    stage = paxos(others=(4,))
    for node in (1, 2, 3, 4):
        stage.load_slots(node, membership_slot(1, (1, 2, 3, 4), (1, 2, 3)), promised=ballot(1, 2), chosen=1)
    stage.elect(1)
    stage.run(8)
    assert [stage.status(node).membership.outgoing for node in (1, 2, 3, 4)] == [()] * 4


def test_a_leader_that_hears_only_a_phase_1_quorum_steps_down() -> None:
    stage = led(1, 2, 3, 4, 5, phase1_size=2, phase2_size=4)
    stage.isolate(4, 5)
    stage.run(TIMEOUT + 2)
    assert stage.role(1) != "Leader"


def test_who_was_called_by_the_leader_leaves_the_way_free_for_the_next() -> None:
    """The leader has given way: if the one it called fails, nobody need wait for anybody."""
    stage = led()
    stage.hand(3, 2, prepare(ballot(2, 3), transfer=1))
    stage.hand(1, 2, prepare(ballot(3, 1)))
    assert [message.ballot for message in stage.sent(Promise, 2)] == [ballot(2, 3), ballot(3, 1)]  # type: ignore[attr-defined]


def test_a_promise_is_written_once() -> None:
    stage = paxos()
    promise_of(stage, 2, ballot(1, 1))
    written = stage[2].journal.written
    for token in (1, 2, 3):
        stage.hand(1, 2, Heartbeat(ballot(1, 1), LogIndex(0), token))
    assert stage[2].journal.written == written


def test_a_candidate_installs_no_snapshot() -> None:
    """What it hears in phase 1 is counted from where it was when it began."""
    stage = led()
    stage.isolate(3)
    chosen(stage, 3)
    meta = stage.compact(1)
    stage.heal()
    stage.hand(1, 3, TimeoutNow(stage[1].view.ballot))
    assert stage.role(3) == "Candidate"
    assert not stage[3].engine.snapshot_received(NodeId(1), stage[1].view.term, meta, stage.now)
    assert stage.commit(3) == 0
