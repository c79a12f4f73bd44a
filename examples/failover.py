"""Kill the leader in the middle of a counter's life: no increment is lost, none happens twice."""

import asyncio
import time

import troth

INCREMENTS = 2000


async def increment(client: troth.aio.AsyncClient) -> None:
    """One increment. The client's session makes a retried transaction apply once."""
    while True:
        now = await client.get("counter")
        number = int(now.value or 0) if now.kv else 0
        unchanged = troth.mod_revision("counter") == (now.kv.mod_revision if now.kv else 0)
        if (await client.txn([unchanged], [troth.Put("counter", str(number + 1))])).succeeded:
            return


async def main(cluster: troth.LocalCluster) -> None:
    async with await troth.aio.connect(cluster.url, timeout=20) as client:
        longest, last = 0.0, time.perf_counter()
        for number in range(INCREMENTS):
            if number == INCREMENTS // 2:
                leader = cluster.leader()
                cluster.kill(leader)
                last = time.perf_counter()
            await increment(client)
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        counter = int((await client.get("counter")).value or 0)
        print(f"{INCREMENTS} increments, counter {counter}; killed {leader}, longest wait {longest * 1000:.0f} ms")
        assert counter == INCREMENTS

        cluster.restart(leader)
        async with asyncio.timeout(20):
            while len(await client.status()) < 3:
                await asyncio.sleep(0.05)
        print("all three are up again:", sorted(status.name for status in await client.status()))


with troth.LocalCluster(3) as cluster:
    asyncio.run(main(cluster))
