"""A server that waits until the cluster is told of it: `troth member add`, `Client.add_member`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from real_cluster import cluster_of, until

from troth.cli.certs import parse_server, write_set
from troth.cli.main import cli
from troth.errors import UsageError
from troth.server.config import ServerConfig
from troth.server.free_port import free_port
from troth.server.local import LocalCluster
from troth.server.process import RaftServer

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def started(data: Path, name: str = "n4", **settings: Any) -> Iterator[RaftServer]:
    """A server of its own, which may have to wait for its cluster."""
    ports = {each: f"127.0.0.1:{free_port()}" for each in ("client_address", "peer_address")}
    config = ServerConfig(name=name, data_dir=str(data / name), **ports, **settings)
    server = RaftServer(config, log_file=str(data / f"{name}.log"))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.close()


def troth(url: str, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--url", url])


def listed(cluster: LocalCluster) -> dict[str, dict[str, Any]]:
    """The members by name."""
    peers = json.loads(troth(cluster.url, "member", "list", "-o", "json").output)
    return {peer["name"]: peer for peer in peers}


def listens(data: Path, server: RaftServer) -> None:
    log = data / f"{server.name}.log"
    until(lambda: log.exists() and "waiting to be added" in log.read_text())


@pytest.mark.usefixtures("consensus")
def test_a_waiting_server_is_added_gets_its_vote_and_survives_a_restart(tmp_path: Path) -> None:
    with cluster_of(3) as cluster, cluster.connect() as client:
        settings = {"consensus": client.status()[0].consensus, "await_add": True}
        with started(tmp_path, **settings) as server:
            client.put("a", "1")
            listens(tmp_path, server)
            node_id = client.add_member(client_address=server.config.client_address)
            server.wait_ready()
            assert server.status().node_id == node_id
            until(lambda: [peer.voter for peer in server.status().peers].count(True) == 4)
            until(lambda: len(client.status()) == 4, within_s=20)
            hashes = client.hash()
            assert len({(each.revision, each.hash) for each in hashes.values()}) == 1
            assert client.add_member(client_address=server.config.client_address) == node_id, "it is one already"
            server.kill()
        with RaftServer(server.config) as again:
            until(lambda: again.status().leader)
            assert again.status().node_id == node_id


def test_the_command_line_adds_a_learner_and_promotes_it(tmp_path: Path) -> None:
    with cluster_of(3) as cluster, started(tmp_path, await_add=True) as server:
        listens(tmp_path, server)
        early = troth(f"troth://{server.config.client_address}", "get", "a", "--timeout", "1")
        assert "server n4 is starting, or waits for its cluster" in early.stderr
        for word in ("added ", "n4 is a member already, a learner; to give it a vote: troth member promote n4"):
            added = troth(cluster.url, "member", "add", server.config.peer_address, "--learner")
            assert (added.exit_code, added.stderr) == (0, "") and added.output.startswith(word)
        server.wait_ready()
        member = listed(cluster)["n4"]
        assert (member["role"], member["client_address"]) == ("learner", server.config.client_address)
        until(lambda: troth(cluster.url, "member", "promote", "n4").exit_code == 0)
        assert listed(cluster)["n4"]["role"] == "voter"


def test_who_would_never_be_a_member_is_not_added(tmp_path: Path) -> None:
    """Who else is not: unit/client/test_client_newcomer.py."""
    with (
        cluster_of(1) as cluster,
        cluster.connect() as client,
        started(tmp_path, "n1", await_add=True) as namesake,
    ):
        listens(tmp_path, namesake)
        with pytest.raises(UsageError, match="has a server called n1 already"):
            client.add_member(client_address=namesake.config.client_address)
        assert [peer.member.name for peer in client.members()] == ["n1"]


def test_a_clients_certificate_is_enough_to_add_a_server(tmp_path: Path) -> None:
    write_set(tmp_path, [parse_server("n1=127.0.0.1,localhost")], days=1)
    own = {"tls_ca": str(tmp_path / "ca.pem")}
    own |= {"tls_cert": str(tmp_path / "n1.pem"), "tls_key": str(tmp_path / "n1.key")}
    with cluster_of(1, **own) as cluster, started(tmp_path, await_add=True, **own) as server:
        listens(tmp_path, server)
        files = "&".join(
            f"{key}={tmp_path / file}"
            for key, file in {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}.items()
        )
        url = f"troth+tls://{cluster.servers['n1'].config.client_address}?{files}"
        added = troth(url, "member", "add", server.config.client_address)
        assert (added.exit_code, added.stderr) == (0, "")
        server.wait_ready()
