"""The driver's view of a Raft engine: hints, limits, effects, status. The rules themselves are in tests/paper."""

from itertools import pairwise

import pytest

from troth.core.interface import (
    Accepted,
    Effects,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Member,
    Membership,
    MembershipChange,
    Message,
    Progress,
    RefusalReason,
    Refused,
    RoleName,
    SnapshotMeta,
)
from troth.core.leading.roles import Leading
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    HigherTerm,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from troth.core.raft.node import start
from troth.core.raft.state import RaftConfig
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.actor import FixedRng, membership_of
from troth.simulate.stage import Stage

TIMEOUT = 20


def at(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def leading(voters: int = 3, config: RaftConfig | None = None) -> Stage:
    stage = Stage(range(1, voters + 1), config=config)
    stage.elect(1)
    stage.run(2)
    return stage


# ---- what may not be believed ----


class Stranger(Message, frozen=True, array_like=True, tag=31):
    term: Term


@pytest.mark.parametrize("message", [Stranger(Term(5)), Heartbeat(Term(-1), at(0, 0), 1)])
def test_a_malformed_message_changes_nothing(message: Message) -> None:
    stage = Stage()
    before = stage.status(1)
    stage.hand(2, 1, message)
    assert stage.status(1) == before
    assert not stage.in_flight
    assert [trace.name for trace in stage[1].last.trace] == ["malformed"]


@pytest.mark.parametrize(
    "message",
    [
        AppendReply(Term(1), LogIndex(1)),
        AppendRejected(Term(1), LogIndex(1), at(0, 0)),
        HeartbeatReply(Term(1), 1),
        VoteReply(Term(1), True),
        PreVoteReply(Term(1), False),
        HigherTerm(Term(1)),
    ],
)
def test_answers_meant_for_another_role_change_nothing(message: Message) -> None:
    stage = leading()
    before = stage.status(2)
    stage.hand(3, 2, message)
    assert stage.status(2) == before
    assert not stage.in_flight


def test_time_never_falls() -> None:
    """An old `now` does not take patience back."""
    stage = Stage()
    engine = stage[1].engine
    engine.tick(Tick(TIMEOUT - 1))
    engine.tick(Tick(3))
    engine.receive(NodeId(2), HigherTerm(Term(0)), Tick(2))
    engine.read(1, Tick(1))
    engine.suspect(NodeId(2), Tick(0))
    engine.tick(Tick(TIMEOUT))
    stage.pump(1)
    assert stage.role(1) == "PreCandidate"


@pytest.mark.parametrize("way", ["receive", "read", "suspect", "snapshot"])
def test_every_input_with_a_time_moves_time(way: str) -> None:
    stage = Stage()
    engine = stage[1].engine
    now = Tick(50)
    match way:
        case "receive":
            engine.receive(NodeId(2), Heartbeat(Term(1), at(0, 0), 1), now)
        case "read":
            engine.read(1, now)
        case "suspect":
            engine.suspect(NodeId(2), now)
        case _:
            engine.snapshot_received(NodeId(2), Term(1), SnapshotMeta(at(1, 5), stage.genesis), now)
    assert engine._now == now  # type: ignore[attr-defined]


# ---- effects ----


def test_effects_are_taken_once() -> None:
    stage = Stage((1,))
    engine = stage[1].engine
    engine.tick(Tick(TIMEOUT))
    first = engine.take_effects()
    assert first.persist is not None
    assert first.persist.hard_state == HardState(Term(1), NodeId(1))
    assert [send.message for send in first.after_persist] == [VoteReply(Term(1), True)]
    assert engine.take_effects() == Effects()


def test_nothing_to_do_gives_empty_effects() -> None:
    assert Stage()[1].engine.take_effects() == Effects()


def test_the_hard_state_is_written_only_when_it_has_changed() -> None:
    stage = leading()
    stage.propose(1)
    assert stage[1].journal.durable.hard_state == HardState(Term(1), NodeId(1))
    assert [line for line in stage.lines if line.startswith("n1 writes")] == [
        "n1 writes term=1 vote=1",
        "n1 writes [1/1]",
        "n1 writes [1/2]",
    ]


def test_a_new_membership_is_told() -> None:
    stage = leading()
    stage[1].engine.change_membership(MembershipChange(remove=(NodeId(3),)))
    effects = stage[1].engine.take_effects()
    assert effects.membership == stage.status(1).membership
    assert stage[1].engine.take_effects().membership is None


# ---- status ----


def test_status_of_a_leader() -> None:
    stage = leading()
    status = stage.status(1)
    assert (status.node_id, status.role, status.term, status.leader, status.voted_for) == (
        1,
        RoleName.LEADER,
        1,
        1,
        1,
    )
    assert (status.last, status.commit_index, status.applied_index, status.first_index) == (at(1, 1), 1, 1, 1)
    assert status.progress[NodeId(2)] == Progress(
        match=LogIndex(1), next=LogIndex(2), state="replicate", active=True, in_flight=0
    )
    assert list(status.progress) == [1, 2, 3]
    assert stage[1].engine.leader() == (1, 1)
    assert stage[1].engine.commit_index == 1  # type: ignore[attr-defined]
    stage.isolate(3)
    stage.run(TIMEOUT)
    assert [seen.active for seen in stage.status(1).progress.values()] == [True, True, False]


def test_status_of_others() -> None:
    stage = leading()
    assert (stage.status(2).role, stage.status(2).leader, stage.status(2).progress) == (RoleName.FOLLOWER, 1, {})
    stage.isolate(2)
    stage.tick(2, 2 * TIMEOUT)
    assert (stage.status(2).role, stage.status(2).leader) == (RoleName.PRE_CANDIDATE, 0)
    assert stage[2].engine.leader() == (1, 0)
    stage.hand(3, 2, PreVoteReply(Term(2), True))
    stage.cut.clear()
    stage.hand(3, 2, PreVoteReply(Term(2), True))
    assert stage.status(2).role is RoleName.CANDIDATE


# ---- a death that was seen ----


def test_a_seen_death_of_the_leader_hastens_the_election() -> None:
    """The next voter in line asks at once, the one after it two ticks later."""
    stage = leading(5)
    stage.crash(1)
    for node in (2, 3, 4, 5):
        stage.suspect(node, 1)
    assert stage.role(2) == "PreCandidate"
    assert {stage.role(node) for node in (3, 4, 5)} == {"Follower"}
    stage.settle()
    assert stage.leaders() == [2]


def test_the_others_take_turns_when_the_first_is_dead_too() -> None:
    stage = leading(5)
    stage.crash(1)
    stage.crash(2)
    begun = stage.now
    for node in (3, 4, 5):
        stage.suspect(node, 1)
    stage.tick_all(2)
    assert [stage.role(node) for node in (3, 4, 5)] == ["PreCandidate", "Follower", "Follower"]
    stage.drop()
    stage.tick_all(2)
    assert [stage.role(node) for node in (3, 4, 5)] == ["PreCandidate", "PreCandidate", "Follower"]
    stage.run(1)
    assert stage.leaders()
    assert stage.now - begun < TIMEOUT


def test_a_wrong_hint_deposes_nobody() -> None:
    """Others still hear the leader: the pre-vote fails, and the leader's next heartbeat is followed again."""
    stage = leading()
    stage.suspect(2, 1)
    stage.settle()
    assert (stage.leaders(), stage.status(2).leader) == ([1], 0)
    stage.run(stage.config.heartbeat_ticks)
    assert (stage.leaders(), stage.status(2).leader, stage.status(1).term) == ([1], 1, 1)
    stage.run(3 * TIMEOUT)
    assert stage.status(1).term == 1


def test_who_has_seen_the_death_grants_a_vote_at_once() -> None:
    stage = leading()
    stage.crash(1)
    stage.suspect(3, 1)
    stage.suspect(2, 1)
    stage.settle()
    assert stage.leaders() == [2]


def test_a_death_of_somebody_else_means_nothing() -> None:
    stage = leading(5)
    before = stage.status(2)
    stage.suspect(2, 3)
    assert stage.status(2) == before
    stage.tick(4, 3 * TIMEOUT)
    assert stage.role(4) == "PreCandidate"
    stage.drop()
    stage.suspect(4, 1)
    assert not stage.in_flight


def test_a_follower_that_is_probed_or_gets_a_snapshot_is_not_disturbed_by_a_hint() -> None:
    stage = leading()
    stage.isolate(3)
    for _ in range(3):
        stage.propose(1)
    stage.settle()
    stage.run(2)
    stage.compact(1)
    stage.heal()
    stage.run(3)
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    stage[1].engine.unreachable(NodeId(3))
    assert stage.status(1).progress[NodeId(3)].state == "snapshot"
    stage[1].engine.snapshot_sent(NodeId(3), stage[1].journal.file, True)
    before = stage.status(1).progress[NodeId(3)]
    stage[1].engine.unreachable(NodeId(3))
    assert stage.status(1).progress[NodeId(3)] == before


def test_a_leader_probes_a_follower_that_seems_dead() -> None:
    stage = leading()
    stage.suspect(1, 2)
    assert stage.status(1).progress[NodeId(2)].state == "probe"
    assert stage.role(1) == "Leader"


def test_after_a_seen_death_the_tries_come_later_and_later() -> None:
    """At first after 6 ticks, then 12, then at the usual pace: a candidate without a chance is no storm."""
    for timeout, expected in ((40, [9, 15, 27, 43, 43]), (24, [9, 15, 27, 27])):
        stage = leading(3, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=timeout))
        stage.crash(1)
        stage.crash(3)
        stage.drop()
        asked: list[int] = []
        stage.suspect(2, 1)
        for _ in range(sum(expected)):
            if stage.sent(PreVote, 2):
                asked.append(stage.now)
                stage.drop()
            stage.tick(2)
        assert [after - before for before, after in pairwise([*asked, stage.now])] == expected


def test_the_pace_after_a_seen_death_is_drawn_from_an_interval_that_doubles() -> None:
    stage = leading(3, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=24))
    drawn: list[tuple[int, int]] = []

    class Recording:
        def randrange(self, start: int, stop: int) -> int:
            drawn.append((start, stop))
            return start

    stage[2].engine._rng = Recording()  # type: ignore[attr-defined]
    stage.crash(1)
    stage.crash(3)
    stage.suspect(2, 1)
    stage.tick(2, 6 + 12 + 24)
    quick = [interval for interval in drawn if interval[0] < 24]
    assert quick == [(6, 12), (12, 24)]
    assert drawn[-1] == (24, 24 + 12 + 1)


def test_once_at_the_usual_pace_a_lost_try_waits_anew() -> None:
    stage = leading(3, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20))
    stage.crash(1)
    stage.suspect(2, 1)
    stage.drop()
    stage.tick(2, 9 + 15)
    assert stage.role(2) == "PreCandidate"
    stage.tick(2, 10)
    for peer in (1, 3):
        stage.hand(peer, 2, PreVoteReply(Term(1), False))
    assert stage.role(2) == "Follower"
    stage.tick(2, TIMEOUT + 2)
    assert stage.role(2) == "Follower"
    stage.tick(2)
    assert stage.role(2) == "PreCandidate"


def test_a_lost_quick_try_keeps_its_pace() -> None:
    """Refused because one voter has not seen the death yet: the next try is as quick as planned."""
    stage = leading(5)
    stage.crash(1)
    stage.suspect(2, 1)
    stage.settle()
    assert stage.role(2) == "Follower"
    stage.tick(2, 9)
    assert stage.role(2) == "PreCandidate"


def test_a_lost_election_at_the_usual_pace_waits_as_long_as_any_follower() -> None:
    stage = Stage()
    stage.tick(1, TIMEOUT + 5)
    for peer in (2, 3):
        stage.hand(peer, 1, PreVoteReply(Term(0), False))
    stage.drop()
    stage.tick(1, TIMEOUT - 1)
    assert stage.role(1) == "Follower"
    stage.tick(1)
    assert stage.role(1) == "PreCandidate"


def test_a_quick_pace_ends_with_the_next_leader() -> None:
    stage = leading(3)
    stage.suspect(2, 1)
    stage.run(2)
    assert stage.status(2).leader == 1
    stage.hand(1, 2, Heartbeat(Term(1), at(1, 1), 9))
    stage.isolate(2)
    stage.tick(2, TIMEOUT + 2)
    assert stage.role(2) == "Follower"
    stage.tick(2)
    assert stage.role(2) == "PreCandidate"
    stage.drop()
    stage.tick(2, TIMEOUT + 2)
    assert not stage.sent(PreVote)


def test_a_learner_that_sees_the_death_asks_for_nothing() -> None:
    stage = Stage((1, 2, 3), learners=(4,))
    stage.genesis.members[NodeId(4)] = Member("n4", promote=False)
    stage.elect(1)
    stage.run(2)
    stage.suspect(4, 1)
    assert (stage.role(4), stage.status(4).leader) == ("Follower", 0)
    stage.tick(4, 10)
    assert not stage.sent(PreVote, 4)


# ---- a disk that hangs ----


def test_a_learner_that_hears_nobody_sleeps_on() -> None:
    stage = Stage((1, 2), learners=(3,))
    stage.tick(3, 3 * TIMEOUT)
    assert stage.role(3) == "Follower"
    assert stage[3].engine.asleep_until() > stage.now


def test_a_leader_whose_disk_hangs_steps_down() -> None:
    """Pitfall: hashicorp#503, it goes on heartbeating and nobody replaces it."""
    stage = leading(3, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, disk_timeout_ticks=50))
    stage[1].syncs = False
    stage.run(60)
    assert stage.role(1) == "Leader", "nothing to write, nothing hangs"
    stage.propose(1)
    begun = stage.now
    stage.run(49)
    assert stage.role(1) == "Leader"
    stage.run(1)
    assert stage.role(1) != "Leader"
    assert stage.now - begun == 50
    told = stage.lines[stage.lines.index("n1 disk_hangs term=1") :]
    assert not any(line.startswith(("n1 > n2 Heartbeat", "n1 > n3 Heartbeat")) for line in told)
    stage.run(3 * TIMEOUT)
    assert stage.leaders() == [2]


def test_a_new_leader_has_all_the_time_of_a_disk_that_hangs() -> None:
    """However long the server has run before."""
    stage = leading(3, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, disk_timeout_ticks=50))
    stage.run(100)
    stage.isolate(1)
    while stage.role(2) == "Follower":
        stage.tick(2)
    stage.deliver()
    stage.deliver()
    stage[2].syncs = False
    stage.deliver()
    stage.deliver()
    assert stage.role(2) == "Leader"
    stage.tick(2, 10)
    assert stage.role(2) == "Leader"


def test_a_disk_that_is_slow_but_goes_on_keeps_its_leader() -> None:
    stage = leading(3, RaftConfig(heartbeat_ticks=2, election_timeout_ticks=20, disk_timeout_ticks=50))
    stage[1].syncs = False
    for _ in range(6):
        stage.propose(1)
        stage.run(30)
        stage[1].journal.sync_upto(stage[1].journal.synced + 1)
        stage._release(stage[1])
        stage.propose(1)
    assert stage.role(1) == "Leader"


# ---- a log that lost a part ----


def test_a_server_that_may_not_vote_neither_votes_nor_stands() -> None:
    """Pitfall: amnesia (openraft FAQ, etcd): it may have forgotten what it acknowledged."""
    stage = Stage()
    stage.restart(1, may_vote=False)
    stage.hand(2, 1, PreVote(Term(1), at(0, 0)))
    stage.hand(2, 1, RequestVote(Term(1), at(0, 0)))
    assert [flying.message for flying in stage.in_flight] == [
        PreVoteReply(Term(0), False),
        VoteReply(Term(1), False),
    ]
    stage.tick(1, 3 * TIMEOUT)
    stage.hand(2, 1, TimeoutNow(Term(1)))
    assert (stage.role(1), stage.status(1).voted_for) == ("Follower", 0)
    stage[1].engine.restore_vote()
    stage.drop()
    stage.hand(2, 1, RequestVote(Term(2), at(0, 0)))
    assert stage.sent(VoteReply) == [VoteReply(Term(2), True)]
    stage.tick(1, 3 * TIMEOUT)
    assert stage.role(1) == "PreCandidate"


def test_a_server_that_may_not_vote_takes_entries() -> None:
    stage = Stage()
    stage.restart(1, may_vote=False)
    stage.elect(2)
    stage.propose(2)
    stage.run(4)
    assert stage.terms(1) == [1, 1]
    assert stage.commit(1) == 2


# ---- starting ----


def test_an_engine_starts_from_what_storage_recovered() -> None:
    genesis = membership_of((1, 2, 3))
    engine = start(
        node_id=NodeId(1),
        config=RaftConfig(),
        rng=FixedRng(0),
        snapshot=SnapshotMeta(at(0, 0), genesis),
        now=Tick(100),
    )
    status = engine.status()
    assert (status.term, status.voted_for, status.last, status.commit_index) == (0, 0, at(0, 0), 0)
    engine.tick(Tick(100 + RaftConfig().election_timeout_ticks - 1))
    assert engine.status().role is RoleName.FOLLOWER
    engine.tick(Tick(100 + RaftConfig().election_timeout_ticks))
    assert engine.status().role is RoleName.PRE_CANDIDATE
    at_zero = start(
        node_id=NodeId(1), config=RaftConfig(), rng=FixedRng(0), snapshot=SnapshotMeta(at(0, 0), genesis)
    )
    at_zero.tick(Tick(RaftConfig().election_timeout_ticks))
    assert at_zero.status().role is RoleName.PRE_CANDIDATE


def test_a_server_without_a_membership_waits_to_be_found() -> None:
    engine = start(
        node_id=NodeId(1),
        config=RaftConfig(),
        rng=FixedRng(0),
        snapshot=SnapshotMeta(at(0, 0), Membership(voters=())),
    )
    engine.tick(Tick(10_000))
    assert engine.status().role is RoleName.FOLLOWER
    assert engine.take_effects().send == ()
    assert engine.propose(b"x") == Refused(RefusalReason.NOT_LEADER, NodeId(0))


def test_the_default_settings_are_those_of_the_documentation() -> None:
    config = RaftConfig()
    assert (config.heartbeat_ticks, config.election_timeout_ticks, config.disk_timeout_ticks) == (5, 60, 300)
    assert (config.append_bytes_max, config.uncommitted_bytes_max) == (1 << 20, 64 << 20)
    assert (config.reads_pending_max, config.promote_lag_max, config.clock_drift_percent) == (10_000, 64, 10)
    assert not config.lease_reads


# ---- what must never happen stops the server ----


def test_a_term_never_falls_nor_a_commit_index() -> None:
    stage = leading()
    engine = stage[1].engine
    with pytest.raises(InvariantViolation, match="term falls"):
        engine._set_term(Term(1))  # type: ignore[attr-defined]
    with pytest.raises(InvariantViolation, match="commits beyond the log"):
        engine._advance_commit(LogIndex(2))  # type: ignore[attr-defined]
    with pytest.raises(InvariantViolation, match="commit index falls"):
        engine._advance_commit(LogIndex(0))  # type: ignore[attr-defined]


def test_a_leader_keeps_count_of_what_is_not_committed() -> None:
    stage = leading()
    stage.isolate(1)
    for size in (10, 20):
        assert isinstance(stage.propose(1, b"x" * size), Accepted)
    role = stage[1].engine._role  # type: ignore[attr-defined]
    assert role.uncommitted_bytes == 10 + 24 + 20 + 24
    stage.heal()
    stage.run(4)
    assert role.uncommitted_bytes == 0
    assert not role.uncommitted


def test_of_what_commits_at_once_nothing_counts_as_uncommitted_any_more() -> None:
    leader = Leading(progress={}, ticked=Tick(0), heartbeat_due=Tick(0), own_disk_seen=Tick(0))
    for index in (1, 2, 3):
        leader.on_proposed(Entry(LogIndex(index), Term(1), EntryKind.COMMANDS, b"x" * index))
    leader.on_committed(LogIndex(2))
    assert leader.uncommitted_bytes == 3 + 24
    assert [entry.index for entry in leader.uncommitted] == [3]


def test_an_append_is_no_answer_to_a_stale_one() -> None:
    """A leader of an older term is told, others of an older term are not even answered."""
    stage = leading()
    stage.hand(3, 1, TimeoutNow(Term(0)))
    stage.hand(3, 1, VoteReply(Term(0), True))
    assert not stage.in_flight
    stage.hand(3, 1, AppendEntries(Term(0), at(0, 0), (), LogIndex(0)))
    assert [flying.message for flying in stage.in_flight] == [HigherTerm(Term(1))]


def test_while_no_entries_are_taken_they_are_as_if_lost_and_a_probe_is_answered() -> None:
    stage = Stage()
    entries = (Entry(LogIndex(1), Term(1), EntryKind.COMMANDS, b"v"),)
    stage[2].engine.take_entries(False)
    stage.hand(1, 2, AppendEntries(Term(1), at(0, 0), entries, LogIndex(1)))
    assert not stage.sent(AppendReply)
    assert (stage.status(2).last, stage.status(2).leader) == (at(0, 0), 1)
    stage.hand(1, 2, AppendEntries(Term(1), at(0, 0), (), LogIndex(1)))
    assert stage.sent(AppendReply) == [AppendReply(Term(1), LogIndex(0))]
    stage[2].engine.take_entries(True)
    stage.hand(1, 2, AppendEntries(Term(1), at(0, 0), entries, LogIndex(1)))
    assert (stage.status(2).last, stage.commit(2)) == (at(1, 1), 1)


def test_of_acknowledgements_that_wait_for_one_write_the_greatest_is_told() -> None:
    """An older message may come after a newer one."""
    stage = Stage()
    entries = tuple(Entry(LogIndex(index), Term(1), EntryKind.COMMANDS, b"v") for index in (1, 2, 3))
    for count in (1, 3, 2):
        stage[2].engine.receive(
            NodeId(1), AppendEntries(Term(1), at(0, 0), entries[:count], LogIndex(0)), stage.now
        )
    stage.pump(2)
    assert stage.sent(AppendReply) == [AppendReply(Term(1), LogIndex(3))]
