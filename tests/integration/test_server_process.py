"""`RaftServer`: a process that can be asked, stopped, paused and killed, and that never outlives its parent."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from real_cluster import cluster_of, until

import troth
from troth.errors import IdentityLost, NotLeader, StorageError, Unavailable, UsageError
from troth.ids import NodeId
from troth.server.local import LocalCluster
from troth.server.process import RaftServer

pytestmark = pytest.mark.integration


def alone(path: Path, **settings: object) -> RaftServer:
    addresses = {"client_address": f"unix:{path}/c.sock", "peer_address": f"unix:{path}/p.sock"}
    return RaftServer(**{"name": "n1", "data_dir": str(path / "n1"), **addresses, **settings})


def test_a_server_announces_itself_and_what_happens_to_it(tmp_path: Path) -> None:
    server = alone(tmp_path)
    assert not server.ready.is_set()
    with server, troth.connect(f"troth://unix:{tmp_path}/c.sock") as client:
        assert server.ready.is_set() and server.is_alive
        client.put("a", "1")
        status = server.status()
        assert (status.name, status.role, status.node_id) == ("n1", "leader", server.node_id)
        seen = {}

        def told() -> bool:
            while (event := server.next_event()) is not None:
                seen[event.name] = event
            return {"ready", "leader", "commit"} <= seen.keys()

        until(told)
        assert seen["commit"].server == "n1" and seen["commit"].facts["index"] >= 1
        assert server.dump()["disk"]["syncs"] >= 1
    assert server.exitcode == 0


def test_sigterm_stops_gracefully_and_the_directory_opens_again(tmp_path: Path) -> None:
    with alone(tmp_path), troth.connect(f"troth://unix:{tmp_path}/c.sock") as client:
        client.put("a", "1")
    first = alone(tmp_path)
    first.start()
    first.wait_ready()
    first.terminate()
    assert first.join(60) == 0
    first.close()
    with alone(tmp_path), troth.connect(f"troth://unix:{tmp_path}/c.sock") as client:
        assert client.get("a").value == b"1"


def test_a_leader_hands_over_when_it_is_stopped() -> None:
    with cluster_of(3) as cluster:
        leader = cluster.leader()
        term = cluster.servers[leader].status().term
        cluster.servers[leader].stop()
        assert "leadership" not in cluster.log_file(leader).read_text()
        after = cluster.leader()
        assert after != leader and cluster.servers[after].status().term > term


def test_leadership_is_transferred_on_demand() -> None:
    with cluster_of(3) as cluster:
        leader = cluster.leader()
        target = next(name for name in cluster.names if name != leader)
        with pytest.raises(NotLeader):
            cluster.servers[target].transfer()
        until(lambda: len(cluster.servers[leader].status().peers) == 3)
        cluster.servers[leader].transfer(cluster.node_id(target))
        until(lambda: cluster.leader() == target)


def test_a_paused_server_does_not_answer_and_goes_on_later(tmp_path: Path) -> None:
    with alone(tmp_path) as server:
        server.pause()
        with pytest.raises(Unavailable, match="paused"):
            server.status(timeout_s=0.1)
        server.resume()
        assert server.status().name == "n1"


def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    with alone(tmp_path):
        second = alone(tmp_path, client_address=f"unix:{tmp_path}/c2.sock")
        second.start()
        with pytest.raises(StorageError, match="in use by process"):
            second.wait_ready()
        assert second.exitcode == 3
        second.close()
    wrong = alone(tmp_path, name="n2")
    wrong.start()
    with pytest.raises(IdentityLost, match="belongs to server n1"):
        wrong.wait_ready()
    assert wrong.exitcode == 4
    wrong.close()
    outside = alone(tmp_path, client_address="0.0.0.0:7001")
    outside.start()
    with pytest.raises(UsageError, match="troth certs"):
        outside.wait_ready()
    outside.close()


def test_wrong_use_is_told() -> None:
    with pytest.raises(UsageError, match="unexpected keyword"):
        RaftServer(name="n1", data_dir="/tmp/x", colour="red")
    server = RaftServer(name="n1", data_dir="/tmp/x")
    with pytest.raises(UsageError, match="not started"):
        server.status()
    server.close()
    with pytest.raises(UsageError, match="1 to 63 servers, not 0"):
        LocalCluster(0)
    with pytest.raises(UsageError, match="must be one of tcp, pipe"):
        LocalCluster(3, transport="pigeon")


def test_a_wiped_server_of_a_cluster_refuses_to_start(tmp_path: Path) -> None:
    with cluster_of(3, data_dir=tmp_path) as cluster, cluster.connect() as client:
        client.put("a", "1")
        victim = next(name for name in cluster.names if name != cluster.leader())
        cluster.kill(victim)
        for file in (tmp_path / victim).iterdir():
            file.unlink()
        with pytest.raises(IdentityLost, match="member remove"):
            cluster.restart(victim)
        assert cluster.servers[victim].exitcode == 4
        client.put("a", "2")


SCRIPT = """
    import sys
    from troth.server.local import LocalCluster

    cluster = LocalCluster(3, transport=sys.argv[1])
    cluster.start()
    with cluster.connect() as client:
        client.put("a", "1")
    cluster.pause("n2")
    print(cluster.data_dir, *(server.pid for server in cluster.servers.values()), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("transport", ["tcp", "pipe"])
def test_servers_die_with_their_parent_and_scripts_need_no_guard(tmp_path: Path, transport: str) -> None:
    """The script has no ``if __name__ == "__main__"``, is killed, and one of its servers stands still meanwhile."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    parent = subprocess.Popen(
        [sys.executable, str(script), transport], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        directory, *pids = parent.stdout.readline().split()
        assert len(pids) == 3
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        until(lambda: not any(lives(int(pid)) for pid in pids), why="the end of all servers")
    finally:
        parent.kill()
        parent.wait(10)
        for stream in (parent.stdin, parent.stdout):
            if stream is not None:
                stream.close()
    for path in sorted(Path(directory).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path(directory).rmdir()


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_three_servers_find_each_other_by_their_addresses(tmp_path: Path) -> None:
    """What `troth serve --initial-cluster` does on three machines: nobody tells anybody an id."""
    peers = {name: f"unix:{tmp_path}/{name}.peer" for name in ("a", "b", "c")}
    servers = {
        name: RaftServer(
            name=name,
            data_dir=str(tmp_path / name),
            peer_address=address,
            client_address=f"unix:{tmp_path}/{name}.client",
            initial_cluster=peers,
        )
        for name, address in peers.items()
    }
    try:
        for name, server in servers.items():
            server.start()
            if name != "c":
                with pytest.raises(Unavailable):
                    server.wait_ready(0.3)
        for server in servers.values():
            server.wait_ready()
        ids = {server.status().cluster_id for server in servers.values()}
        assert len(ids) == 1 and ids != {0}
        with troth.connect(f"troth://unix:{tmp_path}/a.client,unix:{tmp_path}/b.client") as client:
            client.put("a", "1")
            assert {peer.member.name for peer in client.members()} == {"a", "b", "c"}
        servers["b"].kill()
        servers["b"].join()
        for file in (tmp_path / "b").iterdir():
            file.unlink()
        again = RaftServer(servers["b"].config)
        again.start()
        with pytest.raises(IdentityLost, match=r"troth member remove b --url troth://unix:/(?s:.*)--join unix:/"):
            again.wait_ready()
        again.close()
    finally:
        for server in servers.values():
            server.close()


def test_transfer_to_nobody_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path) as server:
        until(lambda: server.status().role == "leader")
        with pytest.raises(Unavailable):
            server.transfer(NodeId(12345))


def test_metrics_of_a_real_server_are_served(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (
        alone(tmp_path, metrics_address=address, log_format="json"),
        troth.connect(f"troth://unix:{tmp_path}/c.sock") as client,
    ):
        client.put("a", "1")
        client.get("a")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        assert "troth_is_leader 1.0" in lines
        assert 'troth_operations_total{kind="commands"} 1.0' in lines
        assert 'troth_operations_total{kind="read_linearizable"} 1.0' in lines
        assert any(line.startswith("troth_disk_syncs_total ") and float(line.split()[1]) > 1 for line in lines)
        with urllib.request.urlopen(f"http://{address}/health", timeout=10) as answer:
            assert answer.status == 200


def test_servers_restarted_all_at_once_hear_each_other_over_pipes() -> None:
    """A server that is still starting has nowhere to put a new socket; it must not be told of one before it has."""
    with cluster_of(3, transport="pipe") as cluster:
        for name in cluster.names:
            cluster.kill(name)
        for name in cluster.names:
            cluster.restart(name, wait=False)
        with cluster.connect() as client:
            leader = cluster.leader()
            until(lambda: [p.active for p in client.status(leader)[0].peers if not p.leader] == [True, True])


def test_ctrl_c_while_servers_start_is_left_to_their_parent(tmp_path: Path) -> None:
    """A terminal sends it to all; the child is in the middle of its imports then."""
    server = alone(tmp_path)
    server.start()
    while not server.ready.wait(0.005) and server.is_alive:
        os.kill(server.pid, signal.SIGINT)
    server.wait_ready()
    os.kill(server.pid, signal.SIGINT)
    assert server.status().name == "n1"
    server.stop()
    server.close()
