"""Connections between servers that break and come back at once: writes go on, and nobody is elected for it."""

import itertools
from pathlib import Path

import pytest
from real_cluster import Load, until, verified

from troth.server.local import LocalCluster
from troth.torture.cluster import TrothCluster

pytestmark = pytest.mark.integration

FLAPS = 25


def counted(cluster: LocalCluster) -> tuple[int, int]:
    """How often the servers have connected to each other, and how many elections they have held."""
    dumps = [server.dump() for server in cluster.servers.values()]
    return sum(each["peers"]["connects"] for each in dumps), sum(each["node"]["elections"] for each in dumps)


@pytest.mark.parametrize("whose", ["all", "the leader's to one follower"])
def test_connections_that_flap_cause_no_election_and_writes_go_on(tmp_path: Path, whose: str) -> None:
    # Patience that a busy test machine does not try; the hint "its process is gone" would not wait for it.
    system = TrothCluster(3, tmp_path, election_timeout_ms=5_000)
    system.start()
    try:
        cluster = system._cluster
        leader = cluster.leader()
        term = cluster.servers[leader].status().term
        followers = [name for name in cluster.names if name != leader]
        pairs = set(itertools.permutations(cluster.names, 2))
        if whose != "all":
            pairs = {(leader, followers[0]), (followers[0], leader)}
        before, held = counted(cluster)
        with Load(cluster.url) as load:
            for _ in range(FLAPS):
                load.wait_more(20)
                system.partition(pairs, reset=False)
                system.partition((), reset=True)
            load.wait_more(100)
        until(lambda: all(server.status().leader for server in cluster.servers.values()))
        after, held_after = counted(cluster)
        assert after - before >= FLAPS, "the connections have really been broken"
        assert {server.status().term for server in cluster.servers.values()} == {term}
        assert cluster.leader() == leader
        assert held_after == held
        verified(cluster, load)
    finally:
        system.stop()
