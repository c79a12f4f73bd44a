"""A disk that hangs (no error, no answer) on a real server: the loop goes on, and a leader of that kind steps down."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, until, verified

import troth
from troth.server.local import LocalCluster

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that is loaded before libc, and makes fdatasync hang on request."""
    library = tmp_path_factory.mktemp("shim") / "hanging_disk.so"
    source = Path(__file__).with_name("hanging_disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def cluster(shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("TROTH_HANG", str(tmp_path))
    with cluster_of(3) as running:
        monkeypatch.delenv("LD_PRELOAD")
        yield running


@contextlib.contextmanager
def hanging(cluster: LocalCluster, name: str, directory: Path) -> Iterator[None]:
    switch = directory / str(cluster.servers[name].pid)
    switch.touch()
    try:
        yield
    finally:
        switch.unlink()


def test_a_leader_whose_disk_hangs_steps_down_and_writes_go_on(cluster: LocalCluster, tmp_path: Path) -> None:
    old = cluster.leader()
    with Load(cluster.url) as load:
        load.wait_more(100)
        with hanging(cluster, old, tmp_path):
            until(lambda: (leader := cluster.leader()) != old and leader, within_s=15, why="another leader")
            load.wait_more(200)
            # Its loop goes on: it answers, and knows that it does not lead.
            assert cluster.servers[old].status().role == "follower"
            with cluster.connect(read_from=old) as client:
                assert client.range(prefix="load-", limit=1, level=troth.eventual).count > 0
        load.wait_more(100)
    assert "disk hangs" in cluster.log_file(old).read_text()
    verified(cluster, load)


def test_a_follower_whose_disk_hangs_holds_nobody_up(cluster: LocalCluster, tmp_path: Path) -> None:
    leader = cluster.leader()
    victim = next(name for name in cluster.names if name != leader)
    term = cluster.servers[leader].status().term
    with Load(cluster.url) as load:
        load.wait_more(100)
        with hanging(cluster, victim, tmp_path):
            load.wait_more(500, within_s=15)
        load.wait_more(100)
    verified(cluster, load)
    assert {server.status().term for server in cluster.servers.values()} == {term}, "nobody was elected"


def test_a_server_whose_disk_hangs_for_ever_still_ends_when_it_is_told_to(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    victim = next(name for name in cluster.names if name != cluster.leader())
    with Load(cluster.url) as load, hanging(cluster, victim, tmp_path):
        load.wait_more(100)
        os.environ.pop("LD_PRELOAD", None)
        cluster.servers[victim].stop()
        assert not cluster.servers[victim].is_alive
        load.wait_more(100)
