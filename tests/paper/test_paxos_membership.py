"""Membership changes behind a stop sign (Lamport, Malkhi, Zhou 2010 §3.4), through a joint membership."""

import pytest
from paxos_stage import TIMEOUT, accept, accepts, ballot, entry, paxos, payloads

from troth.core.interface import Accepted, Entry, EntryKind, Member, MembershipChange, RefusalReason, Refused, Slot
from troth.core.membership import encode_membership
from troth.core.paxos.messages import Accept, AcceptReply, Prepare, ProbeReply, Promise
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.actor import membership_of
from troth.simulate.stage import Stage


def joining(*nodes: int) -> dict[NodeId, Member]:
    return {NodeId(node): Member(f"n{node}") for node in nodes}


def replace_all(*new: int, old: tuple[int, ...] = (1, 2, 3)) -> MembershipChange:
    return MembershipChange(add_voters=joining(*new), remove=tuple(NodeId(node) for node in old))


def ready(stage: Stage, node: int = 1) -> Stage:
    stage.elect(node)
    stage.run(4)
    return stage


def voters(stage: Stage, node: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    membership = stage[node].view.membership
    return membership.voters, membership.outgoing


def test_nothing_behind_a_membership_leaves_the_leader_before_it_is_chosen() -> None:
    """The stop sign: who decides on a slot is known before anybody proposes a value for it."""
    stage = ready(paxos(others=(4,)))
    stage.change(1, MembershipChange(add_learners=joining(4)))
    assert isinstance(stage.propose(1, b"behind"), Accepted)
    sent = [each.index for message in stage.sent(Accept, 1) for each in message.entries]  # type: ignore[attr-defined]
    assert set(sent) == {1}
    assert stage.status(1).last.index == 1, "nor is it accepted here"
    stage.run(4)
    assert b"behind" in payloads(stage, 4)


def test_nothing_behind_the_end_of_a_change_leaves_the_leader_before_it_is_chosen() -> None:
    """What is behind it is for the new voters alone."""
    stage = ready(paxos(others=(4, 5, 6)))
    stage.change(1, replace_all(4, 5, 6))
    while not stage[1].view.membership.is_joint:
        stage.tick_all()
        stage.deliver()
    stage.propose(1, b"behind")
    end = stage.status(1).last.index
    assert end == 2, "the joint membership, and that which it ends in"
    stage.tick(1, stage.config.heartbeat_ticks)
    sent = [each.index for message in stage.sent(Accept, 1) for each in message.entries]  # type: ignore[attr-defined]
    assert max(sent) == stage.status(1).last.index == end


def test_a_change_of_voters_goes_through_a_joint_membership() -> None:
    stage = ready(paxos(others=(4, 5, 6)))
    assert isinstance(stage.change(1, replace_all(4, 5, 6)), Accepted)
    assert voters(stage, 1) == ((1, 2, 3), ()), "it is in force once it is chosen"
    seen = []
    for _ in range(12):
        stage.tick_all()
        stage.deliver()
        if voters(stage, 1) not in seen:
            seen.append(voters(stage, 1))
    assert seen == [((1, 2, 3), ()), ((4, 5, 6), (1, 2, 3)), ((4, 5, 6), ())]


def test_a_joint_membership_is_left_once_whatever_is_chosen_before_that() -> None:
    stage = ready(paxos(others=(4, 5, 6), append_bytes_max=1))
    stage.change(1, replace_all(4, 5, 6))
    for _ in range(3):
        stage.propose(1, b"waits behind it")
    stage.run(8)
    assert voters(stage, 4) == ((4, 5, 6), ())
    changes = [each for each in stage[4].journal.durable.slots.values() if each.entry.kind == EntryKind.MEMBERSHIP]
    assert len(changes) == 2


@pytest.mark.parametrize("cut", [(2, 3), (4, 5)])
def test_while_joint_both_sets_must_accept(cut: tuple[int, int]) -> None:
    stage = ready(paxos(others=(4, 5, 6)))
    stage.change(1, replace_all(4, 5, 6))
    while not stage[1].view.membership.is_joint:
        stage.tick_all()
        stage.deliver()
    stage.isolate(*cut)
    before = stage.commit(1)
    stage.run(TIMEOUT - 4)
    assert voters(stage, 1) == ((4, 5, 6), (1, 2, 3))
    assert stage.commit(1) == before


@pytest.mark.parametrize("alone", [2, 4])
def test_while_joint_a_new_leader_needs_promises_of_both_sets(alone: int) -> None:
    stage = ready(paxos(others=(4, 5, 6)))
    stage.change(1, replace_all(4, 5, 6))
    while not stage[alone].view.membership.is_joint:
        stage.tick_all()
        stage.deliver()
    stage.crash(1)
    stage.isolate(4, 5, 6)
    stage.run(4 * TIMEOUT)
    assert stage.leaders() == []
    stage.heal()
    stage.run(4 * TIMEOUT)
    assert len(stage.leaders()) == 1


def test_a_membership_that_is_reported_in_phase_1_must_promise_too() -> None:
    """Whatever was chosen behind it was chosen by its voters, of whom the old quorum knows nothing."""
    stage = paxos((1, 2, 3), others=(4, 5))
    stage.tick(1, TIMEOUT)
    stage.drop()
    stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    mine = stage[1].view.ballot
    reported = Slot(
        ballot(0, 3),
        Entry(LogIndex(1), Term(0), EntryKind.MEMBERSHIP, encode_membership(membership_of((3, 4, 5)))),
    )
    stage.drop()
    stage.hand(2, 1, Promise(mine, LogIndex(1), LogIndex(1), LogIndex(1), LogIndex(0), (reported,)))
    assert stage.role(1) == "Candidate"
    asked = {flying.to for flying in stage.in_flight if isinstance(flying.message, Prepare)}
    assert {4, 5} <= asked, "its voters are asked as soon as it is heard of"
    stage.hand(4, 1, Promise(mine, LogIndex(1), LogIndex(0), LogIndex(0), LogIndex(0), ()))
    assert stage.role(1) == "Candidate"
    stage.hand(5, 1, Promise(mine, LogIndex(1), LogIndex(0), LogIndex(0), LogIndex(0), ()))
    assert stage.role(1) == "Leader"


def test_a_membership_that_a_higher_ballot_has_replaced_need_not_promise() -> None:
    """It was never chosen, and its servers may be gone for good: who once accepted it could never lead again."""
    stage = paxos((1, 2, 3))
    never = Entry(LogIndex(1), Term(5), EntryKind.MEMBERSHIP, encode_membership(membership_of((4, 5), (1, 2, 3))))
    stage.load_slots(1, Slot(ballot(5, 1), never), promised=ballot(5, 1))
    stage.tick(1, TIMEOUT)
    stage.hand(2, 1, ProbeReply(ballot(6, 1), True))
    stage.sync(1)
    asked = {flying.to for flying in stage.in_flight if isinstance(flying.message, Prepare)}
    assert {4, 5} <= asked, "as long as nothing else is known, it may have been chosen"
    chosen_instead = Slot(ballot(5, 2), entry(1, 5, b"instead"))
    reply = Promise(ballot(6, 1), LogIndex(1), LogIndex(1), LogIndex(1), LogIndex(0), (chosen_instead,))
    stage.hand(2, 1, reply)
    assert stage.role(1) == "Leader"
    assert stage[1].view.membership == stage.genesis


def test_a_membership_that_is_known_to_be_chosen_and_replaced_need_not_promise() -> None:
    """Who decided under it may be stopped since; the one that came behind it, chosen as well, is in force."""
    stage = paxos((1, 2, 3), others=(4, 5, 6))
    stage.tick(1, TIMEOUT)
    stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    stage.sync(1)
    mine = stage[1].view.ballot
    reported = tuple(
        Slot(ballot(0, 3), Entry(LogIndex(index), Term(0), EntryKind.MEMBERSHIP, encode_membership(membership)))
        for index, membership in ((1, membership_of((1, 2, 3), (4, 5, 6))), (2, membership_of((1, 2, 3))))
    )
    stage.hand(2, 1, Promise(mine, LogIndex(1), LogIndex(2), LogIndex(2), LogIndex(2), reported))
    assert stage.role(1) == "Leader"


def test_a_stale_server_can_not_lead_with_voters_that_were_replaced() -> None:
    """It learns of the new membership from the first old voter that it asks, and then needs the new ones."""
    stage = ready(paxos(others=(4, 5, 6)))
    stage.isolate(3)
    stage.change(1, replace_all(4, 5, 6))
    stage.run(3)
    assert voters(stage, 4) == ((4, 5, 6), ())
    stage.crash(4)
    stage.crash(5)
    stage.crash(6)
    stage.heal()
    for _ in range(6):
        stage.run(TIMEOUT)
        assert 3 not in stage.leaders()
    assert voters(stage, 3) == ((4, 5, 6), ()), "that much it has learned"


def test_leaving_is_announced_only_when_the_new_voters_durably_know_it() -> None:
    """An operator may stop the old servers as soon as they are listed no more."""
    stage = ready(paxos(others=(4, 5, 6)))
    stage.change(1, replace_all(4, 5, 6))
    while voters(stage, 1) != ((4, 5, 6), ()):
        stage.tick_all()
        stage.deliver()
    assert stage.status(1).membership.is_joint, "chosen, and not announced"
    left_at = stage.status(1).membership_index
    while stage.status(1).membership.is_joint:
        stage.tick_all()
        stage.deliver()
    assert stage.commit(1) == stage.status(1).last.index == left_at + 1, "one slot behind it is enough"
    for node in (1, 2, 3):
        stage.crash(node)
    for node in (4, 5, 6):
        stage.crash(node)
        stage.restart(node)
    stage.run(6 * TIMEOUT)
    assert len(stage.leaders()) == 1
    stage.propose(stage.leaders()[0], b"goes on")
    stage.run(4)
    assert payloads(stage, 4)[-1] == payloads(stage, 6)[-1] == b"goes on"


def test_the_slot_behind_a_membership_is_counted_by_unbroken_runs() -> None:
    """Who has it but not all before it may not know that the membership is chosen."""
    stage = ready(paxos(others=(4,)))
    stage.change(1, MembershipChange(add_learners=joining(4)))
    stage.drop(accepts(to=2, index=1))
    stage.settle()
    assert stage.commit(1) == 1
    stage.propose(1)
    stage.drop()
    at = stage[1].view.ballot
    stage.hand(2, 1, AcceptReply(at, LogIndex(0), LogIndex(2), LogIndex(2)))
    assert stage.commit(1) == 1
    stage.hand(3, 1, AcceptReply(at, LogIndex(2)))
    assert stage.commit(1) == 2


@pytest.mark.parametrize("late", [1, 2])
def test_a_membership_is_known_to_be_chosen_by_the_slot_behind_it_also_after_a_restart(late: int) -> None:
    """Who is counted for that slot knows it durably, in whatever order the slots came."""
    stage = paxos()
    at = ballot(9, 1)
    payload = encode_membership(membership_of((1, 2)))
    slots = {1: entry(1, 9), 2: entry(2, 9, payload, EntryKind.MEMBERSHIP)}
    stage.hand(1, 2, accept(at, slots[3 - late]))
    stage.hand(1, 2, accept(at, entry(3, 9), chosen=2))
    stage.crash(2)
    stage.restart(2)
    stage.drop()
    stage.hand(1, 2, accept(at, slots[late]))
    assert stage.sent(AcceptReply, 2) == [AcceptReply(at, LogIndex(3))]
    assert stage[2].journal.durable.chosen == 2
    assert voters(stage, 2) == ((1, 2), ())


def test_one_change_at_a_time() -> None:
    stage = ready(paxos(others=(4, 5)))
    stage.isolate(1)
    stage.change(1, MembershipChange(add_voters=joining(4)))
    second = stage.change(1, MembershipChange(add_voters=joining(5)))
    assert second == Refused(RefusalReason.CHANGE_IN_PROGRESS, NodeId(1))


def test_no_change_before_the_recovered_window_is_chosen() -> None:
    """A membership may be in it."""
    stage = paxos()
    stage.load_slots(
        1,
        Slot(ballot(0, 2), Entry(LogIndex(1), Term(0), EntryKind.COMMANDS, b"x")),
        promised=ballot(0, 2),
    )
    while stage.role(1) != "Leader":
        stage.tick_all()
        stage.deliver()
    stage.drop()
    refused = stage.change(1, MembershipChange(add_learners=joining(4)))
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.NOT_READY


def test_a_leader_that_is_removed_leads_until_that_is_settled_and_names_a_successor() -> None:
    stage = ready(paxos())
    stage.change(1, MembershipChange(remove=(NodeId(1),)))
    for _ in range(20):
        if voters(stage, 1) == ((2, 3), ()):
            break
        stage.tick_all()
        stage.deliver()
    assert stage.role(1) == "Leader", "the slot behind it is not chosen yet"
    stage.run(8)
    assert stage.role(1) == "Follower"
    assert stage.leaders() in ([2], [3])
    assert stage.status(stage.leaders()[0]).membership.voters == (2, 3)


def test_a_learner_receives_everything_decides_nothing_and_is_promoted_when_it_has_caught_up() -> None:
    stage = ready(paxos(others=(4,)))
    stage.isolate(4)
    stage.change(1, MembershipChange(add_learners=joining(4)))
    for _ in range(5):
        stage.propose(1)
        stage.settle()
    assert stage.status(1).membership.learners == (4,)
    stage.heal()
    stage.run(10)
    assert stage.status(1).membership.voters == (1, 2, 3, 4)
    assert stage.commit(4) >= 6


def test_a_new_leader_says_whether_it_knows_the_members_that_were_chosen_before_it_led() -> None:
    """A new member that it does not know yet was not removed (`Replica.was_removed`)."""
    stage = ready(paxos(others=(4,)))
    stage.isolate(2)
    stage.change(1, MembershipChange(add_learners=joining(4)))
    while stage.status(1).membership.learners != (4,):
        stage.tick(1)
        stage.deliver(lambda flying: isinstance(flying.message, Accept | AcceptReply))
    assert stage.status(1).knows_committed
    stage.drop()
    stage.crash(1)
    stage.heal()
    while stage.role(2) != "Leader":
        stage.tick(2)
        stage.deliver(lambda flying: not isinstance(flying.message, Accept))
    assert 4 not in stage.status(2).membership.everyone() and not stage.status(2).knows_committed
    stage.run(4)
    assert 4 in stage.status(2).membership.everyone() and stage.status(2).knows_committed
    assert not stage.status(3).knows_committed, "it does not lead"


def test_a_change_that_is_not_possible_is_refused_with_a_reason() -> None:
    stage = ready(paxos())
    refused = stage.change(1, MembershipChange(remove=(NodeId(9),)))
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.BAD_CHANGE
    assert "not a member" in refused.detail
    follower = stage.change(2, MembershipChange(remove=(NodeId(3),)))
    assert follower == Refused(RefusalReason.NOT_LEADER, NodeId(1))


def test_a_membership_is_delivered_together_with_the_slot_behind_it() -> None:
    """So that no snapshot ends between the leaving of the old voters and its announcement."""
    stage = ready(paxos(others=(4, 5, 6)))
    stage.change(1, replace_all(4, 5, 6))
    for _ in range(30):
        stage.tick_all()
        stage.deliver()
        for node in stage.actors:
            if stage.commit(node):
                applied = stage[node].view.applied_index
                membership = stage[node].engine.membership_at(applied)
                announced = stage.status(node).membership
                assert applied < stage[node].view.membership_index or membership == announced
    assert not stage.status(4).membership.is_joint


def test_flexible_sizes_hold_where_they_fit_and_majorities_elsewhere() -> None:
    stage = ready(paxos((1, 2, 3, 4), others=(5,), phase1_size=3, phase2_size=2))
    stage.change(1, MembershipChange(add_voters=joining(5)))
    stage.run(8)
    assert stage.status(1).membership.voters == (1, 2, 3, 4, 5)
    stage.isolate(1, 2)
    before = stage.commit(1)
    stage.propose(1)
    stage.settle()
    assert stage.commit(1) == before, "two of five is no quorum"


def test_while_joint_a_phase_1_quorum_of_the_new_voters_accepts() -> None:
    """It stands for their promises: two phase-2 quorums of two out of four need not meet."""
    stage = ready(paxos((1, 2, 3, 4), others=(5, 6, 7, 8), phase1_size=3, phase2_size=2))
    stage.change(1, replace_all(5, 6, 7, 8, old=(1, 2, 3, 4)))
    while not stage[1].view.membership.is_joint:
        stage.tick_all()
        stage.deliver()
    stage.isolate(1, 2, 3, 5, 6)
    stage.run(TIMEOUT - 4)
    assert voters(stage, 1) == ((5, 6, 7, 8), (1, 2, 3, 4))
    stage.heal()
    stage.run(8)
    assert voters(stage, 5) == ((5, 6, 7, 8), ())


def test_while_joint_a_phase_2_quorum_accepts_though_one_of_phase_1_is_smaller() -> None:
    stage = ready(paxos((1, 2, 3, 4, 5), others=(6, 7, 8, 9, 10), phase1_size=2, phase2_size=4))
    stage.change(1, replace_all(6, 7, 8, 9, 10, old=(1, 2, 3, 4, 5)))
    while not stage[1].view.membership.is_joint:
        stage.tick_all()
        stage.deliver()
    stage.isolate(4, 5)
    stage.run(TIMEOUT - 4)
    assert voters(stage, 1) == ((6, 7, 8, 9, 10), (1, 2, 3, 4, 5))
    stage.heal()
    stage.run(8)
    assert voters(stage, 6) == ((6, 7, 8, 9, 10), ())


@pytest.mark.parametrize("payload", [b"", b"\x93nonsense", encode_membership(membership_of(()))])
def test_a_membership_that_nobody_can_read_gets_into_no_slot(payload: bytes) -> None:
    """It could never be delivered, and everything behind it neither."""
    stage = paxos()
    bad = Entry(LogIndex(1), Term(1), EntryKind.MEMBERSHIP, payload)
    stage.hand(1, 2, Accept(ballot(1, 1), (bad,), LogIndex(0)))
    assert stage[2].journal.written == 0
    stage.tick(1, TIMEOUT)
    stage.drop()
    stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    reported = Slot(ballot(0, 3), bad)
    stage.hand(2, 1, Promise(ballot(1, 1), LogIndex(1), LogIndex(1), LogIndex(1), LogIndex(0), (reported,)))
    assert stage.role(1) == "Candidate"
    assert "n1 malformed sender=2" in stage.lines


def test_nothing_is_chosen_beyond_what_is_accepted_here() -> None:
    """What waits behind a membership is accepted nowhere; whoever answers as if it were does not choose it."""
    stage = ready(paxos(others=(4,)))
    engine = stage[1].engine
    engine.change_membership(MembershipChange(add_voters=joining(4)))
    engine.propose(b"behind")
    engine.take_effects()
    last = engine._leader.last
    for node in (2, 3):
        engine.receive(NodeId(node), AcceptReply(stage[1].view.ballot, last), stage.now)
    assert engine.commit_index < last
