"""The client port over real sockets, with a node that echoes."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest
from msgspec import structs

from troth.errors import StorageError
from troth.ids import ClusterId, NodeId
from troth.kv.requests import Failure, KeyValue, RangeResult, Txn
from troth.models import LevelName
from troth.replica.effects import ClientId
from troth.replica.pieces import in_pieces
from troth.replica.protocol import (
    ClientMessage,
    Done,
    LeaderChanged,
    Ping,
    ReadResults,
    ServerMessage,
    SnapshotPart,
    Writes,
)
from troth.runtime.addresses import Address
from troth.runtime.disk_machine import DiskMachine, Worker
from troth.runtime.streams import Call, open_connection
from troth.server.acceptors import Registers
from troth.server.clients import ClientPort
from troth.wire.frames import frame
from troth.wire.handshake import VERSION, Hello, Rejected, Welcome, encode_greeting
from troth.wire.http import REASON

_decode = msgspec.msgpack.Decoder(ServerMessage).decode
_encode = msgspec.msgpack.encode


class EchoNode:
    def __init__(self) -> None:
        self.node_id, self.name, self.cluster_id = NodeId(1), "n1", ClusterId(77)
        self.port = ClientPort(node=self, connections_max=2, queue_bytes_max=1 << 20)
        self.heard: list[tuple[ClientId, ClientMessage, bytes]] = []
        self.gone: list[ClientId] = []
        self.paused: list[bool] = []

    def client_opened(self, client: ClientId) -> None:
        self.port.deliver([(client, LeaderChanged(1, NodeId(1), "here:1"))])

    def client_paused(self, client: ClientId, *, paused: bool) -> None:
        self.paused.append(paused)

    def on_client(self, client: ClientId, message: ClientMessage, raw: bytes) -> None:
        self.heard.append((client, message, raw))
        if isinstance(message, Ping):
            self.port.deliver([(client, Done(message.call))])

    def on_heard(self) -> None: ...

    def client_gone(self, client: ClientId) -> None:
        self.gone.append(client)


@contextlib.asynccontextmanager
async def serving(node: EchoNode) -> AsyncIterator[Address]:
    server = await asyncio.get_running_loop().create_server(node.port.accept, "127.0.0.1", 0)
    try:
        yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        node.port.close()


async def call(address: Address, hello: Hello | None = None) -> Call:
    made = Call(hello or Hello("client"))
    await open_connection(made, address)
    return made


async def test_a_client_is_welcomed_told_the_leader_and_answered() -> None:
    node = EchoNode()
    async with asyncio.timeout(5), serving(node) as address:
        client = await call(address)
        assert await client.greeting == Welcome(VERSION, ClusterId(77), NodeId(1), "n1")
        assert _decode(await client.next_body()) == LeaderChanged(1, NodeId(1), "here:1")
        body = _encode(Ping(5))
        client.send(body)
        assert _decode(await client.next_body()) == Done(5)
        assert node.heard == [(1, Ping(5), body)]
        client.transport.abort()
        while not node.gone:  # noqa: ASYNC110 - the kernel tells when
            await asyncio.sleep(0.001)
        assert node.gone == [1] and not node.port.connections


async def test_answers_of_one_turn_leave_in_one_write() -> None:
    node = EchoNode()
    async with asyncio.timeout(5), serving(node) as address:
        client = await call(address)
        await client.greeting
        await client.next_body()
        sent = node.port.counters.bytes_sent
        node.port.deliver([(1, Done(number)) for number in range(100)] + [(99, Done(0))])
        assert [_decode(await client.next_body()) for _ in range(100)] == [Done(number) for number in range(100)]
        assert node.port.counters.frames_sent == 101
        assert node.port.counters.bytes_sent == sent + sum(len(frame(_encode(Done(n)))) for n in range(100))
        client.transport.abort()


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello("client", version=0), "protocol"),
        (Hello("client", cluster_id=ClusterId(5)), "wrong_cluster"),
        (Hello("peer", cluster_id=ClusterId(77)), "protocol"),
    ],
)
async def test_who_can_not_be_served_is_told_why(hello: Hello, code: str) -> None:
    node = EchoNode()
    async with asyncio.timeout(5), serving(node) as address:
        answer = await (await call(address, hello)).greeting
        assert isinstance(answer, Rejected) and answer.code == code
        assert node.heard == [] and not node.port.connections


async def test_a_disk_without_room_for_an_acceptor_refuses_proposers_and_nobody_else(tmp_path: Path) -> None:
    failed: list[BaseException] = []
    tries: list[str] = []

    class Full(DiskMachine):
        def directory(self, path: str) -> Any:
            tries.append(path)
            raise StorageError("No space left on device")

    node = EchoNode()
    node.port.registers = Registers(str(tmp_path), machine=Full(), failed=failed.append, bytes_max=1 << 20)
    async with asyncio.timeout(5), serving(node) as address:
        for _ in range(2):
            answer = await (await call(address, Hello("register"))).greeting
            assert isinstance(answer, Rejected) and answer.code == "unavailable"
        assert isinstance(await (await call(address)).greeting, Welcome)
    assert (failed, len(tries)) == ([], 1)


async def test_an_acceptor_is_opened_beside_the_loop_which_serves_others_meanwhile(tmp_path: Path) -> None:
    """A new one is a few syncs, and a server that leads has heartbeats to send."""
    jobs: list[Callable[[], None]] = []

    class Busy(DiskMachine):
        def worker(self, name: str, on_failed: Callable[[BaseException], object]) -> Worker:
            if name != "troth-acceptor-opening":
                return super().worker(name, on_failed)
            return MagicMock(do=jobs.append)

    node, failed = EchoNode(), list[BaseException]()
    node.port = ClientPort(node=node, connections_max=20, queue_bytes_max=1 << 20)
    registers = node.port.registers = Registers(
        str(tmp_path), machine=Busy(), failed=failed.append, bytes_max=1 << 20
    )
    async with asyncio.timeout(5), serving(node) as address:
        proposers = [await call(address, Hello("register")) for _ in range(3)]
        hasty = await call(address, Hello("register"))
        assert isinstance(await (await call(address)).greeting, Welcome)
        assert len(jobs) == 1 and not any(proposer.greeting.done() for proposer in proposers)
        proposers.pop().transport.abort()
        hasty.transport.write(frame(encode_greeting(Hello("register"))))
        assert isinstance(await (await call(address)).greeting, Welcome)
        await asyncio.to_thread(jobs.pop())
        names = {answer.name for proposer in proposers if isinstance(answer := await proposer.greeting, Welcome)}
        assert names == {node.name}
        assert isinstance(await (await call(address, Hello("register"))).greeting, Welcome)
    registers.stop()
    assert failed == jobs == []


async def test_an_acceptor_that_is_opened_when_its_server_has_stopped_is_closed_again(tmp_path: Path) -> None:
    registers = Registers(str(tmp_path), machine=DiskMachine(), failed=MagicMock(), bytes_max=1 << 20)
    then = MagicMock()
    registers.open(then)
    registers.stop()
    await asyncio.sleep(0)
    assert registers.node is None and not then.called
    again = Registers(str(tmp_path), machine=DiskMachine(), failed=MagicMock(), bytes_max=1 << 20)
    assert again.node is not None, "nobody holds its directory"
    again.stop()


async def test_one_client_too_many_is_refused_and_room_is_given_again() -> None:
    node = EchoNode()
    async with asyncio.timeout(5), serving(node) as address:
        first, second = await call(address), await call(address)
        await asyncio.gather(first.greeting, second.greeting)
        third = await (await call(address)).greeting
        assert isinstance(third, Rejected) and third.code == "overloaded" and "clients_max" in third.text
        first.transport.abort()
        while len(node.port.connections) == 2:  # noqa: ASYNC110 - the kernel tells when
            await asyncio.sleep(0.001)
        fourth = await call(address)
        assert isinstance(await fourth.greeting, Welcome)
        second.transport.abort()
        fourth.transport.abort()


HELLO = frame(encode_greeting(Hello("client")))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 16,
        frame(b"\xc1"),
        HELLO + b"\xff" * 16,
        HELLO + frame(b"\xc1"),
        HELLO + frame(_encode([99, 1])),
        HELLO + frame(_encode([3, 0, 0, 0, "no commands"])),
        HELLO + frame(_encode(Ping(1))) + frame(b"\x93"),
    ],
)
async def test_garbage_costs_its_sender_the_connection_and_nobody_else(garbage: bytes) -> None:
    node = EchoNode()
    async with asyncio.timeout(5), serving(node) as address:
        good = await call(address)
        await good.greeting
        await good.next_body()
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(garbage)
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(1 << 16):
                pass
        writer.close()
        assert node.port.counters.garbage == 1
        good.send(_encode(Ping(9)))
        assert _decode(await good.next_body()) == Done(9)
        good.transport.abort()


async def test_a_client_that_does_not_read_is_paused_then_cut_off() -> None:
    node = EchoNode()
    async with asyncio.timeout(10), serving(node) as address:
        client = await call(address)
        await client.greeting
        client.transport.pause_reading()
        part = SnapshotPart(1, bytes(1 << 20), False)
        for _ in range(64):
            node.port.deliver([(1, part)])
            await asyncio.sleep(0)
        assert node.paused[:1] == [True]
        assert node.port.counters.cut_off == 1
        while not node.gone:  # noqa: ASYNC110 - the kernel tells when
            await asyncio.sleep(0.001)
        client.transport.abort()


async def test_one_answer_larger_than_the_bound_does_not_cut_its_client_off() -> None:
    node = EchoNode()
    async with asyncio.timeout(10), serving(node) as address:
        client = await call(address)
        await client.greeting
        await client.next_body()
        client.transport.pause_reading()
        large = SnapshotPart(1, bytes(12 << 20), False)
        node.port.deliver([(1, large)])
        node.port.deliver([(1, Done(2))])
        client.transport.resume_reading()
        assert _decode(await client.next_body()) == large
        assert _decode(await client.next_body()) == Done(2)
        assert node.port.counters.cut_off == 0
        client.transport.abort()


async def test_a_long_answer_in_several_pieces_does_not_cut_its_client_off() -> None:
    node, size = EchoNode(), 4 << 20
    async with asyncio.timeout(10), serving(node) as address:
        client = await call(address)
        await client.greeting
        await client.next_body()
        client.transport.pause_reading()
        result = RangeResult(5, [], 2)
        long = {place: bytearray(_encode([KeyValue(b"k", 1, 2, 3, bytes(size))])) for place in range(3)}
        node.port.deliver([(1, in_pieces(ReadResults(7, LevelName.SESSION, 9, [result] * 3), long))])
        assert node.port.counters.cut_off == 0
        client.transport.resume_reading()
        answer = _decode(await client.next_body())
        assert isinstance(answer, ReadResults) and len(answer.results) == 3
        client.transport.abort()


async def test_a_long_answer_is_one_frame_and_is_not_copied() -> None:
    """Each copy of hundreds of megabytes would hold the loop for as long as their making."""
    node = EchoNode()
    kvs = [KeyValue(b"k%d" % number, 1, 2, 3, bytes(1 << 20), number) for number in range(12)]
    plain = Failure("compacted", "no longer here")
    results: list[RangeResult | Failure] = [
        plain,
        RangeResult(5, kvs, 99, True),
        plain,
        RangeResult(6, kvs[:1], 1),
    ]
    whole = ReadResults(7, LevelName.SESSION, 9, results, 250)
    long = {
        place: bytearray(_encode(each.kvs)) for place, each in enumerate(results) if isinstance(each, RangeResult)
    }
    bare = [structs.replace(each, kvs=[]) if isinstance(each, RangeResult) else each for each in results]
    answer = in_pieces(structs.replace(whole, results=bare), long)
    async with asyncio.timeout(10), serving(node) as address:
        client = await call(address)
        await client.greeting
        await client.next_body()
        tracemalloc.start()
        node.port.deliver([(1, Done(1)), (1, answer), (1, Done(2))])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20
        heard = [_decode(await client.next_body()) for _ in range(3)]
        assert whole in heard and Done(1) in heard and Done(2) in heard
        assert node.port.counters.frames_sent == 4
        client.transport.abort()


@pytest.mark.parametrize("beside", [[], [Done(2)]])
async def test_an_answer_of_few_large_values_is_encoded_and_not_copied_again(beside: list[Done]) -> None:
    node, size = EchoNode(), 12 << 20
    async with asyncio.timeout(10), serving(node) as address:
        client = await call(address)
        await client.greeting
        await client.next_body()
        values = [KeyValue(b"k%d" % number, 1, 2, 3, bytes(size // 12)) for number in range(12)]
        large = ReadResults(1, LevelName.EVENTUAL, 9, [RangeResult(9, values, 12)])
        tracemalloc.start()
        node.port.deliver([*((1, done) for done in beside), (1, large)])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.7 * size, "the encoder grows its buffer by half"
        heard = [_decode(await client.next_body()) for _ in range(1 + len(beside))]
        assert large in heard and all(done in heard for done in beside)
        assert node.port.counters.frames_sent == 2 + len(beside)
        client.transport.abort()


async def test_requests_are_counted_by_kind() -> None:
    node = EchoNode()
    async with asyncio.timeout(5), serving(node) as address:
        client = await call(address)
        await client.greeting
        await client.next_body()
        client.send(_encode(Writes(0, 0, 0, ())))
        client.send(_encode(Ping(1)))
        await client.next_body()
        assert node.port.counters.operations() == {"Writes": 1, "Ping": 1, "commands": 0}
        client.transport.abort()


async def test_a_request_nested_without_end_closes_that_connection_only() -> None:
    node = EchoNode()
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
    empty = _encode(Txn([], [], []))
    nested = (empty[:-2] + b"\x91") * 5000 + empty + empty[-1:] * 5000
    body = _encode(Writes(1, 1, 1, (Txn([], [], []),))).replace(empty, nested)
    async with asyncio.timeout(5), serving(node) as address:
        client = await call(address)
        await client.greeting
        client.send(body)
        while not node.gone:  # noqa: ASYNC110 - the kernel tells when
            await asyncio.sleep(0.001)
        assert node.port.counters.garbage == 1 and not node.heard
        assert not problems, "what reaches the loop ends the server"


async def _answer(address: Address, said: bytes, until: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(said)
    answer = await reader.readuntil(until)
    writer.close()
    return answer


async def test_clients_of_other_protocols_are_told_so_at_once_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = EchoNode()
    call_of_grpc = b"\0\0\0\1\4\0\0\0\1"
    async with asyncio.timeout(2), serving(node) as address:
        for _ in range(3):
            told = await _answer(
                address, b"POST /v3/kv/put HTTP/1.1\r\nContent-Length: 9\r\n\r\n", REASON.encode()
            )
            assert told.startswith(b"HTTP/1.1 400 ")
            await _answer(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + call_of_grpc, REASON.encode())
    assert [record.message for record in caplog.records] == [
        f"another protocol was spoken to the client port ({name} from 127.0.0.1); further ones are only counted"
        for name in ("HTTP", "HTTP/2 (gRPC)")
    ]
    assert node.port.counters.garbage == 6


async def test_what_a_client_of_http_still_sends_does_not_cost_it_the_answer() -> None:
    node = EchoNode()
    async with asyncio.timeout(2), serving(node) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /v3/kv/put HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(1_000_000))
        await writer.drain()
        assert REASON.encode() in await reader.read()
        writer.close()
