"""Each read level is served exactly when it may be."""

import pytest
from replica_cluster import Cluster

from troth.core.engines import EngineConfig
from troth.core.interface import ReadState
from troth.core.raft.messages import AppendEntries, HigherTerm
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.kv.requests import Failure, Put, Range, RangeResult
from troth.models import LevelName, ReadLevel, bounded, eventual, linearizable, sequential, session
from troth.replica.peers import AskRevision, TellRevision
from troth.replica.protocol import (
    READS_REQUESTS_MAX,
    CallRefused,
    HashState,
    ReadResults,
    Reads,
    Results,
    StateHash,
    Writes,
)
from troth.replica.reads import ReadQueue, Waiting
from troth.replica.state import ReplicaConfig

SECOND = 100
"""Ticks."""


def write(cluster: Cluster, value: str) -> int:
    """Write x through the leader; the revision."""
    (answer,) = [
        reply
        for reply in cluster.ask(cluster.leader, Writes(0, 1, 0, (Put(b"x", value.encode()),)))
        if isinstance(reply, Results)
    ]
    return answer.results[0].revision


def read(cluster: Cluster, node: int, level: ReadLevel, ticks: int = 0) -> ReadResults | CallRefused | None:
    """Read x at *node*; None while there is no answer."""
    answers = cluster.ask(node, Reads(1, level, (Range(b"x"),)), ticks=ticks)
    found = [reply for reply in answers if isinstance(reply, ReadResults | CallRefused)]
    return found[0] if found else None


def value(answer: ReadResults | CallRefused | None) -> str:
    assert isinstance(answer, ReadResults)
    (result,) = answer.results
    assert isinstance(result, RangeResult)
    return result.kvs[0].value.decode() if result.kvs else ""


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    write(made, "old")
    made.step(10)
    return made


def lagging(cluster: Cluster) -> int:
    """A follower that has missed a write and is cut off from everybody."""
    follower = cluster.follower
    cluster.isolate(follower)
    write(cluster, "new")
    return follower


@pytest.mark.parametrize("level", [linearizable, bounded(seconds=60), bounded(revisions=0)])
def test_fresh_levels_see_a_finished_write_on_every_server(cluster: Cluster, level: ReadLevel) -> None:
    cluster.step(61 * SECOND)
    write(cluster, "new")
    for node in cluster.ids:
        if level.name is not LevelName.BOUNDED_TIME:
            assert value(read(cluster, node, level, ticks=2)) == "new"
        else:
            assert value(read(cluster, node, level, ticks=2)) in ("new", "old")


def test_eventual_is_answered_by_a_server_that_is_cut_off(cluster: Cluster) -> None:
    assert value(read(cluster, lagging(cluster), eventual)) == "old"


def test_linearizable_is_not_answered_by_a_server_that_is_cut_off(cluster: Cluster) -> None:
    follower = lagging(cluster)
    answer = read(cluster, follower, linearizable, ticks=4 * SECOND)
    assert isinstance(answer, CallRefused)
    assert answer.code in ("not_leader", "unavailable")


def test_a_leader_that_is_cut_off_answers_no_linearizable_read(cluster: Cluster) -> None:
    leader = cluster.leader
    cluster.isolate(leader)
    assert read(cluster, leader, linearizable) is None
    cluster.step(4 * SECOND)
    assert [type(reply) for reply in cluster.heard(leader)] == [CallRefused]


@pytest.mark.parametrize("level", [session, sequential])
def test_a_session_waits_until_the_server_has_what_it_has_seen(cluster: Cluster, level: ReadLevel) -> None:
    follower = cluster.follower
    cluster.isolate(follower)
    seen = write(cluster, "new")
    assert value(read(cluster, follower, level)) == "old"
    wanted = ReadLevel(level.name, seen_revision=seen)
    assert read(cluster, follower, wanted) is None
    cluster.heal()
    cluster.step(2 * SECOND)
    (answer,) = [reply for reply in cluster.heard(follower) if isinstance(reply, ReadResults)]
    assert value(answer) == "new"
    assert answer.revision >= seen


def test_a_session_that_waits_in_vain_is_refused(cluster: Cluster) -> None:
    answer = read(cluster, lagging(cluster), ReadLevel(LevelName.SESSION, seen_revision=99), ticks=4 * SECOND)
    assert isinstance(answer, CallRefused)
    assert answer.code == "unavailable"


def test_bounded_time_is_served_locally_while_the_last_read_point_is_young(cluster: Cluster) -> None:
    follower = cluster.follower
    assert value(read(cluster, follower, linearizable, ticks=1)) == "old"
    cluster.isolate(follower)
    write(cluster, "new")
    answer = read(cluster, follower, bounded(seconds=2))
    assert value(answer) == "old"
    assert isinstance(answer, ReadResults)
    assert 0 <= answer.staleness_ms <= 2000


def test_bounded_time_is_not_served_beyond_its_bound(cluster: Cluster) -> None:
    follower = cluster.follower
    read(cluster, follower, linearizable, ticks=1)
    cluster.isolate(follower)
    cluster.step(2 * SECOND)
    assert isinstance(read(cluster, follower, bounded(seconds=2), ticks=4 * SECOND), CallRefused)


def test_bounded_time_counts_the_tick_that_is_not_over(cluster: Cluster) -> None:
    follower = cluster.follower
    reads = cluster.replicas[follower]._reads
    read(cluster, follower, linearizable, ticks=1)
    cluster.isolate(follower)
    cluster.step_until(lambda: reads.age(cluster.now) == 2 * SECOND - 1)
    assert value(read(cluster, follower, bounded(seconds=2))) == "old"
    cluster.step()
    assert isinstance(read(cluster, follower, bounded(seconds=2)), CallRefused), "it needs a new read point"


def test_bounded_time_with_an_old_read_point_asks_for_a_new_one(cluster: Cluster) -> None:
    follower = cluster.follower
    read(cluster, follower, linearizable, ticks=1)
    cluster.step(3 * SECOND)
    write(cluster, "new")
    assert value(read(cluster, follower, bounded(seconds=1), ticks=1)) == "new"


def test_bounded_revisions_may_lag_by_so_many_and_no_more(cluster: Cluster) -> None:
    follower = cluster.follower
    applied = cluster.replicas[follower].machine.store.revision
    cluster.on_send = lambda sender, to, message: to != follower or isinstance(message, TellRevision)
    write(cluster, "1")
    write(cluster, "2")
    assert value(read(cluster, follower, bounded(revisions=2))) == "old"
    assert read(cluster, follower, bounded(revisions=1)) is None
    cluster.on_send = lambda sender, to, message: True
    cluster.step(SECOND)
    (answer,) = [reply for reply in cluster.heard(follower) if isinstance(reply, ReadResults)]
    assert answer.revision >= applied + 1


def test_bounded_revisions_waits_for_what_may_not_lag_and_for_no_more(cluster: Cluster) -> None:
    """Of two writes that are missing one has come: the other may be missing."""
    follower, held = cluster.follower, list[AppendEntries]()

    def hold(sender: NodeId, to: NodeId, message: object) -> bool:
        if to == follower and isinstance(message, AppendEntries):
            held.append(message)
        return to != follower or isinstance(message, TellRevision)

    cluster.on_send = hold
    write(cluster, "1")
    write(cluster, "2")
    assert read(cluster, follower, bounded(revisions=1)) is None
    cluster.replicas[follower].on_peer(cluster.leader, held, cluster.now)
    cluster.settle()
    (answer,) = cluster.heard(follower)
    assert isinstance(answer, ReadResults)
    assert value(answer) == "1"


def test_all_reads_are_refused_whose_leader_is_lost(cluster: Cluster) -> None:
    follower = cluster.follower
    cluster.isolate(follower)
    for call in (1, 2):
        cluster.ask(follower, Reads(call, linearizable, (Range(b"x"),)), ticks=1)
    cluster.replicas[follower].on_peer(cluster.leader, [HigherTerm(Term(99))], cluster.now)
    cluster.settle()
    assert [reply.call for reply in cluster.heard(follower) if isinstance(reply, CallRefused)] == [1, 2]


def test_bounded_revisions_needs_a_leader_that_is_confirmed(cluster: Cluster) -> None:
    follower = lagging(cluster)
    assert isinstance(read(cluster, follower, bounded(revisions=5), ticks=5 * SECOND), CallRefused)


def test_a_leader_that_cannot_be_confirmed_tells_no_revision(cluster: Cluster) -> None:
    """Another one may lead by now, and have written more."""
    leader = cluster.replicas[cluster.leader]
    sent = list(leader.take_effects().send)
    leader.on_peer(cluster.follower, [AskRevision(7)], cluster.now)
    for tick in range(5 * SECOND):
        leader.tick(Tick(cluster.now + tick))
        sent += leader.take_effects().send
    told = [message for _, message in sent if isinstance(message, TellRevision)]
    assert told == [TellRevision(7, 0)]


def test_what_the_leader_cannot_confirm_is_no_revision_to_be_close_to(cluster: Cluster) -> None:
    follower, asked = cluster.follower, list[AskRevision]()

    def drop_questions(sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, AskRevision):
            asked.append(message)
        return not isinstance(message, AskRevision)

    cluster.on_send = drop_questions
    assert read(cluster, follower, bounded(revisions=5)) is None
    (question,) = asked
    cluster.replicas[follower].on_peer(cluster.leader, [TellRevision(question.context, 0)], cluster.now)
    cluster.settle()
    assert [reply.code for reply in cluster.heard(follower) if isinstance(reply, CallRefused)] == ["unavailable"]


def test_the_answer_to_a_question_of_the_life_before_answers_none_of_this_one(cluster: Cluster) -> None:
    follower, told = cluster.follower, list[TellRevision]()

    def hold_answers(sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, TellRevision):
            told.append(message)
        return to != follower or not isinstance(message, TellRevision)

    cluster.on_send = hold_answers
    assert read(cluster, follower, bounded(revisions=0)) is None
    (late,) = told
    cluster.add(follower, cluster.founding, amnesia=True, life=1)
    write(cluster, "old")
    cluster.step(20)
    assert value(read(cluster, follower, eventual)) == "old"
    cluster.on_send = lambda sender, to, message: to != follower
    write(cluster, "new")
    assert read(cluster, follower, bounded(revisions=0)) is None
    cluster.replicas[follower].on_peer(cluster.leader, [late], cluster.now)
    cluster.settle()
    assert cluster.heard(follower) == []


def test_every_answer_names_its_level_and_revision(cluster: Cluster) -> None:
    for level in (linearizable, sequential, session, bounded(seconds=9), bounded(revisions=1), eventual):
        answer = read(cluster, cluster.leader, level)
        assert isinstance(answer, ReadResults)
        assert answer.level is level.name
        assert answer.revision == 2


def test_reads_beyond_the_bound_are_refused() -> None:
    cluster = Cluster(replica=ReplicaConfig(reads_waiting_max=3))
    leader = cluster.leader
    cluster.isolate(leader)
    for call in range(5):
        cluster.say(leader, Reads(call, linearizable, (Range(b"x"),)))
    cluster.settle()
    assert [reply.code for reply in cluster.heard(leader) if isinstance(reply, CallRefused)] == ["overloaded"] * 2


def test_as_many_reads_at_once_as_the_wire_allows_are_served_and_no_more(cluster: Cluster) -> None:
    one = Range(b"k")
    (refused,) = cluster.ask(cluster.leader, Reads(1, eventual, (one,) * (READS_REQUESTS_MAX + 1)))
    assert isinstance(refused, CallRefused) and (refused.call, refused.code) == (1, "invalid")
    (answer,) = cluster.ask(cluster.leader, Reads(2, eventual, (one,) * READS_REQUESTS_MAX))
    assert isinstance(answer, ReadResults) and len(answer.results) == READS_REQUESTS_MAX


def test_an_answer_is_bounded_whatever_is_asked_for_at_once() -> None:
    cluster = Cluster(replica=ReplicaConfig(answer_bytes_max=250))
    write(cluster, "x" * 100)
    requests = (Range(b"x"), Range(b"nothing"), Range(b"a", b"z"), Range(b"x"))
    (answer,) = cluster.ask(cluster.leader, Reads(1, linearizable, requests))
    assert isinstance(answer, ReadResults)
    assert [isinstance(result, Failure) and result.code for result in answer.results] == [
        False,
        False,
        "overloaded",
        "overloaded",
    ]


def test_questions_to_the_leader_are_bounded_as_reads_are() -> None:
    cluster = Cluster(replica=ReplicaConfig(reads_waiting_max=3))
    follower = cluster.follower
    cluster.isolate(follower)
    for call in range(5):
        cluster.say(follower, Reads(call, bounded(revisions=1), (Range(b"x"),)))
    cluster.settle()
    refused = [reply.code for reply in cluster.heard(follower) if isinstance(reply, CallRefused)]
    assert refused == ["overloaded"] * 2


def test_a_leader_with_a_lease_answers_at_once() -> None:
    cluster = Cluster(engine=EngineConfig(lease_reads=True))
    leader = cluster.leader
    write(cluster, "old")
    cluster.step(50)
    cluster.say(leader, Reads(1, linearizable, (Range(b"x"),)))
    cluster.settle()
    assert [type(reply) for reply in cluster.heard(leader)] == [ReadResults]


def test_a_lease_read_that_a_pause_holds_up_has_taken_effect_before_the_pause_and_no_other_has() -> None:
    """SIGSTOP falls between the reading of the clock and the answer.

    What had arrived before the reading overlaps all that others did during the pause, so the old value is right for it,
    however late it leaves. What arrives after the pause is judged by a reading made then, and waits for a quorum.
    """
    cluster = Cluster(engine=EngineConfig(lease_reads=True))
    paused = cluster.leader
    write(cluster, "old")
    cluster.step(50)
    cluster.heard(paused)
    cluster.say(paused, Reads(1, linearizable, (Range(b"x"),)))
    stopped = cluster.replicas.pop(paused)
    write(cluster, "new")
    cluster.replicas[paused] = stopped
    cluster.cut = {(paused, other) for other in cluster.ids} | {(other, paused) for other in cluster.ids}
    cluster._execute(paused, stopped.take_effects())
    (early,) = cluster.heard(paused)
    assert isinstance(early, ReadResults) and value(early) == "old"
    cluster.say(paused, Reads(2, linearizable, (Range(b"x"),)))
    cluster.step(400)
    assert [type(reply) for reply in cluster.heard(paused)] == [CallRefused]


def test_replicas_agree_about_the_hash_of_their_state(cluster: Cluster) -> None:
    answers = [cluster.ask(node, HashState(1))[0] for node in cluster.ids]
    assert len({answer.hash for answer in answers if isinstance(answer, StateHash)}) == 1
    write(cluster, "other")
    cluster.step(10)
    (changed,) = cluster.ask(cluster.leader, HashState(1))
    assert isinstance(changed, StateHash)
    assert changed.hash != answers[0].hash  # type: ignore[union-attr]


def test_the_hash_of_a_future_revision_is_refused(cluster: Cluster) -> None:
    (answer,) = cluster.ask(cluster.leader, HashState(1, 99))
    assert isinstance(answer, CallRefused)
    assert answer.code == "future_revision"


def test_a_lease_read_that_was_held_up_past_its_lease_is_asked_again() -> None:
    queue = ReadQueue(count_max=10)
    served: list[int] = []
    queue.wait_point(Waiting(served.append, lambda code, text: None, Tick(1000)))
    context = queue.ask(Tick(1))
    assert context is not None
    queue.on_confirmed(ReadState(context, LogIndex(5), valid_until=Tick(10)))
    queue.release(LogIndex(5), 1, Tick(10))
    assert served == []
    again = queue.ask(Tick(11))
    assert again is not None
    queue.on_confirmed(ReadState(again, LogIndex(5), valid_until=Tick(20)))
    queue.release(LogIndex(5), 1, Tick(19))
    assert served == [0]


def test_a_confirmed_read_that_is_never_applied_is_refused_in_time() -> None:
    queue = ReadQueue(count_max=10)
    refused: list[str] = []
    waiting = Waiting(lambda age: None, lambda code, text: refused.append(code), Tick(100))
    queue.wait_point(waiting)
    context = queue.ask(Tick(1))
    assert context is not None
    queue.on_confirmed(ReadState(context, LogIndex(5)))
    queue.expire(Tick(99), "unavailable", "")
    assert refused == []
    queue.expire(Tick(100), "unavailable", "")
    assert refused == ["unavailable"]
    assert len(queue) == 0
    queue.release(LogIndex(5), 1, Tick(101))
    assert refused == ["unavailable"]
