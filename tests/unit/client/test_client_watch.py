"""Watches: every event once and in order, whatever happens to servers and connections."""

import asyncio
import random

import pytest
from fake_server import asynchronous, running, until

from troth import aio
from troth.client import watch as watch_module
from troth.errors import InvalidRequest, Overloaded, Unavailable, UsageError, WatchCompacted
from troth.kv.requests import Event, EventType, KeyValue
from troth.replica.protocol import WatchCanceled, WatchCreate, WatchEvents


@asynchronous
async def test_a_watch_shows_what_happens_after_it_began() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "before")
        async with client.watch("a", prev_kv=True) as watch:
            await client.put("b", "another key")
            await client.put("a", "1")
            await client.delete("a")
            seen = await take(watch, 2)
        assert [(event.type, event.kv.value) for event in seen] == [(EventType.PUT, b"1"), (EventType.DELETE, b"")]
        assert seen[0].prev_kv is not None and seen[0].prev_kv.value == b"before"


@asynchronous
async def test_a_watch_can_begin_in_the_past_and_be_filtered() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        first = await client.put("p/a", "1")
        await client.put("p/b", "2")
        await client.delete("p/a")
        async with client.watch(prefix="p/", start_revision=first.revision, no_delete=True) as watch:
            assert [event.kv.key for event in await take(watch, 2)] == [b"p/a", b"p/b"]
        async with client.watch(prefix="p/", start_revision=first.revision, no_put=True) as watch:
            assert [event.type for event in await take(watch, 1)] == [EventType.DELETE]


@asynchronous
async def test_the_events_of_one_revision_come_together() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for key in "abc":
            await client.put(key, "1")
        async with client.watch(prefix="") as watch:
            await client.delete("a", "z")
            events = await watch.__anext__()
            assert [event.kv.key for event in events] == [b"a", b"b", b"c"]
            assert len({event.kv.mod_revision for event in events}) == 1
            assert watch.revision == events[0].kv.mod_revision


@asynchronous
async def test_a_closed_watch_ends_its_iteration() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with client.watch("a") as watch:
            waiting = asyncio.ensure_future(watch.next_events())
            await asyncio.sleep(0)
            with pytest.raises(UsageError, match="two consumers"):
                await watch.next_events()
        assert await waiting is None
        assert [events async for events in watch] == []
        await client.put("a", "1")
        assert len(cluster.hub) == 0


@asynchronous
async def test_a_compacted_start_is_told_with_where_to_begin() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for number in range(5):
            await client.put("a", str(number))
        await client.compact(5)
        with pytest.raises(WatchCompacted) as caught:
            async for _ in client.watch("a", start_revision=2):
                pass
        assert caught.value.compact_revision == 5
        async with client.watch("a", start_revision=caught.value.compact_revision) as watch:
            assert [event.kv.value for event in await take(watch, 2)] == [b"3", b"4"]


@asynchronous
async def test_an_impossible_watch_is_refused() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        with pytest.raises(InvalidRequest):
            async with client.watch("b", "a"):
                pass


@asynchronous
async def test_one_watch_too_many_is_told_as_overload() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        cluster.hub._watches_max = 1
        async with client.watch("a"):
            with pytest.raises(Overloaded, match="too many"):
                async with client.watch("b"):
                    pass


@asynchronous
async def test_a_watch_that_the_server_gives_up_goes_on() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with client.watch("a") as watch:
            await client.put("a", "1")
            await take(watch, 1)
            (peer,) = cluster.servers[0].peers
            cluster.hub.cancel_owner(peer.owner)
            peer.send(WatchCanceled(watch.number, 0, 0, "too slow"))
            await client.put("a", "2")
            assert [event.kv.value for event in await take(watch, 1)] == [b"2"]


@asynchronous
async def test_a_slow_consumer_is_not_sent_more_than_its_buffer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BUFFER_EVENTS_MAX", 10)
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with client.watch("a") as watch:
            for number in range(100):
                await client.put("a", str(number))
            assert watch.is_paused and len(cluster.hub) == 0
            seen = await take(watch, 100)
            assert [event.kv.value for event in seen] == [b"%d" % number for number in range(100)]
            starts = [message for message in cluster.servers[0].received if isinstance(message, WatchCreate)]
            assert len(starts) > 1 and len({message.watch for message in starts}) == len(starts)


@asynchronous
async def test_watches_follow_the_leader() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        async with client.watch("a") as watch:
            await client.put("a", "1")
            cluster.elect(cluster.servers[1])
            await until(lambda: watch.connection is not None and watch.connection.server == "n2")
            await client.put("a", "2")
            assert [event.kv.value for event in await take(watch, 2)] == [b"1", b"2"]


@pytest.mark.parametrize("seed", range(4))
def test_no_event_is_lost_or_repeated_while_servers_come_and_go(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BUFFER_EVENTS_MAX", 20)

    @asynchronous
    async def run() -> None:
        rng = random.Random(seed)
        async with running(3) as cluster, await aio.connect(cluster.url, timeout=10) as client:
            async with client.watch(prefix="k") as watch:

                async def write() -> None:
                    for number in range(300):
                        await client.put(f"k{number % 7}", str(number))

                async def trouble() -> None:
                    while len(seen) < 300:
                        await asyncio.sleep(rng.uniform(0, 0.01))
                        server = rng.choice(cluster.servers)
                        match rng.randrange(3):
                            case 0:
                                cluster.elect(server)
                            case 1:
                                server.kill()
                                await server.start()
                            case _:
                                for peer in list(server.peers):
                                    peer.cut()

                seen: list[Event] = []
                troubling = asyncio.ensure_future(trouble())
                writing = asyncio.ensure_future(write())
                while len(seen) < 300:
                    seen += await watch.__anext__()
                    if rng.random() < 0.1:
                        await asyncio.sleep(rng.uniform(0, 0.02))
                await asyncio.gather(troubling, writing)
            assert [event.kv.value for event in seen] == [b"%d" % number for number in range(300)]

    run()


async def take(watch: "watch_module.Watch", count: int) -> list[Event]:
    """The next *count* events."""
    events: list[Event] = []
    while len(events) < count:
        events += await watch.__anext__()
    assert len(events) == count
    return events


@asynchronous
async def test_a_watch_that_nobody_begins_is_given_up() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=0.2) as client:
        cluster.servers[0].stop()
        with pytest.raises(Unavailable, match="begun the watch"):
            await client.watch("a")


@asynchronous
async def test_a_block_that_is_cancelled_before_it_began_leaves_no_watch() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        cluster.servers[0].stop()

        async def watch() -> None:
            async with client.watch("a"):
                raise AssertionError("no server answers")

        task = asyncio.create_task(watch())
        await until(lambda: bool(client._watches._all))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client._watches._all


@asynchronous
async def test_what_a_watch_has_shown_is_not_shown_again_though_it_is_sent_again() -> None:
    """It goes on at another server, which may tell from further back; what is new among it is shown."""
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with client.watch(prefix="k") as watch:
            await client.put("k1", "1")
            (shown,) = await take(watch, 1)
            watch.on_events(WatchEvents(1, shown.kv.mod_revision, [shown]))
            newer = Event(EventType.PUT, KeyValue(b"k2", 3, shown.kv.mod_revision + 1, 1, b"2"))
            watch.on_events(WatchEvents(1, newer.kv.mod_revision, [shown, newer]))
            watch.on_events(WatchEvents(1, newer.kv.mod_revision, [shown, newer]))
            last = Event(EventType.PUT, KeyValue(b"k3", 4, shown.kv.mod_revision + 2, 1, b"3"))
            watch.on_events(WatchEvents(1, last.kv.mod_revision, [last]))
            assert [event.kv.key for event in await take(watch, 2)] == [b"k2", b"k3"]
