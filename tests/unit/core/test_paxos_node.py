"""What the paper tests of Paxos leave: corners of the engine's entry, quick elections, transfers, wrong calls."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "paper"))

from paxos_stage import TIMEOUT, accept, ballot, entry, held, paxos, payloads, prepare

from troth.core.interface import EntryKind, MembershipChange, RefusalReason, Refused, SnapshotMeta
from troth.core.membership import encode_membership
from troth.core.paxos.messages import (
    AcceptReply,
    Heartbeat,
    HeartbeatReply,
    Prepare,
    ProbeReply,
    Promise,
    ReadReply,
    ReadRequest,
    TimeoutNow,
)
from troth.core.paxos.slots import Slots
from troth.core.quorum import QuorumSizes
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.replica.admin import survives
from troth.simulate.stage import Stage


def led(*, by: int = 1, **settings: int) -> Stage:
    stage = paxos(**settings)
    stage.elect(by)
    stage.run(4)
    return stage


def test_the_leader_is_told_by_ballot_and_commit_index_without_a_status() -> None:
    stage = led()
    stage.propose(1)
    stage.settle()
    assert stage[2].engine.leader() == (1, 1)
    assert stage[1].engine.commit_index == 1


def test_only_accepts_that_hold_some_bring_entries() -> None:
    at = ballot(3, 1)
    assert accept(at, entry(1, 3)).brings_entries()
    assert not accept(at).brings_entries() and not prepare(at).brings_entries()


def test_a_repeated_prepare_of_a_ballot_that_is_promised_is_refused_once_its_owner_leads() -> None:
    stage = led()
    at = stage[1].view.ballot
    stage.hand(1, 2, prepare(at))
    assert stage.sent(Promise, 2) == []


@pytest.mark.parametrize(
    "message",
    [
        lambda at: ReadRequest(at, 3),
        lambda at: ReadReply(at, 3, LogIndex(9)),
        lambda at: AcceptReply(at, LogIndex(9)),
        lambda at: HeartbeatReply(at, 9, LogIndex(9)),
        lambda at: ProbeReply(at, True),
        lambda at: Promise(at, LogIndex(1), LogIndex(0), LogIndex(0), LogIndex(0), ()),
    ],
)
def test_what_only_another_role_may_hear_changes_nothing(message: object) -> None:
    stage = led()
    before = stage.status(2)
    stage.hand(3, 2, message(stage[1].view.ballot))  # type: ignore[operator]
    assert stage.status(2) == before
    assert stage[2].reads == []


def test_a_leader_does_not_listen_to_its_own_read_answers_nor_to_a_call_to_stand() -> None:
    stage = led()
    at = stage[1].view.ballot
    stage.hand(2, 1, ReadReply(at, 1, LogIndex(0)))
    stage.hand(1, 1, TimeoutNow(at))
    assert stage.role(1) == "Leader"


def test_answers_of_strangers_are_not_counted() -> None:
    stage = led()
    at = stage[1].view.ballot
    stage.propose(1)
    stage.drop()
    stage.hand(9, 1, AcceptReply(at, LogIndex(1)))
    stage.hand(9, 1, HeartbeatReply(at, 99, LogIndex(1)))
    assert stage.commit(1) == 0


def test_a_leader_and_a_candidate_install_no_snapshot() -> None:
    stage = led()
    for _ in range(3):
        stage.propose(1)
        stage.settle()
    meta = stage.compact(2)
    assert not stage[1].engine.snapshot_received(NodeId(2), Term(0), meta, stage.now)
    assert stage.role(1) == "Leader"


def test_compacting_the_same_again_changes_nothing() -> None:
    stage = led()
    stage.propose(1)
    stage.settle()
    meta = stage.compact(2)
    stage[2].engine.compact(meta, LogIndex(1))
    assert stage.status(2).first_index == 2
    with pytest.raises(InvariantViolation, match="not applied"):
        stage[2].engine.compact(
            SnapshotMeta(meta.last.__class__(meta.last.term, LogIndex(7)), meta.membership), LogIndex(8)
        )


def test_slots_that_are_to_be_kept_in_front_of_a_snapshot_are_kept() -> None:
    stage = led()
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    stage.compact(2, keep_from=3)
    assert stage.status(2).first_index == 3


def test_applying_what_is_not_chosen_is_our_bug() -> None:
    stage = led()
    with pytest.raises(InvariantViolation, match="applies what is not committed"):
        stage[1].engine.applied(LogIndex(5))


def test_a_change_is_refused_while_leadership_is_handed_over() -> None:
    stage = led()
    stage.isolate(3)
    stage.propose(1)
    stage.transfer(1, 3)
    refused = stage.change(1, MembershipChange(remove=(NodeId(2),)))
    assert refused == Refused(RefusalReason.TRANSFERRING, NodeId(1))


def test_a_membership_is_delivered_with_the_slot_behind_it_whatever_fits() -> None:
    stage = paxos(append_bytes_max=30)
    change = entry(1, 2, encode_membership(stage.genesis), EntryKind.MEMBERSHIP)
    stage.hand(1, 2, accept(ballot(2, 1), change, entry(2, 2, b"x" * 50), entry(3, 2), chosen=2))
    assert [each.index for each in stage[2].last.committed] == [1, 2]


def test_memberships_in_a_row_are_delivered_with_the_slot_behind_the_last() -> None:
    stage = paxos(append_bytes_max=30)
    changes = [entry(index, 2, encode_membership(stage.genesis), EntryKind.MEMBERSHIP) for index in (1, 2)]
    stage.hand(1, 2, accept(ballot(2, 1), *changes, entry(3, 2), entry(4, 2), chosen=3))
    assert [each.index for each in stage[2].last.committed] == [1, 2, 3]


def test_what_is_chosen_is_delivered_a_piece_at_a_time() -> None:
    stage = paxos(append_bytes_max=30)
    stage.hand(1, 2, accept(ballot(2, 1), *(entry(index, 2, b"x" * 20) for index in (1, 2, 3)), chosen=3))
    assert [each.index for each in stage[2].last.committed] == [3]
    assert len(stage[2].applied) == 3


# ---- elections ----


def test_after_a_death_that_was_seen_the_next_tries_follow_soon_and_ever_later() -> None:
    stage = led()
    stage.crash(1)
    stage.isolate(2)
    stage.suspect(2, 1)
    assert stage.role(2) == "PreCandidate", "the first in turn does not wait"
    tries = []
    for _ in range(4 * TIMEOUT):
        before = len(stage.lines)
        stage.tick(2)
        stage.drop()
        if any("pre_candidate" in line for line in stage.lines[before:]):
            tries.append(int(stage.now))
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[0] < TIMEOUT <= gaps[-1]


def test_a_refused_quick_try_keeps_its_pace() -> None:
    stage = led()
    stage.crash(1)
    stage.suspect(2, 1)
    stage.drop()
    deadline = [line for line in stage.lines if "pre_candidate" in line]
    at = stage[2].view.ballot
    for peer in (1, 3):
        stage.hand(peer, 2, ProbeReply(at, False))
    assert stage.role(2) == "Follower"
    for _ in range(TIMEOUT - 1):
        stage.tick(2)
    assert len([line for line in stage.lines if "pre_candidate" in line]) > len(deadline), (
        "sooner than its patience"
    )


def test_who_was_called_to_stand_tries_again_sooner_than_its_patience() -> None:
    stage = led()
    stage.hand(1, 2, TimeoutNow(stage[1].view.ballot))
    assert stage.role(2) == "Candidate"
    began = stage.now
    while stage.role(2) == "Candidate":
        stage.drop()
        stage.tick(2)
    assert stage.now - began < TIMEOUT


def test_a_death_is_no_news_to_who_does_not_follow_the_dead() -> None:
    stage = led()
    stage.suspect(2, 3)
    assert stage.role(2) == "Follower"
    assert stage.status(2).leader == 1
    leases = paxos(lease_reads=True)
    leases.now = Tick(2 * TIMEOUT)
    leases.elect(1)
    leases.run(3)
    leases.suspect(2, 1)
    assert leases.status(2).leader == 1, "a lease may still hold"


def test_a_leader_stops_pipelining_to_who_is_unreachable_until_it_answers() -> None:
    stage = led()
    stage.suspect(1, 2)
    assert stage.status(1).progress[NodeId(2)].state == "probe"
    stage[1].engine.unreachable(NodeId(9))
    stage[2].engine.unreachable(NodeId(1))
    stage.propose(1, b"v")
    stage.run(6)
    assert payloads(stage, 2) == [b"v"]


def test_who_is_no_voter_does_not_stand_when_called() -> None:
    stage = paxos(learners=(4,))
    stage.isolate(4)
    stage.elect(1)
    stage.heal()
    stage.hand(1, 4, TimeoutNow(stage[1].view.ballot))
    assert stage.role(4) == "Follower"


def test_a_candidate_asks_again_at_its_pace_and_not_at_every_tick() -> None:
    stage = paxos(heartbeat_ticks=4)
    stage.tick(1, TIMEOUT)
    stage.drop()
    stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    stage.drop()
    counts = []
    for _ in range(8):
        stage.tick(1)
        counts.append(len(stage.sent(Prepare, 1)))
        stage.drop()
    assert counts == [0, 0, 0, 2, 0, 0, 0, 2]


def test_time_in_which_a_leader_did_not_run_is_not_silence_of_the_others() -> None:
    stage = led()
    stage.now = Tick(stage.now + 5 * TIMEOUT)
    stage.tick(1)
    assert stage.role(1) == "Leader"
    stage.drop()
    stage.tick(1, TIMEOUT + 4)
    assert stage.role(1) == "Follower", "what comes after is"


def test_a_leader_disregards_who_would_take_its_place() -> None:
    stage = led()
    stage.hand(3, 1, prepare(ballot(9, 3)))
    assert stage.role(1) == "Leader"
    assert stage[1].view.ballot == ballot(1, 1)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_leader_that_steps_down_says_nothing_more_as_a_leader(hangs: bool) -> None:
    stage = led(disk_timeout_ticks=10)
    stage[1].syncs = not hangs
    stage.propose(1)
    if not hangs:
        stage.isolate(1)
    while stage.role(1) == "Leader":
        stage.settle()
        stage.tick_all()
    assert not [
        flying for flying in stage.in_flight if flying.sender == 1 and isinstance(flying.message, Heartbeat)
    ]


# ---- transfer ----


def test_a_target_is_not_called_before_it_has_everything() -> None:
    stage = led()
    stage.isolate(3)
    stage.propose(1)
    stage.settle()
    stage.transfer(1, 3)
    assert stage.sent(TimeoutNow) == []


def test_a_target_is_called_to_stand_once() -> None:
    stage = led()
    stage.transfer(1, 3)
    calls = len(stage.sent(TimeoutNow, 1, 3))
    stage.drop()
    stage.hand(2, 1, HeartbeatReply(stage[1].view.ballot, 1, LogIndex(0)))
    assert (calls, len(stage.sent(TimeoutNow, 1, 3))) == (1, 0)


def test_leadership_is_given_to_the_most_up_to_date_when_nobody_is_named() -> None:
    stage = led()
    stage.isolate(2)
    stage.propose(1)
    stage.settle()
    assert stage.transfer(1) is None
    stage.run(3)
    assert stage.leaders() == [3]


def test_transfers_that_make_no_sense_are_refused() -> None:
    stage = led()
    assert stage.transfer(2, 3) == Refused(RefusalReason.NOT_LEADER, NodeId(1))
    assert stage.transfer(1, 1) is None, "it leads already"
    stage.isolate(3)
    stage.propose(1)
    stage.settle()
    stage.transfer(1, 3)
    assert stage.transfer(1, 2) == Refused(RefusalReason.TRANSFERRING, NodeId(1))
    assert stage.transfer(1, 3) is None
    assert stage.status(1).transferring_to == 3


# ---- snapshots ----


def test_a_snapshot_that_failed_is_wanted_again() -> None:
    stage = led()
    stage.isolate(3)
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    meta = stage.compact(1)
    stage.heal()
    stage.run(6)
    assert stage[1].wanted == [3]
    stage[1].engine.snapshot_sent(NodeId(3), meta, False)
    stage.run(6)
    assert stage[1].wanted == [3, 3]
    stage[1].engine.snapshot_sent(NodeId(9), meta, True)
    stage[1].engine.snapshot_sent(NodeId(2), meta, True)
    assert stage.status(1).progress[NodeId(2)].state == "replicate", "it was sent none"
    stage[2].engine.snapshot_sent(NodeId(3), meta, True)


@pytest.mark.parametrize("behind", [0, 3])
def test_a_snapshot_that_has_arrived_is_noticed_by_its_acknowledgement_alone(behind: int) -> None:
    """Whatever was chosen behind it meanwhile."""
    stage = led()
    stage.isolate(3)
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    stage.compact(1)
    for _ in range(behind):
        stage.propose(1)
        stage.settle()
    stage.heal()
    stage.run(6)
    stage.install(1, 3, report=False)
    stage.settle()
    assert stage.status(1).progress[NodeId(3)].state == "replicate"


def test_reads_of_a_follower_that_the_leader_has_no_room_for_get_no_answer() -> None:
    stage = led(reads_pending_max=1)
    at = stage[1].view.ballot
    stage.read(1, 1)
    stage.drop()
    stage.hand(3, 1, ReadRequest(at, 5))
    stage.run(4)
    assert stage.sent(ReadReply) == []
    assert [read.context for read in stage[1].reads] == [1]


# ---- parts ----


def test_slots_below_the_compaction_are_passed_over_and_missing_ones_are_our_bug() -> None:
    stage = led()
    last = stage[1].engine.snapshot_meta(LogIndex(0)).last.__class__(stage[1].view.term, LogIndex(5))
    slots = Slots(last, [])
    assert slots.id_at(LogIndex(5)) == last
    with pytest.raises(InvariantViolation, match="not here"):
        slots.entry(LogIndex(6))


def test_acknowledgements_that_wait_for_one_write_are_one() -> None:
    stage = paxos()
    stage[2].syncs = False
    at = ballot(2, 1)
    engine = stage[2].engine
    for index in (1, 2, 3):
        engine.receive(NodeId(1), accept(at, entry(index, 2)), stage.now)
    stage.pump(2)
    stage.sync(2)
    assert stage.sent(AcceptReply, 2, 1) == [AcceptReply(at, LogIndex(3))]


def test_while_no_values_are_taken_they_are_as_if_lost_and_a_question_is_answered() -> None:
    stage = paxos()
    at = ballot(2, 1)
    stage[2].engine.take_entries(False)
    stage.hand(1, 2, accept(at, entry(1, 2)))
    assert (stage.sent(AcceptReply), held(stage, 2), stage[2].view.ballot) == ([], {}, at)
    stage.hand(1, 2, accept(at))
    assert stage.sent(AcceptReply) == [AcceptReply(at, LogIndex(0))]
    stage[2].engine.take_entries(True)
    stage.hand(1, 2, accept(at, entry(1, 2)))
    assert held(stage, 2) == {1: (2, 1, b"v")}


def test_quorum_sizes_apply_where_they_meet() -> None:
    sizes = QuorumSizes(4, 2)
    assert (sizes.phase1(5), sizes.phase2(5), sizes.blocking(5)) == (4, 2, 2)
    assert (sizes.phase1(6), sizes.phase2(6), sizes.blocking(6)) == (4, 4, 3), "4 + 2 need not meet among 6"
    assert (sizes.phase1(3), sizes.phase2(3)) == (2, 2)
    assert sizes.leading(5) == QuorumSizes(2, 4).leading(5) == 4, "who can begin must be able to go on"
    assert (QuorumSizes().phase1(4), QuorumSizes().blocking(4)) == (3, 2)


def test_a_late_acceptance_of_what_is_compacted_is_acknowledged_and_changes_nothing() -> None:
    """It must never look like a slot that is free."""
    stage = led()
    for _ in range(3):
        stage.propose(1, b"v")
        stage.settle()
    stage.compact(2)
    written = stage[2].journal.written
    at = stage[1].view.ballot
    stage.hand(1, 2, accept(at, entry(1, 1), entry(2, 1)))
    assert stage.sent(AcceptReply, 2, 1) == [AcceptReply(at, LogIndex(3))]
    assert stage[2].journal.written == written


def test_a_candidate_whose_own_promise_is_not_durable_asks_nobody_for_it_again() -> None:
    stage = paxos()
    stage[1].syncs = False
    stage.tick(1, TIMEOUT)
    stage.drop()
    stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    stage.tick(1, 4)
    assert stage.sent(Prepare) == []
    stage.sync(1)
    assert {flying.to for flying in stage.in_flight} == {2, 3}


def test_a_heartbeat_answer_alone_may_tell_that_a_snapshot_has_arrived() -> None:
    stage = led()
    stage.isolate(3)
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    stage.compact(1)
    stage.heal()
    stage.run(6)
    stage.install(1, 3, report=False)
    stage.drop()
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    stage.run(3)
    assert stage.status(1).progress[NodeId(3)].state == "replicate"


def test_a_restart_passes_over_slots_that_the_snapshot_covers() -> None:
    stage = led()
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    last = stage[1].engine.snapshot_meta(LogIndex(2)).last
    _, slots = stage[1].view.held()
    assert [each.entry.index for each in Slots(last, slots).above(LogIndex(0))] == [3, 4]


def test_acknowledgements_to_different_leaders_stay_apart() -> None:
    stage = paxos()
    stage[2].syncs = False
    engine = stage[2].engine
    engine.receive(NodeId(1), accept(ballot(2, 1), entry(1, 2)), stage.now)
    engine.receive(NodeId(3), accept(ballot(3, 3), entry(1, 3)), stage.now)
    stage.pump(2)
    stage.sync(2)
    assert stage.sent(AcceptReply, 2, 1) == [AcceptReply(ballot(2, 1), LogIndex(1))]
    assert stage.sent(AcceptReply, 2, 3) == [AcceptReply(ballot(3, 3), LogIndex(1))]


def test_a_cluster_survives_as_many_failures_as_the_larger_of_its_quorums_lets_it() -> None:
    stage = paxos((1, 2, 3, 4, 5), phase1_size=4, phase2_size=2)
    stage.elect(1)
    stage.run(4)
    assert survives(stage.status(1)) == 1, "two may be lost for writing, and then nobody could lead"
    majorities = paxos((1, 2, 3, 4, 5))
    majorities.elect(1)
    majorities.run(4)
    assert survives(majorities.status(1)) == 2
