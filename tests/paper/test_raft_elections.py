"""Raft §5.1, §5.2, §5.4.1 and figure 2: terms, votes and leaders, one test for each claim."""

import pytest

from troth.core.interface import EntryId, HardState, RoleName
from troth.core.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    HigherTerm,
    PreVote,
    PreVoteReply,
    ReadRequest,
    RequestVote,
    VoteReply,
)
from troth.core.raft.state import RaftConfig
from troth.errors import InvariantViolation, UsageError
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.stage import Stage

TIMEOUT = 20


def last(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def ask(
    stage: Stage, voter: int, candidate: int, term: int, log: tuple[int, int], *, transfer: bool = False
) -> bool:
    """Let *candidate* ask *voter* for its vote; what it answers."""
    stage.drop()
    stage.hand(candidate, voter, RequestVote(Term(term), last(*log), transfer))
    replies = stage.sent(VoteReply, voter, candidate)
    assert len(replies) == 1
    assert isinstance(replies[0], VoteReply)
    assert replies[0].term == stage.status(voter).term
    return replies[0].granted


def make_candidate(stage: Stage, node: int) -> None:
    """Let a server win its pre-vote and ask for votes; nothing of that has arrived."""
    while stage.role(node) != "PreCandidate":
        stage.tick(node)
    stage.drop()
    for peer in stage.actors:
        if peer != node and stage.role(node) == "PreCandidate":
            stage.hand(peer, node, PreVoteReply(Term(stage.status(node).term + 1), True))
    assert stage.role(node) == "Candidate"


# ---- §5.1 ----


@pytest.mark.parametrize("role", ["Follower", "PreCandidate", "Candidate", "Leader"])
def test_a_larger_term_makes_any_role_a_follower_of_that_term(role: str) -> None:
    """§5.1: "if a candidate or leader discovers that its term is out of date, it immediately reverts to follower"."""
    stage = Stage()
    if role == "PreCandidate":
        stage.tick(1, TIMEOUT)
    elif role == "Candidate":
        make_candidate(stage, 1)
    elif role == "Leader":
        stage.elect(1)
    assert stage.role(1) == role
    stage.hand(2, 1, AppendEntries(Term(7), last(0, 0), (), LogIndex(0)))
    assert (stage.status(1).term, stage.role(1), stage.status(1).leader) == (7, "Follower", 2)


@pytest.mark.parametrize(
    "message",
    [
        AppendReply(Term(9), LogIndex(0)),
        HeartbeatReply(Term(9), 1),
        VoteReply(Term(9), False),
        PreVoteReply(Term(9), False),
        HigherTerm(Term(9)),
        ReadRequest(Term(9), 1),
    ],
)
def test_a_larger_term_in_any_answer_deposes_a_leader(message: object) -> None:
    """§5.1: terms are exchanged whenever servers communicate."""
    stage = Stage()
    stage.elect(1)
    stage.hand(2, 1, message)  # type: ignore[arg-type]
    assert (stage.status(1).term, stage.role(1), stage.status(1).leader) == (9, "Follower", 0)
    assert stage.status(1).voted_for == 0


def test_a_stale_request_is_refused_with_the_present_term() -> None:
    """§5.1: "if a server receives a request with a stale term number, it rejects the request"."""
    stage = Stage()
    stage.load(1, term=5, log=[])
    stage.hand(2, 1, RequestVote(Term(4), last(4, 9)))
    stage.hand(2, 1, PreVote(Term(4), last(4, 9)))
    stage.hand(2, 1, AppendEntries(Term(4), last(0, 0), (), LogIndex(0)))
    stage.hand(2, 1, Heartbeat(Term(4), last(0, 0), 1))
    assert [flying.message for flying in stage.in_flight] == [
        HigherTerm(Term(5)),
        PreVoteReply(Term(5), False),
        HigherTerm(Term(5)),
        HigherTerm(Term(5)),
    ]
    assert stage.status(1).leader == 0


def test_an_answer_to_an_old_request_takes_no_vote_back() -> None:
    """§5.2, one vote a term: a late request of the term before is not answered with a refusal in this one, and no
    refusal, however it came to be, outweighs the vote that the same server has given."""
    stage = Stage((1, 2, 3, 4, 5))
    make_candidate(stage, 1)
    term = stage.status(1).term
    stage.drop()
    stage.hand(1, 2, RequestVote(term, last(0, 0)))
    stage.hand(1, 2, RequestVote(Term(term - 1), last(0, 0)))
    assert stage.sent(VoteReply, 2, 1) == [VoteReply(term, True)]
    stage.settle()
    stage.hand(2, 1, VoteReply(term, False))
    for refusing in (3, 4):
        stage.hand(refusing, 1, VoteReply(term, False))
    assert stage.role(1) == "Candidate"
    stage.hand(5, 1, VoteReply(term, True))
    assert stage.role(1) == "Leader"


def test_a_newer_term_is_told_once_it_is_durable() -> None:
    """Figure 2: what is not on the disk is not said."""
    stage = Stage()
    stage[2].syncs = False
    stage.hand(3, 2, HigherTerm(Term(7)))
    stage.hand(1, 2, RequestVote(Term(5), EntryId(Term(0), LogIndex(0))))
    assert stage.sent(HigherTerm, 2) == []
    stage.sync(2)
    assert stage.sent(HigherTerm, 2) == [HigherTerm(Term(7))]


def test_a_stale_answer_changes_nothing() -> None:
    """§5.1; pitfall: answers of an older term counted in the present one."""
    stage = Stage()
    make_candidate(stage, 1)
    stage.hand(2, 1, VoteReply(Term(0), True))
    assert stage.role(1) == "Candidate"
    stage.hand(2, 1, VoteReply(Term(1), True))
    stage.propose(1)
    assert stage.role(1) == "Leader"
    stage.hand(2, 1, AppendReply(Term(0), LogIndex(2)))
    assert stage.commit(1) == 0
    assert stage.status(1).progress[NodeId(2)].match == 0


# ---- §5.2 ----


def test_servers_start_as_followers_without_a_leader() -> None:
    """§5.2: "when servers start up, they begin as followers"."""
    stage = Stage()
    for node in (1, 2, 3):
        status = stage.status(node)
        assert (status.role, status.term, status.leader, status.voted_for) == (RoleName.FOLLOWER, 0, 0, 0)


def test_a_leader_sends_heartbeats_to_all_followers_every_interval() -> None:
    """§5.2: "leaders send periodic heartbeats to all followers"."""
    stage = Stage(learners=(4,))
    stage.elect(1)
    stage.run(4)
    for _ in range(3):
        stage.tick(1, stage.config.heartbeat_ticks)
        assert [flying.to for flying in stage.in_flight if isinstance(flying.message, Heartbeat)] == [2, 3, 4]
        stage.settle()


def test_a_new_leader_heartbeats_at_its_first_tick() -> None:
    """§5.2: "it then sends heartbeat messages to all of the other servers to establish its authority"."""
    stage = Stage()
    make_candidate(stage, 1)
    stage.drop()
    stage.hand(2, 1, VoteReply(Term(1), True))
    assert len(stage.sent(AppendEntries, 1)) == 2
    stage.tick(1)
    assert len(stage.sent(Heartbeat, 1)) == 2


def test_a_follower_that_hears_nothing_begins_an_election() -> None:
    """§5.2, figure 2: election timeout elapses without AppendEntries from the leader or a granted vote."""
    stage = Stage()
    stage.tick(1, TIMEOUT - 1)
    assert stage.role(1) == "Follower"
    stage.tick(1)
    assert stage.role(1) == "PreCandidate"


@pytest.mark.parametrize("kind", ["append", "heartbeat", "vote"])
def test_patience_begins_anew_with_a_leaders_message_or_a_granted_vote(kind: str) -> None:
    """Figure 2, followers."""
    stage = Stage()
    stage.tick(1, TIMEOUT - 1)
    match kind:
        case "append":
            stage.hand(2, 1, AppendEntries(Term(1), last(0, 0), (), LogIndex(0)))
        case "heartbeat":
            stage.hand(2, 1, Heartbeat(Term(1), last(0, 0), 1))
        case _:
            stage.hand(2, 1, RequestVote(Term(1), last(0, 0)))
    stage.tick(1, TIMEOUT - 1)
    assert stage.role(1) == "Follower"
    stage.tick(1)
    assert stage.role(1) == "PreCandidate"


def test_a_vote_in_the_present_term_begins_patience_anew_too() -> None:
    """Figure 2, followers: also when the term was learned before, by another message."""
    stage = Stage()
    stage.hand(3, 1, HigherTerm(Term(4)))
    stage.tick(1, TIMEOUT - 1)
    assert ask(stage, 1, 2, 4, (0, 0))
    stage.tick(1, TIMEOUT - 1)
    assert stage.role(1) == "Follower"
    stage.tick(1)
    assert stage.role(1) == "PreCandidate"


def test_further_messages_of_the_same_leader_keep_patience() -> None:
    """Figure 2, followers: every message of the leader counts, not only the first."""
    stage = Stage()
    for _ in range(5):
        stage.hand(2, 1, Heartbeat(Term(1), last(0, 0), 1))
        stage.tick(1, TIMEOUT - 1)
        assert stage.role(1) == "Follower"


def test_a_refused_vote_does_not_prolong_patience() -> None:
    """Figure 2: only *granting* a vote does."""
    stage = Stage()
    stage.load(1, term=3, log=[3, 3])
    stage.tick(1, TIMEOUT - 1)
    assert not ask(stage, 1, 2, 3, (3, 1))
    stage.tick(1)
    assert stage.role(1) == "PreCandidate"


def test_a_candidate_raises_its_term_votes_for_itself_and_asks_all_voters() -> None:
    """§5.2: "a follower increments its current term, votes for itself and issues RequestVote RPCs in parallel"."""
    stage = Stage((1, 2, 3, 4), learners=(5,))
    stage.load(1, term=3, log=[1, 2])
    make_candidate(stage, 1)
    status = stage.status(1)
    assert (status.term, status.voted_for) == (4, 1)
    asked = [(flying.to, flying.message) for flying in stage.in_flight]
    assert asked == [(to, RequestVote(Term(4), last(2, 2))) for to in (2, 3, 4)]
    assert stage[1].journal.durable.hard_state == HardState(Term(4), NodeId(1))


@pytest.mark.parametrize(
    ("voters", "granted", "refused", "role"),
    [
        (1, 0, 0, "Leader"),
        (2, 0, 0, "Candidate"),
        (2, 1, 0, "Leader"),
        (2, 0, 1, "Follower"),
        (3, 1, 0, "Leader"),
        (3, 1, 1, "Leader"),
        (3, 0, 1, "Candidate"),
        (3, 0, 2, "Follower"),
        (4, 1, 0, "Candidate"),
        (4, 2, 0, "Leader"),
        (4, 0, 2, "Follower"),
        (5, 1, 1, "Candidate"),
        (5, 2, 0, "Leader"),
        (5, 2, 2, "Leader"),
        (5, 1, 3, "Follower"),
    ],
)
def test_a_candidate_wins_with_a_majority_and_loses_when_none_is_left(
    voters: int, granted: int, refused: int, role: str
) -> None:
    """§5.2: "wins an election if it receives votes from a majority of the servers in the full cluster"."""
    stage = Stage(range(1, voters + 1))
    if voters == 1:
        stage.tick(1, TIMEOUT)
    else:
        make_candidate(stage, 1)
    for peer in range(2, 2 + granted):
        stage.hand(peer, 1, VoteReply(Term(1), True))
    for peer in range(2 + granted, 2 + granted + refused):
        stage.hand(peer, 1, VoteReply(Term(1), False))
    assert stage.role(1) == role


def test_a_vote_counts_once_however_often_it_arrives() -> None:
    """§5.2; pitfall: counting messages instead of voters."""
    stage = Stage((1, 2, 3, 4, 5))
    make_candidate(stage, 1)
    for _ in range(5):
        stage.hand(2, 1, VoteReply(Term(1), True))
    assert stage.role(1) == "Candidate"


def test_votes_of_servers_outside_the_membership_do_not_count() -> None:
    """§5.2: a majority of the cluster, not of whoever answers."""
    stage = Stage((1, 2, 3), learners=(4,), others=(5,))
    make_candidate(stage, 1)
    stage.hand(4, 1, VoteReply(Term(1), True))
    stage.hand(5, 1, VoteReply(Term(1), True))
    assert stage.role(1) == "Candidate"


def test_a_server_votes_once_a_term_first_come_first_served() -> None:
    """§5.2: "each server will vote for at most one candidate in a given term"."""
    stage = Stage()
    assert ask(stage, 3, 1, 1, (0, 0))
    assert not ask(stage, 3, 2, 1, (9, 9))
    assert ask(stage, 3, 1, 1, (0, 0)), "a repeated request of the same candidate is granted again"
    assert stage.status(3).voted_for == 1
    assert ask(stage, 3, 2, 2, (0, 0)), "a new term, a new vote"
    assert stage.status(3).voted_for == 2


def test_who_knows_the_leader_of_a_term_votes_for_nobody_in_it() -> None:
    """§5.2: there is a leader already, so another candidate of that term can not win."""
    stage = Stage()
    stage.hand(1, 3, AppendEntries(Term(2), last(0, 0), (), LogIndex(0)))
    assert not ask(stage, 3, 2, 2, (0, 0))


def test_a_candidate_votes_for_no_other_in_its_term() -> None:
    """§5.2: it has voted for itself."""
    stage = Stage()
    make_candidate(stage, 1)
    assert not ask(stage, 1, 2, 1, (9, 9))
    assert stage.role(1) == "Candidate"


@pytest.mark.parametrize(
    "message", [AppendEntries(Term(1), last(0, 0), (), LogIndex(0)), Heartbeat(Term(1), last(0, 0), 1)]
)
def test_a_candidate_follows_the_leader_of_its_own_term(message: object) -> None:
    """§5.2: "if the leader's term is at least as large as the candidate's current term, [it] returns to follower"."""
    stage = Stage()
    make_candidate(stage, 1)
    stage.hand(2, 1, message)  # type: ignore[arg-type]
    assert (stage.role(1), stage.status(1).leader, stage.status(1).term) == ("Follower", 2, 1)


def test_a_candidate_that_neither_wins_nor_loses_tries_again() -> None:
    """§5.2: "each candidate will time out and start a new election by incrementing its term"."""
    stage = Stage()
    make_candidate(stage, 1)
    stage.drop()
    stage.tick(1, TIMEOUT)
    assert stage.role(1) == "PreCandidate"
    make_candidate(stage, 1)
    assert stage.status(1).term == 2


def test_patience_is_drawn_anew_from_a_fixed_interval() -> None:
    """§5.2: "election timeouts are chosen randomly from a fixed interval"."""
    drawn: list[tuple[int, int]] = []
    stage = Stage()
    engine = stage[1].engine

    class Recording:
        def randrange(self, start: int, stop: int) -> int:
            drawn.append((start, stop))
            return start

    engine._rng = Recording()  # type: ignore[attr-defined]
    stage.hand(2, 1, Heartbeat(Term(1), last(0, 0), 1))
    stage.hand(2, 1, Heartbeat(Term(1), last(0, 0), 2))
    assert drawn
    assert set(drawn) == {(TIMEOUT, TIMEOUT + TIMEOUT // 2 + 1)}


def test_two_leaders_of_one_term_stop_the_server_that_sees_it() -> None:
    """Figure 3, Election Safety: if it ever fails, nothing after it can be trusted."""
    stage = Stage()
    stage.elect(1)
    with pytest.raises(InvariantViolation, match="two leaders in one term"):
        stage.hand(2, 1, AppendEntries(Term(1), last(0, 0), (), LogIndex(0)))


def test_all_servers_agree_on_one_leader() -> None:
    """§5.2, a whole election."""
    stage = Stage((1, 2, 3, 4, 5))
    stage.run(2 * TIMEOUT)
    assert stage.leaders() == [1]
    assert {stage.status(node).leader for node in range(1, 6)} == {1}


def test_a_dead_leader_is_replaced() -> None:
    """§5.2, figure 4."""
    stage = Stage()
    stage.elect(1)
    stage.crash(1)
    stage.run(3 * TIMEOUT)
    assert stage.leaders() == [2]
    stage.restart(1)
    stage.run(TIMEOUT)
    assert stage.status(1).leader == 2


# ---- §5.4.1 ----


@pytest.mark.parametrize(
    ("voter", "candidate", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (1, 2), True),
        ([1], (2, 1), True),
        ([1, 1], (1, 1), False),
        ([1, 1], (2, 1), True),
        ([2], (1, 1), False),
        ([2], (1, 9), False),
        ([2], (2, 2), True),
        ([2, 2], (2, 1), False),
        ([1, 3], (2, 7), False),
        ([], (0, 0), True),
        ([1], (0, 0), False),
    ],
)
@pytest.mark.parametrize("transfer", [False, True])
def test_only_a_log_at_least_as_up_to_date_gets_the_vote(
    transfer: bool, voter: list[int], candidate: tuple[int, int], granted: bool
) -> None:
    """§5.4.1: the later last term wins; with the same last term, the longer log. Who is handed leadership (thesis
    §3.10) passes by the others' patience, and not by this.
    """
    stage = Stage()
    stage.load(1, term=3, log=voter)
    assert ask(stage, 1, 2, 4, candidate, transfer=transfer) is granted
    assert stage.status(1).voted_for == (2 if granted else 0)


def test_a_vote_and_its_term_are_durable_before_they_are_heard() -> None:
    """Figure 2: "updated on stable storage before responding to RPCs"; one record, so never half of it."""
    stage = Stage()
    stage[3].syncs = False
    stage.hand(1, 3, RequestVote(Term(4), last(0, 0)))
    assert not stage.sent(VoteReply)
    assert stage[3].last.persist is not None
    assert stage[3].last.persist.hard_state == HardState(Term(4), NodeId(1))
    stage.sync(3)
    assert stage.sent(VoteReply) == [VoteReply(Term(4), True)]


def test_a_crash_before_the_vote_is_durable_leaves_nothing_said() -> None:
    """Figure 2: the other half: what was lost was never heard."""
    stage = Stage()
    stage[3].syncs = False
    stage.hand(1, 3, RequestVote(Term(4), last(0, 0)))
    stage.crash(3)
    stage.restart(3)
    assert stage.status(3).term == 0
    assert not stage.in_flight


def test_a_vote_survives_a_crash() -> None:
    """Figure 2, persistent state."""
    stage = Stage()
    assert ask(stage, 3, 1, 4, (0, 0))
    stage.crash(3)
    stage.restart(3)
    assert (stage.status(3).term, stage.status(3).voted_for) == (4, 1)
    assert not ask(stage, 3, 2, 4, (9, 9))
    assert ask(stage, 3, 1, 4, (0, 0))


def test_a_vote_in_a_term_that_is_stored_already_is_stored_too() -> None:
    """Figure 2: term and vote are one record, written when either has changed."""
    stage = Stage()
    stage.hand(1, 3, HigherTerm(Term(4)))
    assert stage[3].journal.durable.hard_state == HardState(Term(4), NodeId(0))
    assert ask(stage, 3, 2, 4, (0, 0))
    assert stage[3].journal.durable.hard_state == HardState(Term(4), NodeId(2))


def test_a_candidate_asks_only_when_its_own_vote_is_durable() -> None:
    """Figure 2: its request reveals the term and that it voted; and its own vote counts no sooner."""
    stage = Stage()
    stage[1].syncs = False
    make_candidate(stage, 1)
    assert not stage.in_flight
    stage.hand(2, 1, VoteReply(Term(1), True))
    assert stage.role(1) == "Candidate"
    stage.sync(1)
    assert stage.role(1) == "Leader"


def test_a_single_server_leads_only_when_its_vote_is_durable() -> None:
    """Figure 2; pitfall: a cluster of one that skips the disk."""
    stage = Stage((1,))
    stage[1].syncs = False
    stage.tick(1, TIMEOUT)
    assert stage.role(1) == "Candidate"
    stage.sync(1)
    assert stage.role(1) == "Leader"
    assert stage.commit(1) == 0
    stage.sync(1)
    assert stage.commit(1) == 1


def test_settings_that_can_not_work_are_refused() -> None:
    """§5.6: broadcastTime << electionTimeout."""
    for heartbeat, timeout in ((0, 10), (10, 10), (11, 10), (-1, 5)):
        with pytest.raises(UsageError, match="heartbeat_ticks"):
            RaftConfig(heartbeat_ticks=heartbeat, election_timeout_ticks=timeout)
    RaftConfig(heartbeat_ticks=1, election_timeout_ticks=2)
    for drift in (-1, 100):
        with pytest.raises(UsageError, match="clock_drift_percent"):
            RaftConfig(clock_drift_percent=drift)
    assert RaftConfig(clock_drift_percent=0).lease_ticks == 59
    assert RaftConfig(clock_drift_percent=99).lease_ticks == -1
    assert RaftConfig(election_timeout_ticks=60, clock_drift_percent=10).lease_ticks == 53
