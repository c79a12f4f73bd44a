"""Money between accounts: eight workers transfer at once with transactions, and the sum never changes."""

import asyncio
import random

import troth

ACCOUNTS, START = 4, 100


async def transfer(client: troth.aio.AsyncClient, source: str, target: str, amount: int) -> bool:
    """Move *amount*, or nothing when there is too little; try again when somebody else was faster."""
    while True:
        a, b = await asyncio.gather(client.get(source), client.get(target))
        if int(a.value or 0) < amount:
            return False
        reply = await client.txn(
            [troth.mod_revision(source) == a.kv.mod_revision, troth.mod_revision(target) == b.kv.mod_revision],
            [
                troth.Put(source, str(int(a.value) - amount)),
                troth.Put(target, str(int(b.value) + amount)),
            ],
        )
        if reply.succeeded:
            return True


async def main(url: str) -> None:
    chance = random.Random(1)
    async with await troth.aio.connect(url) as client:
        await asyncio.gather(*(client.put(f"account/{n}", str(START)) for n in range(ACCOUNTS)))

        async def worker() -> int:
            done = 0
            for _ in range(25):
                source, target = chance.sample(range(ACCOUNTS), 2)
                done += await transfer(client, f"account/{source}", f"account/{target}", chance.randrange(1, 60))
            return done

        done = sum(await asyncio.gather(*(worker() for _ in range(8))))
        balances = {kv.key.decode(): int(kv.value) for kv in (await client.range(prefix="account/")).kvs}
        print(f"{done} transfers: {balances}, sum {sum(balances.values())}")
        assert sum(balances.values()) == ACCOUNTS * START


with troth.LocalCluster(3) as cluster:
    asyncio.run(main(cluster.url))
