"""Raft §6 (joint consensus), thesis §4.2 (learners, removed leaders, disruption), and §7 (compaction)."""

import pytest

from troth.core.interface import (
    Accepted,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Member,
    Membership,
    MembershipChange,
    RefusalReason,
    Refused,
    SnapshotMeta,
)
from troth.core.membership import encode_membership
from troth.core.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from troth.core.raft.state import RaftConfig
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.actor import membership_of
from troth.simulate.stage import Stage

TIMEOUT = 20


def at(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def nodes(*numbers: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(number) for number in numbers)


def joining(*numbers: int, promote: bool = True) -> dict[NodeId, Member]:
    return {NodeId(number): Member(f"n{number}", promote=promote) for number in numbers}


def voters(stage: Stage, node: int) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...]]:
    membership = stage.status(node).membership
    return membership.voters, membership.outgoing


def leading(voting: int = 3, *, others: tuple[int, ...] = (), config: RaftConfig | None = None) -> Stage:
    stage = Stage(range(1, voting + 1), others=others, config=config)
    stage.elect(1)
    stage.run(2)
    return stage


# ---- §6 ----


def test_a_membership_is_used_from_the_moment_it_is_in_the_log() -> None:
    """§6: "a server always uses the latest configuration in its log, regardless of whether the entry is committed"."""
    stage = leading(others=(4,))
    assert stage.change(1, MembershipChange(add_voters=joining(4))) == Accepted(at(1, 2))
    assert voters(stage, 1) == (nodes(1, 2, 3, 4), nodes(1, 2, 3))
    assert voters(stage, 2) == (nodes(1, 2, 3), ())
    stage.deliver(lambda flying: flying.to == 2)
    assert voters(stage, 2) == (nodes(1, 2, 3, 4), nodes(1, 2, 3))
    assert stage[2].last.membership == stage.status(2).membership
    assert stage.commit(2) == 1


def test_a_change_passes_through_a_joint_membership_and_leaves_it_by_itself() -> None:
    """§6, figure 11: C_old,new, then C_new as soon as the first has committed."""
    stage = leading(others=(4, 5))
    stage.change(1, MembershipChange(add_voters=joining(4, 5), remove=nodes(2)))
    stage.run(4)
    for node in (1, 3, 4, 5):
        assert voters(stage, node) == (nodes(1, 3, 4, 5), ())
        assert stage.status(node).membership_index == 3
        assert stage.terms(node) == [1, 1, 1]
    assert stage.commit(1) == 3


def test_a_joint_membership_needs_a_majority_of_both_sets_to_commit() -> None:
    """§6: "agreement (for elections and entry commitment) requires separate majorities from both"."""
    stage = leading(others=(4, 5, 6))
    stage.isolate(1)
    stage.change(1, MembershipChange(add_voters=joining(4, 5, 6), remove=nodes(1, 2, 3)))
    stage.cut.clear()
    stage.drop()
    for node in (4, 5, 6):
        stage.hand(node, 1, AppendReply(Term(1), LogIndex(2)))
    assert stage.commit(1) == 1, "all of the new and one of the old"
    stage.hand(2, 1, AppendReply(Term(1), LogIndex(2)))
    assert stage.commit(1) == 2

    other = leading(others=(4, 5, 6))
    other.change(1, MembershipChange(add_voters=joining(4, 5, 6), remove=nodes(1, 2, 3)))
    other.drop()
    for node in (2, 3, 4):
        other.hand(node, 1, AppendReply(Term(1), LogIndex(2)))
    assert other.commit(1) == 1, "all of the old and one of the new"
    other.hand(5, 1, AppendReply(Term(1), LogIndex(2)))
    assert other.commit(1) == 2


def test_a_joint_membership_is_not_left_before_it_has_committed() -> None:
    """§6: "once C_old,new has been committed [...] it is now safe for the leader to create a log entry describing
    C_new": not when an entry before it has."""
    stage = leading(others=(4,))
    stage.propose(1)
    stage.change(1, MembershipChange(add_voters=joining(4)))
    stage.drop()
    for node in (2, 3):
        stage.hand(node, 1, AppendReply(Term(1), LogIndex(2)))
    assert stage.commit(1) == 2
    assert voters(stage, 1)[1], "entry 2 has committed, entry 3 has not"
    assert stage.terms(1) == [1, 1, 1]
    for node in (2, 3):
        stage.hand(node, 1, AppendReply(Term(1), LogIndex(3)))
    assert stage.terms(1) == [1, 1, 1, 1]
    assert not voters(stage, 1)[1]


def test_a_leader_outside_its_membership_goes_on_until_that_has_committed() -> None:
    """§6: it heartbeats, confirms reads and replicates, and counts itself nowhere."""
    stage = leading()
    stage.change(1, MembershipChange(remove=nodes(1)))
    stage.deliver(lambda flying: flying.to in (2, 3))
    stage.deliver(lambda flying: flying.to == 1)
    stage.drop()
    stage.read(1, 5)
    assert [flying.to for flying in stage.in_flight if isinstance(flying.message, Heartbeat)] == [2, 3]
    stage.tick(1, stage.config.heartbeat_ticks + 1)
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.sender == 2)
    assert not stage[1].reads, "one of {2, 3} is no quorum"
    assert stage.role(1) == "Leader"
    stage.settle()
    stage.run(3)
    assert stage.role(1) == "Follower"
    assert stage[1].reads or stage[1].reads_refused


def test_a_joint_membership_needs_a_majority_of_both_sets_to_elect() -> None:
    """§6."""
    joint = membership_of((1, 4, 5), outgoing=(1, 2, 3))
    stage = Stage((1, 2, 3), others=(4, 5))
    stage.load(1, term=1, log=[1, joint])
    stage.tick(1, TIMEOUT)
    assert [flying.to for flying in stage.in_flight] == [2, 3, 4, 5]
    stage.deliver(lambda flying: flying.to in (4, 5))
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "PreCandidate"
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Candidate"
    stage.deliver(lambda flying: flying.to in (2, 3))
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Candidate"
    stage.deliver(lambda flying: flying.to == 4)
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Leader"


def test_a_new_leader_finishes_a_change_that_it_finds() -> None:
    """§6: a joint membership of an older term is left as well."""
    stage = Stage((1, 2, 3), others=(4,))
    for node in (1, 2, 3):
        stage.load(node, term=1, log=[1, membership_of((1, 2, 4), outgoing=(1, 2, 3))])
    stage.elect(1)
    stage.run(6)
    assert voters(stage, 1) == (nodes(1, 2, 4), ())
    assert voters(stage, 4) == (nodes(1, 2, 4), ())


def test_a_truncated_membership_is_taken_back() -> None:
    """§6; pitfall: a membership of an overwritten entry is kept."""
    stage = Stage((1, 2, 3))
    stage.load(2, term=1, log=[1, membership_of((2, 4, 5), outgoing=(1, 2, 3))])
    assert voters(stage, 2)[1]
    entry = Entry(LogIndex(2), Term(2), EntryKind.COMMANDS, b"")
    stage.hand(3, 2, AppendEntries(Term(2), at(1, 1), (entry,), LogIndex(0)))
    assert voters(stage, 2) == (nodes(1, 2, 3), ())
    assert stage[2].last.membership == stage.genesis


def test_a_truncation_behind_the_membership_leaves_it() -> None:
    stage = Stage((1, 2, 3))
    joint = membership_of((1, 2), outgoing=(1, 2, 3))
    stage.load(2, term=1, log=[1, joint, 1])
    entry = Entry(LogIndex(3), Term(2), EntryKind.COMMANDS, b"")
    stage.hand(3, 2, AppendEntries(Term(2), at(1, 2), (entry,), LogIndex(0)))
    assert stage.status(2).membership == joint
    assert stage[2].last.membership is None


def test_a_restart_finds_the_membership_in_the_log() -> None:
    """§6; pitfall: restart ignores an uncommitted joint membership (openraft), or takes an old one (PySyncObj)."""
    stage = leading(others=(4,))
    stage.isolate(1)
    stage.change(1, MembershipChange(add_voters=joining(4)))
    stage.crash(1)
    stage.restart(1)
    assert voters(stage, 1) == (nodes(1, 2, 3, 4), nodes(1, 2, 3))
    assert stage.status(1).membership_index == 2


def test_no_change_before_an_entry_of_the_own_term_has_committed() -> None:
    """Ongaro 2015, the bug in single-server changes."""
    stage = Stage((1, 2, 3))
    for node in (1, 2, 3):
        stage.load(node, term=1, log=[1])
    stage.tick(1, TIMEOUT)
    for _ in range(4):
        stage.deliver(lambda flying: not isinstance(flying.message, AppendEntries))
    assert stage.role(1) == "Leader"
    change = MembershipChange(remove=nodes(3))
    assert stage.change(1, change) == Refused(RefusalReason.NOT_READY, NodeId(1))
    stage.settle()
    assert isinstance(stage.change(1, change), Accepted)


def test_one_change_at_a_time() -> None:
    """§6."""
    stage = leading(others=(4, 5))
    busy = Refused(RefusalReason.CHANGE_IN_PROGRESS, NodeId(1))
    stage.change(1, MembershipChange(add_learners=joining(4, promote=False)))
    assert stage.change(1, MembershipChange(remove=nodes(3))) == busy
    stage.settle()
    stage.change(1, MembershipChange(remove=nodes(3)))
    assert stage.change(1, MembershipChange(remove=nodes(2))) == busy
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.to == 1)
    assert voters(stage, 1) == (nodes(1, 2), ())
    assert stage.change(1, MembershipChange(remove=nodes(2))) == busy, "left, and that is not committed yet"
    stage.settle()
    assert isinstance(stage.change(1, MembershipChange(remove=nodes(2))), Accepted)


def test_changes_are_refused_with_the_reason() -> None:
    stage = leading()
    assert stage.change(2, MembershipChange()) == Refused(RefusalReason.NOT_LEADER, NodeId(1))
    refused = stage.change(1, MembershipChange(remove=nodes(9)))
    assert refused == Refused(RefusalReason.BAD_CHANGE, NodeId(1), "server 9 is not a member")


def test_a_leader_that_removes_itself_leads_until_that_has_committed() -> None:
    """§6: "the leader steps down once it has committed the C_new log entry", and does not count itself."""
    stage = leading()
    stage.change(1, MembershipChange(remove=nodes(1)))
    stage.deliver(lambda flying: flying.to in (2, 3))
    stage.deliver(lambda flying: flying.to == 1)
    assert (stage.role(1), stage.commit(1)) == ("Leader", 2)
    assert voters(stage, 1) == (nodes(2, 3), ())
    stage.drop()
    stage.hand(2, 1, AppendReply(Term(1), LogIndex(3)))
    assert stage.commit(1) == 2, "two of {2, 3} are needed, and the leader is none of them"
    stage.hand(3, 1, AppendReply(Term(1), LogIndex(3)))
    assert (stage.role(1), stage.commit(1)) == ("Follower", 3)


def test_a_removed_leader_names_the_best_successor() -> None:
    """Thesis §4.2.2 with §3.10: nobody waits for an election timeout."""
    stage = leading(5)
    stage.change(1, MembershipChange(remove=nodes(1)))
    stage.settle()
    told = [line for line in stage.lines if "TimeoutNow" in line]
    assert len(told) == 1
    (successor,) = stage.leaders()
    assert f"n1 > n{successor} TimeoutNow 1" in told
    assert stage.status(successor).term == 2


def test_a_removed_leader_names_one_that_answers_and_has_most() -> None:
    """§3.10: a target that is dead, or lacks entries, would not win."""
    stage = leading(4)
    stage.change(1, MembershipChange(remove=nodes(1)))
    stage.deliver(lambda flying: flying.to in (3, 4))
    stage.deliver(lambda flying: flying.to == 1)
    stage.drop(lambda flying: flying.to != 3 and flying.to != 4)
    stage.deliver(lambda flying: flying.to in (3, 4))
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Follower"
    (told,) = [flying.to for flying in stage.in_flight if isinstance(flying.message, TimeoutNow)]
    assert told in (3, 4)


def test_a_removed_leader_names_no_learner_though_it_has_most() -> None:
    """§3.10: only a voter may stand."""
    stage = leading(3, others=(4,))
    stage.change(1, MembershipChange(add_learners=joining(4, promote=False)))
    stage.run(8)
    stage.change(1, MembershipChange(remove=nodes(1)))
    stage.deliver(lambda flying: flying.to in (2, 3))
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Leader"
    left = stage.status(1).last.index
    stage.propose(1)
    stage.drop()
    stage.hand(4, 1, AppendReply(Term(1), LogIndex(left + 1)))
    for voter in (2, 3):
        stage.hand(voter, 1, AppendReply(Term(1), left))
    assert stage.role(1) == "Follower"
    (told,) = [flying.to for flying in stage.in_flight if isinstance(flying.message, TimeoutNow)]
    assert told in (2, 3)


def test_a_leader_that_removed_itself_and_crashed_stands_again() -> None:
    """Thesis §4.2.2: "a server that is not part of its own latest configuration should still start new elections":
    the others' logs are shorter, and they need its vote."""
    stage = Stage((1, 2))
    stage.load(1, term=1, log=[1, membership_of((2,), outgoing=(1, 2)), membership_of((2,))])
    stage.load(2, term=1, log=[1, membership_of((2,), outgoing=(1, 2))])
    stage.run(8 * TIMEOUT)
    assert stage.leaders() == [2]
    assert voters(stage, 2) == (nodes(2), ())


def test_a_voter_of_a_membership_in_between_stands_after_a_restart() -> None:
    """Thesis §4.2.2, after a crash of all: who came and went again since the snapshot is a voter neither of the oldest
    nor of the newest membership it knows, has the longest log, and does not know what of it has committed."""
    came = [membership_of((1, 2), outgoing=(1,)), membership_of((1, 2)), membership_of((1,), outgoing=(1, 2))]
    stage = Stage((1,), others=(2,))
    stage.load(1, term=1, log=[1, *came])
    stage.load(2, term=1, log=[1, *came, membership_of((1,))])
    stage.run(8 * TIMEOUT)
    assert stage.leaders() == [1]
    assert voters(stage, 1) == (nodes(1), ())


def test_a_new_voter_stands_before_its_membership_has_committed() -> None:
    """§6: a membership is used from the moment it is in the log, by whoever comes with it too."""
    stage = Stage((1, 2, 3), others=(4,))
    stage.load(4, term=1, log=[1, membership_of((1, 2, 3, 4), outgoing=(1, 2, 3))])
    stage.tick(4, TIMEOUT + 9)
    assert stage.role(4) == "PreCandidate"


def test_a_leader_outside_its_own_membership_does_not_count_its_vote() -> None:
    """Thesis §4.2.2: "it does not count its own vote in elections unless it is part of its latest configuration"."""
    stage = Stage((1, 2, 3))
    stage.load(1, term=1, log=[1, membership_of((2, 3), outgoing=(1, 2, 3)), membership_of((2, 3))])
    stage.tick(1, TIMEOUT)
    stage.deliver()
    stage.deliver()
    assert stage.role(1) == "Candidate"
    stage.drop()
    stage.hand(2, 1, VoteReply(Term(2), True))
    assert stage.role(1) == "Candidate"
    stage.hand(3, 1, VoteReply(Term(2), True))
    assert stage.role(1) == "Leader"
    stage.run(6)
    assert stage.commit(2) >= 4, "it leads until that has committed"
    assert stage.role(1) == "Follower"


def test_a_server_whose_removal_has_committed_does_not_stand() -> None:
    """§6."""
    stage = leading()
    stage.change(1, MembershipChange(remove=nodes(3)))
    stage.run(4)
    stage.hand(1, 3, Heartbeat(Term(1), at(1, 2), 9))
    entry = Entry(LogIndex(3), Term(1), EntryKind.MEMBERSHIP, encode_membership(membership_of((1, 2))))
    stage.hand(1, 3, AppendEntries(Term(1), at(1, 2), (entry,), LogIndex(3)))
    stage.tick(3, 3 * TIMEOUT)
    assert stage.role(3) == "Follower"
    assert stage.status(3).leader == 0


def test_a_server_that_thinks_itself_no_voter_votes_all_the_same() -> None:
    """etcd PR#10998: its membership may be behind the candidate's."""
    stage = Stage((1, 2, 3), learners=(4,), others=(5,))
    for voter in (4, 5):
        stage.hand(1, voter, RequestVote(Term(3), at(0, 0)))
    assert [flying.sender for flying in stage.in_flight if flying.message == VoteReply(Term(3), True)] == [4, 5]


def test_a_leader_ceases_to_send_to_those_who_have_gone() -> None:
    """§6."""
    stage = leading()
    stage.change(1, MembershipChange(remove=nodes(3)))
    stage.settle()
    stage.propose(1)
    assert [flying.to for flying in stage.in_flight] == [2]
    assert sorted(stage.status(1).progress) == [1, 2]
    stage.hand(3, 1, AppendReply(Term(1), LogIndex(2)))


# ---- learners ----


def test_a_learner_receives_the_log_and_has_no_vote() -> None:
    """Thesis §4.2.1: "the leader replicates log entries to it, but it is not yet counted towards majorities"."""
    stage = Stage((1, 2, 3), learners=(4, 5))
    stage.elect(1)
    stage.isolate(1, 4, 5)
    stage.propose(1)
    stage.settle()
    assert stage.terms(4) == stage.terms(1)
    assert stage.commit(1) == 1


def test_a_learner_does_not_stand_for_election() -> None:
    """Thesis §4.2.1."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.hand(1, 4, Heartbeat(Term(1), at(0, 0), 1))
    assert stage.status(4).leader == 1
    stage.tick(4, 3 * TIMEOUT)
    assert (stage.role(4), stage.status(4).term, stage.status(4).leader) == ("Follower", 1, 0)


def test_a_learner_that_has_caught_up_becomes_a_voter() -> None:
    """Thesis §4.2.1."""
    config = RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, promote_lag_max=2)
    stage = leading(others=(4, 5), config=config)
    for _ in range(5):
        stage.propose(1)
    stage.settle()
    stage.isolate(4)
    stage.change(1, MembershipChange(add_learners={**joining(4), **joining(5, promote=False)}))
    stage.run(8)
    assert stage.status(1).membership.learners == nodes(4, 5)
    stage.heal()
    stage.run(8)
    assert voters(stage, 1) == (nodes(1, 2, 3, 4), ())
    assert stage.status(1).membership.learners == nodes(5)


@pytest.mark.parametrize(("lacking", "promoted"), [(2, True), (3, False)])
def test_a_learner_that_lacks_too_much_waits(lacking: int, promoted: bool) -> None:
    """Thesis §4.2.1: at most `promote_lag_max` entries behind."""
    config = RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, promote_lag_max=2)
    stage = Stage((1, 2, 3), learners=(4,), config=config)
    stage.genesis.members[NodeId(4)] = Member("n4", promote=False)
    stage.elect(1)
    stage.run(2)
    stage.change(1, MembershipChange(update=joining(4)))
    stage.settle()
    last = stage.status(1).last.index
    for _ in range(lacking):
        stage.propose(1)
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.to == 1)
    stage.drop()
    assert stage.status(1).progress[NodeId(4)].match == last
    stage.tick(1)
    assert (stage.status(1).membership.learners == ()) is promoted


def test_a_learner_that_is_silent_is_not_promoted() -> None:
    """Thesis §4.2.1: it would make the quorum larger and not better."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.genesis.members[NodeId(4)] = Member("n4", promote=False)
    stage.elect(1)
    stage.run(2)
    stage.isolate(4)
    stage.run(TIMEOUT)
    stage.change(1, MembershipChange(update=joining(4)))
    stage.run(4)
    assert stage.status(1).membership.learners == nodes(4)
    stage.heal()
    stage.run(4)
    assert stage.status(1).membership.learners == ()


def test_a_learner_that_can_not_be_reached_is_not_promoted_until_it_answers() -> None:
    """It was heard a moment ago and lacks little, but nobody knows what has arrived since its connection broke."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.genesis.members[NodeId(4)] = Member("n4", promote=False)
    stage.elect(1)
    stage.run(2)
    stage.change(1, MembershipChange(update=joining(4)))
    stage.settle()
    stage.isolate(4)
    stage[1].engine.unreachable(NodeId(4))
    stage.tick(1)
    assert stage.status(1).membership.learners == nodes(4)
    stage.heal()
    stage.run(4)
    assert stage.status(1).membership.learners == ()


def test_a_learner_is_promoted_under_a_load_of_reads() -> None:
    """Rounds begun for reads put the next heartbeat off, and must not put promotion off with it."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.elect(1)
    for context in range(20):
        stage.read(1, context)
        stage.settle()
        stage.run(1)
    assert stage.status(1).membership.learners == ()


def test_no_promotion_during_a_transfer_or_a_change() -> None:
    """§6: one change at a time."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.elect(1)
    stage.isolate(2)
    stage.transfer(1, 2)
    stage.run(6)
    assert stage.status(1).membership.learners == nodes(4)
    stage.heal()
    stage.run(TIMEOUT)
    assert stage.status(1).membership.learners == ()


# ---- §7 ----


def compacted_leader(*, proposals: int = 5) -> Stage:
    """Server 3 was away while the leader compacted everything."""
    stage = leading()
    stage.isolate(3)
    for number in range(proposals):
        stage.propose(1, b"%d" % number)
    stage.settle()
    stage.run(2)
    stage.compact(1)
    return stage


def test_compaction_drops_what_a_snapshot_covers_and_no_more() -> None:
    """§7: "once a server completes writing a snapshot, it may delete all log entries up through the last included"."""
    stage = leading()
    for _ in range(5):
        stage.propose(1)
    stage.settle()
    meta = stage.compact(1, keep_from=4)
    assert (meta.last, meta.membership) == (at(1, 6), stage.genesis)
    assert stage.status(1).first_index == 4
    stage.compact(1, keep_from=3)
    assert stage.status(1).first_index == 4
    stage.compact(1)
    assert (stage.status(1).first_index, stage.status(1).last) == (7, at(1, 6))
    stage.propose(1)
    stage.run(4)
    assert stage.commit(2) == 7


def test_a_compaction_that_keeps_everything_drops_nothing() -> None:
    """§7: entries are kept in front of a snapshot for followers that are a little behind."""
    stage = leading()
    stage.propose(1)
    stage.settle()
    stage.compact(1, keep_from=1)
    assert (stage.status(1).first_index, stage.terms(1)) == (1, [1, 1])


def test_the_header_of_a_snapshot_has_the_full_name_of_its_last_entry() -> None:
    stage = leading()
    stage.propose(1)
    stage.settle()
    assert stage[1].engine.snapshot_meta(LogIndex(2)).last == at(1, 2)


def test_what_was_not_applied_can_not_be_compacted() -> None:
    """§7: a snapshot covers "just the committed entries"."""
    stage = leading()
    stage.isolate(1)
    stage.propose(1)
    with pytest.raises(InvariantViolation, match="not applied"):
        stage[1].engine.compact(SnapshotMeta(at(1, 2), stage.genesis), LogIndex(3))


def test_applying_what_is_not_committed_stops_the_server() -> None:
    """§5.3."""
    stage = leading()
    with pytest.raises(InvariantViolation, match="not committed"):
        stage[1].engine.applied(LogIndex(2))
    stage[1].engine.applied(LogIndex(1))
    stage[1].engine.applied(LogIndex(0))
    assert stage.status(1).applied_index == 1


def test_a_follower_too_far_behind_is_sent_a_snapshot() -> None:
    """§7: "the leader must occasionally send snapshots to followers that lag behind"; also with nothing new to send
    (pitfall: openraft afd6508b)."""
    stage = compacted_leader()
    stage.heal()
    stage.run(3)
    assert stage[1].wanted == [3]
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    stage.propose(1)
    assert [flying.to for flying in stage.in_flight] == [2], "nothing is sent behind a snapshot on its way"
    stage.settle()
    assert stage.install(1, 3)
    assert stage.status(3).last == at(1, 6)
    stage.run(3)
    assert (stage.commit(3), stage.status(3).last.index) == (7, 7)


def test_a_new_leader_that_holds_nothing_older_sends_a_snapshot_to_who_has_nothing() -> None:
    """What it holds last is rejected, and there is nothing before that to probe with."""
    stage = Stage(range(1, 4))
    stage.isolate(3)
    stage.elect(1)
    stage.run(2)
    stage.compact(2)
    stage.transfer(1, 2)
    stage.run(2)
    stage.heal()
    stage.run(6)
    assert stage.leaders() == [2]
    assert stage[2].wanted == [3]


def test_an_installed_snapshot_replaces_the_state() -> None:
    """Figure 13, steps 7 and 8: "discard the entire log, reset state machine using snapshot contents"."""
    stage = compacted_leader()
    stage.load(3, term=1, log=[1, 1, 1])
    stage.cut.clear()
    engine = stage[3].engine
    meta = stage[1].journal.file
    assert engine.snapshot_received(NodeId(1), Term(1), meta, stage.now)
    effects = engine.take_effects()
    assert effects.install == meta
    assert effects.persist is not None
    assert effects.persist.snapshot == meta
    assert effects.persist.entries == ()
    assert [(send.to, send.message) for send in effects.after_persist] == [(1, AppendReply(Term(1), LogIndex(6)))]
    status = engine.status()
    assert (status.first_index, status.last, status.commit_index, status.applied_index) == (7, at(1, 6), 6, 6)
    assert engine.take_effects().install is None
    assert status.leader == 1


def test_a_snapshot_of_a_prefix_of_the_log_keeps_what_follows() -> None:
    """Figure 13, step 6: "if existing log entry has same index and term [...], retain log entries following it"."""
    stage = leading()
    for _ in range(3):
        stage.propose(1)
    stage.settle()
    meta = SnapshotMeta(at(1, 4), stage.genesis)
    stage.hand(
        1, 2, AppendEntries(Term(1), at(1, 4), (Entry(LogIndex(5), Term(1), EntryKind.NOOP, b""),), LogIndex(1))
    )
    stage.drop()
    stage.crash(2)
    stage.restart(2)
    assert stage.commit(2) == 0
    engine = stage[2].engine
    assert not engine.snapshot_received(NodeId(1), Term(1), meta, stage.now)
    effects = engine.take_effects()
    assert effects.install is None
    assert [send.message for send in effects.after_persist] == [AppendReply(Term(1), LogIndex(4))]
    assert stage.terms(2) == [1] * 5
    assert stage.commit(2) == 4


def test_a_snapshot_older_than_what_is_committed_changes_nothing() -> None:
    """Figure 13; pitfall: an old snapshot takes the state back."""
    stage = leading()
    for _ in range(3):
        stage.propose(1)
    stage.run(4)
    engine = stage[2].engine
    for index in (3, 4):
        assert not engine.snapshot_received(
            NodeId(1), Term(1), SnapshotMeta(at(1, index), stage.genesis), stage.now
        )
    effects = engine.take_effects()
    assert effects.install is None
    assert [send.message for send in effects.after_persist] == [AppendReply(Term(1), LogIndex(4))]
    assert (stage.commit(2), stage.terms(2)) == (4, [1] * 4)


def test_a_snapshot_drops_a_tail_that_contradicts_it() -> None:
    """§7; pitfall: hashicorp#697 keeps the divergent suffix."""
    stage = Stage()
    stage.load(3, term=2, log=[1, 2, 2, 2, 2])
    meta = SnapshotMeta(at(1, 3), membership_of((1, 2, 3)))
    assert stage[3].engine.snapshot_received(NodeId(1), Term(4), meta, stage.now)
    assert stage.terms(3) == []
    assert stage.status(3).last == at(1, 3)
    assert stage.status(3).term == 4


def test_a_snapshot_brings_its_membership_and_no_other_is_kept() -> None:
    """Pitfall: openraft#1808, a membership of an overwritten entry survives the snapshot: disjoint quorums."""
    stage = Stage()
    stage.load(3, term=2, log=[1, membership_of((3, 4, 5), outgoing=(1, 2, 3)), 2])
    meta = SnapshotMeta(at(3, 2), membership_of((1, 2, 3, 6)))
    assert stage[3].engine.snapshot_received(NodeId(1), Term(4), meta, stage.now)
    assert voters(stage, 3) == (nodes(1, 2, 3, 6), ())
    assert stage[3].engine.take_effects().membership == meta.membership
    assert stage.status(3).membership_index == 2


def test_a_snapshot_of_an_older_term_is_refused() -> None:
    """§5.1, figure 13, step 1."""
    stage = Stage()
    stage.load(3, term=5, log=[1])
    meta = SnapshotMeta(at(3, 9), stage.genesis)
    assert not stage[3].engine.snapshot_received(NodeId(1), Term(4), meta, stage.now)
    assert (stage.status(3).last, stage.status(3).leader) == (at(1, 1), 0)


def test_a_snapshot_is_a_message_of_the_leader() -> None:
    """§5.2: it keeps patience, teaches the term, and ends a candidacy."""
    stage = Stage()
    stage.tick(3, TIMEOUT + 6)
    assert stage.role(3) == "PreCandidate"
    stage.now = type(stage.now)(stage.now + 5)
    meta = SnapshotMeta(at(3, 9), stage.genesis)
    assert stage[3].engine.snapshot_received(NodeId(1), Term(4), meta, stage.now)
    assert (stage.role(3), stage.status(3).leader, stage.status(3).term) == ("Follower", 1, 4)
    stage[3].engine.take_effects()
    stage.tick(3, TIMEOUT + 5)
    assert stage.role(3) == "Follower"
    stage.tick(3)
    assert stage.role(3) == "PreCandidate"


def test_a_vote_does_not_outlast_its_term_when_a_snapshot_brings_a_newer_one() -> None:
    """§5.2: one vote a term; a vote of an earlier term that stands in this one is a vote that nobody asked for."""
    stage = Stage()
    stage.load(3, term=3, log=[1], voted_for=2)
    meta = SnapshotMeta(at(4, 9), stage.genesis)
    assert stage[3].engine.snapshot_received(NodeId(1), Term(5), meta, stage.now)
    persist = stage[3].engine.take_effects().persist
    assert persist is not None and persist.hard_state == HardState(Term(5), NodeId(0))


def test_a_snapshot_of_a_newer_leader_deposes_an_older_one() -> None:
    """§5.1: it is a message like any other."""
    stage = leading()
    assert stage[1].engine.snapshot_received(NodeId(2), Term(2), SnapshotMeta(at(2, 9), stage.genesis), stage.now)
    assert (stage.role(1), stage.status(1).term, stage.status(1).leader) == ("Follower", 2, 2)


def test_a_snapshot_that_did_not_arrive_is_asked_for_again() -> None:
    """§7: the driver says how the transfer ended."""
    stage = compacted_leader()
    stage.heal()
    stage.run(3)
    meta = stage[1].journal.file
    stage[1].engine.snapshot_sent(NodeId(3), meta, False)
    stage.pump(1)
    assert stage[1].wanted == [3], "not at once, or it would be tried again for ever"
    assert stage.status(1).progress[NodeId(3)].next == 2
    stage.run(stage.config.heartbeat_ticks)
    assert stage[1].wanted == [3, 3]
    stage[1].engine.snapshot_sent(NodeId(3), meta, True)
    stage.pump(1)
    assert [message.prev for message in stage.sent(AppendEntries, 1, 3)] == [at(1, 6)]  # type: ignore[attr-defined]


def test_the_end_of_a_transfer_nobody_waits_for_is_nothing() -> None:
    """§7: after a change of leader or membership, or when the acknowledgement was quicker."""
    stage = leading()
    meta = SnapshotMeta(at(1, 1), stage.genesis)
    before = stage.status(1)
    stage[1].engine.snapshot_sent(NodeId(2), meta, False)
    stage[1].engine.snapshot_sent(NodeId(9), meta, True)
    stage[2].engine.snapshot_sent(NodeId(3), meta, True)
    assert stage.status(1) == before


def test_the_acknowledgement_of_a_snapshot_ends_its_transfer() -> None:
    """§7: the follower may be quicker than the driver; but an older acknowledgement does not end it."""
    stage = compacted_leader()
    stage.heal()
    stage.run(3)
    stage.hand(3, 1, AppendReply(Term(1), LogIndex(5)))
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    assert stage[1].wanted == [3], "and does not begin another"
    stage.hand(3, 1, AppendReply(Term(1), LogIndex(6)))
    assert stage.status(1).progress[NodeId(3)].state == "replicate"
    assert stage.status(1).progress[NodeId(3)].next == 7


def test_a_transfer_ends_with_what_was_compacted_when_it_began() -> None:
    """§7: a snapshot need not reach as far as the commit index; what is behind its end is in the log."""
    stage = compacted_leader()
    for _ in range(3):
        stage.propose(1)
        stage.settle()
    stage.heal()
    stage.run(3)
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    assert stage.commit(1) == 9
    stage.hand(3, 1, AppendReply(Term(1), LogIndex(6)))
    assert stage.status(1).progress[NodeId(3)].state == "replicate"


def test_a_message_from_below_the_compacted_part_is_no_conflict() -> None:
    """Pitfall: openraft#511, redisraft#49: the committed log is deleted."""
    stage = leading()
    for _ in range(4):
        stage.propose(1)
    stage.run(4)
    stage.compact(2)
    old = tuple(Entry(LogIndex(index), Term(1), EntryKind.COMMANDS, b"") for index in (2, 3))
    stage.hand(1, 2, AppendEntries(Term(1), at(1, 1), old, LogIndex(3)))
    assert stage.sent(AppendReply) == [AppendReply(Term(1), LogIndex(5))]
    assert stage.status(2).last == at(1, 5)


def test_a_restart_begins_behind_its_snapshot() -> None:
    """§7."""
    stage = leading(others=(4,))
    stage.change(1, MembershipChange(add_learners=joining(4, promote=False)))
    stage.propose(1)
    stage.run(4)
    stage.compact(2)
    stage.crash(2)
    stage.restart(2)
    status = stage.status(2)
    assert (status.first_index, status.commit_index, status.applied_index, status.last) == (4, 3, 3, at(1, 3))
    assert status.membership.learners == nodes(4)
    assert status.membership_index == 3


def test_the_header_of_a_snapshot_has_the_membership_of_its_index() -> None:
    """§7: "the snapshot also includes the latest configuration in the log as of last included index"."""
    stage = leading(others=(4,))
    stage.propose(1)
    stage.change(1, MembershipChange(add_learners=joining(4, promote=False)))
    stage.run(4)
    engine = stage[1].engine
    assert engine.snapshot_meta(LogIndex(2)).membership == stage.genesis
    assert engine.snapshot_meta(LogIndex(3)).membership.learners == nodes(4)
    assert engine.membership_at(LogIndex(2)) == stage.genesis
    assert isinstance(engine.membership_at(LogIndex(3)), Membership)
    assert engine.membership_at(LogIndex(3)).learners == nodes(4)
    engine.compact(SnapshotMeta(at(1, 2), stage.genesis), LogIndex(3))
    assert engine.membership_at(LogIndex(2)) == stage.genesis
    engine.compact(SnapshotMeta(at(1, 3), engine.membership_at(LogIndex(3))), LogIndex(4))
    assert engine.membership_at(LogIndex(2)).learners == nodes(4)
