"""Frames on an asyncio connection: what every port and every dialer of this package share.

A connection starts in its handshake, where it may not make us hold more than 4 KiB, and has a few seconds to
introduce itself. Bytes that are no frames, or frames that are no messages, close that one connection and nothing
else. Who speaks HTTP is told in HTTP that it is at the wrong address (wire/http.py).
"""

import asyncio
import os
import socket
import ssl
from abc import ABC, abstractmethod
from typing import cast

from typing_extensions import override

from troth.errors import DecodeError, TrothError
from troth.runtime import shortcut
from troth.runtime.addresses import Address
from troth.wire.frames import FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, HEAD, FrameSplitter, first_frame, frame, head
from troth.wire.handshake import VERSION, VERSION_MIN, Greeting, Hello, Rejected, decode_greeting, encode_greeting
from troth.wire.http import Visitor, visitor

HANDSHAKE_SECONDS_MAX = 5.0
USER_TIMEOUT_MS = 10_000
"""How long sent bytes may stay unacknowledged before the kernel gives a connection up (a machine lost power)."""

_COPY_BELOW_BYTES = 1 << 16


class FrameConnection(asyncio.Protocol, ABC):
    """One connection: bytes to frame bodies. Subclasses say what a greeting and the bodies of one read mean."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._begun = bytearray()
        self._visitor: Visitor | None = None
        self._splitter = FrameSplitter()
        self._greeted = False
        self.closed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._descriptor = -1

    # -- what subclasses say ---------------------------------------------------------------------------------

    def on_opened(self) -> None:
        """The connection stands; nothing was exchanged yet."""

    @abstractmethod
    def on_greeting(self, greeting: Greeting) -> None:
        """The first frame. Call `admit` to go on, or `refuse`."""

    @abstractmethod
    def on_bodies(self, bodies: list[bytes]) -> None:
        """All frames completed by one read, in order."""

    def on_garbage(self, error: DecodeError) -> None:
        """The bytes are not ours; the connection is closed after this."""

    def on_visitor(self, error: DecodeError) -> None:
        """Somebody speaks another protocol, and is told so. *error* says which, and from where."""
        self.on_garbage(error)

    def on_closed(self, error: Exception | None) -> None:
        """The connection is gone, for whatever reason. Called once."""

    # -- what subclasses use ---------------------------------------------------------------------------------

    def admit(self, limit: int) -> None:
        """The handshake is over; from now on frames up to *limit* bytes are accepted."""
        self._greeted = True
        self._splitter.limit = limit
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def show_out(self) -> None:
        """All was said: the other side has a few seconds to hang up before we do."""
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS_MAX, self.transport.abort)

    def hang_up(self) -> None:
        """Close at once, if the connection came to stand at all."""
        if hasattr(self, "transport"):
            self.transport.abort()

    def greet(self, greeting: Greeting) -> None:
        self.transport.write(frame(encode_greeting(greeting)))

    def refuse(self, code: str, text: str, term: int = 0) -> None:
        """Say why, then close."""
        self.greet(Rejected(code, text, term))
        self.transport.close()

    def send(self, body: bytes) -> None:
        """Send one frame."""
        if len(body) < _COPY_BELOW_BYTES:
            write_now(self.transport, self._descriptor, frame(body))
        else:
            self.transport.writelines((head(body), body))

    def write(self, data: bytes | bytearray) -> None:
        """Send what is framed already."""
        write_now(self.transport, self._descriptor, data)

    # -- asyncio's side --------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if shortcut.is_foreign(transport):
            self.transport.abort()
            return
        tune(self.transport)
        self._descriptor = plain_descriptor(self.transport)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS_MAX, self.transport.abort)
        self.on_opened()

    @override
    def data_received(self, data: bytes) -> None:
        if self.closed or self.transport.is_closing():
            return
        try:
            if not self._greeted:
                data = self._take_greeting(data)
                if not data:
                    return
            bodies = self._splitter.feed(data)
            if bodies:
                self.on_bodies(bodies)
        except DecodeError as error:
            self.on_garbage(error)
            self.transport.abort()

    def _take_greeting(self, data: bytes) -> bytes:
        """Handle the first frame once it is complete; what follows it, when we are admitted."""
        if self._visitor is not None:
            self._tell(self._visitor, data)
            return b""
        begun = self._begun
        begun += data
        try:
            body = first_frame(begun, HANDSHAKE_BYTES_MAX)
        except DecodeError as error:
            if self._met_visitor(begun):
                return b""
            raise DecodeError(f"this is not the troth protocol, or not its version {VERSION} ({error})") from None
        if body is None:
            return b""
        self.on_greeting(decode_greeting(body))
        rest = bytes(begun[HEAD.size + len(body) :]) if self._greeted else b""
        begun.clear()
        return rest

    def _met_visitor(self, begun: bytes | bytearray) -> bool:
        """Whether another protocol begins here. It is answered then, until the time for a handshake is over."""
        self._visitor = visitor(begun)
        if self._visitor is None:
            return False
        self.on_visitor(DecodeError(f"{self._visitor.name} from {host_of(self.transport)}"))
        self._tell(self._visitor, bytes(begun))
        return True

    def _tell(self, visitor: Visitor, data: bytes) -> None:
        self.write(visitor.hear(data))
        if not visitor.is_over:
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()  # what still comes is read: if it met a closed socket, our answer would be lost
        else:
            self.transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        self.on_closed(exc)


def plain_descriptor(transport: asyncio.BaseTransport) -> int:
    """The descriptor whose bytes are those of the stream; -1 if there is none (TLS, a simulated network)."""
    connection = transport.get_extra_info("socket")
    if connection is None or transport.get_extra_info("ssl_object") is not None:
        return -1
    descriptor: int = connection.fileno()
    return descriptor


def origin_of(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end, for people to read."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return shortcut.process_of(connection)
    return str(transport.get_extra_info("peername"))


def host_of(transport: asyncio.BaseTransport) -> str:
    """Like `origin_of`, but the same for all connections of one machine."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else origin_of(transport)


def write_now(transport: asyncio.Transport, descriptor: int, data: bytes | bytearray) -> None:
    """Send *data*: to the kernel at once, if nothing waits in *transport*, whose `plain_descriptor` is given.

    uvloop writes when it has called all that is due. That is good for those who write often, and late for a lone
    request, whose answer would wait for all the bookkeeping behind it.
    """
    # A descriptor that is about to be closed may be somebody else's the next moment.
    if descriptor >= 0 and not transport.is_closing() and not transport.get_write_buffer_size():
        try:
            written = os.write(descriptor, data)
        except OSError:  # full, or gone: the transport will find out, and tell
            written = 0
        if written == len(data):
            return
        transport.write(data[written:] if len(data) <= _COPY_BELOW_BYTES else memoryview(data)[written:])
        return
    transport.write(data)


def tune(transport: asyncio.BaseTransport) -> None:
    """Small frames leave at once, and a peer without power is noticed."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def version_refusal(hello: Hello) -> str:
    """Why the version that *hello* speaks can not be served; empty when it can."""
    if min(hello.version, VERSION) < VERSION_MIN:
        return (
            f"protocol version {hello.version} is too old; this server speaks {VERSION_MIN} to {VERSION}: "
            "upgrade the other side"
        )
    return ""


async def open_connection(
    connection: asyncio.BaseProtocol, address: Address, *, tls: ssl.SSLContext | None = None
) -> None:
    """Dial *address*, resolving its name now; by the shortcut if it has one.

    Raises:
        OSError: refused, unknown name, no such socket.
    """
    loop = asyncio.get_running_loop()
    if address.is_unix:
        await loop.create_unix_connection(lambda: connection, address.path)
    elif tls is None and (near := shortcut.dialed(address.host, address.port)) is not None:
        await entrust(connection, near)
    else:
        await loop.create_connection(lambda: connection, address.host, address.port, ssl=tls)


async def entrust(connection: asyncio.BaseProtocol, end: socket.socket) -> None:
    """Hand *end*, a connected unix socket, over to the loop.

    A loop of uvloop takes the descriptor at once, but *end* learns of it only when `connection_made` has returned. Had
    that closed the connection, *end* would go on to hold a number that is free, and close whatever has it by then.
    """
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: connection, sock=end)
    if transport.is_closing() and not isinstance(loop, asyncio.BaseEventLoop):
        end.detach()


def is_refusal(error: BaseException) -> bool:
    """Whether nobody listens at the other end (as opposed to: it can not be reached)."""
    return isinstance(error, ConnectionRefusedError | FileNotFoundError)


class Call(FrameConnection):
    """A connection used for a few questions in turn, at start-up: greet, then read frames one by one.

    Not for the hot path; peers and clients have their own.
    """

    def __init__(self, hello: Hello) -> None:
        super().__init__()
        self._hello = hello
        self._frames: asyncio.Queue[bytes | TrothError] = asyncio.Queue()
        self.greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()

    @override
    def on_opened(self) -> None:
        self.greet(self._hello)

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        self.admit(FRAME_BYTES_MAX)
        if not self.greeting.done():
            self.greeting.set_result(greeting)

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        for body in bodies:
            self._frames.put_nowait(body)

    @override
    def on_garbage(self, error: DecodeError) -> None:
        self._end(error)

    @override
    def on_closed(self, error: Exception | None) -> None:
        self._end(DecodeError("the other side closed the connection without an answer"))

    def _end(self, error: TrothError) -> None:
        if not self.greeting.done():
            self.greeting.set_exception(error)
            # Nobody may be waiting any more (the dialer timed out); an unread exception would be reported as lost.
            self.greeting.exception()
        self._frames.put_nowait(error)

    async def next_body(self) -> bytes:
        """The next frame.

        Raises:
            DecodeError: the connection ended, or its bytes are no frames.
        """
        item = await self._frames.get()
        if isinstance(item, TrothError):
            self._frames.put_nowait(item)
            raise item
        return item
