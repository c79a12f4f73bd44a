"""Reading and writing through the client: what goes on the wire, and what callers get."""

import asyncio
from typing import Any

import pytest
from fake_server import asynchronous, running

import troth
from troth import aio
from troth.errors import InvalidRequest, KeyNotFound, Overloaded, Unavailable, UsageError
from troth.kv.requests import Put, SortOrder, SortTarget
from troth.models import LevelName
from troth.replica.protocol import WRITES_COMMANDS_MAX


@asynchronous
async def test_the_revision_seen_never_falls() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        client._reads.on_revision(100)
        assert (await client.put("a", "1")).revision < 100 == client.seen_revision


@asynchronous
async def test_what_is_on_its_way_is_not_acknowledged() -> None:
    """Else the cluster would forget an answer that is still waited for, and take a retry for a new write."""
    async with running() as cluster, await aio.connect(cluster.url) as client:
        (server,) = cluster.servers
        await client.put("warm", "")
        server.stop()
        first = client.put("a", "1")
        await asyncio.sleep(0)
        second = client.put("b", "2")
        await asyncio.sleep(0)
        server.go_on()
        await asyncio.gather(first, second)
        await client.put("c", "3")
        batches = server.writes()[1:]
        assert [(batch.first_seq, batch.acked_below) for batch in batches] == [(2, 2), (3, 2), (4, 4)]


@asynchronous
async def test_an_answer_may_be_larger_than_any_request() -> None:
    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        for number in range(20):
            cluster.store.apply_batch((Put(b"k%d" % number, bytes(1 << 20)),))
        assert len((await client.range(prefix="k")).kvs) == 20
        assert len(await asyncio.gather(*(client.get(f"k{number}") for number in range(20)))) == 20


@asynchronous
async def test_what_was_put_can_be_read() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        first = await client.put("k", "one")
        again = await client.put(b"k", b"two", prev_kv=True)
        assert again.revision == first.revision + 1
        assert again.prev_kv is not None and again.prev_kv.value == b"one"
        reply = await client.get("k")
        assert (reply.value, reply.revision, reply.server) == (b"two", again.revision, "n1")
        assert reply.level is LevelName.LINEARIZABLE and again.level is LevelName.LINEARIZABLE
        old = await client.get("k", revision=first.revision)
        assert old.value == b"one"
        absent = await client.get("nothing")
        assert absent.kv is None and absent.value is None


@asynchronous
async def test_ranges_are_selected_as_asked() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await asyncio.gather(
            *(client.put(f"a/{number}", str(9 - number)) for number in range(5)), client.put("b", "")
        )
        reply = await client.range(prefix="a/", sort_target=SortTarget.VALUE, sort_order=SortOrder.ASCEND, limit=2)
        assert [kv.key for kv in reply.kvs] == [b"a/4", b"a/3"]
        assert reply.count == 5 and reply.more
        assert (await client.range("a/1", "a/3")).count == 2
        assert (await client.range(prefix="")).count == 6
        assert (await client.range(prefix="a/", count_only=True)).kvs == []
        gone = await client.delete(prefix="a/", prev_kv=True)
        assert gone.deleted == 5 and len(gone.prev_kvs) == 5
        assert (await client.delete("a/1")).deleted == 0


@asynchronous
async def test_a_transaction_runs_the_branch_that_its_comparisons_choose() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        create = ([troth.version("k") == 0], [troth.Put("k", "v")], [troth.Get("k")])
        first = await client.txn(*create)
        assert first.succeeded and first.responses[0].revision == first.revision
        second = await client.txn(*create)
        assert not second.succeeded
        found = second.responses[0]
        assert isinstance(found, type(await client.range("k"))) and found.kvs[0].value == b"v"
        third = await client.txn(
            [troth.value("k") == "v", troth.mod_revision("k") > 1, troth.lease("k") == 0, troth.value("k") != "w"],
            [troth.Delete("k"), troth.Txn(success=[troth.Put("n", "1")])],
        )
        assert third.succeeded and (await client.get("n")).value == b"1"


@asynchronous
async def test_one_turn_of_the_loop_is_one_frame() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        server = cluster.servers[0]
        await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(100)))
        assert [len(batch.commands) for batch in server.writes()] == [100]
        await asyncio.gather(
            *(client.get(f"k{number}") for number in range(50)),
            *(client.get(f"k{number}", level=troth.eventual) for number in range(20)),
            *(client.get(f"k{number}") for number in range(5)),
        )
        assert sorted((frame.level.name, len(frame.requests)) for frame in server.reads()) == [
            (LevelName.LINEARIZABLE, 55),
            (LevelName.EVENTUAL, 20),
        ]


@asynchronous
async def test_many_commands_are_split_at_the_wire_s_limits() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await asyncio.gather(*(client.put(f"k{number}", "") for number in range(2 * WRITES_COMMANDS_MAX + 1)))
        await asyncio.gather(*(client.put(f"k{number}", b"x" * 500_000) for number in range(5)))
        sizes = [len(batch.commands) for batch in cluster.servers[0].writes()]
        assert sizes == [WRITES_COMMANDS_MAX, WRITES_COMMANDS_MAX, 1, 4, 1]
        await asyncio.gather(*(client.get(f"k{number}") for number in range(3000)))
        assert sum(len(frame.requests) for frame in cluster.servers[0].reads()) == 3000


@asynchronous
async def test_a_bad_request_fails_alone() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        good, bad, also_good = await asyncio.gather(
            client.put("a", "1"), client.put("b", ignore_value=True), client.put("c", "3"), return_exceptions=True
        )
        assert isinstance(bad, KeyNotFound) and bad.text == "etcdserver: key not found"
        assert not isinstance(good, BaseException) and not isinstance(also_good, BaseException)
        with pytest.raises(troth.errors.FutureRevision):
            await client.get("a", revision=99)
        with pytest.raises(InvalidRequest):
            await client.put("big", b"x" * (3 << 20))
        await client.compact(also_good.revision)
        with pytest.raises(troth.errors.Compacted):
            await client.get("a", revision=1)


@asynchronous
async def test_misuse_is_told_before_anything_is_sent() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        with pytest.raises(UsageError, match="str or bytes"):
            client.put("k", 5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="level= takes"):
            client.get("k", level="eventual")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="takes the number of a lease"):
            client.put("k", "v", lease=client)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="takes the number of a lease"):
            troth.Put("k", "v", lease=client)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="prefix= stands alone"):
            client.range("k", prefix="p")
        with pytest.raises(UsageError, match="comparisons such as"):
            client.txn(compare=[True])  # type: ignore[list-item]
        with pytest.raises(UsageError, match="operations such as"):
            client.txn(success=["put"])  # type: ignore[list-item]
        with pytest.raises(UsageError, match="to a number"):
            _ = troth.version("k") == "1"
        with pytest.raises(UsageError, match="no server is called"):
            await client.status("n9")
        assert cluster.servers[0].writes() == []


@pytest.mark.slow
@asynchronous
async def test_more_writes_than_may_wait_are_refused() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=60) as client:
        gate = cluster.servers[0].answer_after = asyncio.Event()
        waiting = [client.put("k", "") for _ in range(65_536)]
        with pytest.raises(Overloaded, match="await some"):
            await client.put("one too many", "")
        gate.set()
        cluster.servers[0].answer_after = None
        assert len(await asyncio.gather(*waiting)) == 65_536
        assert (await client.put("k", "")).revision == 65_538


@asynchronous
async def test_a_session_reads_what_it_wrote_and_its_token_carries_that_on() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        session = client.session()
        written = await session.put("k", "v")
        assert session.seen_revision == written.revision
        assert (await session.get("k")).value == b"v"
        levels = [frame.level for server in cluster.servers for frame in server.reads()]
        assert [(level.name, level.seen_revision) for level in levels] == [(LevelName.SESSION, written.revision)]
        continued = client.session(session.token)
        assert continued.seen_revision == written.revision
        assert (await continued.range(prefix="")).count == 1
        async with await aio.connect(cluster.url, read_from="n3") as other:
            await other.session(session.token).get("k")
            assert cluster.servers[2].reads()[-1].level.seen_revision == written.revision
        for wrong in ("", "abc", "c1", "c1-", "c1-0", "zz-1"):
            with pytest.raises(UsageError, match="not a session token"):
                client.session(wrong)
        with pytest.raises(UsageError, match="cluster c2"):
            client.session("c2-5")


@asynchronous
async def test_a_bare_session_read_brings_along_what_the_client_has_seen() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        written = await client.put("k", "v")
        await asyncio.gather(client.get("k", level=troth.session), client.get("k", level=troth.sequential))
        floors = {frame.level.name: frame.level.seen_revision for frame in cluster.servers[0].reads()}
        assert floors == {LevelName.SESSION: written.revision, LevelName.SEQUENTIAL: written.revision}
        assert client.seen_revision == written.revision


@asynchronous
async def test_weaker_reads_go_where_the_client_reads_from() -> None:
    async with running(3) as cluster:
        async with await aio.connect(cluster.url) as client:
            for _ in range(10):
                await client.get("k", level=troth.eventual)
            counts = [len(server.reads()) for server in cluster.servers]
            assert counts[0] == 0 and sorted(counts) == [0, 0, 10], "one follower, always the same"
        async with await aio.connect(cluster.url, read_from="leader") as client:
            assert (await client.get("k", level=troth.bounded(seconds=1))).server == "n1"
        async with await aio.connect(cluster.url, read_from="n3") as client:
            assert (await client.get("k", level=troth.eventual)).server == "n3"
            assert (await client.get("k", level=troth.bounded(revisions=3))).server == "n3"
        with pytest.raises(UsageError, match="no server is called 'n7'"):
            await aio.connect(cluster.url, read_from="n7")


@asynchronous
async def test_a_server_to_read_from_is_looked_for_before_it_is_said_not_to_be() -> None:
    async with running(3) as cluster:
        first, last = cluster.servers[0], cluster.servers[2]
        async with await aio.connect(f"troth://{first.address}", read_from="n3") as client:
            assert (await client.get("k", level=troth.eventual)).server == "n3"
        last.stop()
        asyncio.get_running_loop().call_later(0.05, last.go_on)
        with pytest.raises(UsageError, match="no server is called 'n7'"):
            await aio.connect(cluster.url, read_from="n7")


@asynchronous
async def test_reads_from_a_server_that_may_come_say_that_it_has_not() -> None:
    async with running(3) as cluster:
        cluster.servers[2].kill()
        async with await aio.connect(cluster.url, read_from="n7", timeout=0.3) as client:
            with pytest.raises(Unavailable, match="no server is called 'n7'"):
                await client.get("k", level=troth.eventual)


@pytest.mark.slow
@asynchronous
async def test_more_reads_than_may_wait_are_refused() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        gate = cluster.servers[0].answer_after = asyncio.Event()
        waiting = [client.get("k") for _ in range(65_536)]
        with pytest.raises(Overloaded, match="await some"):
            await client.get("k")
        gate.set()
        cluster.servers[0].answer_after = None
        assert len(await asyncio.gather(*waiting)) == 65_536
        assert (await client.get("k")).value is None


@asynchronous
async def test_values_of_wrong_types_are_refused_before_they_are_sent() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        wrong: Any
        lease = await client.lease(10)
        for wrong in (lease, "7", 1.5, None, 1 << 70):
            with pytest.raises(UsageError):
                client.put("k", "v", lease=wrong)
        for wrong in ("7", 1.5, None, 1 << 70):
            with pytest.raises(UsageError):
                client.get("k", revision=wrong)
            with pytest.raises(UsageError):
                client.range("k", limit=wrong)
            with pytest.raises(UsageError):
                client.txn([], [troth.Put("k", "v", lease=wrong)])
            with pytest.raises(UsageError):
                client.delete("k", prev_kv=wrong)
        wrong = 1
        with pytest.raises(UsageError):
            client.watch("k", prev_kv=wrong)
        wrong = 1.5
        with pytest.raises(UsageError):
            await client.lease(wrong)
        wrong = "eventual"
        with pytest.raises(UsageError):
            client.range("k", level=wrong)
        assert (await client.put("k", "v", lease=lease.id)).revision == 2
        assert len(cluster.servers[0].peers) == 1
