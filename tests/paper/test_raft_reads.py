"""Thesis §6.4: linearizable reads by read index, from followers, and by leader lease (§6.4.1)."""

import pytest

from troth.core.interface import EntryId, Member, MembershipChange, ReadState
from troth.core.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    HigherTerm,
    PreVoteReply,
    ReadReply,
    ReadRequest,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from troth.core.raft.state import RaftConfig
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.stage import Stage

TIMEOUT = 20
LEASE = RaftConfig(heartbeat_ticks=2, election_timeout_ticks=TIMEOUT, lease_reads=True, clock_drift_percent=10)


def at(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def leading(voters: int = 3, config: RaftConfig | None = None) -> Stage:
    stage = Stage(range(1, voters + 1), config=config)
    stage.elect(1)
    stage.run(4)
    return stage


def rounds(stage: Stage) -> list[int]:
    return sorted({message.token for message in stage.sent(Heartbeat, 1)})  # type: ignore[attr-defined]


# ---- read index ----


def test_a_read_waits_until_a_quorum_has_confirmed_the_leader() -> None:
    """§6.4, step 3: "the leader needs to make sure it hasn't been superseded by a newer leader"."""
    stage = leading(5)
    stage.read(1, 7)
    stage.deliver(lambda flying: flying.to in (2, 3, 4, 5))
    assert not stage[1].reads
    stage.deliver(lambda flying: flying.sender == 2)
    assert not stage[1].reads
    stage.deliver(lambda flying: flying.sender == 3)
    assert stage[1].reads == [ReadState(7, LogIndex(1))]


def test_a_read_index_is_the_commit_index_when_the_round_begins() -> None:
    """§6.4, step 2."""
    stage = leading()
    stage.propose(1)
    stage.settle()
    stage.read(1, 1)
    stage.propose(1)
    stage.settle()
    assert stage[1].reads == [ReadState(1, LogIndex(2))]


def test_no_read_before_an_entry_of_the_own_term_has_committed() -> None:
    """§6.4, step 1; pitfall: etcd#7331, tikv#9239."""
    stage = Stage()
    for node in (1, 2, 3):
        stage.load(node, term=1, log=[1])
    stage.tick(1, TIMEOUT)
    for _ in range(4):
        stage.deliver(lambda flying: not isinstance(flying.message, AppendEntries))
    assert stage.role(1) == "Leader"
    stage.read(1, 5)
    for _ in range(3):
        stage.tick(1, 2)
        stage.deliver(lambda flying: not isinstance(flying.message, AppendEntries))
        stage.deliver(lambda flying: flying.to == 1)
    assert not stage[1].reads
    stage.settle()
    assert stage[1].reads == [ReadState(5, LogIndex(2))]


def test_no_read_before_an_own_entry_has_committed_though_all_others_have() -> None:
    """§6.4, step 1: what it holds is committed, and that this is all is known only when an entry of its own is."""
    stage = leading()
    stage.isolate(1)
    stage.tick(2, 2 * TIMEOUT)
    for _ in range(4):
        stage.deliver(lambda flying: not isinstance(flying.message, AppendEntries))
    assert stage.role(2) == "Leader"
    assert (stage.commit(2), stage.status(2).last) == (1, at(2, 2))
    stage.read(2, 5)
    for _ in range(3):
        stage.tick(2, 2)
        stage.deliver(lambda flying: not isinstance(flying.message, AppendEntries))
        stage.deliver(lambda flying: flying.to == 2)
    assert not stage[2].reads
    stage.settle()
    assert stage[2].reads == [ReadState(5, LogIndex(2))]


def test_an_answer_to_an_older_round_takes_no_confirmation_back() -> None:
    """§6.4, step 3: answers overtake each other."""
    stage = leading(5)
    stage.tick(1, 2)
    before = rounds(stage)[-1]
    stage.drop()
    stage.read(1, 3)
    token = rounds(stage)[-1]
    stage.drop()
    stage.hand(2, 1, HeartbeatReply(Term(1), token))
    stage.hand(2, 1, HeartbeatReply(Term(1), before))
    stage.hand(3, 1, HeartbeatReply(Term(1), token))
    assert stage[1].reads == [ReadState(3, LogIndex(1))]


@pytest.mark.parametrize("old", ["answer to the round before", "notice", "twice the same voter", "stranger"])
def test_only_new_answers_of_a_quorum_confirm(old: str) -> None:
    """Pitfall: etcd#20418, a late or repeated answer to an older round confirms a new read."""
    stage = leading(5)
    stage.tick(1, 2)
    token = rounds(stage)[-1]
    stage.drop()
    stage.read(1, 3)
    assert rounds(stage) == [token + 1]
    stage.drop()
    for peer in (2, 3, 4, 5):
        match old:
            case "answer to the round before":
                stage.hand(peer, 1, HeartbeatReply(Term(1), token))
            case "notice":
                stage.hand(peer, 1, HeartbeatReply(Term(1), 0))
            case "twice the same voter":
                stage.hand(2, 1, HeartbeatReply(Term(1), token + 1))
            case _:
                stage.hand(peer + 10, 1, HeartbeatReply(Term(1), token + 1))
    assert not stage[1].reads
    for peer in (2, 3):
        stage.hand(peer, 1, HeartbeatReply(Term(1), token + 1))
    assert stage[1].reads == [ReadState(3, LogIndex(1))]


def test_an_answer_to_a_later_round_confirms_an_earlier_one() -> None:
    """§6.4: leadership later is leadership before."""
    stage = leading()
    stage.read(1, 3)
    stage.drop()
    stage.tick(1, 2)
    stage.settle()
    assert stage[1].reads == [ReadState(3, LogIndex(1))]


def test_an_answer_that_is_late_takes_no_confirmation_back() -> None:
    """Tokens only grow."""
    stage = leading()
    stage.tick(1, 2)
    token = rounds(stage)[-1]
    stage.drop()
    stage.read(1, 3)
    stage.hand(2, 1, HeartbeatReply(Term(1), token))
    stage.drop()
    assert not stage[1].reads
    stage.hand(2, 1, HeartbeatReply(Term(1), token + 1))
    stage.hand(2, 1, HeartbeatReply(Term(1), token))
    assert len(stage[1].reads) == 1


def test_reads_that_come_together_share_a_round() -> None:
    """§6.4: "it can use a single round of heartbeats for any number of read-only queries"."""
    stage = leading()
    engine = stage[1].engine
    for context in (1, 2, 3):
        engine.read(context, stage.now)
    stage.pump(1)
    assert len(rounds(stage)) == 1
    stage.read(1, 4)
    assert len(rounds(stage)) == 1, "one round at a time"
    stage.settle()
    assert [state.context for state in stage[1].reads] == [1, 2, 3, 4]


def test_a_read_that_came_during_a_round_waits_for_the_next() -> None:
    """§6.4: the round must begin after the read has come."""
    stage = leading()
    stage.read(1, 1)
    stage.deliver(lambda flying: flying.to == 2)
    stage.read(1, 2)
    stage.deliver(lambda flying: flying.to == 1)
    assert [state.context for state in stage[1].reads] == [1]
    assert len(stage.sent(Heartbeat, 1, 2)) == 1
    stage.settle()
    assert [state.context for state in stage[1].reads] == [1, 2]


def test_one_read_that_waits_is_enough_for_no_other_round_to_begin() -> None:
    """§6.4: those who come while a round is under way share the next, however few that one is for."""
    stage = leading()
    stage.read(1, 1)
    begun = rounds(stage)
    stage.read(1, 2)
    assert rounds(stage) == begun
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.to == 1)
    assert len(rounds(stage)) == len(begun) + 1


def test_a_single_server_reads_at_once() -> None:
    stage = leading(1)
    stage.read(1, 9)
    assert stage[1].reads == [ReadState(9, LogIndex(1))]


def test_a_leader_in_a_minority_answers_no_read() -> None:
    """§6.4; pitfall: d-engine#381."""
    stage = leading()
    stage.isolate(1)
    stage.read(1, 4)
    stage.settle()
    stage.run(2 * TIMEOUT)
    assert not stage[1].reads
    assert stage[1].reads_refused == [4]


def test_reads_of_a_deposed_leader_are_refused() -> None:
    """§6.4: both those that wait for a round and those that wait for an answer."""
    stage = leading()
    stage.read(1, 4)
    stage.read(1, 5)
    stage.hand(2, 1, ReadRequest(Term(1), 6))
    stage.hand(3, 1, AppendEntries(Term(2), at(1, 1), (), LogIndex(0)))
    assert stage[1].reads_refused == [4, 5], "those of followers have numbers of their own"
    stage.settle()
    assert not stage[1].reads


def test_too_many_reads_are_refused() -> None:
    """Every queue has a bound."""
    stage = leading(config=RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, reads_pending_max=3))
    for context in range(5):
        stage.read(1, context)
    assert stage[1].reads_refused == [3, 4]
    for context in range(5):
        stage.read(2, context)
    assert stage[2].reads_refused == [3, 4]
    stage.settle()
    assert [state.context for state in stage[1].reads] == [0, 1, 2]
    assert stage[2].reads == [], "the leader's queue was full as well, and nobody told"
    stage.run(TIMEOUT)
    assert stage[2].reads_refused == [3, 4, 0, 1, 2]
    assert stage[1].reads_refused == [3, 4], "the follower's are not the leader's own"


@pytest.mark.parametrize("order", [(4, 5, 2), (2, 4, 5)])
def test_joint_quorums_confirm_reads(order: tuple[int, ...]) -> None:
    """§6: while the membership is joint, both sets."""
    stage = Stage((1, 2, 3), others=(4, 5, 6))
    stage.elect(1)
    stage.run(4)
    new = {NodeId(node): Member(f"n{node}") for node in (4, 5, 6)}
    stage.change(1, MembershipChange(add_voters=new, remove=(NodeId(2), NodeId(3))))
    stage.drop()
    stage.read(1, 8)
    token = rounds(stage)[-1]
    for peer in order:
        assert not stage[1].reads
        stage.hand(peer, 1, HeartbeatReply(Term(1), token))
    assert stage[1].reads == [ReadState(8, LogIndex(1))]


# ---- from followers ----


def test_a_follower_asks_the_leader_for_a_read_index() -> None:
    """§6.4: "the follower could issue a request to the leader that just asked for a current readIndex"."""
    stage = leading()
    stage.read(2, 6)
    (request,) = stage.sent(ReadRequest, 2, 1)
    stage.settle()
    assert stage[2].reads == [ReadState(6, LogIndex(1))]
    assert isinstance(request, ReadRequest)
    stage.hand(1, 2, ReadReply(Term(1), request.number, LogIndex(1)))
    assert len(stage[2].reads) == 1, "a repeated answer answers nothing"


def test_an_answer_to_a_read_of_another_life_is_not_believed() -> None:
    """Drivers number their reads from 1 in every life; the engine's numbers are not used again."""
    stage = leading()
    stage[2].rng.__class__.getrandbits = lambda self, bits: self.offset + stage.now * 1000  # type: ignore[method-assign]
    try:
        stage.crash(2)
        stage.restart(2)
        stage.run(2)
        stage.read(2, 1)
        stage.deliver(lambda flying: flying.to == 1)
        stage.deliver(lambda flying: not isinstance(flying.message, ReadReply) and flying.to == 3)
        stage.deliver(lambda flying: flying.sender == 3)
        late = stage.drop(lambda flying: isinstance(flying.message, ReadReply))
        assert len(late) == 1
        stage.crash(2)
        stage.restart(2)
        stage.run(3)
        stage.read(2, 1)
        stage.drop()
        stage.hand(1, 2, late[0].message)
        assert not stage[2].reads
    finally:
        stage[2].rng.__class__.getrandbits = lambda self, bits: 0  # type: ignore[method-assign]


def test_a_read_without_a_leader_is_refused() -> None:
    stage = Stage()
    stage.read(2, 6)
    assert stage[2].reads_refused == [6]
    stage.tick(3, 30)
    stage.read(3, 7)
    assert stage[3].reads_refused == [7]


def test_a_forwarded_read_that_is_lost_is_given_up() -> None:
    """After an election timeout the reader is told to ask again."""
    stage = leading()
    stage.read(2, 6)
    stage.drop()
    for _ in range(TIMEOUT - 1):
        stage.run(1)
    assert not stage[2].reads_refused
    stage.run(1)
    assert stage[2].reads_refused == [6]


def test_who_waits_for_an_answer_to_a_read_does_not_sleep() -> None:
    """Each tick may be the one at which the read is given up."""
    stage = leading()
    assert stage[2].engine.asleep_until() > stage.now
    stage.read(2, 6)
    assert stage[2].engine.asleep_until() <= stage.now
    stage.settle()
    assert [state.context for state in stage[2].reads] == [6]
    assert stage[2].engine.asleep_until() > stage.now


def test_forwarded_reads_are_refused_when_the_leader_is_lost() -> None:
    for message in (AppendEntries(Term(2), at(1, 1), (), LogIndex(0)), HigherTerm(Term(5))):
        stage = leading()
        stage.read(2, 6)
        stage.hand(3, 2, message)
        assert stage[2].reads_refused == [6]
    stage = leading()
    stage.read(2, 6)
    stage.drop()
    stage.tick(2, TIMEOUT + 10)
    assert stage[2].reads_refused == [6]


def test_forwarded_reads_are_refused_as_soon_as_their_reader_stands_for_election() -> None:
    """By its own patience, or because it is told to; a learner's when it has lost its leader."""
    stage = leading()
    stage.tick(2, TIMEOUT)
    stage.read(2, 6)
    stage.drop()
    while stage.role(2) == "Follower":
        assert not stage[2].reads_refused
        stage.tick(2)
    assert stage[2].reads_refused == [6]
    told = leading()
    told.read(3, 7)
    told.hand(1, 3, TimeoutNow(Term(1)))
    assert told[3].reads_refused == [7]
    learning = Stage((1, 2, 3), learners=(4,))
    learning.genesis.members[NodeId(4)] = Member("n4", promote=False)
    learning.elect(1)
    learning.run(4)
    learning.tick(4, TIMEOUT)
    learning.read(4, 8)
    learning.drop()
    while learning.status(4).leader:
        assert not learning[4].reads_refused
        learning.tick(4)
    assert learning[4].reads_refused == [8]


def test_other_roles_have_no_use_for_read_messages() -> None:
    stage = leading()
    stage.hand(3, 2, ReadRequest(Term(1), 5))
    stage.hand(3, 1, ReadReply(Term(1), 5, LogIndex(1)))
    assert not stage.sent(ReadReply)
    assert not stage[1].reads


# ---- leases ----


def test_a_lease_answers_reads_without_a_round() -> None:
    """§6.4.1: "the leader would use the normal heartbeat mechanism to maintain a lease"."""
    stage = leading(config=LEASE)
    stage.read(1, 2)
    assert not rounds(stage)
    (state,) = stage[1].reads
    assert (state.context, state.index) == (2, 1)
    assert stage.now < state.valid_until <= stage.now + LEASE.lease_ticks


def test_without_leases_every_read_takes_a_round() -> None:
    stage = leading()
    stage.read(1, 2)
    assert rounds(stage)
    assert not stage[1].reads


def test_a_lease_counts_from_the_sending_of_the_heartbeat() -> None:
    """§6.4.1; pitfall: counting from the answer."""
    stage = leading(config=LEASE)
    while not rounds(stage):
        stage.tick(1)
    sent = stage.now
    held = stage.drop()
    stage.now = Tick(stage.now + 5)
    for flying in held:
        stage.hand(1, flying.to, flying.message)
    stage.deliver(lambda flying: flying.to == 1)
    stage.read(1, 1)
    assert stage[1].reads[-1].valid_until == sent + LEASE.lease_ticks


def test_a_lease_ends() -> None:
    """§6.4.1: at its last tick there is none."""
    stage = leading(config=LEASE)
    stage.read(1, 1)
    end = stage[1].reads[-1].valid_until
    stage.now = Tick(end - 1)
    stage.read(1, 2)
    assert len(stage[1].reads) == 2
    stage.now = Tick(end)
    stage.read(1, 3)
    assert len(stage[1].reads) == 2
    stage.settle()
    assert stage[1].reads[-1] == ReadState(3, LogIndex(1))


def test_a_clock_that_falls_back_brings_no_lease_back() -> None:
    """The driver's clock should not; if it does, time stands still here until it has caught up."""
    stage = leading(config=LEASE)
    stage.read(1, 1)
    end = stage[1].reads[-1].valid_until
    stage.now = Tick(end)
    stage.read(1, 2)
    assert len(stage[1].reads) == 1
    stage.now = Tick(end - 5)
    stage.tick(1)
    stage.read(1, 3)
    assert len(stage[1].reads) == 1


def test_a_lease_is_shorter_than_any_followers_patience() -> None:
    """§6.4.1, figure 6.3: a lease ends at "start + election timeout / clock drift bound"."""
    for timeout in (2, 10, 60, 1000):
        for drift in (0, 1, 10, 50):
            config = RaftConfig(heartbeat_ticks=1, election_timeout_ticks=timeout, clock_drift_percent=drift)
            assert (config.lease_ticks + 1) * 100 <= timeout * (100 - drift)
            assert config.lease_ticks < timeout


def test_no_lease_before_the_own_term_has_committed() -> None:
    """§6.4, step 1, holds for leases as well."""
    stage = Stage(config=LEASE)
    for node in (1, 2, 3):
        stage.load(node, term=1, log=[1])
    stage.tick(1, TIMEOUT)
    for _ in range(4):
        stage.deliver(lambda flying: not isinstance(flying.message, AppendEntries))
    stage.tick(1)
    stage.deliver(lambda flying: isinstance(flying.message, Heartbeat))
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.role(1) == "Leader"
    stage.read(1, 1)
    assert not stage[1].reads


def test_no_lease_once_the_leadership_is_offered() -> None:
    """§6.4.1 with §3.10; pitfall: the target is elected while the lease runs. Also after the offer has timed out:
    it may still arrive."""
    stage = leading(config=LEASE)
    stage.isolate(3)
    stage.transfer(1, 3)
    stage.read(1, 1)
    assert not stage[1].reads
    stage.drop(lambda flying: isinstance(flying.message, TimeoutNow))
    stage.run(TIMEOUT + 2)
    assert stage.status(1).transferring_to == 0
    before = len(stage[1].reads)
    stage.read(1, 2)
    assert len(stage[1].reads) == before


def test_no_lease_while_a_transfer_is_prepared_and_again_when_it_was_never_offered() -> None:
    stage = leading(config=LEASE)
    stage.isolate(3)
    stage.propose(1)
    stage.settle()
    stage.transfer(1, 3)
    stage.read(1, 1)
    assert not stage[1].reads
    stage.run(TIMEOUT + 2)
    count = len(stage[1].reads)
    stage.read(1, 2)
    assert len(stage[1].reads) == count + 1


def test_no_lease_before_a_round_was_confirmed() -> None:
    """§6.4.1: the answers that elected it, and those to its entries, confirm no lease; and nobody is thought to have
    confirmed a round that he has not."""
    for config in (None, LEASE):
        stage = Stage(config=config)
        stage.elect(1)
        assert stage.commit(1) == 1
        stage.read(1, 1)
        assert not stage[1].reads
        assert rounds(stage) == [1]
        stage.settle()
        assert stage[1].reads == [ReadState(1, LogIndex(1))]


def test_followers_are_not_served_from_a_lease() -> None:
    """A lease vouches for the leader's clock, not for the time its answer takes."""
    stage = leading(config=LEASE)
    stage.read(2, 1)
    stage.deliver(lambda flying: flying.to == 1)
    assert not stage.sent(ReadReply)
    assert stage.sent(Heartbeat)


def test_with_leases_a_death_that_was_seen_does_not_hasten_the_election() -> None:
    """§6.4.1: the leader that seems dead may still answer reads."""
    stage = leading(config=LEASE)
    stage.suspect(2, 1)
    assert (stage.role(2), stage.status(2).leader) == ("Follower", 1)
    assert not stage.in_flight


def test_a_lease_is_respected_by_a_voter_whose_term_was_raised_by_other_means() -> None:
    """§6.4.1: the gate disregards requests for votes of a later term; this one is of the present term."""
    stage = leading(config=LEASE)
    stage.hand(3, 2, PreVoteReply(Term(2), False))
    assert stage.status(2).term == 2
    stage.drop()
    stage.hand(3, 2, RequestVote(Term(2), at(1, 1)))
    assert stage.sent(VoteReply) == [VoteReply(Term(2), False)]
    stage.drop()
    stage.hand(3, 2, RequestVote(Term(2), at(1, 1), True))
    assert stage.sent(VoteReply) == [VoteReply(Term(2), True)], "a leader that offers its place has no lease"


def test_once_the_lease_must_be_over_such_a_voter_votes() -> None:
    stage = leading(config=LEASE)
    stage.hand(3, 2, PreVoteReply(Term(2), False))
    stage.drop()
    stage.now = Tick(stage.now + TIMEOUT)
    stage.hand(3, 2, RequestVote(Term(2), at(1, 1)))
    assert stage.sent(VoteReply) == [VoteReply(Term(2), True)]


def test_without_leases_such_a_voter_votes() -> None:
    stage = leading()
    stage.hand(3, 2, PreVoteReply(Term(2), False))
    stage.drop()
    stage.hand(3, 2, RequestVote(Term(2), at(1, 1)))
    assert stage.sent(VoteReply) == [VoteReply(Term(2), True)]


def test_after_a_restart_a_voter_waits_as_if_it_had_just_heard_a_leader() -> None:
    """§6.4.1: it may have confirmed a lease before it went down, even in a term that it had not stored."""
    for stored in (False, True):
        stage = Stage(config=LEASE)
        if stored:
            stage.load(2, term=1, log=[1])
        stage.now = Tick(100)
        stage.crash(2)
        stage.restart(2)
        stage.now = Tick(100 + TIMEOUT - 1)
        stage.hand(3, 2, RequestVote(Term(5), at(9, 9)))
        assert not stage.in_flight
        stage.now = Tick(100 + TIMEOUT)
        stage.hand(3, 2, RequestVote(Term(5), at(9, 9)))
        assert stage.sent(VoteReply) == [VoteReply(Term(5), True)]
    plain = Stage()
    plain.hand(3, 2, RequestVote(Term(5), at(9, 9)))
    assert plain.sent(VoteReply) == [VoteReply(Term(5), True)]


def test_a_vote_that_was_given_is_not_denied_after_a_restart() -> None:
    """§5.2, nebula PR#2419: no lease that holds now can be of an older term than the vote that is on the disk."""
    stage = Stage(config=LEASE)
    stage.now = Tick(100)
    stage.hand(3, 2, RequestVote(Term(5), at(9, 9)))
    assert stage.sent(VoteReply) == [VoteReply(Term(5), True)]
    stage.crash(2)
    stage.restart(2)
    stage.drop()
    stage.hand(1, 2, RequestVote(Term(5), at(9, 9)))
    stage.hand(3, 2, RequestVote(Term(5), at(9, 9)))
    assert stage.sent(VoteReply) == [VoteReply(Term(5), False), VoteReply(Term(5), True)]


def test_a_vote_for_another_ends_the_memory_of_the_last_leader() -> None:
    """§6: whoever has voted in a new term is not bound to the old one's leader."""
    stage = leading(5)
    stage.hand(3, 2, RequestVote(Term(2), at(1, 1), True))
    stage.drop()
    stage.hand(4, 2, RequestVote(Term(3), at(1, 1)))
    assert stage.sent(VoteReply) == [VoteReply(Term(3), True)]


def test_an_acknowledgement_of_entries_confirms_no_read() -> None:
    """§6.4: it may be an answer to a message of long before."""
    stage = leading()
    stage.read(1, 1)
    stage.drop()
    for peer in (2, 3):
        stage.hand(peer, 1, AppendReply(Term(1), LogIndex(1)))
    assert not stage[1].reads
