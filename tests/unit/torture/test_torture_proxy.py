"""The cuttable network, with plain TCP echo servers behind it."""

import asyncio
import contextlib
import socket

import pytest

from troth.torture.links import who_dials
from troth.torture.proxy import Network
from troth.wire.frames import frame
from troth.wire.handshake import Hello, Welcome, encode_greeting


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_byte(greeting: bytes) -> str | None:
    """In these tests a server says who it is with one letter."""
    return greeting[:1].decode() if greeting else None


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1000):
            writer.write(data)
    writer.transport.abort()


class Stage:
    """Server "b" echoes; "a" dials it through its proxy."""

    async def __aenter__(self) -> "Stage":
        self.port = free_port()
        self.server = await asyncio.start_server(echo, "127.0.0.1", 0)
        self.network = Network(first_byte)
        target = self.server.sockets[0].getsockname()[:2]
        await self.network.add("b", public=("127.0.0.1", self.port), target=target)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.network.close()
        self.server.close()

    async def dial(self, name: bytes = b"a") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(name)
        return reader, writer


async def silent(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 0.05)
    except TimeoutError:
        return True
    return False


def test_what_is_sent_arrives_and_comes_back() -> None:
    async def play() -> None:
        async with Stage() as stage:
            reader, writer = await stage.dial()
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(6), 5) == b"ahello"
            writer.close()

    asyncio.run(play())


@pytest.mark.parametrize("cut", [("a", "b"), ("b", "a")])
def test_a_cut_direction_is_held_and_goes_on_when_healed(cut: tuple[str, str]) -> None:
    async def play() -> None:
        async with Stage() as stage:
            reader, writer = await stage.dial()
            assert await asyncio.wait_for(reader.readexactly(1), 5) == b"a"
            stage.network.cut({cut}, reset=False)
            writer.write(b"late")
            assert await silent(reader)
            assert stage.network.bytes_held == 4
            stage.network.cut((), reset=False)
            assert await asyncio.wait_for(reader.readexactly(4), 5) == b"late"
            writer.close()

    asyncio.run(play())


def test_a_healed_pair_may_be_reset() -> None:
    async def play() -> None:
        async with Stage() as stage:
            reader, writer = await stage.dial()
            await asyncio.wait_for(reader.readexactly(1), 5)
            stage.network.cut({("a", "b")}, reset=False)
            stage.network.cut((), reset=True)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)
            assert stage.network.connections_reset == 1
            writer.close()

    asyncio.run(play())


def test_others_are_not_touched_by_a_cut() -> None:
    async def play() -> None:
        async with Stage() as stage:
            stage.network.cut({("a", "b"), ("b", "a")}, reset=False)
            reader, writer = await stage.dial(b"c")
            assert await asyncio.wait_for(reader.readexactly(1), 5) == b"c"
            cut_reader, cut_writer = await stage.dial(b"a")
            assert await silent(cut_reader)
            writer.close()
            cut_writer.close()

    asyncio.run(play())


def test_a_dead_server_refuses_until_it_is_back() -> None:
    async def play() -> None:
        async with Stage() as stage:
            await stage.network.down("b")
            with pytest.raises(ConnectionRefusedError):
                await stage.dial()
            await stage.network.up("b")
            reader, writer = await stage.dial()
            assert await asyncio.wait_for(reader.readexactly(1), 5) == b"a"
            writer.close()
            await stage.network.remove("b")
            with pytest.raises(ConnectionRefusedError):
                await stage.dial()

    asyncio.run(play())


def test_a_server_is_known_by_its_greeting() -> None:
    hello = frame(encode_greeting(Hello("peer", name="n2")))
    assert who_dials(hello) == "n2"
    assert who_dials(hello + b"more") == "n2"
    assert who_dials(b"") is None and who_dials(hello[:2]) is None and who_dials(hello[:-1]) is None
    assert who_dials(frame(encode_greeting(Hello("probe", name="n2")))) == ""
    assert who_dials(frame(encode_greeting(Welcome(1, 0, 0)))) == ""  # type: ignore[arg-type]
    assert who_dials(b"GET / HTTP/1.1\r\n\r\n") == ""
    assert who_dials(frame(b"\xc1")) == ""
