"""What a driver that sleeps between ticks relies on: none of those that it leaves out would have done anything."""

import pytest
from replica_cluster import Cluster

from troth.ids import Tick
from troth.kv.requests import Compact, Put, Range
from troth.models import bounded, linearizable
from troth.replica.effects import NOTHING
from troth.replica.protocol import ClientMessage, FetchSnapshot, Reads, WatchCreate, Writes


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.ask(made.leader, Writes(0, 1, 0, (Put(b"x", b"old"),)))
    made.step(10)
    return made


def test_until_a_follower_loses_its_patience_time_changes_nothing(cluster: Cluster) -> None:
    replica = cluster.replicas[cluster.follower]
    until = replica.asleep_until()
    assert until > cluster.now + 5
    for now in range(cluster.now + 1, until):
        replica.tick(Tick(now))
        assert replica.take_effects() is NOTHING
    replica.tick(until)
    assert replica.take_effects().send, "it asks whether it could win"
    assert replica.asleep_until() <= until


def test_a_leader_does_not_sleep(cluster: Cluster) -> None:
    assert cluster.replicas[cluster.leader].asleep_until() <= cluster.now


@pytest.mark.parametrize(
    "message",
    [
        Writes(0, 1, 0, (Put(b"x", b"new"),)),
        Reads(1, linearizable, (Range(b"x"),)),
        Reads(1, bounded(revisions=0), (Range(b"x"),)),
        FetchSnapshot(1),
        WatchCreate(1, b"x", progress_notify=True),
    ],
    ids=["write", "read", "question", "snapshot", "watch"],
)
def test_whoever_has_something_under_way_that_time_may_end_does_not_sleep(
    cluster: Cluster, message: ClientMessage
) -> None:
    follower = cluster.follower
    cluster.say(follower, message)
    cluster.replicas[follower].take_effects()
    assert cluster.replicas[follower].asleep_until() <= cluster.now


def test_a_server_that_can_not_vote_yet_does_not_sleep() -> None:
    cluster = Cluster(amnesiacs=[3])
    cluster.step_until(lambda: bool(cluster.leader))
    cluster.isolate(cluster.ids[2])
    assert cluster.replicas[cluster.ids[2]].asleep_until() <= cluster.now


def test_a_follower_sleeps_when_the_past_that_was_compacted_is_freed(cluster: Cluster) -> None:
    for number in range(3):
        cluster.ask(cluster.leader, Writes(0, 1, 0, (Put(b"x", b"%d" % number),)))
    cluster.ask(cluster.leader, Writes(0, 1, 0, (Compact(4),)))
    cluster.step(10)
    replica = cluster.replicas[cluster.follower]
    assert not replica.machine.store.has_garbage
    assert replica.asleep_until() > cluster.now
