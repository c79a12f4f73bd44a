"""kill -9 and SIGSTOP of any server at any time: what was acknowledged stays, and service goes on."""

import random

import pytest
from real_cluster import Load, cluster_of, until, verified

from troth.errors import RequestError

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("consensus")
@pytest.mark.parametrize("transport", ["tcp", "pipe"])
def test_acknowledged_writes_survive_kill_9_of_any_server(transport: str) -> None:
    chance = random.Random(1)
    with cluster_of(3, transport=transport) as cluster:
        with Load(cluster.url) as load:
            for turn in range(6):
                victim = cluster.leader() if turn % 2 == 0 else chance.choice(cluster.names)
                load.wait_more(50)
                cluster.kill(victim)
                load.wait_more(50)
                cluster.restart(victim)
                until(lambda: all(server.status().leader for server in cluster.servers.values()))
        verified(cluster, load)
        assert load.refused == 0, "writes in flight are answered or retried, not refused"


@pytest.mark.usefixtures("consensus")
def test_a_paused_leader_is_replaced_and_joins_again() -> None:
    with cluster_of(3) as cluster:
        with Load(cluster.url) as load:
            load.wait_more(50)
            old = cluster.leader()
            cluster.pause(old)
            load.wait_more(50)
            new = until(lambda: (found := cluster.leader()) != old and found)
            cluster.resume(old)
            load.wait_more(50)
            until(lambda: cluster.servers[old].status().role == "follower")
            assert new != old
        verified(cluster, load)


def test_a_paused_follower_disturbs_nobody() -> None:
    with cluster_of(3) as cluster:
        with Load(cluster.url) as load:
            leader = cluster.leader()
            term = cluster.servers[leader].status().term
            follower = next(name for name in cluster.names if name != leader)
            for _ in range(3):
                cluster.pause(follower)
                load.wait_more(300)
                cluster.resume(follower)
                load.wait_more(300)
            assert cluster.servers[leader].status().term == term, "no election was needed"
        verified(cluster, load)


@pytest.mark.usefixtures("consensus")
def test_a_restart_of_all_keeps_everything() -> None:
    with cluster_of(3) as cluster:
        with Load(cluster.url) as load:
            load.wait_more(200)
            for name in cluster.names:
                cluster.kill(name)
            for name in cluster.names:
                cluster.restart(name, wait=False)
            for server in cluster.servers.values():
                server.wait_ready()
            load.wait_more(50)
        verified(cluster, load)


@pytest.mark.usefixtures("consensus")
def test_without_a_quorum_nothing_is_acknowledged_and_with_one_again() -> None:
    with cluster_of(3) as cluster:
        leader = cluster.leader()
        others = [name for name in cluster.names if name != leader]
        for name in others:
            cluster.kill(name)
        with cluster.connect(timeout=1.0) as client:
            with pytest.raises(RequestError):
                client.put("lonely", "write")
        for name in others:
            cluster.restart(name)
        with cluster.connect(timeout=10.0) as client:
            client.put("together", "again")
            assert client.get("together").value == b"again"


@pytest.mark.parametrize("transport", ["tcp", "pipe"])
def test_a_cluster_is_stopped_and_started_again_from_its_directory(transport: str, tmp_path: object) -> None:
    with cluster_of(3, transport=transport, data_dir=tmp_path) as cluster:
        with Load(cluster.url) as load:
            load.wait_more(100)
    with cluster_of(1, transport=transport, data_dir=tmp_path) as cluster:
        assert cluster.names == ("n1", "n2", "n3"), "the cluster that is there counts"
        verified(cluster, load)
