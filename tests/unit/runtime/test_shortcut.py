"""Who gets a unix socket where a loopback address was meant, and who does not."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, cast

import pytest
import uvloop
from test_transport import A, B, make, until
from typing_extensions import override

from troth.runtime import shortcut
from troth.runtime.addresses import Address
from troth.runtime.streams import FrameConnection, entrust, open_connection, origin_of
from troth.server import listener
from troth.wire.frames import FRAME_BYTES_MAX
from troth.wire.handshake import Greeting

NOBODY = 65534


class Told(FrameConnection):
    """Admits everybody and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []

    @override
    def on_opened(self) -> None:
        self.admit(FRAME_BYTES_MAX)

    @override
    def on_greeting(self, greeting: Greeting) -> None: ...

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        self.heard += bodies


async def listen(accept: Callable[[], asyncio.BaseProtocol], text: str, **settings: Any) -> list[asyncio.Server]:
    port = await listener.Port.bind(accept, text, **settings)
    port.open()
    return port.servers


class Port:
    """Somebody who listens."""

    def __init__(self) -> None:
        self.connections: list[Told] = []

    def accept(self) -> Told:
        self.connections.append(Told())
        return self.connections[-1]


@contextlib.asynccontextmanager
async def served(host: str = "127.0.0.1", *, shortcuts: bool = True) -> AsyncIterator[tuple[Port, int]]:
    port = Port()
    listeners = await listen(
        port.accept, str(Address(host=host, port=0)), setting="test", tls=None, shortcuts=shortcuts
    )
    try:
        yield port, listeners[0].sockets[0].getsockname()[1]
    finally:
        for each in listeners:
            each.close()


async def family(host: str, number: int) -> socket.AddressFamily:
    """What a dialer of *host* gets; it must be able to say something there."""
    told = Told()
    await open_connection(told, Address(host=host, port=number))
    told.send(b"hello")
    found: socket.AddressFamily = told.transport.get_extra_info("socket").family
    told.transport.close()
    return found


@pytest.fixture
def port() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, listening.getsockname()[1]


@pytest.mark.parametrize("dialed", ["127.0.0.1", "localhost"])
async def test_a_loopback_port_is_reached_over_a_unix_socket(dialed: str) -> None:
    async with served() as (port, number):
        assert await family(dialed, number) == socket.AF_UNIX
        await until(lambda: port.connections[0].heard == [b"hello"])


async def test_a_loopback_port_of_version_6_as_well() -> None:
    async with served("::1") as (port, number):
        assert await family("::1", number) == socket.AF_UNIX
        await until(lambda: port.connections[0].heard == [b"hello"])


async def test_where_no_shortcut_is_offered_it_is_tcp() -> None:
    async with served(shortcuts=False) as (port, number):
        assert await family("127.0.0.1", number) == socket.AF_INET
        await until(lambda: port.connections[0].heard == [b"hello"])


async def test_a_port_that_others_can_reach_has_no_shortcut() -> None:
    async with served("0.0.0.0") as (_, number):
        assert await family("127.0.0.1", number) == socket.AF_INET


async def test_who_speaks_tls_takes_and_offers_no_shortcut(port: tuple[socket.socket, int]) -> None:
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listeners = await listen(Port().accept, "127.0.0.1:0", setting="test", tls=accepting, shortcuts=True)
    number: int = listeners[0].sockets[0].getsockname()[1]
    assert shortcut.dialed("127.0.0.1", number) is None
    listeners[0].close()
    listening, number = port
    (near,) = shortcut.beside([listening])
    with near:
        near.listen()
        near.setblocking(False)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await open_connection(
                    Told(), Address(host="127.0.0.1", port=number), tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                )
        with pytest.raises(BlockingIOError):
            near.accept()


async def test_a_name_that_is_taken_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "troth.shortcut")
    with socket.create_server(("127.0.0.1", 0)) as before:
        number = before.getsockname()[1]
        (taken,) = shortcut.beside([before])
    with taken:
        port = Port()
        listeners = await listen(port.accept, f"127.0.0.1:{number}", setting="test", tls=None, shortcuts=True)
        assert len(listeners) == 1 and f"no shortcut to 127.0.0.1 port {number}" in caplog.text
        assert await family("127.0.0.1", number) == socket.AF_INET
        await until(lambda: port.connections[0].heard == [b"hello"])
        listeners[0].close()


async def test_nobody_at_both_is_a_refusal(port: tuple[socket.socket, int]) -> None:
    listening, number = port
    listening.close()
    with pytest.raises(ConnectionRefusedError):
        await open_connection(Told(), Address(host="127.0.0.1", port=number))


def test_a_shortcut_whose_queue_is_full_is_not_waited_for(port: tuple[socket.socket, int]) -> None:
    listening, number = port
    (near,) = shortcut.beside([listening])
    with near, contextlib.ExitStack() as opened:
        near.listen(0)
        first = shortcut.dialed("127.0.0.1", number)
        assert first is not None
        opened.enter_context(first)
        assert shortcut.dialed("127.0.0.1", number) is None


async def test_the_end_of_a_process_ends_its_shortcut_and_is_told_as_its_death() -> None:
    a, told = make(A)
    b, _ = make(B)
    listeners = await listen(b.accept, "127.0.0.1:0", setting="test", tls=None, shortcuts=True)
    number = listeners[0].sockets[0].getsockname()[1]
    a.set_peers({B: f"127.0.0.1:{number}"})
    await until(lambda: a.connected() == {B})
    assert [each.transport.get_extra_info("socket").family for each in b._accepted] == [socket.AF_UNIX]
    for each in listeners:
        each.close()
    b.close()
    await told.wait(lambda: told.suspected == [B])
    a.close()


async def test_another_user_is_named_and_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends belong to this process; which user they see at the other end is the kernel's word."""
    own = os.geteuid()
    async with served() as (port, number):
        near = shortcut.dialed("127.0.0.1", number)
        assert near is not None
        await until(lambda: len(port.connections) == 1)
        assert origin_of(port.connections[0].transport) == f"process {os.getpid()} of user {own}"
        near.close()
        stranger = shortcut.dialed("127.0.0.1", number)
        assert stranger is not None
        monkeypatch.setattr(os, "geteuid", lambda: own + 1)
        stranger.setblocking(True)
        assert await asyncio.to_thread(stranger.recv, 1) == b""
        assert await family("127.0.0.1", number) == socket.AF_INET
        stranger.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_name_that_another_user_holds_is_not_trusted(port: tuple[socket.socket, int]) -> None:
    listening, number = port
    (near,) = shortcut.beside([listening])
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setuid(NOBODY)
            near.listen()
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    near.close()
    os.read(ready[0], 1)
    assert shortcut.dialed("127.0.0.1", number) is None
    os.write(done[1], b"x")
    os.waitpid(child, 0)
    for end in (*ready, *done):
        os.close(end)


class Leaves(asyncio.Protocol):
    """Is gone before it has begun."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_hangs_up_at_once_leaves_no_number_that_is_anothers_by_then(
    run: Callable[[Coroutine[object, object, None]], None],
) -> None:
    """An object that held the number of a closed descriptor would close whatever has it when it goes itself."""

    async def hang_up() -> None:
        end, other = socket.socketpair()
        end.setblocking(False)
        with other:
            await entrust(Leaves(), end)
            await asyncio.to_thread(other.recv, 1)
            assert end.fileno() < 0

    run(hang_up())
