"""Servers and clients of one machine, told loopback addresses: what they really talk over."""

from collections import Counter
from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, until, verified

import troth

pytestmark = pytest.mark.integration


def taken(address: str) -> int:
    """How many connections there are by the shortcut to *address*."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    connected = Counter(row[7] for row in rows if len(row) == 8 and row[5] == "03")
    return connected[f"@troth/{address}"]


def test_peers_and_clients_take_the_shortcut_and_a_death_is_seen_at_once() -> None:
    # Patience that nobody would sit out here: whoever is elected was told of the death.
    with cluster_of(3, election_timeout_ms=6_000) as cluster:
        configs = {name: server.config for name, server in cluster.servers.items()}
        until(lambda: all(taken(config.peer_address) == 2 for config in configs.values()))
        with Load(cluster.url) as load:
            load.wait_more(20)
            old = cluster.leader()
            assert taken(configs[old].client_address) >= 1
            cluster.kill(old)
            load.wait_more(20)
            assert taken(configs[old].peer_address) == 0
            cluster.restart(old)
            until(lambda: taken(configs[old].peer_address) == 2)
        verified(cluster, load)


def test_servers_that_shall_not_offer_it_are_reached_over_tcp() -> None:
    with cluster_of(3, tcp_only=True) as cluster, cluster.connect() as client:
        client.put("a", "1")
        for server in cluster.servers.values():
            assert taken(server.config.peer_address) == taken(server.config.client_address) == 0


@pytest.mark.parametrize("tcp_only", [False, True])
def test_registers_take_it_as_well(tcp_only: bool) -> None:
    with cluster_of(1, tcp_only=tcp_only) as cluster:
        address = cluster.servers["n1"].config.client_address
        with troth.PaxosClient([address], found=True) as registers:
            registers.put("a", "1")
            assert (taken(address) > 0) is not tcp_only
