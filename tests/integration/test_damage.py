"""A rotted log on a real server: it refuses to start and says why; told to salvage, it fetches what it lost."""

from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, verified

import troth
from troth.cli.verdict import judge
from troth.errors import TrothError

pytestmark = pytest.mark.integration


def rot_the_middle(directory: Path) -> None:
    """Flip bits of an early log record, far before the end of what was synced."""
    segment = min(directory.glob("wal-*.log"))
    with segment.open("r+b") as file:
        data = file.read()
        used = len(data.rstrip(b"\0"))
        file.seek(used // 2)
        file.write(bytes(byte ^ 0xFF for byte in data[used // 2 : used // 2 + 16]))


@pytest.mark.usefixtures("consensus")
def test_a_damaged_log_is_refused_then_salvaged_and_made_whole_by_the_others() -> None:
    with cluster_of(3) as cluster:
        with Load(cluster.url) as load:
            load.wait_more(2000)
            victim = next(name for name in cluster.names if name != cluster.leader())
            cluster.servers[victim].stop()
            rot_the_middle(cluster.data_dir / victim)
            with pytest.raises(TrothError, match=r"damaged: wal-.*Entries from \d+ to \d+.*--salvage"):
                cluster.restart(victim)
            load.wait_more(200)
            cluster._settings["salvage"] = True
            cluster.restart(victim)
            load.wait_more(200)
        verified(cluster, load)
        # It counts again: with one of the others gone, nothing can be decided without it.
        other = next(name for name in cluster.names if name not in (victim, cluster.leader()))
        cluster.kill(other)
        with Load(cluster.url, prefix="after") as load:
            load.wait_more(100)
        cluster.restart(other)
        verified(cluster, load)
        log = cluster.log_file(victim).read_text()
        assert "the log was damaged" in log


@pytest.mark.usefixtures("consensus")
def test_the_only_server_of_a_cluster_that_was_salvaged_says_why_it_waits_and_serves_what_is_left() -> None:
    with cluster_of(1) as cluster:
        with Load(cluster.url) as load:
            load.wait_more(2000)
        (name,) = cluster.names
        cluster.servers[name].stop()
        rot_the_middle(cluster.data_dir / name)
        cluster._settings["salvage"] = True
        cluster.servers[name].close()
        cluster.restart(name)
        status = cluster.servers[name].status()
        assert status.role == "recovering"
        assert "save what is left" in judge([status]).sentence
        assert status.last_index > 0, "what stands before the damage is kept"
        assert "no other server with a vote has it" in cluster.log_file(name).read_text()
        while status.applied_index < status.commit_index:
            status = cluster.servers[name].status()
        with cluster.connect(timeout=2) as client:
            left = client.range(prefix="", level=troth.eventual).kvs
            assert 0 < len(left) < len(load.acked), "nothing is left, or nothing was damaged"
            assert all(load.acked[kv.key] == kv.value for kv in left)
            with pytest.raises(TrothError):
                client.put("a", "b")
