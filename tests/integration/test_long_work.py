"""A deletion of very many keys on real servers: nobody is elected for it, and reads are answered meanwhile."""

import asyncio

import pytest
import uvloop
from real_cluster import cluster_of, replicas_agree

import troth
from troth.server.local import LocalCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KEYS = 120_000
AT_ONCE = 10_000


async def load_and_delete(cluster: LocalCluster) -> int:
    """How many reads were answered while the keys were deleted."""
    async with await troth.aio.connect(cluster.url, timeout=120) as client:
        for first in range(0, KEYS, AT_ONCE):
            await asyncio.gather(
                *(client.put(f"many/{number:06d}", "v") for number in range(first, first + AT_ONCE))
            )
        assert (await client.range(prefix="many/", count_only=True)).count == KEYS
        deletion = client.delete(prefix="many/")
        answered = 0
        async with await troth.aio.connect(cluster.url, timeout=120, read_from=cluster.leader()) as reader:
            while not deletion.done():
                seen = (await reader.range(prefix="many/", count_only=True, level=troth.eventual)).count
                assert seen in (0, KEYS), "a deletion is seen whole or not at all"
                answered += 1
        assert (await deletion).deleted == KEYS
        return answered


def test_many_keys_are_deleted_without_an_election_and_reads_go_on_meanwhile() -> None:
    # Patience that a busy test machine does not try; a server that is silent for long would still lose its office.
    with cluster_of(3, election_timeout_ms=3_000) as cluster:
        cluster.leader()
        terms = {server.status().term for server in cluster.servers.values()}
        assert uvloop.run(load_and_delete(cluster)) > 3
        assert {server.status().term for server in cluster.servers.values()} == terms
        replicas_agree(cluster)
