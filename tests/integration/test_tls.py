"""Mutual TLS between servers and with clients, with the certificates that `troth certs` makes."""

from pathlib import Path

import pytest
from real_cluster import cluster_of, until

import troth
from troth.cli.certs import parse_server, write_set
from troth.errors import TrothError

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


def test_a_clients_certificate_does_not_open_the_peer_port(tmp_path: Path) -> None:
    """Servers that present a client's certificate never find each other."""
    write_set(tmp_path, [parse_server("n1=localhost")], days=1)
    files = {"tls_ca": "ca.pem", "tls_cert": "client.pem", "tls_key": "client.key"}
    with cluster_of(3, **{setting: str(tmp_path / name) for setting, name in files.items()}) as cluster:
        with pytest.raises(TrothError):
            cluster.leader(timeout_s=2.0)
