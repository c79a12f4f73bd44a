"""Writes: exactly once, answered by whoever was asked, refused with the truth about whether they happened."""

import msgspec
import pytest
from replica_cluster import Cluster, client_of

from troth.kv.checks import NESTING_MAX
from troth.kv.requests import Failure, Put, PutResult, Range, Txn
from troth.models import linearizable
from troth.replica.peers import Forward, ForwardRefused
from troth.replica.protocol import (
    WRITES_COMMANDS_MAX,
    CallRefused,
    CloseSession,
    Done,
    OpenSession,
    ReadResults,
    Reads,
    Results,
    SessionOpened,
    Writes,
    WritesRefused,
)
from troth.replica.state import ReplicaConfig
from troth.wire.frames import FRAME_BYTES_MAX


def put(key: str, value: str = "v") -> Put:
    return Put(key.encode(), value.encode())


def open_session(cluster: Cluster, node: int, nonce: int = 5) -> int:
    (opened,) = cluster.ask(node, OpenSession(1, nonce), ticks=2)
    assert isinstance(opened, SessionOpened)
    return opened.session


def test_a_batch_is_answered_in_order_of_its_commands() -> None:
    cluster = Cluster()
    answer = cluster.ask(cluster.leader, Writes(0, 1, 0, (put("a"), put("b"))))
    assert answer == [Results(0, 1, [PutResult(2), PutResult(3)])]


def test_an_empty_batch_is_answered_at_once() -> None:
    cluster = Cluster()
    before = cluster.replicas[cluster.leader].engine.status().last
    assert cluster.ask(cluster.leader, Writes(0, 9, 0, ())) == [Results(0, 9, [])]
    assert cluster.replicas[cluster.leader].engine.status().last == before, "it is not in the log"


def test_all_batches_of_one_turn_share_one_log_entry() -> None:
    cluster = Cluster()
    leader = cluster.leader
    before = cluster.replicas[leader].engine.commit_index
    for number in range(20):
        cluster.say(leader, Writes(0, number, 0, (put(f"k{number}"),)))
    cluster.settle()
    assert cluster.replicas[leader].engine.commit_index == before + 1
    assert len(cluster.heard(leader)) == 20


def test_a_follower_forwards_and_answers_its_own_client() -> None:
    cluster = Cluster()
    follower = cluster.follower
    assert cluster.ask(follower, Writes(0, 1, 0, (put("a"),)), ticks=2) == [Results(0, 1, [PutResult(2)])]


def test_a_repeated_batch_is_applied_once_and_answered_twice() -> None:
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    session = open_session(cluster, leader)
    batch = Writes(session, 1, 1, (put("a"),))
    first = cluster.ask(leader, batch)
    again = cluster.ask(follower, batch, ticks=2)
    assert first == again == [Results(session, 1, [PutResult(2)])]
    assert cluster.replicas[leader].machine.store.revision == 2


def test_a_batch_repeated_before_the_first_copy_commits_is_applied_once() -> None:
    cluster = Cluster()
    leader = cluster.leader
    session = open_session(cluster, leader)
    batch = Writes(session, 1, 1, (put("a"),))
    cluster.say(leader, batch)
    cluster.say(leader, batch)
    cluster.settle()
    assert cluster.heard(leader) == [Results(session, 1, [PutResult(2)])] * 2


def test_acknowledged_results_are_forgotten_and_not_applied_again() -> None:
    cluster = Cluster()
    leader = cluster.leader
    session = open_session(cluster, leader)
    cluster.ask(leader, Writes(session, 1, 1, (put("a"),)))
    cluster.ask(leader, Writes(session, 2, 2, (put("a"),)))
    (late,) = cluster.ask(leader, Writes(session, 1, 1, (put("a"),)))
    assert isinstance(late, WritesRefused)
    assert cluster.replicas[leader].machine.store.revision == 3
    sessions, _ = cluster.replicas[leader].machine.sessions.dump()
    assert list(sessions[0].results) == [2]


def test_a_batch_of_an_unknown_session_is_refused_and_not_applied() -> None:
    cluster = Cluster()
    (refused,) = cluster.ask(cluster.leader, Writes(99, 1, 1, (put("a"),)))
    assert isinstance(refused, WritesRefused)
    assert refused.code == "session_expired"
    assert cluster.replicas[cluster.leader].machine.store.revision == 1


def test_opening_a_session_twice_with_one_nonce_gives_one_session() -> None:
    cluster = Cluster()
    leader = cluster.leader
    assert open_session(cluster, leader, nonce=5) == open_session(cluster, leader, nonce=5)
    assert open_session(cluster, leader, nonce=6) != open_session(cluster, leader, nonce=5)


def test_a_closed_session_is_gone() -> None:
    cluster = Cluster()
    leader = cluster.leader
    session = open_session(cluster, leader)
    assert cluster.ask(leader, CloseSession(4, session)) == [Done(4)]
    (refused,) = cluster.ask(leader, Writes(session, 1, 1, (put("a"),)))
    assert isinstance(refused, WritesRefused)


def test_a_refused_command_is_a_result_not_a_refusal_of_the_batch() -> None:
    cluster = Cluster()
    (answer,) = cluster.ask(cluster.leader, Writes(0, 1, 0, (put("a"), Put(b"", b"x"), put("b"))))
    assert isinstance(answer, Results)
    good, bad, also_good = answer.results
    assert good == PutResult(2)
    assert isinstance(bad, Failure)
    assert also_good == PutResult(3)


def test_what_was_in_the_log_when_the_leader_fell_has_an_unknown_outcome() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.isolate(leader)
    cluster.say(leader, Writes(0, 1, 0, (put("a"),)))
    cluster.step_until(lambda: cluster.replicas[leader].engine.leader()[1] != leader)
    refused = [reply for reply in cluster.heard(leader) if isinstance(reply, WritesRefused)]
    assert [reply.code for reply in refused] == ["leadership_lost"]


def test_without_any_leader_a_write_is_refused_as_not_applied() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.isolate(leader)
    cluster.step_until(lambda: cluster.replicas[leader].engine.leader()[1] != leader)
    cluster.heard(leader)
    replies = cluster.ask(leader, Writes(0, 1, 0, (put("a"),)), ticks=150)
    assert [reply.code for reply in replies if isinstance(reply, WritesRefused)] == ["unavailable"]
    cluster.heal()
    cluster.step(200)
    assert {replica.machine.store.revision for replica in cluster.replicas.values()} == {1}


def test_a_write_that_meets_an_election_waits_for_the_new_leader() -> None:
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    cluster.isolate(leader)
    for survivor in cluster.ids:
        cluster.replicas[survivor].suspect(leader, cluster.now)
    assert [r for r in cluster.ask(follower, Writes(0, 1, 0, (put("a"),)), ticks=60) if isinstance(r, Results)]


def test_a_forwarded_write_whose_answer_is_lost_times_out_with_an_unknown_outcome() -> None:
    config = ReplicaConfig(write_timeout_ticks=50)
    cluster = Cluster(replica=config)
    follower = cluster.follower
    cluster.on_send = lambda sender, to, message: not isinstance(message, Forward)
    replies = cluster.ask(follower, Writes(0, 1, 0, (put("a"),)), ticks=60)
    assert [reply.code for reply in replies if isinstance(reply, WritesRefused)] == ["timeout"]


def test_too_much_at_once_is_refused_before_it_is_proposed() -> None:
    cluster = Cluster(replica=ReplicaConfig(proposals_bytes_max=1000))
    leader = cluster.leader
    for number in range(4):
        cluster.say(leader, Writes(0, number, 0, (put("k", "v" * 400),)))
    cluster.settle()
    codes = [getattr(reply, "code", "ok") for reply in cluster.heard(leader)]
    assert sorted(codes) == ["ok", "ok", "overloaded", "overloaded"]
    assert cluster.replicas[leader].machine.store.revision == 3


def test_the_bound_on_waiting_bytes_is_given_back_when_writes_are_answered() -> None:
    cluster = Cluster(replica=ReplicaConfig(proposals_bytes_max=1000))
    for number in range(10):
        (answer,) = cluster.ask(cluster.leader, Writes(0, number, 0, (put("k", "v" * 600),)))
        assert isinstance(answer, Results)


def test_large_turns_are_split_into_entries_of_bounded_size() -> None:
    cluster = Cluster(replica=ReplicaConfig(entry_bytes_max=1000))
    leader = cluster.leader
    before = cluster.replicas[leader].engine.commit_index
    for number in range(6):
        cluster.say(leader, Writes(0, number, 0, (put("k", "v" * 400),)))
    cluster.settle()
    assert cluster.replicas[leader].engine.commit_index == before + 3
    assert len(cluster.heard(leader)) == 6


@pytest.mark.slow
def test_what_a_follower_hands_over_at_once_fits_a_frame() -> None:
    cluster = Cluster()
    follower = cluster.follower
    handed: list[int] = []

    def listen(sender: int, to: int, message: object) -> bool:
        if isinstance(message, Forward):
            handed.append(sum(len(bytes(raw)) for _, raw in message.proposals))
        return True

    cluster.on_send = listen
    for number in range(20):
        cluster.say(follower, Writes(0, number, 0, (put("k", "v" * (1 << 20)),)))
    cluster.settle()
    assert sum(handed) > FRAME_BYTES_MAX > 2 * max(handed)
    assert sum(isinstance(reply, Results) for reply in cluster.heard(follower)) == 20


def test_garbage_from_a_follower_never_enters_the_log() -> None:
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    before = cluster.replicas[leader].engine.commit_index
    refused: list[ForwardRefused] = []

    def listen(sender: int, to: int, message: object) -> bool:
        if isinstance(message, ForwardRefused):
            refused.append(message)
        return True

    cluster.on_send = listen
    garbage = Forward([(1, msgspec.Raw(b"\x92\x63\x02"))])
    cluster.replicas[leader].on_peer(follower, [garbage], cluster.now)
    cluster.settle()
    assert [message.requests for message in refused] == [[1]]
    assert cluster.replicas[leader].engine.commit_index == before


def test_a_batch_beyond_the_wires_bound_is_refused_and_not_applied() -> None:
    """It would be applied in one piece, with no heartbeat in between, by every server."""
    cluster = Cluster()
    leader = cluster.leader
    (refused,) = cluster.ask(leader, Writes(0, 1, 0, (put("a"),) * (WRITES_COMMANDS_MAX + 1)))
    assert isinstance(refused, WritesRefused) and (refused.first_seq, refused.code) == (1, "invalid")
    (taken,) = cluster.ask(leader, Writes(0, 2, 0, (put("a"),) * WRITES_COMMANDS_MAX))
    assert isinstance(taken, Results) and len(taken.results) == WRITES_COMMANDS_MAX
    assert cluster.replicas[leader].machine.store.revision == WRITES_COMMANDS_MAX + 1


def test_nobody_is_answered_after_having_gone() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.heard(leader)
    cluster.say(leader, Writes(0, 1, 0, (put("a"),)))
    cluster.replicas[leader].client_gone(client_of(leader))
    cluster.settle()
    assert cluster.heard(leader) == []
    assert cluster.replicas[leader].machine.store.revision == 2


def test_a_session_refused_for_lack_of_a_leader_is_a_refused_call() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.isolate(leader)
    cluster.step_until(lambda: cluster.replicas[leader].engine.leader()[1] != leader)
    replies = cluster.ask(leader, OpenSession(3, 1), ticks=150)
    assert [reply.code for reply in replies if isinstance(reply, CallRefused)] == ["unavailable"]


def test_what_was_written_is_read_on_every_server() -> None:
    cluster = Cluster()
    cluster.ask(cluster.leader, Writes(0, 1, 0, (put("a", "1"),)))
    for node in cluster.ids:
        answers = cluster.ask(node, Reads(2, linearizable, (Range(b"a"),)), ticks=1)
        (answer,) = [reply for reply in answers if isinstance(reply, ReadResults)]
        assert getattr(answer.results[0], "kvs")[0].value == b"1"  # noqa: B009 - the union has no kvs


def test_a_command_larger_than_etcd_allows_is_refused_before_the_log() -> None:
    cluster = Cluster()
    leader = cluster.leader
    (refused,) = cluster.ask(leader, Writes(0, 1, 0, (put("a"), put("k", "v" * (1572864 + 1)))))
    assert isinstance(refused, WritesRefused)
    assert (refused.code, refused.text) == ("invalid", "etcdserver: request is too large")
    (taken,) = cluster.ask(leader, Writes(0, 2, 0, tuple(put(str(n), "v" * 400_000) for n in range(4))))
    assert isinstance(taken, Results)


def test_transactions_nested_deeper_than_any_can_be_applied_never_enter_the_log() -> None:
    cluster = Cluster()
    leader = cluster.leader
    deep = Txn()
    for _ in range(NESTING_MAX):
        deep = Txn(success=(deep,))
    before = cluster.replicas[leader].engine.commit_index
    (answer,) = cluster.ask(leader, Writes(0, 1, 0, (Put(b"a", b""), deep)))
    assert isinstance(answer, WritesRefused)
    assert (answer.code, answer.text) == ("invalid", "etcdserver: too many operations in txn request")
    assert cluster.replicas[leader].engine.commit_index == before
