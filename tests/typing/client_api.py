"""What type checkers must see of the public API. Checked by mypy (test_typing.py), never run."""

import asyncio
from typing import assert_type

import troth
from troth import aio
from troth.aio import AsyncClient
from troth.client.lease import Lease
from troth.client.registers.replies import AcceptorView, RegisterReply
from troth.client.replica import Replica
from troth.client.replies import DeleteReply, GetReply, OperationReply, PutReply, RangeReply, TxnReply
from troth.client.watch import Watch
from troth.kv.requests import Compare, Event, KeyValue, Put
from troth.models import LevelName, ReadLevel
from troth.replica.protocol import PeerView, ServerStatus, StateHash


class Counter(troth.Replicated):
    def __init__(self) -> None:
        self.n = 0

    @troth.command
    def add(self, by: int) -> int:
        self.n += by
        return self.n


class Marked(troth.Replicated):
    @troth.replicated
    def add(self, by: int) -> int:
        return by


@troth.replicated
class Plain:
    @troth.command
    def go(self) -> None: ...


def registers() -> None:
    client = troth.PaxosClient(["h:1", "h:2", "h:3"], timeout=1, prepare=2, accept=2)
    assert_type(client.put("k", b"v"), RegisterReply)
    assert_type(client.get(b"k", within_s=1.0).value, bytes | None)
    assert_type(client.cas("k", None, "v").succeeded, bool)
    assert_type(client.change("k", lambda held: held), RegisterReply)
    assert_type(client.acceptors(), list[AcceptorView])
    assert_type(troth.PaxosClient.local("d", acceptors=3), troth.PaxosClient)
    client.change("k", 7)  # type: ignore[arg-type]


async def asynchronous_registers() -> None:
    async with aio.PaxosClient("troth://h:1,h:2,h:3") as client:
        assert_type(client, aio.PaxosClient)
        assert_type(await client.propose("k", "v"), RegisterReply)
        assert_type(await client.keys("k"), list[bytes])


async def asynchronous() -> None:
    client = await aio.connect("troth://h:1", timeout=1, session=True, read_from="any")
    assert_type(client, AsyncClient)
    assert_type(client.put("k", b"v", prev_kv=True), asyncio.Future[PutReply])
    assert_type((await client.put(b"k", "v")).prev_kv, KeyValue | None)
    assert_type(await client.get("k", level=troth.bounded(seconds=1)), GetReply)
    assert_type((await client.get("k")).value, bytes | None)
    assert_type((await client.get("k")).level, LevelName)
    assert_type(await client.range(prefix="p", limit=1), RangeReply)
    assert_type(await client.delete("a", "b"), DeleteReply)
    reply = await client.txn([troth.value("k") == "v"], [troth.Put("k", "w")], [troth.Get("k")])
    assert_type(reply, TxnReply)
    assert_type(reply.responses, list[OperationReply])
    assert_type(await asyncio.gather(client.put("a"), client.get("a")), tuple[PutReply, GetReply])
    async with client.watch(prefix="p") as watch:
        assert_type(watch, Watch)
        async for events in watch:
            assert_type(events, list[Event])
    async with client.lease(5) as lease:
        assert_type(lease, Lease)
    assert_type(await client.lease(5), Lease)
    assert_type(await client.session().get("k"), GetReply)
    assert_type(await client.status(), list[ServerStatus])
    assert_type(await client.members(), list[PeerView])
    assert_type(await client.hash(), dict[str, StateHash])
    counter = await Counter.on(client, "c")
    assert_type(counter, Replica[Counter])
    assert_type(await counter.read(lambda c: c.n), int)


def synchronous() -> None:
    with troth.connect("troth://h:1") as client:
        assert_type(client, troth.Client)
        assert_type(client.put("k", "v"), PutReply)
        assert_type(client.get("k").value, bytes | None)
        assert_type(client.txn(success=[troth.Delete("k")]), TxnReply)
        for events in client.watch("k"):
            assert_type(events, list[Event])
        counter = Counter.on(client, "c")
        assert_type(counter, Counter)
        assert_type(counter.add(1), int)
        assert_type(counter.read(lambda c: c.n), int)


def annotated(lease: troth.Lease, watch: troth.Watch, session: troth.Session) -> troth.GetReply:
    assert_type(lease.is_over, bool)
    lease.on_lost(lambda: None)
    for events in watch:
        assert_type(events, list[troth.Event])
    assert_type(session.range(prefix="p").kvs, list[troth.KeyValue])
    try:
        assert_type(session.put("k", "v"), troth.PutReply)
    except troth.TrothError as error:
        assert_type(error.code, str)
    return session.get("k")


async def annotated_asynchronous(client: AsyncClient) -> tuple[aio.Lease, aio.Watch, aio.Session]:
    return await client.lease(5), client.watch("k"), client.session()


def words() -> None:
    assert_type(troth.value("k") == "v", Compare)
    assert_type(troth.version("k") != 1, Compare)
    assert_type(troth.mod_revision("k") > 1, Compare)
    assert_type(troth.Put("k", "v"), Put)
    assert_type(troth.linearizable, ReadLevel)
    assert_type(Plain(), Plain)


def wrong(client: troth.Client) -> None:
    client.put("k", 5)  # type: ignore[arg-type]
    client.get("k", level="linearizable")  # type: ignore[arg-type]
    client.txn([True])  # type: ignore[list-item]
    client.watch("k", start_revision="1")  # type: ignore[arg-type]
    Counter().add("x")  # type: ignore[arg-type]
    assert_type(Marked().add(1), int)
