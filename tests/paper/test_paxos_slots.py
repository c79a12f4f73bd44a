"""Phase 2 in many slots at once: acceptance, choice, delivery (Paxos Made Simple §2.2 and §3)."""

import pytest
from paxos_stage import TIMEOUT, accept, accepts, ballot, entry, held, paxos, payloads, promise_of, slot, to

from troth.core.interface import Accepted, EntryId, HardState, Message, RefusalReason, Refused, SnapshotMeta
from troth.core.paxos.messages import Accept, AcceptReply, Heartbeat, HeartbeatReply, Outbid
from troth.ids import LogIndex, NodeId, Term


def test_a_value_is_chosen_when_a_quorum_has_accepted_it_durably() -> None:
    stage = paxos()
    stage.elect(1)
    for node in (2, 3):
        stage[node].syncs = False
    assert stage.propose(1, b"a") == Accepted(EntryId(Term(1), LogIndex(1)))
    stage.settle()
    assert stage.commit(1) == 0, "the leader alone is no quorum"
    stage.sync(3)
    stage.settle()
    assert stage.commit(1) == 1
    assert payloads(stage, 1) == [b"a"]


def test_the_leaders_own_acceptance_counts_only_once_it_is_durable() -> None:
    stage = paxos((1,))
    stage.elect(1)
    stage[1].syncs = False
    stage.propose(1, b"a")
    stage.settle()
    assert stage.commit(1) == 0
    stage.sync(1)
    assert stage.commit(1) == 1


def test_an_acceptor_counts_once_and_a_stranger_or_learner_not_at_all() -> None:
    stage = paxos((1, 2, 3, 4, 5), learners=(6,))
    stage.elect(1)
    stage.propose(1)
    stage.drop()
    at = stage[1].view.ballot
    for sender in (2, 2, 2, 6, 9):
        stage.hand(sender, 1, AcceptReply(at, LogIndex(1)))
    assert stage.commit(1) == 0
    stage.hand(3, 1, AcceptReply(at, LogIndex(1)))
    assert stage.commit(1) == 1


def test_phase_2_with_flexible_sizes_needs_as_many_as_they_say() -> None:
    stage = paxos((1, 2, 3, 4, 5), phase1_size=4, phase2_size=2)
    stage.elect(1)
    stage.isolate(1, 5)
    stage.propose(1)
    stage.settle()
    assert stage.commit(1) == 1
    narrow = paxos((1, 2, 3, 4, 5), phase1_size=2, phase2_size=4)
    narrow.elect(1)
    narrow.isolate(1, 4, 5)
    narrow.propose(1)
    narrow.settle()
    assert narrow.commit(1) == 0


def test_slots_are_accepted_out_of_order_and_acknowledged_each_for_itself() -> None:
    """No head-of-line blocking: the lost phase 2a of one slot holds up no other."""
    stage = paxos()
    stage.elect(1)
    stage.propose(1, b"1")
    stage.drop(accepts(to=2, index=1))
    stage.drop(accepts(to=3, index=1))
    stage.propose(1, b"2")
    at = stage[1].view.ballot
    stage.deliver(to(2, 3))
    assert AcceptReply(at, LogIndex(0), LogIndex(2), LogIndex(2)) in stage.sent(AcceptReply, 2, 1)
    stage.settle()
    assert {node: sorted(held(stage, node)) for node in (1, 2, 3)} == {1: [1, 2], 2: [2], 3: [2]}
    assert stage.commit(1) == 0, "delivery keeps the order"
    stage.hand(1, 2, accept(at, entry(1, 1, b"1")))
    stage.settle()
    assert stage.commit(1) == 2, "slot 2 had its quorum already and was not sent again"


def test_an_acknowledgement_says_nothing_of_what_is_behind_a_gap() -> None:
    """It names the unbroken run and what the message held, not the last slot that is here."""
    stage = paxos()
    at = ballot(2, 1)
    stage.hand(1, 2, accept(at, entry(1, 2)))
    stage.hand(1, 2, accept(at, entry(3, 2)))
    stage.drop()
    stage.hand(1, 2, accept(at, entry(1, 2)))
    stage.hand(1, 2, accept(at))
    assert stage.sent(AcceptReply, 2, 1) == [AcceptReply(at, LogIndex(1))] * 2


def test_different_acceptors_may_fill_the_quorums_of_different_slots() -> None:
    stage = paxos()
    stage.elect(1)
    stage.propose(1, b"1")
    stage.drop(accepts(to=2, index=1))
    stage.settle()
    stage.propose(1, b"2")
    stage.drop(accepts(to=3, index=2))
    stage.settle()
    assert sorted(held(stage, 2)) == [2]
    assert sorted(held(stage, 3)) == [1]
    assert stage.commit(1) == 2


def test_a_slot_behind_a_gap_needs_a_phase_2_quorum_like_any_other() -> None:
    stage = paxos((1, 2, 3, 4, 5), phase1_size=2, phase2_size=4)
    stage.elect(1)
    stage.propose(1, b"1")
    stage.drop(accepts(to=2, index=1))
    stage.settle()
    assert stage.commit(1) == 1
    stage.propose(1, b"2")
    stage.deliver(to(2))
    stage.drop(to(3, 4, 5))
    stage.settle()
    assert (sorted(held(stage, 2)), stage.commit(1)) == ([2], 1), "two of five hold it"


def test_what_was_lost_is_sent_again_and_nothing_else() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    for payload in (b"1", b"2", b"3"):
        stage.propose(1, payload)
        stage.drop(accepts(to=2, index=2))
        stage.settle()
    assert sorted(held(stage, 2)) == [1, 3]
    resent: list[int] = []
    for _ in range(8):
        stage.tick_all()
        while stage.in_flight:
            found = stage.sent(Accept, 1, 2)
            resent += [int(e.index) for each in found if isinstance(each, Accept) for e in each.entries]
            stage.deliver()
    assert resent == [2]
    assert payloads(stage, 2) == [b"1", b"2", b"3"]


def test_what_was_lost_is_noticed_also_when_every_answer_comes_a_round_late() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.propose(1, b"v")
    stage.drop(accepts(to=2, index=1))
    stage.settle()
    late: list[Message] = []
    for _ in range(6):
        stage.tick(1, 2)
        beats = stage.drop(lambda flying: isinstance(flying.message, Heartbeat) and flying.to == 2)
        for message in late:
            stage.hand(1, 2, message)
        stage.deliver(lambda flying: isinstance(flying.message, HeartbeatReply))
        late = [flying.message for flying in beats]
    assert stage.sent(Accept, 1, 2)


def test_an_acknowledgement_that_was_lost_is_asked_for() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.propose(1)
    stage.deliver(to(2, 3))
    stage.drop(lambda flying: isinstance(flying.message, AcceptReply))
    assert stage.commit(1) == 0
    stage.run(6)
    assert stage.commit(1) == 1


def test_delivery_is_a_contiguous_prefix_each_slot_once() -> None:
    stage = paxos()
    stage.elect(1)
    for number in range(1, 9):
        stage.propose(1, b"%d" % number)
        if number % 3 == 0:
            stage.drop(accepts(to=2, index=number))
        stage.settle()
        assert payloads(stage, 2) == [b"%d" % each for each in range(1, len(payloads(stage, 2)) + 1)]
    stage.run(8)
    assert payloads(stage, 2) == [b"%d" % each for each in range(1, 9)]


# ---- what is chosen, as a follower knows it ----


def test_a_follower_learns_what_is_chosen_only_where_its_ballot_is_the_leaders() -> None:
    """A value accepted at an older ballot may be another one, however far the leader says that slots are chosen."""
    stage = paxos()
    stage.load_slots(2, slot(1, 1, 3, b"never chosen"), promised=ballot(1, 3))
    stage.hand(1, 2, Heartbeat(ballot(2, 1), LogIndex(1), 5))
    assert stage.commit(2) == 0
    stage.hand(1, 2, accept(ballot(2, 1), entry(1, 2, b"chosen"), chosen=1))
    assert payloads(stage, 2) == [b"chosen"]


def test_a_gap_stops_what_a_follower_takes_for_chosen() -> None:
    stage = paxos()
    stage.hand(1, 2, accept(ballot(2, 1), entry(1, 2), entry(2, 2)))
    stage.hand(1, 2, accept(ballot(2, 1), entry(4, 2), chosen=4))
    assert stage.commit(2) == 2
    stage.hand(1, 2, accept(ballot(2, 1), entry(3, 2)))
    assert stage.commit(2) == 4, "it had been told already"


def test_what_one_leader_said_to_be_chosen_does_not_hold_for_the_values_of_the_next() -> None:
    stage = paxos()
    stage.hand(1, 2, Heartbeat(ballot(2, 1), LogIndex(3), 5))
    stage.hand(3, 2, accept(ballot(3, 3), entry(1, 3, b"not yet chosen")))
    assert stage.commit(2) == 0


def test_what_is_chosen_is_known_after_a_restart_as_far_as_it_was_written_with_something_else() -> None:
    stage = paxos()
    stage.elect(1)
    for _ in range(5):
        stage.propose(1)
        stage.settle()
    stage.crash(2)
    stage.restart(2)
    assert stage.commit(2) == 4
    stage.pump(2)
    assert len(stage[2].applied) == 4


def test_a_chosen_index_beyond_what_the_disk_holds_is_not_believed() -> None:
    """A torn or salvaged log: a slot that is missing ends what can be delivered."""
    stage = paxos()
    stage.load_slots(2, slot(1, 1, 1), slot(3, 1, 1), promised=ballot(1, 1), chosen=3)
    assert stage.commit(2) == 1


def test_the_only_voter_that_was_salvaged_delivers_what_it_has_up_to_the_first_gap() -> None:
    """Whatever it had accepted was chosen, and no leader will say so."""
    stage = paxos([1])
    stage.load_slots(1, slot(1, 1, 1), slot(2, 2, 1), slot(4, 2, 1), promised=ballot(3, 0), chosen=1)
    stage.restart(1, may_vote=False)
    assert stage.commit(1) == 2


# ---- bounds, liveness of the leader ----


def test_intake_is_refused_when_too_many_bytes_wait_for_a_quorum() -> None:
    stage = paxos(uncommitted_bytes_max=100)
    stage.elect(1)
    stage.isolate(1)
    assert isinstance(stage.propose(1, b"x" * 80), Accepted)
    assert stage.propose(1, b"x" * 80) == Refused(RefusalReason.QUEUE_FULL, NodeId(1))
    assert isinstance(stage.propose(2), Refused)


def test_messages_in_flight_to_one_acceptor_are_bounded() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    for _ in range(200):
        stage.propose(1)
    assert len(stage.sent(Accept, 1, 2)) == 128
    stage.settle()
    assert stage.commit(1) == 200


def test_a_leader_without_a_phase_2_quorum_steps_down() -> None:
    stage = paxos()
    stage.elect(1)
    stage.isolate(1)
    stage.run(2 * TIMEOUT)
    assert stage.role(1) != "Leader"


@pytest.mark.parametrize("writes", [1, 15])
def test_a_leader_whose_disk_hangs_steps_down(writes: int) -> None:
    """Whatever the others acknowledge meanwhile: that is no sign of its own disk."""
    stage = paxos(disk_timeout_ticks=10)
    stage.elect(1)
    stage[1].syncs = False
    for tick in range(15):
        if tick < writes:
            stage.propose(1)
        stage.run(1)
    assert stage.role(1) != "Leader"


def test_a_death_that_was_seen_starts_an_election_at_once_in_turns() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.crash(1)
    for node in (2, 3):
        stage.suspect(node, 1)
    stage.run(4)
    assert stage.leaders() == [2]


def test_leadership_is_handed_to_who_has_everything() -> None:
    """Intake stops, and the target prepares a ballot although it has just heard the leader."""
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.propose(1)
    assert stage.transfer(1, 3) is None
    assert stage.propose(1) == Refused(RefusalReason.TRANSFERRING, NodeId(3))
    stage.run(3)
    assert stage.leaders() == [3]
    assert isinstance(stage.propose(3), Accepted)


def test_a_transfer_to_who_is_silent_times_out_and_intake_goes_on() -> None:
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.isolate(3)
    stage.propose(1)
    stage.transfer(1, 3)
    stage.run(TIMEOUT + 2)
    assert isinstance(stage.propose(1), Accepted)
    refused = stage.transfer(1, 9)
    assert refused is not None
    assert refused.reason is RefusalReason.BAD_TARGET


def test_who_lacks_compacted_slots_gets_the_snapshot_and_then_the_rest() -> None:
    stage = paxos()
    stage.elect(1)
    stage.isolate(3)
    for number in range(6):
        stage.propose(1, b"%d" % number)
        stage.settle()
    stage.compact(1)
    stage.propose(1, b"behind")
    stage.settle()
    stage.heal()
    stage.run(6)
    assert stage[1].wanted == [3]
    assert stage.install(1, 3)
    stage.run(6)
    assert stage.commit(3) == 7
    assert payloads(stage, 3) == [b"behind"]
    assert not stage.install(1, 3), "the same again changes nothing"


def test_a_snapshot_leaves_accepted_slots_behind_its_end() -> None:
    """Somebody may have counted them (in Raft the log would begin anew)."""
    stage = paxos()
    stage.elect(1)
    for _ in range(3):
        stage.propose(1)
        stage.settle()
    stage.compact(1)
    stage.hand(1, 3, accept(stage[1].view.ballot, entry(9, 1, b"accepted")))
    stage.crash(3)
    stage.load_slots(3, slot(9, 1, 1, b"accepted"), promised=ballot(1, 1))
    assert stage.install(1, 3)
    assert stage.commit(3) == 3, "whatever the leader has told it so far"
    assert stage.status(3).first_index == 4
    assert promise_of(stage, 3, ballot(6, 2), start=3) is None, "what it held below may never have been chosen"
    assert sorted(held(stage, 3)) == [9]
    found = promise_of(stage, 3, ballot(7, 2), start=4)
    assert found is not None
    assert [each.entry.index for each in found.slots] == [9]
    stage.crash(3)
    stage.restart(3)
    assert (stage.commit(3), sorted(held(stage, 3))) == (3, [9])


def test_progress_says_how_far_each_acceptor_is() -> None:
    stage = paxos()
    stage.elect(1)
    stage.propose(1)
    stage.run(6)
    progress = stage.status(1).progress
    assert {node: seen.match for node, seen in progress.items()} == {1: 1, 2: 1, 3: 1}
    assert progress[NodeId(2)].state == "replicate"
    assert progress[NodeId(2)].in_flight == 0


def test_a_new_leader_learns_how_far_idle_acceptors_are() -> None:
    """Without a new value: or no transfer and no promotion could ever happen."""
    stage = paxos()
    stage.elect(1)
    for _ in range(3):
        stage.propose(1)
        stage.settle()
    stage.elect(2)
    stage.run(8)
    assert {node: seen.match for node, seen in stage.status(2).progress.items() if node != 2} == {1: 3, 3: 3}


def test_that_a_slot_has_arrived_is_no_acceptance() -> None:
    """§2.2: a value is chosen by those who have accepted it, durably; what is told with a heartbeat is less."""
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage[2].syncs = stage[3].syncs = False
    stage.propose(1)
    stage.settle()
    for node in (2, 3):
        stage[1].engine.unreachable(NodeId(node))
    stage.run(6)
    assert stage.status(1).progress[NodeId(3)].state == "replicate", "it is known what has arrived"
    assert (stage.status(1).progress[NodeId(3)].match, stage.commit(1)) == (0, 0)
    stage.sync(3)
    stage.settle()
    assert stage.commit(1) == 1


@pytest.mark.parametrize("late", [1, 2])
def test_a_late_heartbeat_answer_makes_a_leader_send_again_but_never_forget(late: int) -> None:
    """What was acknowledged stays acknowledged, whatever old answers say."""
    stage = paxos()
    stage.elect(1)
    stage.run(3)
    stage.propose(1)
    stage.settle()
    match = stage.status(1).progress[NodeId(2)].match
    stage.hand(2, 1, HeartbeatReply(stage[1].view.ballot, late, LogIndex(0)))
    assert stage.status(1).progress[NodeId(2)].match == match == 1


def test_that_a_snapshot_is_installed_is_told_when_all_that_it_vouches_for_is_durable() -> None:
    """What was accepted behind the snapshot counts with it, and may still wait for the disk."""
    stage = paxos()
    stage.elect(1)
    stage.isolate(3)
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    stage.compact(1)
    stage[3].syncs = False
    stage.heal()
    stage.drop()
    stage.install(1, 3, report=False)
    assert not [each for each in stage.in_flight if each.sender == 3 and isinstance(each.message, AcceptReply)]
    stage.sync(3)
    assert [each for each in stage.in_flight if each.sender == 3 and isinstance(each.message, AcceptReply)]


def test_a_snapshot_is_a_message_of_its_senders_ballot() -> None:
    """An acceptor that knows more to be chosen than a leader can have proposed promises that leader nothing, nor does
    it answer it as an acceptor: it knows of a higher ballot."""
    stage = paxos()
    stage.load_slots(3, promised=ballot(5, 1))
    engine = stage[3].engine
    meta = SnapshotMeta(EntryId(Term(9), LogIndex(100)), stage.genesis)
    assert engine.snapshot_received(NodeId(2), Term(9), meta, stage.now)
    persist = engine.take_effects().persist
    assert persist is not None and persist.hard_state == HardState(Term(9), NodeId(2))
    engine.receive(NodeId(1), accept(ballot(6, 1), entry(1, 6)), stage.now)
    effects = engine.take_effects()
    assert [type(each.message) for each in (*effects.send, *effects.after_persist)] == [Outbid]


def test_a_snapshot_of_a_higher_ballot_deposes_a_leader_and_one_of_a_lower_takes_no_promise_back() -> None:
    stage = paxos()
    stage.elect(1)
    at = stage[1].view.ballot
    meta = SnapshotMeta(EntryId(Term(1), LogIndex(9)), stage.genesis)
    assert stage[2].engine.snapshot_received(NodeId(3), Term(0), meta, stage.now), "it is chosen, whoever says so"
    assert (stage[2].view.ballot, stage.status(2).leader) == (at, 1)
    assert stage[1].engine.snapshot_received(NodeId(2), Term(9), meta, stage.now)
    assert (stage.role(1), stage[1].view.ballot) == ("Follower", ballot(9, 2))


def test_a_snapshot_older_than_what_is_chosen_changes_nothing() -> None:
    stage = paxos()
    stage.elect(1)
    for _ in range(2):
        stage.propose(1)
        stage.settle()
    stage.compact(1)
    for _ in range(3):
        stage.propose(1)
        stage.settle()
    stage.run(4)
    before = stage.commit(3)
    assert before == 5
    assert not stage.install(1, 3)
    assert stage.commit(3) == before
