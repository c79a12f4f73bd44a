"""The measurement itself, however little time it is given."""

from fake_server import asynchronous, running

from troth import aio
from troth.cli.bench import _measure


@asynchronous
async def test_a_run_of_no_time_at_all_still_measures() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        rate = await _measure(client, "put", 4, 1e-12, b"v")
        assert rate.per_second > 0 and rate.latency_ms_p50 > 0
