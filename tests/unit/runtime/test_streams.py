"""What leaves at once, and what waits behind what has not left."""

import asyncio
import socket

import pytest
import uvloop
from typing_extensions import override

from troth.runtime.streams import FrameConnection
from troth.wire.frames import FRAME_BYTES_MAX, FrameSplitter
from troth.wire.handshake import Greeting
from troth.wire.http import REASON


class Quiet(FrameConnection):
    """Says and hears nothing by itself."""

    @override
    def on_greeting(self, greeting: Greeting) -> None: ...

    @override
    def on_bodies(self, bodies: list[bytes]) -> None: ...


async def _connected() -> tuple[Quiet, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Quiet()
    await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=ours)
    connection.admit(FRAME_BYTES_MAX)
    return connection, theirs


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_frame_leaves_before_the_loop_goes_on(new_loop: object) -> None:
    async def run() -> None:
        connection, theirs = await _connected()
        theirs.setblocking(False)
        connection.send(b"abc")
        assert FrameSplitter().feed(theirs.recv(100)) == [b"abc"]
        connection.transport.abort()
        theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(run())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_frames_keep_their_order_when_the_socket_is_full(new_loop: object) -> None:
    async def run() -> None:
        connection, theirs = await _connected()
        bodies = [
            b"%06d" % number * size for number, size in zip(range(300), [1, 4000, 20_000] * 100, strict=True)
        ]
        for body in bodies:
            connection.send(body)
        assert connection.transport.get_write_buffer_size()
        splitter, found = FrameSplitter(FRAME_BYTES_MAX), []
        while len(found) < len(bodies):
            found += splitter.feed(await asyncio.to_thread(theirs.recv, 1 << 20))
        assert found == bodies
        connection.transport.abort()
        theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(run())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_is_written_to_the_descriptor_of_a_connection_that_ends(new_loop: object) -> None:
    """It may be another connection's by then."""

    async def run() -> None:
        connection, theirs = await _connected()
        connection.transport.abort()
        connection.send(b"abc")
        await asyncio.sleep(0.01)
        assert connection.closed and theirs.recv(100) == b""
        theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(run())


def test_a_connection_that_the_other_side_has_reset_is_left_to_the_transport() -> None:
    async def run() -> None:
        connection, theirs = await _connected()
        theirs.close()
        connection.send(b"abc")
        await asyncio.sleep(0.01)
        assert connection.closed

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_of_grpc_may_take_its_time(new_loop: object) -> None:
    """It waits for our settings before it calls."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(Quiet, sock=ours)
        await loop.sock_sendall(theirs, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert await loop.sock_recv(theirs, 100) == b"\0\0\0\4\0\0\0\0\0"
        await loop.sock_sendall(theirs, b"\0\0\0\1\4\0\0\0\1")
        told = await loop.sock_recv(theirs, 1000)
        assert told[3] == 1 and REASON.encode() in told, "one frame of headers, and no settings again"
        theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
        runner.run(asyncio.wait_for(run(), 5))
