"""A crash may leave a snapshot durable and the term (in Multi-Paxos: the promise) of those who agreed on it not.

Raft figure 13 makes a snapshot a message of its leader's term; of a start behind one the papers say nothing.
"""

import pytest
from paxos_stage import TIMEOUT, ballot, slot

from troth.core.config import EngineConfig
from troth.core.interface import Ballot, EntryId
from troth.core.paxos.messages import Prepare, Probe, ProbeReply, Promise
from troth.core.raft.messages import PreVote, PreVoteReply, RequestVote, VoteReply
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.actor import InFlight
from troth.simulate.stage import Stage

ELECTING = (Prepare, Probe, ProbeReply, Promise, PreVote, PreVoteReply, RequestVote, VoteReply)

pytestmark = pytest.mark.parametrize("consensus", ["raft", "paxos"])


def electing(flying: InFlight) -> bool:
    return isinstance(flying.message, ELECTING)


def two_leaders(consensus: str, *holders: int) -> Stage:
    """Of term 3 three values are left, which *holders* hold. 2 led after it, elected by others, and knows nothing of
    them. It leads still, and hears nobody, when 1, a holder, leads and has them chosen by 4 and 5."""
    config = EngineConfig(heartbeat_ticks=2, election_timeout_ticks=TIMEOUT)
    stage = Stage((1, 2, 3, 4, 5), config=config, consensus=consensus)
    for node in range(1, 6):
        if consensus == "raft":
            stage.load(node, term=3, log=[3, 3, 3] if node in holders else [])
        else:
            values = [slot(index, 3, 1) for index in (1, 2, 3)] if node in holders else []
            stage.load_slots(node, *values, promised=ballot(3, 1))
    stage.isolate(1, 3)
    stage.now = Tick(2 * TIMEOUT)
    while stage.role(2) != "Leader":
        stage.tick(2)
        stage.deliver(electing)
    stage.drop()
    stage.heal()
    stage.isolate(2, 3)
    stage.now = Tick(stage.now + TIMEOUT)
    while stage.role(1) != "Leader":
        stage.tick(1)
        stage.deliver()
    stage.settle()
    assert stage.leaders() == [1, 2] and stage.commit(1) >= 3
    assert stage.status(2).term < stage.status(1).term
    return stage


def save(stage: Stage, node: int) -> None:
    """A snapshot of the three values alone: they were proposed in term 3, and all of 1's term stands behind them."""
    journal, index = stage[node].journal, LogIndex(3)
    journal.snapshot_saved(stage[node].engine.snapshot_meta(index), journal.volatile.digest_at(index) or 0)


def ends_before_its_term_is_durable(stage: Stage) -> None:
    """3, whose snapshot is durable, crashes, and hears from 2 alone when it is back."""
    stage.crash(3)
    assert stage[3].journal.durable.hard_state.term < stage.status(2).term
    stage[3].syncs = True
    stage.restart(3)
    stage.drop()
    stage.cut.clear()
    stage.isolate(2, 3)


def assert_told_of_the_newer_term(stage: Stage) -> None:
    assert (stage.commit(3), stage.status(3).term) == (3, stage.status(1).term)
    stage.propose(2)
    stage.tick(2, stage.config.heartbeat_ticks)
    stage.settle()
    assert (stage.role(2), stage.status(2).term) == ("Follower", stage.status(1).term)


def test_who_was_sent_a_snapshot_starts_in_the_term_in_which_it_was_taken(consensus: str) -> None:
    """Else a leader that was deposed before that is told that this server holds what that leader never sent."""
    stage = two_leaders(consensus, 1)
    stage[3].syncs = False
    save(stage, 1)
    assert stage.install(1, 3, report=False)
    ends_before_its_term_is_durable(stage)
    assert_told_of_the_newer_term(stage)


def test_who_took_a_snapshot_starts_in_the_term_in_which_it_did(consensus: str) -> None:
    """A follower applies what it is told to be agreed upon before the term of who tells it is durable."""
    stage = two_leaders(consensus, 1, 3)
    stage[3].syncs = False
    stage.cut.clear()
    stage.isolate(2)
    stage.run(4)
    assert stage.commit(3) >= 3
    save(stage, 3)
    ends_before_its_term_is_durable(stage)
    assert_told_of_the_newer_term(stage)


def test_the_header_of_a_snapshot_names_the_term_it_was_taken_in(consensus: str) -> None:
    stage = two_leaders(consensus, 1)
    meta = stage[1].engine.snapshot_meta(LogIndex(3))
    status = stage.status(1)
    assert meta.last == EntryId(Term(3), LogIndex(3))
    assert meta.taken_at == Ballot(status.term, NodeId(1 if consensus == "paxos" else 0)), (
        "a vote is nobody else's"
    )
    assert meta.floor == meta.taken_at
