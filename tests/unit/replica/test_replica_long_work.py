"""Work that takes long is done in steps: heartbeats, reads and everything else go on between two of them."""

import dataclasses
from itertools import pairwise

import msgspec
import pytest
import replica_cluster
from replica_cluster import Cluster, client_of

from troth.core.engines import engine_kind
from troth.core.raft.messages import Heartbeat
from troth.ids import NodeId
from troth.kv import order, preparing, ranges, snapshot
from troth.kv.answers import ANSWER_BYTES_MAX
from troth.kv.requests import (
    Compact,
    Compare,
    DeleteRange,
    DeleteRangeResult,
    Failure,
    LeaseGrant,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
)
from troth.models import bounded, eventual, linearizable
from troth.replica import pieces, reading, sessions
from troth.replica.pieces import LongAnswer
from troth.replica.protocol import (
    CallRefused,
    ClientMessage,
    FetchSnapshot,
    HashState,
    LeaseIds,
    LeaseList,
    LeaseTimeToLive,
    OpenSession,
    ReadResults,
    Reads,
    Results,
    ServerMessage,
    SessionOpened,
    SnapshotPart,
    StateHash,
    TransferLeadership,
    Writes,
    WritesRefused,
)
from troth.replica.state import ReplicaConfig

KEYS = 200
decode = msgspec.msgpack.Decoder(ServerMessage).decode
ALL = Range(b"k", b"l", count_only=True)
ALL_KEYS = Range(b"k", b"l", keys_only=True)


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SLICE_KEYS", 4)


def filled_cluster(config: ReplicaConfig | None = None) -> Cluster:
    cluster = Cluster(replica=config)
    puts = tuple(Put(b"k%03d" % number, b"v") for number in range(KEYS))
    cluster.ask(cluster.leader, Writes(0, 1, 0, puts), ticks=5)
    return cluster


def turn(cluster: Cluster, node: NodeId) -> None:
    """One turn of one server."""
    effects = cluster.replicas[node].take_effects()
    cluster._execute(node, effects)


def test_heartbeats_go_on_while_many_keys_are_deleted() -> None:
    """A deletion of many keys is made ready in several turns; in each, time passes and messages leave."""
    cluster = filled_cluster()
    leader = cluster.leader
    beats = []
    cluster.on_send = lambda sender, to, message: beats.append(message) is None
    cluster.say(leader, Writes(0, 2, 0, (DeleteRange(b"k", b"l"),)))
    turns = 0
    while not (replies := cluster.heard(leader)) and turns < 1_000:
        turns += 1
        for node, replica in cluster.replicas.items():
            replica.tick(cluster.now)
            turn(cluster, node)
        cluster.now = type(cluster.now)(cluster.now + 1)
    assert replies == [Results(0, 2, [DeleteRangeResult(KEYS + 2, KEYS)])]
    assert turns > KEYS // 4
    heartbeats = [each for each in beats if isinstance(each, Heartbeat)]
    assert len(heartbeats) > turns // 10
    cluster.step(100)
    assert {replica.machine.store.revision for replica in cluster.replicas.values()} == {KEYS + 2}
    assert {replica.engine.leader()[0] for replica in cluster.replicas.values()} == {1}, "no election was needed"


def test_reads_see_the_state_before_a_deletion_until_it_is_applied_and_writes_wait_their_turn() -> None:
    cluster = filled_cluster()
    leader = cluster.leader
    replica = cluster.replicas[leader]
    cluster.say(leader, Writes(0, 2, 0, (DeleteRange(b"k", b"l"),)))
    while replica._preparing is None:
        for node in cluster.replicas:
            turn(cluster, node)
    cluster.say(leader, Writes(0, 3, 0, (Put(b"k", b"after"),)))
    cluster.say(leader, Reads(1, eventual, (ALL,)))
    cluster.say(leader, Reads(2, linearizable, (ALL,)))
    turn(cluster, leader)
    assert [reply.results for reply in cluster.heard(leader)] == [[RangeResult(KEYS + 1, [], KEYS)]]
    cluster.settle()
    deleted, put, read = cluster.heard(leader)
    assert deleted == Results(0, 2, [DeleteRangeResult(KEYS + 2, KEYS)])
    assert put == Results(0, 3, [PutResult(KEYS + 3)])
    assert isinstance(read, ReadResults) and read.results[0].count in (0, 1)


def test_a_leader_that_falls_while_it_makes_a_deletion_ready_still_applies_it() -> None:
    cluster = filled_cluster()
    old = cluster.leader
    cluster.say(old, Writes(0, 2, 0, (DeleteRange(b"k", b"l"),)))
    while cluster.replicas[old]._preparing is None:
        for node in cluster.replicas:
            turn(cluster, node)
    cluster.isolate(old)
    cluster.step(400)
    assert cluster.leader != old
    cluster.heal()
    cluster.step(400)
    assert {replica.machine.store.hash() for replica in cluster.replicas.values()} == {
        cluster.replicas[old].machine.store.hash()
    }
    assert cluster.replicas[old].machine.store.range(ALL).count == 0


def test_no_snapshot_is_taken_in_the_middle_of_what_has_committed_in_one_piece() -> None:
    """Duty 3 of a driver: a Paxos membership comes together with the slot behind it, which may be a long deletion."""
    cluster = filled_cluster(ReplicaConfig(snapshot_log_entries=2))
    node = cluster.follower
    replica = cluster.replicas[node]
    cluster.isolate(node)
    for number in range(3):
        cluster.ask(cluster.leader, Writes(0, 2, 0, (Put(b"before%d" % number, b"v"),)))
    cluster.ask(cluster.leader, Writes(0, 3, 0, (DeleteRange(b"k", b"l"),)), ticks=KEYS)
    cluster.heal()
    cluster.isolate(next(other for other in cluster.replicas if other not in (node, cluster.leader)))
    while replica._preparing is None:
        cluster.now = type(cluster.now)(cluster.now + 1)
        for other, each in cluster.replicas.items():
            each.tick(cluster.now)
            turn(cluster, other)
    half_way = replica._applied
    assert half_way == replica.engine.commit_index - 1, "all of it had come in one piece"
    cluster.settle()
    taken = {int(last.index) for last in cluster.snapshots[node]}
    assert half_way not in taken
    assert half_way + 1 in taken


def test_a_snapshot_that_is_installed_ends_what_is_made_ready_of_a_commit_that_it_covers() -> None:
    """What commits behind it would be applied to the old state, and be gone with that."""
    cluster = filled_cluster(ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2))
    node = cluster.follower
    cluster.say(cluster.leader, Writes(0, 2, 0, (DeleteRange(b"k", b"l"),)))
    while cluster.replicas[node]._preparing is None:
        for each in cluster.replicas:
            turn(cluster, each)
    paused = cluster.replicas.pop(node)
    cluster.step(100)
    for number in range(60):
        cluster.ask(cluster.leader, Writes(0, 2, 0, (Put(b"k%d" % number, b"v"),)), ticks=1)
    assert paused._preparing is not None
    cluster.replicas[node] = paused
    cluster.in_steps = True
    cluster.step_until(lambda: node in cluster.loads)
    cluster.ask(cluster.leader, Writes(0, 3, 0, (Put(b"later", b"v"),)), ticks=100)
    for _ in cluster.loads[node]:
        pass
    cluster.step(50)
    assert len({replica.machine.store.hash() for replica in cluster.replicas.values()}) == 1


def test_what_commits_behind_the_newer_of_two_snapshots_waits_until_that_one_is_loaded() -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2, chunk_bytes=512))
    node = cluster.follower
    cluster.in_steps = True
    loads = []
    for first in (0, 100):
        cluster.isolate(node)
        for number in range(60):
            cluster.ask(cluster.leader, Writes(0, 2, 0, (Put(b"k%d" % (first + number), b"v"),)), ticks=2)
        cluster.heal()
        cluster.step_until(lambda: node in cluster.loads)
        loads.append(cluster.loads.pop(node))
    cluster.ask(cluster.leader, Writes(0, 3, 0, (Put(b"later", b"v"),)), ticks=20)
    for steps in loads:
        for _ in steps:
            pass
        cluster.step(20)
    assert len({replica.machine.store.hash() for replica in cluster.replicas.values()}) == 1


def test_the_old_state_answers_while_a_snapshot_is_loaded_and_what_commits_meanwhile_is_applied_after_it() -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2, chunk_bytes=512))
    node = cluster.follower
    cluster.ask(cluster.leader, Writes(0, 1, 0, (Put(b"k", b"old"),)), ticks=5)
    cluster.isolate(node)
    for number in range(60):
        cluster.ask(cluster.leader, Writes(0, 2, 0, (Put(b"k%d" % number, b"v"),)))
    cluster.in_steps = True
    cluster.heal()
    cluster.step_until(lambda: node in cluster.loads)
    cluster.ask(cluster.leader, Writes(0, 3, 0, (Put(b"later", b"v"),)), ticks=20)
    steps = 0
    for _ in cluster.loads[node]:
        if cluster.replicas[node]._loading is None:
            continue  # the old one is freed
        steps += 1
        (reply,) = cluster.ask(node, Reads(1, eventual, (ALL,)), ticks=1)
        assert isinstance(reply, ReadResults) and reply.results == [RangeResult(2, [], 1)]
    assert steps >= 3
    cluster.step(20)
    (reply,) = cluster.ask(node, Reads(1, linearizable, (ALL,)), ticks=5)
    assert isinstance(reply, ReadResults) and reply.results == [RangeResult(63, [], 61)]
    assert cluster.replicas[node].machine.store.hash() == cluster.replicas[cluster.leader].machine.store.hash()


def test_who_leads_before_its_snapshot_is_loaded_hands_that_one_on() -> None:
    """Its log begins behind it: the one before would be of no use, and be sent again and again."""
    cluster = Cluster(5, replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2, chunk_bytes=512))
    old = cluster.leader
    node, late = [other for other in cluster.ids if other != old][:2]
    cluster.isolate(node)
    cluster.isolate(late)
    for number in range(60):
        cluster.ask(old, Writes(0, 2, 0, (Put(b"k%d" % number, b"v"),)))
    cluster.in_steps = True
    cluster.cut = {pair for pair in cluster.cut if late in pair}
    cluster.step_until(lambda: node in cluster.loads)
    cluster.step(20)
    cluster.ask(old, TransferLeadership(7, node), ticks=50)
    assert cluster.leader == node
    loading = cluster.replicas[node]._loading
    assert loading is not None
    cluster.heal()
    cluster.step_until(lambda: late in cluster.loads)
    assert cluster.replicas[late]._loading == loading
    for each in (node, late):
        for _ in cluster.loads[each]:
            pass
    cluster.step(100)
    assert len({replica.machine.store.hash() for replica in cluster.replicas.values()}) == 1


@pytest.mark.parametrize(
    "asked",
    [
        Reads(1, eventual, (Range(b"k", b"l", limit=1),)),
        Reads(1, linearizable, (ALL_KEYS, Range(b"k001"))),
        Writes(0, 3, 0, (Put(b"a", b""), DeleteRange(b"k", b"k01"))),
        Writes(0, 3, 0, (Txn(success=(Txn(failure=(ALL,)),)),)),
        Writes(0, 3, 0, (Txn(compare=(Compare(b"k", range_end=b"l"),)),)),
        HashState(1),
        FetchSnapshot(1),
    ],
)
def test_the_order_of_many_keys_is_made_in_steps_whoever_asks_for_it_first(
    asked: ClientMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start, or a load, that nobody has read ranges in."""
    pieces: list[int] = []
    whole = order.KeyOrder.settle

    def settle(made: order.KeyOrder) -> None:
        pieces.append(len(made.moved))
        whole(made)

    monkeypatch.setattr(order, "STEP_KEYS", 4)
    monkeypatch.setattr(reading, "ORDER_STEP_KEYS", 4)
    monkeypatch.setattr(reading, "KEYS_PER_TURN", 2 * 4 * reading.ORDER_COST)
    monkeypatch.setattr(order.KeyOrder, "settle", settle)
    cluster = filled_cluster()
    leader = cluster.leader
    cluster.ask(leader, Writes(0, 2, 0, (Compact(KEYS),)), ticks=5)
    cluster.say(leader, asked)
    turns = 0
    replies: list[ServerMessage] = []
    while not replies or (isinstance(replies[-1], SnapshotPart) and not replies[-1].last):
        turns += 1
        assert turns < 1_000
        for node, replica in cluster.replicas.items():
            replica.tick(cluster.now)
            turn(cluster, node)
        cluster.now = type(cluster.now)(cluster.now + 1)
        replies += cluster.heard(leader)
    assert not isinstance(replies[0], CallRefused | WritesRefused)
    assert turns > KEYS // 4 // 2 // 2, "two steps a turn at most"
    assert max(pieces, default=0) <= 4


def test_what_a_leader_has_proposed_while_it_loads_is_answered_once_it_is_applied() -> None:
    """It stands behind the snapshot, so its outcome is known as soon as that is loaded."""
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2, chunk_bytes=512))
    old, node = cluster.leader, cluster.follower
    cluster.isolate(node)
    for number in range(60):
        cluster.ask(old, Writes(0, 2, 0, (Put(b"k%d" % number, b"v"),)))
    cluster.in_steps = True
    cluster.heal()
    cluster.step_until(lambda: node in cluster.loads)
    cluster.step(20)
    cluster.ask(old, TransferLeadership(7, node), ticks=50)
    assert cluster.leader == node
    assert cluster.ask(node, Writes(0, 3, 0, (Put(b"mine", b"v"),)), ticks=5) == []
    for _ in cluster.loads[node]:
        pass
    cluster.step(5)
    assert cluster.heard(node) == [Results(0, 3, [PutResult(62)])]


@pytest.mark.parametrize("reading_goes_on", [False, True])
def test_the_state_that_a_snapshot_replaces_is_freed_in_steps_unless_it_is_still_read(
    reading_goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2, lag_bytes_max=0))
    node = cluster.follower
    replica = cluster.replicas[node]
    puts = tuple(Put(b"k%05d" % number, b"v") for number in range(1000))
    for number in range(20):
        cluster.ask(cluster.leader, Writes(0, 1, 0, tuple(Put(b"%d" % number + put.key, b"v") for put in puts)), 2)
    before = replica.machine.store.space
    cluster.isolate(node)
    for number in range(60):
        cluster.ask(cluster.leader, Writes(0, 2, 0, (Put(b"n%d" % number, b"v"),)))
    steps = replica.machine.store.range_steps(Range(b"0", b"\0", count_only=True)) if reading_goes_on else None
    cluster.in_steps = True
    cluster.heal()
    cluster.step_until(lambda: node in cluster.loads)
    sizes = []
    for _ in cluster.loads[node]:
        sizes.append(len(before.index))
    if steps is None:
        assert len(before.index) == len(before.log) == 0
        assert max(size - after for size, after in pairwise(sizes)) <= 8192
    else:
        assert not isinstance(steps, Failure)
        with pytest.raises(StopIteration) as done:
            while True:
                next(steps)
        assert done.value.value.count == 20_000
    assert replica.machine.store.hash() == cluster.replicas[cluster.leader].machine.store.hash()


@pytest.mark.parametrize("consensus", ["raft", "paxos"])
def test_what_waits_for_a_snapshot_to_be_loaded_is_bounded_and_comes_from_the_leader_later(
    consensus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_cluster, "KIND", engine_kind(consensus))
    config = ReplicaConfig(
        snapshot_log_entries=20,
        log_kept_entries=100,
        chunk_bytes=512,
        entries_in_flight_max=1,
        backlog_bytes_max=600,
    )
    cluster = Cluster(replica=config)
    node, leader = cluster.follower, cluster.leader
    cluster.isolate(node)
    for number in range(150):
        cluster.ask(leader, Writes(0, 2, 0, (Put(b"k%d" % number, b"v"),)))
    cluster.in_steps = True
    cluster.heal()
    cluster.step_until(lambda: node in cluster.loads)
    loading = cluster.replicas[node]
    for number in range(60):
        (answer,) = cluster.ask(leader, Writes(0, 3, 0, (Put(b"later%d" % number, b"v" * 100),)), ticks=2)
        assert isinstance(answer, Results), "the others go on"
    assert 600 < loading._backlog_bytes < 1_200, "one entry may pass the bound"
    assert loading.engine.status().last.index < cluster.replicas[leader].engine.status().last.index - 40
    (refused,) = cluster.ask(node, Writes(0, 4, 0, (Put(b"mine", b"v"),)), ticks=2)
    assert isinstance(refused, WritesRefused) and refused.code == "overloaded"
    assert loading.engine.leader()[1] == leader, "it still hears the leader"
    for _ in cluster.loads[node]:
        pass
    cluster.step(100)
    assert loading.machine.store.hash() == cluster.replicas[leader].machine.store.hash()
    assert isinstance(cluster.ask(node, Writes(0, 5, 0, (Put(b"mine", b"v"),)), ticks=3)[0], Results)


def test_reads_of_many_keys_are_spread_over_turns_and_others_are_served_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "KEYS_PER_TURN", KEYS)
    cluster = filled_cluster()
    leader = cluster.leader
    scan = ALL_KEYS
    turn(cluster, leader)
    cluster.heard(leader)
    cluster.say(leader, Reads(1, eventual, (scan, scan, Range(b"k001"), scan)))
    cluster.say(leader, Reads(2, eventual, (scan,)))
    cluster.say(leader, Writes(0, 2, 0, (Put(b"k001", b"new"),)))
    answered = []
    for _ in range(6):
        turn(cluster, leader)
        answered.append([reply.call for reply in cluster.heard(leader) if isinstance(reply, ReadResults)])
    # One scan a turn, the first of them at once; in the order in which they came.
    assert answered == [[], [1], [2], [], [], []]
    cluster.settle()
    assert cluster.replicas[leader].machine.store.revision == KEYS + 2
    (reply,) = cluster.ask(
        leader, Reads(3, eventual, (scan, scan, Range(b"k001"), Range(b"k", b"l", limit=3))), ticks=1
    )
    assert isinstance(reply, ReadResults)
    assert [len(result.kvs) for result in reply.results] == [KEYS, KEYS, 1, 3]


def test_an_answer_that_took_several_turns_says_how_old_it_is_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "KEYS_PER_TURN", KEYS)
    cluster = filled_cluster()
    follower = cluster.follower
    replica = cluster.replicas[follower]
    cluster.ask(follower, Reads(1, linearizable, (Range(b"k001"),)), ticks=2)
    turn(cluster, follower)
    cluster.isolate(follower)

    def answered(*reads: Reads) -> list[ReadResults]:
        for message in reads:
            cluster.say(follower, message)
        turn(cluster, follower)
        return [reply for reply in cluster.heard(follower) if isinstance(reply, ReadResults)]

    level = bounded(seconds=60)
    late = answered(Reads(2, level, (ALL_KEYS,) * 3))
    turns = 0
    while not late:
        turns += 1
        cluster.now = type(cluster.now)(cluster.now + 10)
        replica.tick(cluster.now)
        late = answered()
    (at_once,) = answered(Reads(3, level, (Range(b"k001"),)))
    assert turns > 0
    assert late[0].staleness_ms == at_once.staleness_ms


def test_a_client_that_leaves_takes_its_unread_ranges_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "KEYS_PER_TURN", 1)
    cluster = filled_cluster()
    leader = cluster.leader
    replica = cluster.replicas[leader]
    cluster.say(leader, Reads(1, eventual, (ALL_KEYS,) * 50))
    assert replica._unserved
    replica.client_gone(client_of(leader))
    turn(cluster, leader)
    assert not replica._unserved


def test_an_answer_that_would_be_too_large_is_refused_whole_and_the_batch_goes_on() -> None:
    cluster = Cluster()
    leader = cluster.leader
    value = b"v" * (1 << 20)
    for number in range(8):
        cluster.ask(leader, Writes(0, number, 0, (Put(b"big%d" % number, value),)))
    everything = Range(b"big", b"bih")
    greedy = Txn(success=(Put(b"mark", b"1"), *[everything] * (ANSWER_BYTES_MAX // (8 << 20) + 1)))
    (reply,) = cluster.ask(leader, Writes(0, 20, 0, (greedy, Put(b"after", b""))))
    assert isinstance(reply, Results)
    refused, done = reply.results
    assert isinstance(refused, Failure) and refused.code == "answer_too_large"
    assert isinstance(done, PutResult)
    assert cluster.replicas[leader].machine.store.range(Range(b"mark")).count == 0


def test_a_retry_whose_answer_was_given_up_hears_that_it_was_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    leader = cluster.leader
    for replica in cluster.replicas.values():
        replica.machine.sessions._kept_bytes_max = 10_000
    (opened,) = cluster.ask(leader, OpenSession(1, 5), ticks=2)
    assert isinstance(opened, SessionOpened)
    assert sessions.KEPT_BYTES_MAX > 10_000
    batches = [
        Writes(opened.session, seq, 0, (Put(b"k%d" % seq, b"v" * 3_000), Put(b"k%d" % seq, b"", prev_kv=True)))
        for seq in (1, 3, 5, 7)
    ]
    for batch in batches:
        (reply,) = cluster.ask(leader, batch)
        assert isinstance(reply, Results)
    revision = cluster.replicas[leader].machine.store.revision
    (reply,) = cluster.ask(leader, batches[0])
    assert isinstance(reply, WritesRefused) and reply.code == "answer_lost"
    (reply,) = cluster.ask(leader, batches[3])
    assert isinstance(reply, Results)
    assert cluster.replicas[leader].machine.store.revision == revision
    assert client_of(leader) in cluster.replies


def test_what_was_prepared_for_a_batch_that_was_answered_before_is_dropped() -> None:
    cluster = filled_cluster()
    leader = cluster.leader
    (opened,) = cluster.ask(leader, OpenSession(1, 5))
    assert isinstance(opened, SessionOpened)
    puts = tuple(Put(b"k%03d" % number, b"v") for number in range(KEYS))
    batch = Writes(opened.session, 1, 0, (DeleteRange(b"k", b"l"), *puts))
    answer = cluster.ask(leader, batch, ticks=20)
    assert cluster.ask(leader, batch, ticks=20) == answer
    for replica in cluster.replicas.values():
        assert replica.machine.store._preparations._prepared is None


def test_heartbeats_go_on_while_a_lease_of_many_keys_ends() -> None:
    cluster = Cluster()
    puts = tuple(Put(b"k%03d" % number, b"v", lease=7) for number in range(KEYS))
    cluster.ask(cluster.leader, Writes(0, 1, 0, (LeaseGrant(7, 5), *puts)), ticks=5)
    beats = []
    cluster.on_send = lambda sender, to, message: beats.append(message) is None
    turns = 0
    while cluster.replicas[cluster.leader].machine.store.leases() and turns < 2_000:
        turns += 1
        for node, replica in cluster.replicas.items():
            replica.tick(cluster.now)
            turn(cluster, node)
        cluster.now = type(cluster.now)(cluster.now + 1)
        if turns == 500:
            beats.clear()  # it has run out now
    assert turns > 500 + KEYS // 4
    assert len([each for each in beats if isinstance(each, Heartbeat)]) > (turns - 500) // 10
    cluster.step(100)
    for replica in cluster.replicas.values():
        store = replica.machine.store
        assert (store.revision, store.space.live_count(b"k", b"l"), store.leases()) == (KEYS + 2, 0, [])


def test_a_hash_is_made_in_steps_and_is_that_of_the_moment_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "FRAME_BYTES_DEFAULT", 256)
    cluster = filled_cluster()
    leader = cluster.leader
    store = cluster.replicas[leader].machine.store
    expected = StateHash(5, store.hash(), store.revision, 0, cluster.replicas[leader].engine.commit_index)
    cluster.say(leader, HashState(5))
    turns = 0
    while not (replies := cluster.heard(leader)) and turns < 1_000:
        turns += 1
        cluster.replicas[leader].tick(cluster.now)
        turn(cluster, leader)
        store.apply_batch([Put(b"k%03d" % turns, b"w"), Compact(store.revision)])
        store.scavenge()
    assert replies == [expected]
    assert turns > KEYS // 10
    assert store.hash() != expected.hash


@pytest.mark.parametrize("page_items", [1, 15, 16, 70])
def test_long_lists_are_made_in_steps_and_are_of_the_moment_they_were_asked_for(
    page_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PAGE_ITEMS", page_items)
    monkeypatch.setattr(reading, "PAGE_ITEMS", page_items)
    cluster = Cluster()
    leader = cluster.leader
    store = cluster.replicas[leader].machine.store
    keys = [b"k%03d" % number for number in range(KEYS)]
    ids = list(range(1, KEYS))
    puts = tuple(Put(key, b"v", lease=7) for key in keys)
    cluster.ask(leader, Writes(0, 1, 0, (*(LeaseGrant(lease, 500) for lease in ids), *puts)), ticks=5)
    cluster.say(leader, LeaseTimeToLive(1, 7, True))
    cluster.say(leader, LeaseList(2))
    replies: list[object] = []
    turns = 0
    while len(replies) < 2:
        turns += 1
        assert turns < 2_000
        cluster.step()
        store.apply_batch([Put(b"a%d" % turns, b"", lease=7), LeaseGrant(KEYS + turns, 500)])
        replies += cluster.heard(leader)
    assert all(isinstance(reply, LongAnswer) for reply in replies)
    view, listed = [decode(b"".join(reply.pieces)) for reply in replies]  # type: ignore[attr-defined]
    assert (view.id, view.granted_ttl_s, view.keys) == (7, 500, keys)
    assert listed == LeaseIds(2, ids)
    cluster.replicas[leader]._config = dataclasses.replace(cluster.replicas[leader]._config, answer_bytes_max=100)
    (refused,) = cluster.ask(leader, LeaseList(3), ticks=5)
    assert isinstance(refused, CallRefused) and refused.code == "answer_too_large"


def test_hashes_have_a_bound_and_end_with_their_client() -> None:
    cluster = filled_cluster()
    leader = cluster.leader
    replica = cluster.replicas[leader]
    for call in range(reading.MAKING_MAX + 1):
        cluster.say(leader, HashState(call))
    replica.client_gone(client_of(leader))
    cluster.settle()
    assert not replica._making
    assert len(replica.machine.store.space._pins) == 1, "the watches' own"
    cluster.heard(leader)
    replica.client_connected(client_of(leader))
    for call in range(reading.MAKING_MAX + 1):
        cluster.say(leader, HashState(call))
    cluster.settle()
    kinds = [type(reply) for reply in cluster.heard(leader)]
    assert (kinds.count(StateHash), kinds.count(CallRefused)) == (reading.MAKING_MAX, 1)


def test_one_range_of_very_many_keys_is_read_over_turns_and_single_keys_overtake_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (ranges, reading):
        monkeypatch.setattr(module, "STEP_KEYS", 8)
    monkeypatch.setattr(reading, "KEYS_PER_TURN", 16)
    cluster = filled_cluster()
    node = cluster.follower
    whole = cluster.replicas[node].machine.store.range(Range(b"k", b"l"))
    cluster.replicas[node]._keys_left = 16
    cluster.say(node, Reads(1, eventual, (Range(b"k", b"l"), Range(b"k001"))))
    cluster.say(node, Reads(2, eventual, (Range(b"k001"),)))
    heard: list[object] = []
    turns = 0
    while len(heard) < 2 and turns < 1_000:
        turns += 1
        cluster.replicas[node].tick(cluster.now)
        turn(cluster, node)
        heard += cluster.heard(node)
    short, long = heard
    assert isinstance(short, ReadResults) and short.call == 2
    assert isinstance(long, LongAnswer)
    answer = msgspec.msgpack.decode(b"".join(long.pieces), type=ReadResults)
    assert (answer.call, answer.results) == (1, [whole, *short.results])
    assert turns > 2 * KEYS // 20, "as many to encode as to read"
    assert not cluster.replicas[node]._unserved


def test_keys_that_are_dead_by_now_count_where_the_past_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is live, and all have to be looked at."""
    for module in (ranges, reading):
        monkeypatch.setattr(module, "STEP_KEYS", 8)
    monkeypatch.setattr(reading, "KEYS_PER_TURN", 16)
    cluster = filled_cluster()
    node, leader = cluster.follower, cluster.leader
    replica = cluster.replicas[node]
    whole = replica.machine.store.range(Range(b"k", b"l"))
    cluster.ask(leader, Writes(0, 2, 0, (DeleteRange(b"k", b"l"),)), ticks=KEYS)
    assert replica.machine.store.range(ALL).count == 0
    assert isinstance(whole, RangeResult)
    replica._keys_left = 16
    cluster.say(node, Reads(1, eventual, (Range(b"k", b"l", revision=whole.revision),)))
    turns = 0
    while not (heard := cluster.heard(node)) and turns < 1_000:
        turns += 1
        replica.tick(cluster.now)
        turn(cluster, node)
    (long,) = heard
    assert isinstance(long, LongAnswer)
    (result,) = msgspec.msgpack.decode(b"".join(long.pieces), type=ReadResults).results
    assert isinstance(result, RangeResult) and (result.kvs, result.count) == (whole.kvs, KEYS)
    assert turns > 2 * KEYS // 20, "as many to encode as to read"
