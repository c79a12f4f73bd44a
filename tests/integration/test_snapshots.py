"""Followers that fell behind the log, and states larger than it."""

from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, replicas_agree, until, verified

pytestmark = pytest.mark.integration

SMALL = {"snapshot_entries": 2_500, "snapshot_log_bytes": 1 << 20}


def test_a_follower_behind_the_log_gets_a_snapshot(tmp_path: Path) -> None:
    with cluster_of(3, data_dir=tmp_path, **SMALL) as cluster:
        with Load(cluster.url, outstanding=4) as load:
            load.wait_more(100)
            leader = cluster.leader()
            behind = next(name for name in cluster.names if name != leader)
            cluster.kill(behind)
            last = cluster.servers[leader].status().last_index
            until(
                lambda: cluster.servers[cluster.leader()].status().first_index > last,
                within_s=60,
                why="a log that has dropped what the dead follower lacks",
            )
            cluster.restart(behind)
            until(lambda: cluster.servers[behind].status().applied_index > last)
        verified(cluster, load)
        assert cluster.servers[behind].dump()["snapshots"]["received"] > 0
        for name in cluster.names:
            cluster.kill(name)
        for name in cluster.names:
            cluster.restart(name, wait=False)
        for server in cluster.servers.values():
            server.wait_ready()
        verified(cluster, load)


@pytest.mark.usefixtures("consensus")
def test_a_new_server_starts_from_a_snapshot() -> None:
    with cluster_of(1, **SMALL) as cluster:
        with Load(cluster.url, outstanding=4) as load:
            until(lambda: cluster.servers["n1"].status().first_index > 1, within_s=60, why="a compacted log")
            name = cluster.add_server()
            until(lambda: cluster.servers[name].status().applied_index > 1)
        verified(cluster, load)
        assert cluster.servers[name].dump()["snapshots"]["received"] > 0


@pytest.mark.slow
def test_a_hundred_megabytes() -> None:
    """100 MB of values: written, replicated, snapshotted, given to a follower that was away, and read back."""
    size, count = 64 << 10, 1600
    with cluster_of(3) as cluster, cluster.connect(timeout=60.0) as client:
        away = next(name for name in cluster.names if name != cluster.leader())
        for number in range(count):
            if number == count // 4:
                cluster.kill(away)
            client.put(f"big-{number:05}", number.to_bytes(4, "big") * (size // 4))
        cluster.restart(away)
        until(lambda: cluster.servers[away].status().revision > count, within_s=60, why="the follower's return")
        replicas_agree(cluster, within_s=60)
        for number in range(0, count, 100):
            assert client.get(f"big-{number:05}").value == number.to_bytes(4, "big") * (size // 4)
        assert client.range(prefix="big-", count_only=True).count == count
