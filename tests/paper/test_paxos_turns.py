"""Multi-Paxos: what is said in one turn, what a restart leaves, who may lead, and what waits for the disk."""

import pytest
from paxos_stage import (
    TIMEOUT,
    accept,
    ballot,
    chosen,
    entry,
    joining,
    led,
    paxos,
    payloads,
    prepare,
    promise_of,
    slot,
)

from troth.core.interface import (
    Effects,
    EntryKind,
    MembershipChange,
    Message,
    Slot,
)
from troth.core.membership import encode_membership
from troth.core.paxos.messages import Accept, AcceptReply, Heartbeat, HeartbeatReply, Probe, Promise, TimeoutNow
from troth.ids import LogIndex, NodeId, Tick
from troth.simulate.actor import Actor, membership_of
from troth.simulate.stage import Stage

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


def test_who_is_called_to_stand_answers_the_reads_that_wait() -> None:
    """They wait for the leader before, of which it hears no more."""
    stage = led()
    stage[3].engine.read(77, stage.now)
    stage[3].engine.receive(NodeId(1), TimeoutNow(stage[1].view.ballot), stage.now)
    assert stage[3].engine.take_effects().reads_refused == (77,)


def test_a_new_leader_sends_at_once_what_an_acceptor_does_not_know_to_be_chosen() -> None:
    """From what it has said in its promise, not from what is known here: nothing else would be sent before it has
    answered a heartbeat."""
    stage = led()
    stage.isolate(3)
    chosen(stage, 3)
    stage.heal()
    stage.drop()
    stage.hand(1, 2, TimeoutNow(stage[1].view.ballot))
    stage.deliver(lambda flying: flying.to in (2, 3) and not isinstance(flying.message, Probe))
    stage.deliver(lambda flying: flying.to == 2)
    assert stage.role(2) == "Leader"
    sent = [each.index for message in stage.sent(Accept, 2, 3) for each in message.entries]  # type: ignore[attr-defined]
    assert sent[:3] == [1, 2, 3]


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


def test_nobody_stands_while_the_leader_is_heard() -> None:
    stage = led()
    stage.run(6 * TIMEOUT)
    assert not [line for line in stage.lines if line.startswith(("n2 pre_candidate", "n3 pre_candidate"))]


def test_nobody_is_called_while_values_wait_behind_a_membership() -> None:
    """What has a slot is not left behind by who gives up leading."""
    stage = led(1, 2, 3, 4, 5, others=(6,))
    stage.change(1, MembershipChange(add_learners=joining(6)))
    stage.propose(1, b"behind")
    stage.transfer(1, 3)
    stage.deliver(lambda flying: flying.to == 3)
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.status(1).progress[NodeId(3)].match == 1, "which is all that was sent"
    assert stage.sent(TimeoutNow) == []
    stage.run(4)
    assert stage.leaders() == [3]
    assert b"behind" in payloads(stage, 3)


def test_what_was_told_to_be_chosen_is_not_stored_as_such_where_the_ballot_is_another() -> None:
    stage = paxos()
    stage.load_slots(2, slot(1, 1, 1, b"old"), promised=ballot(1, 1))
    stage.hand(3, 2, Heartbeat(ballot(2, 3), LogIndex(1), 1))
    stage.hand(3, 2, accept(ballot(2, 3), entry(2, 2), chosen=1))
    assert stage[2].journal.durable.chosen == 0
    stage.restart(2)
    assert stage.commit(2) == 0


def test_a_restart_writes_nothing_again() -> None:
    stage = led()
    chosen(stage, 3)
    stage.crash(2)
    stage.restart(2)
    written = stage[2].journal.written
    stage.pump(2)
    assert stage[2].journal.written == written
