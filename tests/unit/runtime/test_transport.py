"""Links between servers, over real loopback sockets and socket pairs."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from troth.errors import DecodeError
from troth.ids import ClusterId, NodeId
from troth.runtime import streams
from troth.runtime.addresses import Address, parse_address
from troth.runtime.links import QUEUE_BYTES_MAX
from troth.runtime.streams import Call, open_connection
from troth.runtime.transport import PeerTransport
from troth.wire.frames import frame
from troth.wire.handshake import VERSION, Hello, Rejected, Welcome, encode_greeting

A, B = NodeId(11), NodeId(22)
CLUSTER = ClusterId(77)


class Sink:
    """Records what a transport reports, and lets a test wait for it."""

    def __init__(self) -> None:
        self.frames: list[tuple[NodeId, bytes]] = []
        self.suspected: list[NodeId] = []
        self.unreachable: list[NodeId] = []
        self.removed: list[tuple[NodeId, int, str]] = []
        self._changed = asyncio.Event()

    def on_peer_frame(self, sender: NodeId, body: bytes) -> None:
        if body == b"not a batch":
            raise DecodeError("not a batch")
        self.frames.append((sender, body))
        self._changed.set()

    def on_heard(self) -> None: ...

    def on_suspect(self, peer: NodeId) -> None:
        self.suspected.append(peer)
        self._changed.set()

    def on_unreachable(self, peer: NodeId) -> None:
        self.unreachable.append(peer)
        self._changed.set()

    def on_removed(self, peer: NodeId, term: int, text: str) -> None:
        self.removed.append((peer, term, text))
        self._changed.set()

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until *condition* holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for lives in the kernel, nothing could set an event
            await asyncio.sleep(0.001)


def make(node_id: NodeId, cluster: ClusterId = CLUSTER) -> tuple[PeerTransport, Sink]:
    sink = Sink()
    transport = PeerTransport(node_id=node_id, name=f"n{node_id}", sink=sink, seed=1)
    transport.cluster_id = cluster
    transport.accept_peers = True
    return transport, sink


@contextlib.asynccontextmanager
async def listening(transport: PeerTransport, port: int = 0) -> AsyncIterator[tuple[str, asyncio.Server]]:
    server = await asyncio.get_running_loop().create_server(transport.accept, "127.0.0.1", port)
    host, bound = server.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{bound}", server
    finally:
        server.close()
        transport.close()


async def test_frames_arrive_in_order_and_those_sent_while_dialing_are_kept() -> None:
    a, _ = make(A)
    b, heard = make(B)
    async with listening(b) as (address, _server):
        a.set_peers({A: "ignored:1", B: address})
        bodies = [b"x%d" % n for n in range(50)] + [b"y" * 300_000]
        for body in bodies:
            a.send(B, body)
        await heard.wait(lambda: len(heard.frames) == len(bodies))
        assert heard.frames == [(A, body) for body in bodies]
        assert a.connected() == {B}
        a.close()


async def test_a_dead_peer_is_suspected_once_and_found_again() -> None:
    a, told = make(A)
    b, heard = make(B)
    async with listening(b) as (address, server):
        a.set_peers({B: address})
        await until(lambda: a.connected() == {B})
        server.close()
        b.close()
        await told.wait(lambda: told.suspected == [B])
    b2, heard = make(B)
    async with listening(b2, int(address.rpartition(":")[2])):
        await until(lambda: a.connected() == {B})
        a.send(B, b"again")
        await heard.wait(lambda: heard.frames == [(A, b"again")])
        assert told.suspected == [B]
        a.close()


async def test_a_flapping_connection_gives_no_hint() -> None:
    a, told = make(A)
    b, heard = make(B)
    async with listening(b) as (address, _server):
        a.set_peers({B: address})
        for turn in range(1, 4):
            await until(lambda: a.connected() == {B})
            a.send(B, b"%d" % turn)
            await heard.wait(lambda turn=turn: len(heard.frames) == turn)
            for accepted in list(b._accepted):
                accepted.transport.abort()
            await until(lambda turn=turn: a.counters.connects == turn + 1)
        assert told.suspected == []
        a.close()


async def test_nothing_is_kept_for_a_peer_that_is_not_there() -> None:
    a, told = make(A)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        a.set_peers({B: f"127.0.0.1:{closed.getsockname()[1]}"})
        a.send(B, b"kept at first")
        await told.wait(lambda: told.unreachable == [B])
        a.send(B, b"dropped")
        a.send(NodeId(99), b"nobody")
        assert told.unreachable == [B, B, NodeId(99)]
        assert told.suspected == [], "it was never there"
        assert a.counters.frames_dropped == 2
        a.close()


async def test_a_name_that_no_host_can_have_is_reported_and_does_not_end_the_link() -> None:
    a, told = make(A)
    a.set_peers({B: "x" * 70 + ".example:1"})
    a.send(B, b"kept at first")
    await told.wait(lambda: told.unreachable == [B])
    async with listening(make(B)[0]) as (address, _):
        a.set_peers({B: address})
        await until(lambda: a.connected() == {B})
    a.close()


async def test_a_peer_that_does_not_read_costs_a_bounded_amount() -> None:
    a, told = make(A)
    b, _ = make(B)
    async with listening(b) as (address, _server):
        a.set_peers({B: address})
        await until(lambda: bool(b._accepted) and a.connected() == {B})
        for accepted in b._accepted:
            accepted.transport.pause_reading()
        body = bytes(8 << 20)
        for _ in range(12):
            a.send(B, body)
        assert told.unreachable[0] == B
        assert a.queued_bytes()[B] <= QUEUE_BYTES_MAX
        a.close()


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello("peer", cluster_id=ClusterId(1), node_id=A, to=B), "wrong_cluster"),
        (Hello("peer", cluster_id=CLUSTER, node_id=A, to=NodeId(5)), "wrong_cluster"),
        (Hello("peer", version=0, cluster_id=CLUSTER, node_id=A, to=B), "protocol"),
        (Hello("client"), "protocol"),
    ],
)
async def test_strangers_are_refused_with_a_reason(hello: Hello, code: str) -> None:
    b, _ = make(B)
    async with listening(b) as (address, _server):
        call = Call(hello)
        host, _, port = address.rpartition(":")
        await open_connection(call, Address(host=host, port=int(port)))
        async with asyncio.timeout(5):
            answer = await call.greeting
        assert isinstance(answer, Rejected) and answer.code == code and answer.text


async def test_a_newer_version_agrees_on_ours() -> None:
    b, _ = make(B)
    async with listening(b) as (address, _server):
        call = Call(Hello("peer", version=9, cluster_id=CLUSTER, node_id=A, to=B))
        await open_connection(call, Address(host="127.0.0.1", port=int(address.rpartition(":")[2])))
        async with asyncio.timeout(5):
            assert await call.greeting == Welcome(VERSION, CLUSTER, B, "n22")
        call.transport.abort()


async def test_a_new_connection_of_a_peer_ends_its_older_one() -> None:
    """What an earlier process of it had said is not heard after what the new one says."""
    b, heard = make(B)
    async with listening(b) as (address, _server):
        host, _, port = address.rpartition(":")
        calls = [Call(Hello("peer", cluster_id=CLUSTER, node_id=A, to=B)) for _ in range(2)]
        for call in calls:
            await open_connection(call, Address(host=host, port=int(port)))
            async with asyncio.timeout(5):
                assert isinstance(await call.greeting, Welcome)
        await until(lambda: calls[0].transport.is_closing())
        calls[1].send(b"new")
        await heard.wait(lambda: heard.frames == [(A, b"new")])
        assert not calls[1].transport.is_closing()
        calls[1].transport.abort()


async def test_a_recycled_address_is_noticed() -> None:
    a, _ = make(A)
    stranger, heard = make(NodeId(33))
    async with listening(stranger) as (address, _server):
        a.set_peers({B: address})
        a.send(B, b"for b only")
        await until(lambda: stranger.counters.refusals >= 1)
        assert a.connected() == frozenset() and heard.frames == []
        a.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 16,
        b"\xff" * 64,
        frame(b"\xc1"),
        frame(encode_greeting(Rejected("x", "y"))),
        frame(encode_greeting(Hello("peer", cluster_id=CLUSTER, node_id=A, to=B))) + b"\xff" * 16,
        frame(encode_greeting(Hello("peer", cluster_id=CLUSTER, node_id=A, to=B))) + frame(b"not a batch"),
    ],
)
async def test_garbage_costs_its_sender_the_connection_and_nobody_else(garbage: bytes) -> None:
    a, _ = make(A)
    b, heard = make(B)
    async with listening(b) as (address, _server):
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                await reader.read(1 << 16)
                while await reader.read(1 << 16):
                    pass
        writer.close()
        assert b.counters.garbage == 1
        a.set_peers({B: address})
        a.send(B, b"still here")
        await heard.wait(lambda: heard.frames == [(A, b"still here")])
        a.close()


async def test_a_socket_pair_carries_both_ways_and_its_end_is_the_death_hint() -> None:
    a, from_b = make(A)
    b, from_a = make(B)
    a.set_peers({B: ""})
    b.set_peers({A: ""})
    left, right = socket.socketpair()
    await asyncio.gather(a.adopt(B, left), b.adopt(A, right))
    await until(lambda: a.connected() == {B} and b.connected() == {A})
    a.send(B, b"to b")
    b.send(A, b"to a")
    await from_a.wait(lambda: from_a.frames == [(A, b"to b")])
    await from_b.wait(lambda: from_b.frames == [(B, b"to a")])
    b.close()
    await from_b.wait(lambda: from_b.suspected == [B])
    b2, again = make(B)
    left, right = socket.socketpair()
    await asyncio.gather(a.adopt(B, left), b2.adopt(A, right))
    await until(lambda: a.connected() == {B})
    a.send(B, b"again")
    await again.wait(lambda: again.frames == [(A, b"again")])
    a.close()
    b2.close()


async def test_unix_sockets_carry_peers_and_a_missing_one_is_a_death(tmp_path: Path) -> None:
    a, told = make(A)
    b, heard = make(B)
    path = str(tmp_path / "b.sock")
    server = await asyncio.get_running_loop().create_unix_server(b.accept, path)
    a.set_peers({B: f"unix:{path}"})
    a.send(B, b"hello")
    await heard.wait(lambda: heard.frames == [(A, b"hello")])
    server.close()
    b.close()
    await told.wait(lambda: told.suspected == [B])
    a.close()


async def test_a_server_that_knows_no_addresses_answers_where_it_was_called() -> None:
    a, heard = make(A)
    joiner, _ = make(B)
    async with listening(joiner) as (address, _server):
        a.set_peers({B: address})
        await until(lambda: a.connected() == {B})
        joiner.send(A, b"answer")
        await heard.wait(lambda: heard.frames == [(B, b"answer")])
        a.close()


async def test_a_server_that_was_removed_is_told_so_when_it_dials_and_when_it_is_connected_already() -> None:
    a, told = make(A)
    b, _ = make(B)
    removed: set[NodeId] = set()
    b.refuse_stranger = lambda peer: Rejected("removed", "no member any more", 7) if peer in removed else None
    async with listening(b) as (address, _server):
        a.set_peers({B: address})
        await until(lambda: a.connected() == {B})
        b.close_strangers()
        assert a.connected() == {B}
        removed.add(A)
        b.close_strangers()
        await told.wait(lambda: bool(told.removed))
        assert set(told.removed) == {(B, 7, "no member any more")}
        assert told.suspected == []
        a.close()


async def test_a_probe_that_does_not_hang_up_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or strangers who ask who we are, and stay, would keep the other servers out."""
    transport, _ = make(A)
    transport.answer_probe = lambda: b"me"
    async with listening(transport) as (address, _):
        monkeypatch.setattr(streams, "HANDSHAKE_SECONDS_MAX", 0.05)
        probe = Call(Hello("probe"))
        await open_connection(probe, parse_address(address))
        assert isinstance(await probe.greeting, Welcome)
        assert await probe.next_body() == b"me"
        await until(lambda: probe.closed and not transport._accepted)


class Port(asyncio.Protocol):
    """The peer port of B, as the test wants it."""

    def __init__(self, on_hello: Callable[[asyncio.Transport], None]) -> None:
        self.lost = asyncio.Event()
        self._on_hello = on_hello

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._on_hello(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


@contextlib.asynccontextmanager
async def dialing(make_port: Callable[[], Port]) -> AsyncIterator[PeerTransport]:
    """A transport of A that dials B, where the test listens."""
    a, _ = make(A)
    server = await asyncio.get_running_loop().create_server(make_port, "127.0.0.1", 0)
    a.set_peers({B: f"127.0.0.1:{server.sockets[0].getsockname()[1]}"})
    try:
        yield a
    finally:
        a.close()
        server.close()


async def test_a_link_that_is_closed_while_it_greets_leaves_no_connection() -> None:
    greeted = asyncio.Event()
    port = Port(lambda transport: greeted.set())
    async with dialing(lambda: port) as a:
        async with asyncio.timeout(5):
            await greeted.wait()
        a.set_peers({})
        async with asyncio.timeout(streams.HANDSHAKE_SECONDS_MAX / 2):
            await port.lost.wait()


async def test_a_peer_that_welcomes_and_hangs_up_is_not_dialed_in_a_tight_loop() -> None:
    def welcome_and_hang_up(transport: asyncio.Transport) -> None:
        transport.write(frame(encode_greeting(Welcome(VERSION, CLUSTER, B, "b"))))
        transport.close()

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with dialing(lambda: Port(welcome_and_hang_up)) as a:
        await until(lambda: a.counters.connects >= 5)
        assert loop.time() - began_s > 0.07, "half of 10, 20, 40 and 80 ms"


def test_what_is_told_of_a_failure_without_words_is_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    transport = PeerTransport(node_id=NodeId(1), name="n1", sink=Sink(), seed=1)
    transport.warn_once("dial", "server 2 can not be reached", TimeoutError())
    assert "can not be reached (TimeoutError)" in caplog.text
