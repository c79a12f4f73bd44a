"""Watch a prefix: every change once and in order, from any revision, over the death of a server."""

import asyncio

import troth


async def main(cluster: troth.LocalCluster) -> None:
    async with await troth.aio.connect(cluster.url) as client:
        watch = await client.watch(prefix="jobs/", prev_kv=True)
        await asyncio.gather(client.put("jobs/1", "queued"), client.put("jobs/2", "queued"))
        await client.put("jobs/1", "running")

        # The watch goes on at another server, and nothing is lost or shown twice.
        cluster.kill(cluster.leader())
        await client.delete("jobs/2")

        seen = []
        async for events in watch:
            for event in events:
                before = event.prev_kv.value if event.prev_kv else None
                print(event.kv.mod_revision, event.type.name, event.kv.key, before, "->", event.kv.value)
                seen.append((event.type.name, event.kv.key))
            if len(seen) == 4:
                break
        await watch.close()
        assert [name for name, _ in seen] == ["PUT", "PUT", "PUT", "DELETE"]

        # A new watch can begin in the past.
        async with client.watch("jobs/1", start_revision=1) as past:
            print("from the beginning:", [event.kv.value for event in await anext(past)])


with troth.LocalCluster(3) as cluster:
    asyncio.run(main(cluster))
