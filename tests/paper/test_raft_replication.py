"""Raft §5.3, §5.4.2, figure 2, figures 7 and 8, and thesis §10.2: replication and commitment, claim by claim."""

import pytest

from troth.core.interface import Accepted, Entry, EntryId, EntryKind, RefusalReason, Refused
from troth.core.leading.flight import MESSAGES_IN_FLIGHT_MAX
from troth.core.paxos.messages import Heartbeat as PaxosHeartbeat
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVoteReply,
    ReadRequest,
    VoteReply,
)
from troth.core.raft.state import RaftConfig
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.stage import Stage


def at(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def entries(start: int, *terms: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(LogIndex(start + place), Term(term), EntryKind.COMMANDS, b"%d" % term)
        for place, term in enumerate(terms)
    )


def append(term: int, prev: EntryId, *terms: int, commit: int = 0) -> AppendEntries:
    return AppendEntries(Term(term), prev, entries(prev.index + 1, *terms), LogIndex(commit))


def replicating(voters: int = 3, config: RaftConfig | None = None) -> Stage:
    """Server 1 leads and everybody has all it has."""
    stage = Stage(range(1, voters + 1), config=config)
    stage.elect(1)
    stage.run(2)
    assert {status.state for node, status in stage.status(1).progress.items() if node != 1} == {"replicate"}
    return stage


# ---- §5.3, the leader ----


def test_a_leader_appends_and_sends_to_everybody_at_once() -> None:
    """§5.3: "appends the command to its log as a new entry, then issues AppendEntries RPCs in parallel"."""
    stage = replicating()
    assert stage.propose(1, b"a") == Accepted(at(1, 2))
    expected = AppendEntries(
        Term(1), at(1, 1), (Entry(LogIndex(2), Term(1), EntryKind.COMMANDS, b"a"),), LogIndex(1)
    )
    assert [(flying.to, flying.message) for flying in stage.in_flight] == [(2, expected), (3, expected)]


def test_an_entry_commits_when_a_majority_holds_it_and_is_applied_in_order() -> None:
    """§5.3: "committed once the leader that created the entry has replicated it on a majority of the servers"."""
    stage = replicating(5)
    stage.propose(1, b"a")
    stage.propose(1, b"b")
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.commit(1) == 1
    stage.deliver(lambda flying: flying.to == 3)
    stage.deliver(lambda flying: flying.to == 1)
    assert stage.commit(1) == 3
    assert [entry.payload for entry in stage[1].applied] == [b"", b"a", b"b"]
    assert [entry.index for entry in stage[1].applied] == [1, 2, 3]


def test_followers_learn_the_commit_index_and_apply() -> None:
    """§5.3: "the leader keeps track of the highest index it knows to be committed, and includes that index"."""
    stage = replicating()
    stage.propose(1, b"a")
    stage.settle()
    stage.run(stage.config.heartbeat_ticks)
    assert [[entry.payload for entry in stage[node].applied] for node in (1, 2, 3)] == [[b"", b"a"]] * 3
    assert [stage.commit(node) for node in (1, 2, 3)] == [2, 2, 2]


@pytest.mark.parametrize("consensus", ["raft", "paxos"])
def test_who_acknowledges_last_is_told_of_the_commit_at_once(consensus: str) -> None:
    """When the others committed, something was still in flight to it; nothing else will tell it before a heartbeat."""
    stage = Stage((1, 2, 3), consensus=consensus)
    stage.elect(1)
    stage.run(4)
    stage.propose(1, b"a")
    stage.deliver(lambda flying: flying.sender == 1)
    stage.deliver(lambda flying: flying.sender == 2)
    assert [
        flying.to for flying in stage.in_flight if isinstance(flying.message, (Heartbeat, PaxosHeartbeat))
    ] == [2]
    stage.deliver(lambda flying: flying.sender == 3)
    assert [flying.to for flying in stage.in_flight] == [2, 3]
    stage.settle()
    assert [stage[node].applied[-1].payload for node in (1, 2, 3)] == [b"a", b"a", b"a"]
    assert stage.in_flight == []


def test_a_commit_is_told_at_once_to_followers_with_nothing_in_flight() -> None:
    """§5.3: they need not wait for the next entry or heartbeat."""
    stage = replicating()
    stage.propose(1, b"a")
    stage.deliver(lambda flying: flying.to == 2)
    stage.deliver(lambda flying: flying.to == 1)
    assert [
        (flying.to, flying.message) for flying in stage.in_flight if isinstance(flying.message, Heartbeat)
    ] == [(2, Heartbeat(Term(1), at(1, 2), 0))]
    stage.deliver(lambda flying: isinstance(flying.message, Heartbeat))
    assert stage.commit(2) == 2
    assert not stage.sent(HeartbeatReply), "a notice wants no answer"


def test_only_a_leader_takes_proposals() -> None:
    """§5.3, figure 4: others say who leads."""
    stage = replicating()
    assert stage.propose(2) == Refused(RefusalReason.NOT_LEADER, NodeId(1))
    stage.isolate(2)
    stage.tick(2, 40)
    assert stage.propose(2) == Refused(RefusalReason.NOT_LEADER, NodeId(0))


def test_a_silent_follower_is_sent_to_until_it_has_everything() -> None:
    """§5.3: "retries AppendEntries RPCs indefinitely until all followers eventually store all log entries"."""
    stage = replicating()
    stage.isolate(3)
    for _ in range(5):
        stage.propose(1)
        stage.settle()
    stage.heal()
    stage.run(4 * stage.config.heartbeat_ticks)
    assert stage.terms(3) == stage.terms(1)
    assert stage.commit(3) == 6


def test_a_lost_last_append_is_found_by_the_next_heartbeat() -> None:
    """§5.3: no later entry would reveal it."""
    stage = replicating()
    stage.propose(1)
    stage.drop(lambda flying: flying.to == 3)
    stage.settle()
    assert stage.terms(3) == [1]
    stage.run(stage.config.heartbeat_ticks)
    assert stage.terms(3) == [1, 1]


def test_a_lost_acknowledgement_is_made_good_by_the_next_heartbeat() -> None:
    """§5.3: AppendEntries are idempotent."""
    stage = replicating(2)
    stage.propose(1)
    stage.deliver(lambda flying: flying.to == 2)
    stage.drop()
    assert stage.commit(1) == 1
    stage.run(stage.config.heartbeat_ticks)
    assert stage.commit(1) == 2


def test_a_heartbeat_of_a_follower_that_has_everything_asks_for_nothing() -> None:
    """§5.3: no empty appends in a quiet cluster."""
    stage = replicating()
    stage.tick(1, stage.config.heartbeat_ticks)
    stage.deliver(lambda flying: flying.to != 1)
    stage.deliver(lambda flying: flying.to == 1)
    assert not stage.in_flight


# ---- §5.3, the follower ----


def test_a_follower_refuses_what_does_not_follow_on_its_log() -> None:
    """§5.3: "if the follower does not find an entry with the same index and term, then it refuses the new entries"."""
    stage = Stage()
    stage.load(2, term=2, log=[1, 1, 2])
    for prev, hint in ((at(2, 4), at(2, 3)), (at(3, 3), at(2, 3)), (at(1, 3), at(1, 2)), (at(2, 9), at(2, 3))):
        stage.drop()
        stage.hand(1, 2, append(4, prev, 4))
        assert [flying.message for flying in stage.in_flight] == [AppendRejected(Term(4), prev.index, hint)]
        assert stage.terms(2) == [1, 1, 2]


def test_a_follower_deletes_a_conflicting_entry_and_all_that_follow() -> None:
    """§5.3: "if an existing entry conflicts with a new one, delete the existing entry and all that follow it"."""
    stage = Stage()
    stage.load(2, term=3, log=[1, 2, 2, 3])
    stage.hand(1, 2, append(4, at(1, 1), 4))
    assert stage.terms(2) == [1, 4]
    assert [flying.message for flying in stage.in_flight] == [AppendReply(Term(4), LogIndex(2))]
    assert [entry.term for entry in stage[2].journal.durable.entries] == [1, 4]


def test_a_follower_keeps_what_follows_on_entries_that_agree() -> None:
    """Figure 2, step 3: only a conflict deletes; a late or doubled message does not (pitfall: CCF, async-raft)."""
    stage = Stage()
    stage.hand(1, 2, append(1, at(0, 0), 1, 1, 1))
    for late in (append(1, at(0, 0), 1), append(1, at(1, 1)), append(1, at(0, 0)), append(1, at(1, 1), 1)):
        stage.hand(1, 2, late)
        assert stage.terms(2) == [1, 1, 1]


def test_an_acknowledgement_covers_what_the_message_covered() -> None:
    """Pitfall: acknowledging one's own last index, with a tail that the leader does not have (CCF, Ratis)."""
    stage = Stage()
    stage.load(2, term=2, log=[1, 1, 2, 2, 2])
    stage.hand(1, 2, append(3, at(1, 1), 1))
    stage.hand(1, 2, append(3, at(1, 1)))
    assert stage.sent(AppendReply) == [AppendReply(Term(3), LogIndex(2)), AppendReply(Term(3), LogIndex(1))]


def test_a_follower_commits_no_further_than_the_message_covered() -> None:
    """Figure 2, step 5: min(leaderCommit, index of last *new* entry) (pitfall: scylla, ra, etcd, nebula)."""
    stage = Stage()
    stage.load(2, term=2, log=[1, 1, 2, 2, 2])
    stage.hand(1, 2, append(3, at(1, 1), 1, commit=5))
    assert stage.commit(2) == 2
    stage.hand(1, 2, append(3, at(1, 1), commit=1))
    assert stage.commit(2) == 2


def test_a_heartbeat_commits_only_an_entry_that_is_held() -> None:
    """The same for a heartbeat: an index proves nothing, an entry proves all before it (Log Matching)."""
    stage = Stage()
    stage.load(2, term=2, log=[1, 1, 2, 2])
    stage.hand(1, 2, Heartbeat(Term(3), at(3, 4), 1))
    assert stage.commit(2) == 0
    stage.hand(1, 2, Heartbeat(Term(3), at(1, 2), 2))
    assert stage.commit(2) == 2
    stage.hand(1, 2, Heartbeat(Term(3), at(1, 1), 3))
    assert stage.commit(2) == 2
    stage.hand(1, 2, Heartbeat(Term(3), at(3, 9), 4))
    assert stage.commit(2) == 2
    assert [reply.token for reply in stage.sent(HeartbeatReply)] == [1, 2, 3, 4]  # type: ignore[attr-defined]


def test_a_restarted_follower_learns_from_a_heartbeat_what_is_committed() -> None:
    """Liveness: with no new entry to come, nothing else would tell it (and its reads would wait for ever)."""
    stage = replicating()
    stage.propose(1)
    stage.settle()
    stage.crash(3)
    stage.restart(3)
    assert stage.commit(3) == 0
    stage.run(stage.config.heartbeat_ticks)
    assert stage.commit(3) == 2


def test_an_append_that_begins_with_what_is_here_adds_the_rest() -> None:
    """Figure 2, AppendEntries, step 4: "append any new entries not already in the log"."""
    stage = Stage()
    stage.hand(1, 2, append(1, at(0, 0), 1, 1))
    stage.drop()
    stage.hand(1, 2, append(1, at(0, 0), 1, 1, 1))
    assert stage.terms(2) == [1, 1, 1]
    assert stage.sent(AppendReply) == [AppendReply(Term(1), LogIndex(3))]


def test_committed_entries_are_never_a_conflict() -> None:
    """Leader Completeness: a message from below the commit index begins at it, whatever it says before."""
    stage = Stage()
    stage.hand(1, 2, append(1, at(0, 0), 1, 1, 1, commit=2))
    stage.drop()
    stage.hand(3, 2, append(4, at(0, 0), 1))
    assert stage.sent(AppendReply) == [AppendReply(Term(4), LogIndex(2))]
    stage.drop()
    stage.hand(3, 2, append(4, at(0, 0), 1, 1, 4, 4))
    assert stage.terms(2) == [1, 1, 4, 4]
    assert stage.sent(AppendReply) == [AppendReply(Term(4), LogIndex(4))]


def test_an_acknowledgement_waits_for_the_disk() -> None:
    """Figure 2, §5.3; pitfall: acknowledging what a crash takes back."""
    stage = Stage()
    stage[2].syncs = False
    stage.hand(1, 2, append(1, at(0, 0), 1, 1))
    assert not stage.sent(AppendReply)
    stage.hand(1, 2, append(1, at(0, 0), 1, 1))
    assert not stage.sent(AppendReply), "a duplicate writes nothing and waits all the same"
    stage.sync(2)
    assert stage.sent(AppendReply)
    assert stage[2].journal.durable.last_index == 2


def test_acknowledgements_that_wait_for_one_write_become_one() -> None:
    """Thesis §10.2.2: what becomes durable together is acknowledged together; of one term and one leader only."""
    stage = Stage()
    engine = stage[2].engine
    engine.receive(NodeId(1), append(1, at(0, 0), 1, 1), stage.now)
    engine.receive(NodeId(1), append(1, at(0, 0), 1), stage.now)
    engine.receive(NodeId(1), append(1, at(1, 2), 1), stage.now)
    effects = engine.take_effects()
    assert [(send.to, send.message) for send in effects.after_persist] == [(1, AppendReply(Term(1), LogIndex(3)))]
    engine.receive(NodeId(1), append(1, at(1, 3), 1), stage.now)
    engine.receive(NodeId(3), append(2, at(1, 3), 2), stage.now)
    engine.receive(NodeId(3), append(2, at(2, 4), 2), stage.now)
    effects = engine.take_effects()
    assert [(send.to, send.message) for send in effects.after_persist] == [
        (1, AppendReply(Term(1), LogIndex(4))),
        (3, AppendReply(Term(2), LogIndex(5))),
    ]


def test_an_acknowledgement_and_a_refusal_stay_two() -> None:
    """Only acknowledgements become one."""
    engine = Stage()[2].engine
    engine.receive(NodeId(1), append(1, at(0, 0), 1), Stage().now)
    engine.receive(NodeId(1), append(1, at(1, 7), 1), Stage().now)
    engine.receive(NodeId(1), append(1, at(1, 1), 1), Stage().now)
    assert [send.message for send in engine.take_effects().after_persist] == [
        AppendReply(Term(1), LogIndex(1)),
        AppendRejected(Term(1), LogIndex(7), at(1, 1)),
        AppendReply(Term(1), LogIndex(2)),
    ]


def test_acknowledgements_of_two_terms_to_one_server_stay_two() -> None:
    """§5.1: an acknowledgement belongs to its term."""
    stage = Stage()
    engine = stage[2].engine
    engine.receive(NodeId(1), append(1, at(0, 0), 1, 1), stage.now)
    engine.receive(NodeId(1), append(2, at(1, 1), 2), stage.now)
    assert [send.message for send in engine.take_effects().after_persist] == [
        AppendReply(Term(1), LogIndex(2)),
        AppendReply(Term(2), LogIndex(2)),
    ]


# ---- figure 7: bringing logs together ----


@pytest.mark.parametrize(
    "log",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
        [],
    ],
    ids=["a", "b", "c", "d", "e", "f", "empty"],
)
def test_figure_7_every_follower_comes_to_the_leaders_log(log: list[int]) -> None:
    """§5.3, figure 7: missing entries, extra uncommitted ones, or both."""
    stage = Stage()
    stage.load(1, term=7, log=[1, 1, 1, 4, 4, 5, 5, 6, 6, 6])
    stage.load(2, term=7, log=log)
    stage.load(3, term=7, log=[1, 1, 1, 4, 4, 5, 5, 6, 6, 6])
    stage.isolate(2)
    stage.elect(1)
    stage.heal()
    stage.run(6 * stage.config.heartbeat_ticks)
    assert stage.terms(2) == stage.terms(1) == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]
    assert stage.commit(2) == 11


def test_agreement_is_found_a_term_at_a_time() -> None:
    """§5.3: "one RPC per conflicting term rather than one RPC per conflicting entry"."""
    stage = Stage((1, 2))
    stage.load(1, term=9, log=[1] + [5] * 30)
    stage.load(2, term=9, log=[1] + [4] * 30)
    stage.elect(1)
    assert stage.terms(2) == stage.terms(1)
    refusals = sum("AppendRejected" in line for line in stage.lines)
    assert refusals == 1


def test_an_old_refusal_is_not_believed() -> None:
    """Pitfall: a stale refusal moves what is sent next below what was acknowledged (CCF#5927)."""
    stage = replicating()
    stage.propose(1)
    stage.settle()
    before = stage.status(1).progress[NodeId(2)]
    stage.hand(2, 1, AppendRejected(Term(1), LogIndex(1), at(0, 0)))
    after = stage.status(1).progress[NodeId(2)]
    assert (after.match, after.next, after.state) == (before.match, before.next, "replicate")


def test_a_refusal_to_an_earlier_probe_is_not_believed() -> None:
    """§5.3: only the answer to the last probe moves nextIndex."""
    stage = Stage((1, 2))
    stage.load(1, term=4, log=[1, 2, 3, 4])
    stage.tick(1, 21)
    stage.drop()
    stage.hand(2, 1, PreVoteReply(Term(5), True))
    stage.hand(2, 1, VoteReply(Term(5), True))
    assert stage.role(1) == "Leader"
    assert stage.status(1).progress[NodeId(2)].next == 5
    stage.hand(2, 1, AppendRejected(Term(5), LogIndex(3), at(0, 0)))
    assert stage.status(1).progress[NodeId(2)].next == 5
    stage.drop()
    stage.hand(2, 1, AppendRejected(Term(5), LogIndex(4), at(2, 2)))
    assert stage.status(1).progress[NodeId(2)].next == 3
    assert [flying.message.prev for flying in stage.in_flight if isinstance(flying.message, AppendEntries)] == [
        at(2, 2)
    ]


def test_a_refusal_in_the_pipeline_goes_back_to_what_was_acknowledged() -> None:
    """Thesis §10.2.2: pipelining survives a lost message by falling back to nextIndex = matchIndex + 1."""
    stage = replicating(2)
    stage.propose(1)
    stage.drop()
    stage.propose(1)
    stage.deliver(lambda flying: flying.to == 2)
    assert stage.sent(AppendRejected)
    stage.settle()
    assert stage.terms(2) == [1, 1, 1]
    assert stage.commit(1) == 3


def test_a_follower_that_lost_part_of_its_log_is_sent_it_again() -> None:
    """A damaged log, repaired by the same leader: it counts no longer until it has the entries again."""
    stage = replicating()
    for _ in range(3):
        stage.propose(1)
    stage.settle()
    stage.crash(3)
    disk = stage[3].journal.durable
    del disk.entries[2:], disk.digests[2:]
    stage.restart(3, may_vote=False)
    stage.propose(1)
    stage.settle()
    stage.run(3 * stage.config.heartbeat_ticks)
    assert stage.terms(3) == stage.terms(1) == [1] * 5
    assert stage.commit(3) == 5
    assert len(stage.lines) < 400, "and not by asking as fast as the network carries it"


def test_what_a_server_has_lost_is_not_counted_once_it_asks_from_where_on_it_may_vote() -> None:
    """Else: the leader names an index, the server that has it votes again, an entry commits that was counted on it
    before and that it does not have, and an election is won without that entry."""
    stage = Stage((1, 2, 3, 4, 5))
    stage.elect(1)
    stage.run(2)
    stage.propose(1)
    stage.deliver(lambda flying: flying.to == 2)
    stage.drop(lambda flying: flying.to != 1)
    stage.deliver()
    assert stage.status(1).progress[NodeId(2)].match == 2
    stage.crash(2)
    disk = stage[2].journal.durable
    del disk.entries[1:], disk.digests[1:]
    stage.restart(2, may_vote=False)
    stage.hand(1, 2, Heartbeat(Term(1), EntryId(Term(1), LogIndex(1)), 9))
    stage.read(2, context=7)
    stage.deliver(lambda flying: flying.to == 1 and isinstance(flying.message, ReadRequest))
    assert stage.status(1).progress[NodeId(2)].match < 2
    stage.drop()
    stage.hand(3, 1, AppendReply(Term(1), LogIndex(2)))
    assert stage.commit(1) == 1, "the leader and one other hold it, of five"
    stage.hand(4, 1, AppendReply(Term(1), LogIndex(2)))
    assert stage.commit(1) == 2


def test_a_server_that_has_lost_nothing_keeps_what_it_has_acknowledged() -> None:
    stage = replicating()
    stage.propose(1)
    stage.settle()
    stage.read(2, context=7)
    stage.settle()
    assert stage.status(1).progress[NodeId(2)].match == 2
    stage.restart(2, may_vote=False)
    stage.hand(1, 2, Heartbeat(Term(1), EntryId(Term(1), LogIndex(2)), 9))
    stage.read(2, context=8)
    stage.settle()
    assert stage.status(1).progress[NodeId(2)].match == 2, "all that it has acknowledged is there"


def test_what_a_server_has_lost_does_not_break_off_a_snapshot_on_its_way_to_it() -> None:
    stage = replicating()
    stage.propose(1)
    stage.settle()
    assert stage.status(1).progress[NodeId(3)].match == 2
    stage.crash(3)
    stage.propose(1)
    stage.settle()
    stage.compact(1)
    stage[1].engine.unreachable(NodeId(3))
    stage.pump(1)
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    disk = stage[3].journal.durable
    del disk.entries[:], disk.digests[:]
    stage.restart(3, may_vote=False)
    stage.hand(1, 3, Heartbeat(Term(1), EntryId(Term(1), LogIndex(3)), 9))
    stage.read(3, context=7)
    stage.settle()
    progress = stage.status(1).progress[NodeId(3)]
    assert (progress.state, progress.match) == ("snapshot", 0)


def test_an_acknowledgement_of_what_was_never_sent_stops_the_leader() -> None:
    """Messages are not forged; if it happens, something is wrong that must not be built upon."""
    stage = replicating()
    with pytest.raises(InvariantViolation, match="never sent"):
        stage.hand(2, 1, AppendReply(Term(1), LogIndex(99)))


# ---- §5.4.2 ----


def test_a_new_leader_appends_an_empty_entry_of_its_term() -> None:
    """§8: "each leader commit[s] a blank no-op entry into the log at the start of its term"."""
    stage = Stage()
    stage.load(1, term=2, log=[1, 2])
    stage.elect(1)
    assert stage.terms(1) == [1, 2, 3]
    assert stage[1].applied[-1].kind == EntryKind.NOOP


def figure_8() -> Stage:
    """Figure 8 up to (c): entry 2 of term 2 stands on a majority, and the leader of term 4 has nothing of its own."""
    stage = Stage((1, 2, 3, 4, 5))
    stage.load(1, term=3, log=[1, 2])
    stage.load(2, term=3, log=[1, 2])
    stage.load(3, term=3, log=[1])
    stage.load(4, term=3, log=[1])
    stage.load(5, term=3, log=[1, 3])
    stage.isolate(5)
    stage.elect(1)
    return stage


def test_figure_8_an_entry_of_an_older_term_commits_only_with_one_of_the_own() -> None:
    """§5.4.2: "only log entries from the leader's current term are committed by counting replicas"."""
    stage = Stage((1, 2, 3, 4, 5))
    stage.load(1, term=3, log=[1, 2])
    for node, log in ((2, [1, 2]), (3, [1]), (4, [1]), (5, [1, 3])):
        stage.load(node, term=3, log=log)
    stage.isolate(5)
    own = lambda flying: isinstance(flying.message, AppendEntries)  # noqa: E731
    stage.now = type(stage.now)(stage.now + 20)
    while stage.role(1) != "Leader":
        stage.tick(1)
        stage.deliver(lambda flying: not own(flying))
        stage.deliver(lambda flying: not own(flying))
        stage.deliver(lambda flying: not own(flying))
        stage.deliver(lambda flying: not own(flying))
    assert stage.status(1).term == 4
    stage.drop()
    for node in (2, 3):
        stage.hand(node, 1, AppendReply(Term(4), LogIndex(2)))
    assert stage.commit(1) == 0, "entry 2 stands on three of five servers and is not committed"
    stage.drop()
    stage.hand(2, 1, AppendReply(Term(4), LogIndex(3)))
    assert stage.commit(1) == 0
    stage.hand(3, 1, AppendReply(Term(4), LogIndex(3)))
    assert stage.commit(1) == 3, "with an entry of term 4 behind it, all before it is"


def test_figure_8_d_an_uncommitted_majority_is_overwritten() -> None:
    """§5.4.2, figure 8 (d): why the rule is needed."""
    stage = Stage((1, 2, 3, 4, 5))
    for node, log in ((1, [1, 2]), (2, [1, 2]), (3, [1, 2]), (4, [1]), (5, [1, 3])):
        stage.load(node, term=4, log=log)
    stage.crash(1)
    stage.elect(5)
    stage.run(6 * stage.config.heartbeat_ticks)
    assert stage.leaders() == [5]
    assert [stage.terms(node) for node in (2, 3, 4, 5)] == [[1, 3, 5]] * 4


def test_figure_8_e_a_committed_entry_keeps_its_rivals_from_leading() -> None:
    """§5.4.2, figure 8 (e)."""
    stage = figure_8()
    assert stage.commit(1) == 3
    stage.crash(1)
    stage.heal()
    stage.run(200)
    assert stage.leaders() not in ([], [5])
    assert stage.terms(5)[:3] == [1, 2, 4]


# ---- thesis §10.2.1 and §10.2.2 ----


def test_a_leader_sends_while_its_own_disk_writes_and_counts_itself_when_it_has() -> None:
    """Thesis §10.2.1: "the leader can write to its disk in parallel with replicating to the followers"."""
    stage = replicating(2)
    stage[1].syncs = False
    stage.propose(1)
    assert len(stage.sent(AppendEntries)) == 1
    stage.settle()
    assert stage.commit(1) == 1
    stage.sync(1)
    assert stage.commit(1) == 2


def test_followers_may_commit_what_the_leader_has_not_yet_stored() -> None:
    """Thesis §10.2.1: "the leader may even commit an entry before it has been written to its own disk"."""
    stage = replicating()
    stage[1].syncs = False
    stage.propose(1)
    stage.settle()
    assert stage.commit(1) == 2
    assert stage[1].journal.durable.last_index == 1


def test_a_single_server_commits_only_what_is_on_its_disk() -> None:
    """Pitfall: etcd#14370, a cluster of one that answered before its own fsync."""
    stage = Stage((1,))
    stage.elect(1)
    stage[1].syncs = False
    stage.propose(1)
    assert stage.commit(1) == 1
    stage.sync(1)
    assert stage.commit(1) == 2


def test_entries_are_pipelined_without_waiting_for_answers() -> None:
    """Thesis §10.2.2: "the leader treats the next index for each follower optimistically"."""
    stage = replicating(2)
    for _ in range(4):
        stage.propose(1)
    prevs = [message.prev.index for message in stage.sent(AppendEntries)]  # type: ignore[attr-defined]
    assert prevs == [1, 2, 3, 4]
    assert stage.status(1).progress[NodeId(2)].in_flight == 4


def test_the_pipeline_is_bounded() -> None:
    """Thesis §10.2.2 leaves the bound open: a follower that does not answer is not flooded."""
    stage = replicating(2)
    for _ in range(MESSAGES_IN_FLIGHT_MAX + 10):
        stage.propose(1)
    assert len(stage.sent(AppendEntries)) == MESSAGES_IN_FLIGHT_MAX
    stage.settle()
    assert stage.commit(1) == MESSAGES_IN_FLIGHT_MAX + 11


def test_the_pipeline_is_bounded_in_bytes_too() -> None:
    stage = replicating(2)
    for _ in range(12):
        stage.propose(1, bytes(1 << 20))
    assert len(stage.sent(AppendEntries, 1, 2)) == 8


def test_an_append_is_bounded_in_bytes_and_the_rest_follows() -> None:
    """Pitfall: big entries packed wrong leave a gap at the follower (logcabin#160)."""
    stage = replicating(2, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, append_bytes_max=100))
    stage.isolate(2)
    for size in (10, 90, 200, 1, 1, 1, 76):
        stage.propose(1, b"x" * size)
    stage.drop()
    stage.heal()
    stage.run(4)
    assert stage.terms(2) == [1] * 8
    assert stage.commit(2) == 8


def test_what_exceeds_one_append_leaves_in_the_same_turn() -> None:
    """Thesis §10.2.2: nothing waits for an answer."""
    stage = replicating(2, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, append_bytes_max=1))
    stage.drop()
    for _ in range(3):
        stage[1].engine.propose(b"x")
    stage.pump(1)
    assert len(stage.sent(AppendEntries, 1, 2)) == 3


def test_a_lost_pipeline_is_sent_again() -> None:
    """§5.3: everything in flight may be lost at once."""
    stage = replicating(2)
    for _ in range(5):
        stage.propose(1)
    stage.drop()
    stage.run(3 * stage.config.heartbeat_ticks)
    assert stage.terms(2) == [1] * 6
    assert stage.commit(2) == 6


def test_an_unreachable_follower_is_probed_instead_of_flooded() -> None:
    """A hint of the driver: what was in flight is not coming."""
    stage = replicating(2)
    stage.propose(1)
    stage.propose(1)
    stage.drop()
    stage[1].engine.unreachable(NodeId(2))
    stage.pump(1)
    assert stage.status(1).progress[NodeId(2)].state == "probe"
    assert [message.prev.index for message in stage.sent(AppendEntries)] == [1]  # type: ignore[attr-defined]
    stage.settle()
    assert stage.status(1).progress[NodeId(2)].state == "replicate"
    assert stage.commit(1) == 3
    stage[2].engine.unreachable(NodeId(1))
    stage[1].engine.unreachable(NodeId(77))


def test_an_older_acknowledgement_does_not_end_the_probing() -> None:
    """It says nothing of the message that was sent last."""
    stage = replicating(2)
    stage.propose(1)
    stage.settle()
    stage[1].engine.unreachable(NodeId(2))
    stage.pump(1)
    stage.drop()
    stage.hand(2, 1, AppendReply(Term(1), LogIndex(1)))
    assert stage.status(1).progress[NodeId(2)].state == "probe"
    stage.hand(2, 1, AppendReply(Term(1), LogIndex(2)))
    assert stage.status(1).progress[NodeId(2)].state == "replicate"


def test_too_many_uncommitted_bytes_are_refused() -> None:
    """Every queue has a bound; the first entry always passes, however big."""
    config = RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, uncommitted_bytes_max=100)
    stage = replicating(config=config)
    stage.isolate(1)
    assert isinstance(stage.propose(1, b"x" * 500), Accepted)
    assert stage.propose(1, b"") == Refused(RefusalReason.QUEUE_FULL, NodeId(1))
    stage.heal()
    stage.run(2 * config.heartbeat_ticks)
    assert isinstance(stage.propose(1, b"x" * 50), Accepted)
    assert isinstance(stage.propose(1, b"x" * 26), Accepted), "50 + 24 and 26 are the bound itself"
    stage.settle()
    assert isinstance(stage.propose(1, b"x" * 50), Accepted)
    assert stage.propose(1, b"x" * 27) == Refused(RefusalReason.QUEUE_FULL, NodeId(1))


def test_large_commits_are_handed_over_in_pieces() -> None:
    """`more_committed` says that there is more to take."""
    config = RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, append_bytes_max=240)
    stage = Stage((1,), config=config)
    stage.elect(1)
    stage[1].syncs = False
    for _ in range(40):
        stage.propose(1, b"0123456789")
    actor = stage[1]
    actor.journal.sync_upto(actor.journal.written)
    for _, send in actor.outbox:
        actor.engine.receive(NodeId(1), send.message, stage.now)
    pieces = []
    more = True
    while more:
        effects = actor.engine.take_effects()
        pieces.append([entry.index for entry in effects.committed])
        more = effects.more_committed
    assert not effects.more_committed
    assert len(effects.committed) > 0, "the last piece says itself that it is the last"
    assert [index for piece in pieces for index in piece] == list(range(2, 42))
    assert max(len(piece) for piece in pieces) == 240 // 34
    assert actor.engine.take_effects().committed == ()


def test_a_lost_pipeline_that_was_compacted_ends_in_a_snapshot() -> None:
    """§7: with as much in flight as is allowed, all of it lost and compacted since, only the leader can notice."""
    stage = replicating()
    for _ in range(MESSAGES_IN_FLIGHT_MAX + 20):
        stage.propose(1)
        stage.drop(lambda flying: flying.to == 3)
        stage.settle()
    stage.compact(1)
    stage.propose(1)
    stage.settle()
    assert not stage[1].wanted
    stage.run(stage.config.heartbeat_ticks)
    assert stage[1].wanted == [3]


def test_refusals_that_nobody_waits_for_are_nothing() -> None:
    """Of a stranger, or of a follower to which a snapshot is on its way."""
    stage = replicating()
    before = stage.status(1)
    stage.hand(9, 1, AppendRejected(Term(1), LogIndex(1), at(0, 0)))
    assert stage.status(1) == before
    stage.isolate(3)
    stage.propose(1)
    stage.settle()
    stage.run(2)
    stage.compact(1)
    stage.heal()
    stage.run(4)
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    stage.hand(3, 1, AppendRejected(Term(1), LogIndex(1), at(0, 0)))
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    assert stage.status(1).progress[NodeId(3)].match == 1
