"""Thesis §9.6 (pre-vote), §6.2 (check-quorum), §6's last paragraph (disruptive servers), §3.10 (transfer)."""

import pytest

from troth.core.interface import Accepted, EntryId, MembershipChange, RefusalReason, Refused
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from troth.core.raft.state import RaftConfig
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.stage import Stage

TIMEOUT = 20


def last(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def pre_vote(stage: Stage, voter: int, candidate: int, term: int, log: tuple[int, int]) -> PreVoteReply:
    stage.drop()
    stage.hand(candidate, voter, PreVote(Term(term), last(*log)))
    (reply,) = stage.sent(PreVoteReply, voter, candidate)
    assert isinstance(reply, PreVoteReply)
    return reply


def replicating(voters: int = 3, config: RaftConfig | None = None) -> Stage:
    stage = Stage(range(1, voters + 1), config=config)
    stage.elect(1)
    stage.run(2)
    return stage


# ---- pre-vote ----


def test_a_pre_candidate_raises_no_term_and_promises_nothing() -> None:
    """§9.6: "a candidate only increments its term if it first learns from a majority" that they would vote for it."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.load(1, term=2, log=[1, 2])
    stage.tick(1, TIMEOUT)
    assert (stage.role(1), stage.status(1).term, stage.status(1).voted_for) == ("PreCandidate", 2, 0)
    assert [(flying.to, flying.message) for flying in stage.in_flight] == [
        (2, PreVote(Term(3), last(2, 2))),
        (3, PreVote(Term(3), last(2, 2))),
    ]
    assert stage[1].journal.written == 0


def test_a_server_that_is_cut_off_never_raises_its_term() -> None:
    """§9.6: so it deposes nobody when it comes back."""
    stage = replicating()
    stage.isolate(3)
    stage.run(10 * TIMEOUT)
    assert stage.status(3).term == 1
    stage.heal()
    stage.run(TIMEOUT)
    assert (stage.leaders(), stage.status(1).term, stage.status(3).leader) == ([1], 1, 1)


@pytest.mark.parametrize(("log", "granted"), [((1, 1), False), ((2, 2), True), ((2, 1), False), ((3, 1), True)])
def test_a_pre_vote_is_granted_only_to_a_log_that_could_win(log: tuple[int, int], granted: bool) -> None:
    """§9.6: the same rule as for the vote (§5.4.1)."""
    stage = Stage()
    stage.load(1, term=2, log=[1, 2])
    assert pre_vote(stage, 1, 2, 3, log) == PreVoteReply(Term(3 if granted else 2), granted)
    assert (stage.status(1).term, stage.status(1).voted_for) == (2, 0)


def test_a_pre_vote_for_the_present_term_is_refused() -> None:
    """§9.6: it asks about a term that is taken."""
    stage = Stage()
    stage.load(1, term=3, log=[])
    assert pre_vote(stage, 1, 2, 3, (9, 9)) == PreVoteReply(Term(3), False)


def test_a_pre_vote_of_a_server_left_behind_teaches_it_the_term() -> None:
    """Pitfall: a lower term that never learns the higher one dead-locks (etcd#8243, openraft#1796)."""
    stage = Stage()
    stage.load(1, term=2, log=[1, 2, 2])
    stage.load(2, term=7, log=[1])
    stage.crash(3)
    stage.run(6 * TIMEOUT)
    assert stage.leaders() == [1]
    assert stage.status(1).term > 7


@pytest.mark.parametrize("quiet", [0, TIMEOUT - 1, TIMEOUT])
def test_who_hears_a_leader_grants_no_pre_vote(quiet: int) -> None:
    """§9.6, §6: not within an election timeout of hearing from a leader, the last time it was heard."""
    stage = Stage()
    stage.hand(3, 1, Heartbeat(Term(1), last(0, 0), 1))
    stage.now = Tick(stage.now + TIMEOUT)
    stage.hand(3, 1, Heartbeat(Term(1), last(0, 0), 2))
    stage.now = Tick(stage.now + quiet)
    assert pre_vote(stage, 1, 2, 2, (9, 9)).granted is (quiet >= TIMEOUT)


def test_a_leader_grants_no_pre_vote() -> None:
    """§9.6: it hears itself."""
    stage = replicating()
    assert not pre_vote(stage, 1, 2, 9, (9, 9)).granted
    assert stage.role(1) == "Leader"


def test_granting_a_pre_vote_does_not_count_as_hearing_a_leader() -> None:
    """Pitfall: hashicorp#609."""
    stage = Stage()
    assert pre_vote(stage, 1, 2, 1, (0, 0)).granted
    assert pre_vote(stage, 1, 3, 1, (0, 0)).granted
    stage.tick(1, TIMEOUT)
    assert stage.role(1) == "PreCandidate"


def test_answers_to_a_pre_vote_of_another_term_do_not_count() -> None:
    """§9.6; pitfall: late answers."""
    stage = Stage((1, 2, 3, 4, 5))
    stage.load(1, term=3, log=[])
    stage.tick(1, TIMEOUT)
    for term in (3, 5, 9):
        for peer in (2, 3, 4, 5):
            stage.hand(peer, 1, PreVoteReply(Term(term), True))
    assert stage.role(1) == "PreCandidate"
    assert stage.status(1).term == 3
    stage.hand(2, 1, PreVoteReply(Term(4), True))
    stage.hand(2, 1, PreVoteReply(Term(4), True))
    assert stage.role(1) == "PreCandidate"
    stage.hand(3, 1, PreVoteReply(Term(4), True))
    assert (stage.role(1), stage.status(1).term) == ("Candidate", 4)


def test_a_lost_pre_vote_ends_at_once() -> None:
    """§9.6: whoever hears "no" from too many waits for the winner."""
    stage = Stage()
    stage.tick(1, TIMEOUT)
    stage.hand(2, 1, PreVoteReply(Term(0), False))
    assert stage.role(1) == "PreCandidate"
    stage.hand(3, 1, PreVoteReply(Term(0), False))
    assert stage.role(1) == "Follower"


def test_a_refusal_of_an_older_term_is_stale() -> None:
    """§5.1."""
    stage = Stage()
    stage.load(1, term=3, log=[])
    stage.tick(1, TIMEOUT)
    for peer in (2, 3):
        stage.hand(peer, 1, PreVoteReply(Term(2), False))
    assert stage.role(1) == "PreCandidate"


@pytest.mark.parametrize("role", ["Follower", "Candidate", "Leader"])
def test_pre_vote_answers_mean_nothing_to_other_roles(role: str) -> None:
    """§9.6."""
    stage = Stage()
    if role == "Leader":
        stage.elect(1)
    elif role == "Candidate":
        stage.tick(1, TIMEOUT)
        stage.hand(2, 1, PreVoteReply(Term(1), True))
    term = stage.status(1).term
    for peer in (2, 3):
        stage.hand(peer, 1, PreVoteReply(Term(term + 1), True))
    assert (stage.role(1), stage.status(1).term) == (role, term)


def test_a_pre_candidate_follows_a_leader_that_speaks_up() -> None:
    """§9.6."""
    stage = Stage()
    stage.tick(1, TIMEOUT)
    stage.hand(2, 1, Heartbeat(Term(0), last(0, 0), 1))
    assert (stage.role(1), stage.status(1).leader) == ("Follower", 2)


# ---- disruptive servers ----


def test_who_hears_a_leader_disregards_requests_for_its_vote() -> None:
    """§6: "if a server receives a RequestVote RPC within the minimum election timeout of hearing from a current
    leader, it does not update its term or grant its vote"."""
    stage = Stage()
    stage.hand(3, 1, Heartbeat(Term(1), last(0, 0), 1))
    stage.drop()
    stage.now = type(stage.now)(stage.now + TIMEOUT - 1)
    stage.hand(2, 1, RequestVote(Term(5), last(9, 9)))
    assert not stage.in_flight
    assert stage.status(1).term == 1
    stage.now = type(stage.now)(stage.now + 1)
    stage.hand(2, 1, RequestVote(Term(5), last(9, 9)))
    assert stage.sent(VoteReply) == [VoteReply(Term(5), True)]


def test_a_leader_disregards_requests_for_its_vote() -> None:
    """§6."""
    stage = replicating()
    stage.hand(3, 1, RequestVote(Term(5), last(9, 9)))
    assert (stage.role(1), stage.status(1).term) == ("Leader", 1)
    assert not stage.in_flight


def test_a_removed_server_disrupts_nobody() -> None:
    """§6: servers that are no longer in the membership time out and stand for election."""
    stage = replicating()
    stage.change(1, MembershipChange(remove=(NodeId(3),)))
    stage.isolate(3)
    stage.run(4)
    stage.heal()
    stage.run(10 * TIMEOUT)
    assert (stage.leaders(), stage.status(1).term) == ([1], 1)


def test_a_leader_of_an_older_term_is_told() -> None:
    """Pitfall: a candidate with a higher term that nobody follows would refuse its leader for ever (etcd#8501)."""
    stage = replicating()
    stage.load(3, term=9, log=[1])
    stage.run(3 * TIMEOUT)
    (leader,) = stage.leaders()
    assert {stage.status(node).leader for node in (1, 2, 3)} == {leader}
    assert stage.status(leader).term > 9


# ---- check-quorum ----


@pytest.mark.parametrize(
    ("voters", "reachable", "stays"), [(3, 1, True), (3, 0, False), (5, 2, True), (5, 1, False)]
)
def test_a_leader_that_hears_no_quorum_steps_down(voters: int, reachable: int, stays: bool) -> None:
    """§6.2: "a leader steps down if an election timeout elapses without a successful round of heartbeats to a
    majority of its cluster"."""
    stage = replicating(voters)
    stage.isolate(*range(1, 2 + reachable))
    for _ in range(TIMEOUT - 3):
        stage.tick(1)
        stage.settle()
    assert stage.role(1) == "Leader"
    for _ in range(6):
        stage.tick(1)
        stage.settle()
    assert (stage.role(1) == "Leader") is stays
    assert stage.status(1).term == 1
    if not stays:
        told = stage.lines[stage.lines.index("n1 quorum_lost term=1") :]
        assert not any(line.startswith("n1 >") and "Heartbeat " in line for line in told)


def test_any_answer_shows_that_a_follower_is_there() -> None:
    """§6.2: acknowledgements and refusals as well as answers to heartbeats."""
    for answer in (
        AppendReply(Term(1), LogIndex(1)),
        AppendRejected(Term(1), LogIndex(7), last(0, 0)),
        HeartbeatReply(Term(1), 0),
    ):
        stage = replicating()
        stage.isolate(1)
        for _ in range(3 * TIMEOUT):
            stage.tick(1)
            stage.cut.clear()
            stage.hand(2, 1, answer)
            stage.drop()
        assert stage.role(1) == "Leader"


def test_learners_are_no_part_of_the_quorum_that_is_checked() -> None:
    """§6.2, §4.2.1."""
    stage = Stage((1, 2, 3), learners=(4, 5))
    stage.elect(1)
    stage.isolate(1, 4, 5)
    stage.run(2 * TIMEOUT)
    assert stage.role(1) != "Leader"


def test_a_leader_that_was_stopped_gives_the_others_time_to_answer() -> None:
    """§6.2: its own pause is not the others' silence."""
    stage = replicating()
    stage.now = type(stage.now)(stage.now + 10 * TIMEOUT)
    stage.tick(1)
    assert stage.role(1) == "Leader"
    stage.drop()
    stage.tick(1, 2 * TIMEOUT)
    assert stage.role(1) == "PreCandidate"


def test_a_leader_that_always_ticks_late_still_steps_down() -> None:
    """§6.2: only what exceeds the usual is forgiven."""
    stage = replicating()
    for _ in range(2 * TIMEOUT):
        stage.now = type(stage.now)(stage.now + stage.config.heartbeat_ticks)
        stage.tick(1)
        stage.drop()
    assert stage.role(1) != "Leader"


def test_a_pause_never_dates_a_follower_into_the_future() -> None:
    """§6.2: heard during the pause is heard now, at best."""
    stage = replicating()
    stage.now = type(stage.now)(stage.now + 50)
    stage.hand(2, 1, HeartbeatReply(Term(1), 1))
    stage.hand(3, 1, HeartbeatReply(Term(1), 1))
    stage.tick(1)
    stage.drop()
    for _ in range(TIMEOUT):
        stage.tick(1)
        stage.drop()
    assert stage.role(1) != "Leader"


# ---- leadership transfer ----


def test_a_transfer_elects_the_target_at_once() -> None:
    """§3.10: "sends a TimeoutNow request to the target", which stands without waiting, and without a pre-vote."""
    stage = replicating()
    assert stage.transfer(1, 3) is None
    assert stage.sent(TimeoutNow, 1, 3) == [TimeoutNow(Term(1))]
    stage.deliver()
    assert (stage.role(3), stage.status(3).term) == ("Candidate", 2)
    assert stage.sent(RequestVote, 3) == [RequestVote(Term(2), last(1, 1), True)] * 2
    stage.settle()
    assert stage.leaders() == [3]


def test_a_transfer_brings_the_target_up_to_date_first() -> None:
    """§3.10: "the prior leader fully updates the target server's log to match its own"."""
    stage = replicating()
    stage.propose(1)
    held = stage.drop()
    assert stage.transfer(1, 3) is None
    assert not stage.sent(TimeoutNow)
    for flying in held:
        if flying.to == 3:
            stage.hand(1, 3, flying.message)
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.sent(TimeoutNow, 1, 3) == [TimeoutNow(Term(1))]


def test_a_leader_takes_nothing_new_while_it_transfers() -> None:
    """§3.10: "the prior leader stops accepting new client requests"."""
    stage = replicating()
    stage.isolate(3)
    stage.transfer(1, 3)
    assert stage.propose(1) == Refused(RefusalReason.TRANSFERRING, NodeId(3))
    assert stage.status(1).transferring_to == 3
    refused = stage.change(1, MembershipChange(remove=(NodeId(2),)))
    assert refused == Refused(RefusalReason.TRANSFERRING, NodeId(1))
    assert stage.transfer(1, 2) == Refused(RefusalReason.TRANSFERRING, NodeId(1))
    assert stage.transfer(1, 3) is None, "asking again for the same is no error and no second message"
    assert len(stage.sent(TimeoutNow)) == 1


def test_a_transfer_that_does_not_happen_is_given_up_after_an_election_timeout() -> None:
    """§3.10: "if leadership transfer does not complete after about an election timeout, the prior leader aborts"."""
    stage = replicating()
    stage.isolate(3)
    stage.transfer(1, 3)
    begun = stage.now
    while stage.status(1).transferring_to:
        stage.run(1)
        assert stage.now - begun <= TIMEOUT
    assert stage.now - begun == TIMEOUT
    assert isinstance(stage.propose(1), Accepted)
    assert stage.transfer(1, 2) is None
    stage.settle()
    assert stage.leaders() == [2]


def test_a_transfer_asks_the_target_once() -> None:
    """Pitfall: every acknowledgement sends another TimeoutNow, and the new leader is deposed by it."""
    stage = replicating()
    stage.transfer(1, 2)
    stage.drop()
    stage.run(2)
    assert sum("TimeoutNow" in line for line in stage.lines) == 1


def test_a_transfer_to_oneself_is_done() -> None:
    stage = replicating()
    assert stage.transfer(1, 1) is None
    assert stage.status(1).transferring_to == 0
    assert isinstance(stage.propose(1), Accepted)


def test_a_transfer_goes_to_another_voter_only() -> None:
    """§3.10."""
    stage = Stage((1, 2, 3), learners=(4,))
    stage.elect(1)
    assert stage.transfer(1, 4) == Refused(RefusalReason.BAD_TARGET, NodeId(1), "4 is not another voter")
    assert stage.transfer(1, 9) == Refused(RefusalReason.BAD_TARGET, NodeId(1), "9 is not another voter")
    assert stage.transfer(2, 1) == Refused(RefusalReason.NOT_LEADER, NodeId(1))
    stage.run(4)
    stage.isolate(1)
    stage.change(1, MembershipChange(remove=(NodeId(3),)))
    assert stage.transfer(1, 3) == Refused(RefusalReason.BAD_TARGET, NodeId(1), "3 is not another voter"), (
        "it leaves"
    )
    single = Stage((1,))
    single.elect(1)
    assert single.transfer(1) == Refused(RefusalReason.BAD_TARGET, NodeId(1), "there is no other voter")


def test_a_transfer_without_a_target_takes_the_most_up_to_date_voter_that_answers() -> None:
    """§3.10: any server will do; the best is the quickest."""
    stage = replicating(5)
    stage.isolate(2, 3)
    stage.propose(1)
    stage.run(2)
    stage.isolate(5)
    stage.propose(1)
    stage.run(2)
    assert stage.transfer(1) is None
    assert stage.status(1).transferring_to == 4
    lagging = replicating(3)
    lagging.isolate(3)
    lagging.propose(1)
    lagging.settle()
    lagging.heal()
    for _ in range(TIMEOUT):
        lagging.tick(1)
        lagging.deliver(lambda flying: (flying.to == 1 and flying.sender == 3) or flying.to == 3)
        lagging.drop(lambda flying: flying.sender == 2 or flying.to == 2)
    lagging.isolate(1)
    assert lagging.transfer(1) is None
    assert lagging.status(1).transferring_to == 3, "one that answers before one that has more"


def test_a_request_of_a_transfer_is_heard_in_spite_of_the_leader() -> None:
    """§3.10: "the RequestVote RPC can include a special flag"."""
    stage = replicating()
    stage.hand(3, 2, RequestVote(Term(2), last(1, 1), True))
    assert stage.sent(VoteReply) == [VoteReply(Term(2), True)]


def test_a_candidate_of_a_transfer_hears_no_leader_any_more() -> None:
    """§6: it has left the leader that offered its place, and hears others who stand."""
    stage = replicating()
    stage.hand(1, 3, TimeoutNow(Term(1)))
    stage.drop()
    assert stage.role(3) == "Candidate"
    stage.hand(2, 3, RequestVote(Term(9), last(1, 1)))
    assert stage.sent(VoteReply) == [VoteReply(Term(9), True)]


def test_a_learner_does_not_stand_when_told_to() -> None:
    stage = Stage((1, 2, 3), learners=(4,))
    stage.elect(1)
    stage.hand(1, 4, TimeoutNow(Term(1)))
    assert (stage.role(4), stage.status(4).term) == ("Follower", 1)


def test_a_leader_ignores_a_request_to_stand() -> None:
    """A late TimeoutNow of one's own term can only be an echo."""
    stage = replicating()
    stage.hand(2, 1, TimeoutNow(Term(1)))
    assert (stage.role(1), stage.status(1).term) == ("Leader", 1)


def test_a_target_that_loses_tries_again_soon() -> None:
    """§3.10 after TimeoutNow the old leader may be on its way out: the next try does not wait a whole timeout."""
    stage = replicating()
    stage.isolate(3)
    stage.cut.clear()
    stage.hand(1, 3, TimeoutNow(Term(1)))
    stage.drop()
    stage.tick(3, 12)
    assert stage.role(3) == "PreCandidate"


def test_an_election_after_a_transfer_commits_what_was_there() -> None:
    stage = replicating()
    stage.propose(1, b"kept")
    stage.transfer(1, 2)
    stage.settle()
    stage.run(4)
    assert stage.leaders() == [2]
    assert stage.terms(3) == [1, 1, 2]
    assert isinstance(stage.sent(AppendEntries), list)
    assert stage.commit(3) == 3
