"""Servers come and go under load."""

from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, until, verified

from troth.server.ending import EXIT_REMOVED
from troth.server.local import LocalCluster

pytestmark = pytest.mark.integration


def voters(cluster: LocalCluster, name: str) -> set[str]:
    return {peer.member.name for peer in cluster.servers[name].status().peers if peer.voter}


@pytest.mark.usefixtures("consensus")
def test_servers_are_added_and_removed_under_load() -> None:
    with cluster_of(1) as cluster:
        cluster.add_server()
        until(lambda: len(voters(cluster, cluster.leader())) == 2)
        with Load(cluster.url) as load:
            for count in (3, 4):
                name = cluster.add_server()
                assert name == f"n{count}"
                load.wait_more(20)
                until(lambda count=count: len(voters(cluster, cluster.leader())) == count, why=f"{count} voters")
            cluster.remove_server("n1")
            until(lambda: voters(cluster, cluster.leader()) == {"n2", "n3", "n4"})
            load.wait_more(50)
        verified(cluster, load)


def test_a_server_that_joined_survives_restarts(tmp_path: Path) -> None:
    with cluster_of(3, data_dir=tmp_path) as cluster:
        with Load(cluster.url) as load:
            name = cluster.add_server("late")
            until(lambda: "late" in voters(cluster, cluster.leader()))
            cluster.kill(name)
            load.wait_more(50)
            cluster.restart(name)
            until(lambda: cluster.servers[name].status().leader)
        verified(cluster, load)
    with cluster_of(3, data_dir=tmp_path) as cluster:
        assert "late" in cluster.names
        verified(cluster, load)


@pytest.mark.usefixtures("consensus")
def test_a_wiped_server_comes_back_as_a_new_one(tmp_path: Path) -> None:
    """Follow the advice that IdentityLost gives: remove, then join with an empty directory."""
    with cluster_of(3, data_dir=tmp_path) as cluster:
        with Load(cluster.url) as load:
            victim = next(name for name in cluster.names if name != cluster.leader())
            cluster.kill(victim)
            for file in (tmp_path / victim).iterdir():
                file.unlink()
            cluster.remove_server(victim)
            cluster.add_server(victim)
            until(lambda: victim in voters(cluster, cluster.leader()))
            load.wait_more(50)
        verified(cluster, load)


@pytest.mark.parametrize("consensus", ["raft", "paxos"])
def test_a_removed_server_says_so_and_stops(tmp_path: Path, consensus: str) -> None:
    with cluster_of(3, data_dir=tmp_path, consensus=consensus) as cluster:
        victim = next(name for name in cluster.names if name != cluster.leader())
        server = cluster.servers[victim]
        with cluster.connect() as client:
            client.remove_member(victim)
        until(lambda: server.exitcode == EXIT_REMOVED, within_s=10)
        assert "was removed from the cluster" in cluster.log_file(victim).read_text()
        cluster.restart(victim)  # it has heard it in its last life, and hears it again in each
        until(lambda: server.exitcode == EXIT_REMOVED, within_s=10)
        with cluster.connect() as client:
            client.put("a", "b")


def test_a_leader_that_was_removed_says_so_and_stops() -> None:
    with cluster_of(3) as cluster:
        victim = cluster.leader()
        with Load(cluster.url) as load:
            with cluster.connect() as client:
                client.remove_member(victim)
            until(lambda: cluster.servers[victim].exitcode == EXIT_REMOVED, within_s=10)
            load.wait_more(50)
        del cluster.servers[victim], cluster._addresses[victim]
        verified(cluster, load)
