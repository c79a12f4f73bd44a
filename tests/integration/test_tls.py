"""Mutual TLS between servers and with clients, with the certificates that `troth certs` makes."""

import asyncio
import os
import signal
import socket
import ssl
from pathlib import Path

import pytest
from real_cluster import cluster_of, until

import troth
from troth.cli.certs import parse_server, write_set
from troth.errors import TrothError, WrongCluster
from troth.runtime.genesis import probe

pytestmark = pytest.mark.integration


def test_a_cluster_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    write_set(tmp_path, [parse_server("n1=localhost")], days=1)
    write_set(tmp_path / "foreign", [parse_server("n1=localhost")], days=1)
    files = {"tls_ca": "ca.pem", "tls_cert": "n1.pem", "tls_key": "n1.key"}
    with cluster_of(3, **{setting: str(tmp_path / name) for setting, name in files.items()}) as cluster:
        addresses = cluster.url.removeprefix("troth+tls://").partition("?")[0]

        def url(directory: Path, name: str = "client") -> str:
            return (
                f"troth+tls://{addresses}?ca={tmp_path / 'ca.pem'}"
                f"&cert={directory / f'{name}.pem'}&key={directory / f'{name}.key'}"
            )

        with troth.PaxosClient(url(tmp_path), timeout=10.0) as registers:
            registers.put("secret", "in a register")
            assert registers.get("secret").value == b"in a register"
        with troth.connect(url(tmp_path), timeout=10.0) as client:
            client.put("secret", "kept")
            cluster.kill(cluster.leader())
            client.put("secret", "kept still")
            assert client.get("secret").value == b"kept still"
        with cluster.connect() as client:
            client.put("through", "the servers' own certificate")
        distrustful = url(tmp_path).replace(f"ca={tmp_path}", f"ca={tmp_path}/foreign")
        for stranger, told in (
            (f"troth://{addresses}", "does it want TLS"),
            (url(tmp_path / "foreign"), "does it want another certificate"),
            (distrustful, "certificate is not accepted"),
        ):
            with pytest.raises(TrothError, match=told):
                with troth.connect(stranger, timeout=1.0) as client:
                    client.get("secret")
            with pytest.raises(TrothError):
                troth.PaxosClient(stranger, timeout=1.0).get("secret")
        until(lambda: sum(server.is_alive for server in cluster.servers.values()) == 2)


def own_certificate(address: str, files: Path) -> str:
    """When the certificate ends that the server at *address* shows."""
    host, _, port = address.rpartition(":")
    context = client_context(files)
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return str((connection.getpeercert() or {})["notAfter"])


def client_context(files: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files / "ca.pem")
    context.load_cert_chain(files / "client.pem", files / "client.key")
    return context


def settings(files: Path, name: str = "n1") -> dict[str, str]:
    return {
        "tls_ca": str(files / "ca.pem"),
        "tls_cert": str(files / f"{name}.pem"),
        "tls_key": str(files / f"{name}.key"),
    }


def test_a_clients_certificate_does_not_open_the_peer_port(tmp_path: Path) -> None:
    write_set(tmp_path, [parse_server("n1=localhost")], days=1)
    with cluster_of(1, **settings(tmp_path)) as cluster:
        address = cluster.servers["n1"].config.peer_address
        with pytest.raises(WrongCluster, match="names no host, so it is a client's"):
            asyncio.run(probe(address, client_context(tmp_path)))


def test_a_server_with_a_clients_certificate_does_not_start(tmp_path: Path) -> None:
    write_set(tmp_path, [parse_server("n1=localhost")], days=1)
    with pytest.raises(TrothError, match=r"accepts .* as a server's certificate"):
        with cluster_of(1, **settings(tmp_path, "client")):
            pass


def test_certificates_are_exchanged_while_servers_run(tmp_path: Path) -> None:
    """SIGHUP: who comes then sees the new one, and nobody is disturbed who is there."""
    write_set(tmp_path, [parse_server("n1=localhost")], days=1)
    with cluster_of(3, **settings(tmp_path)) as cluster, cluster.connect() as client:
        client.put("a", "1")
        servers = cluster.servers.values()
        before = {own_certificate(each.config.client_address, tmp_path) for each in servers}
        for kind in ("pem", "key"):
            (tmp_path / f"n1.{kind}").unlink()
        write_set(tmp_path, [parse_server("n1=localhost")], days=99)
        for each in servers:
            os.kill(each.pid, signal.SIGHUP)
            for address in (each.config.client_address, each.config.peer_address):
                until(lambda address=address: own_certificate(address, tmp_path) not in before)
        assert client.get("a").value == b"1"
        name = cluster.leader()
        cluster.kill(name)
        cluster.restart(name)
        client.put("a", "2")
        assert all(each.is_alive for each in cluster.servers.values())
