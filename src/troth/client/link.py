"""One server as a client sees it: a connection that is kept, made anew whenever it breaks.

`Connection` is one TCP or unix connection: handshake, frames, decoding. `Link` owns the present connection to one
address and replaces it for ever, with growing pauses while the server is away. Names are resolved at every
attempt.
"""

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
from typing_extensions import override

from troth.client.retry import error_of, in_words, ungreeted
from troth.errors import (
    DecodeError,
    InvalidRequest,
    ProtocolError,
    TrothError,
    Unavailable,
    UsageError,
    WrongCluster,
)
from troth.ids import ClusterId, NodeId
from troth.kv.refusals import REQUEST_TOO_LARGE
from troth.replica.protocol import ClientMessage, ServerMessage
from troth.runtime import streams
from troth.runtime.addresses import parse_address
from troth.runtime.streams import plain_descriptor, write_now
from troth.wire.frames import ANSWER_BYTES_MAX, FRAME_BYTES_MAX, FrameSplitter, frame
from troth.wire.handshake import Hello, Rejected, Welcome, decode_greeting, encode_greeting

HANDSHAKE_TIMEOUT_S = 2.0
RECONNECT_PAUSE_S = 0.02
RECONNECT_PAUSE_MAX_S = 1.0

_decode = msgspec.msgpack.Decoder(ServerMessage).decode
_decode_own = msgspec.msgpack.Decoder(ClientMessage).decode
_encode = msgspec.msgpack.Encoder().encode


def frame_of(message: ClientMessage) -> bytes:
    """*message* as it goes on the wire."""
    return frame(_encode(message))


def checked_frame_of(message: ClientMessage) -> bytes:
    """`frame_of` a message that holds what the caller wrote: no server could read it if that is of a wrong type or too
    large, and each would hang up.

    Raises:
        UsageError: something in it is of a wrong type, or a number out of range.
        InvalidRequest: it is larger than any server takes.
    """
    try:
        body = _encode(message)
        _decode_own(body)
    except OverflowError:
        raise UsageError("a number is out of range: it has 64 bits") from None
    except (TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise UsageError(f"{str(error).partition(' - at')[0]}: {message!r:.200}") from None
    if len(body) > FRAME_BYTES_MAX:
        raise InvalidRequest(REQUEST_TOO_LARGE.text)
    return frame(body)


class Connection(asyncio.Protocol):
    """One connection, from the handshake to its end.

    *on_welcome* is called when the server has accepted us (it may raise to refuse the server); then every message
    goes to *on_message*. *on_lost* is called once at the end, also when the handshake failed.
    """

    def __init__(
        self,
        *,
        hello: Hello,
        on_welcome: Callable[["Connection", Welcome], None],
        on_message: Callable[["Connection", ServerMessage], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_message = on_message
        self._on_lost = on_lost
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.server = ""
        self.link: Link | None = None
        self.heard_at_s = self._loop.time()
        self.error: Exception | None = None
        self.is_open = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._descriptor = plain_descriptor(transport)
        self._transport.write(frame(encode_greeting(self._hello)))

    @override
    def data_received(self, data: bytes) -> None:
        self.heard_at_s = self._loop.time()
        try:
            bodies = self._splitter.feed(data)
            if not self.is_open and bodies:
                self._greet(bodies.pop(0))
            for body in bodies:
                self._on_message(self, _decode(body))
        except (ProtocolError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.abort(error if isinstance(error, ProtocolError) else DecodeError(f"not a message: {error}"))
        except TrothError as error:
            self.abort(error)

    def _greet(self, body: bytes) -> None:
        greeting = decode_greeting(body)
        if isinstance(greeting, Rejected):
            raise error_of(greeting.code, greeting.text)
        if not isinstance(greeting, Welcome):
            raise DecodeError("a server is expected to say Welcome")
        self._splitter.limit = ANSWER_BYTES_MAX
        self.is_open = True
        self.server = greeting.name
        self._on_welcome(self, greeting)
        if not self.greeted.done():
            self.greeted.set_result(None)

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if not self.greeted.done() and self.error is None:
            # What a TLS port does to a plain client, and one that demands a certificate to a client without.
            is_tls = self._transport is not None and self._transport.get_extra_info("ssl_object") is not None
            self.error = ConnectionResetError(ungreeted("server", is_tls=is_tls))
        self.error = self.error or error or ConnectionResetError("the server closed the connection")
        if not self.greeted.done():
            self.greeted.set_exception(self.error)
            self.greeted.exception()  # marked as seen: a handshake given up has nobody waiting for it
        self.gone.set_result(None)
        self._on_lost(self)

    def send(self, frame: bytes) -> None:
        """Hand a whole frame to the socket. On a broken connection it is dropped: `on_lost` is under way."""
        if self._transport is not None:
            write_now(self._transport, self._descriptor, frame)

    def pause_reading(self) -> None:
        """Take nothing more from the socket until `resume_reading`. Pausing twice is no error."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._transport is not None and not self._transport.is_reading() and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self, error: Exception) -> None:
        """End the connection at once because of *error*."""
        self.error = self.error or error
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection after what was handed to `send`."""
        if self._transport is not None:
            self._transport.close()


class LinkOwner(Protocol):
    """What a link tells, and to whom."""

    cluster_id: ClusterId
    tls: ssl.SSLContext | None

    def on_message(self, connection: Connection, message: ServerMessage) -> None: ...
    def on_up(self, link: "Link", welcome: Welcome) -> None: ...
    def on_down(self, link: "Link", connection: Connection) -> None: ...
    def on_attempt_failed(self, link: "Link") -> None: ...


class Link:
    """The connection to the server at *address*, for as long as the client lives.

    `connection` is None while there is none. `leader` is what this server last said about leadership:
    (term, node id of the leader or 0).
    """

    def __init__(self, address: str, owner: LinkOwner) -> None:
        self.address = address
        self.name = ""
        self.node_id = NodeId(0)
        self.connection: Connection | None = None
        self.error: Exception | None = None
        self.attempted = False
        self.is_greeting = False
        """Whether a connection stands on which the server has not said a word."""
        self.leader: tuple[int, NodeId] = (0, NodeId(0))
        self.pinged_at_s = 0.0
        self._suspect_since_s = 0.0
        self._owner = owner
        self._hurry = asyncio.Event()
        self._lost: asyncio.Future[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"troth link {address}")

    @property
    def is_suspect(self) -> bool:
        """Whether it was found silent for too long (`suspect`), and has not made a sound since."""
        return (
            self._suspect_since_s > 0
            and self.connection is not None
            and self.connection.heard_at_s < self._suspect_since_s
        )

    def suspect(self, now_s: float) -> None:
        """It owes us answers and is silent: send it nothing more until it is heard again."""
        self._suspect_since_s = now_s

    def hurry(self) -> None:
        """Cut the pause before the next attempt short: there is reason to believe that it will succeed."""
        self._hurry.set()

    def close(self) -> None:
        """Stop for good."""
        self._task.cancel()
        if self.connection is not None:
            self.connection.close()

    async def wait_closed(self, within_s: float) -> None:
        """After `close`: until the connection is gone (TLS says goodbye first), at most *within_s*."""
        connection = self.connection
        waiting: list[asyncio.Future[Any]] = [self._task]
        if connection is not None:
            waiting.append(connection.gone)
        await asyncio.wait(waiting, timeout=within_s)
        if connection is not None and not connection.gone.done():
            connection.abort(Unavailable("the client was closed"))

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_s = loop.time()
            try:
                await self._connect_once()
                # A server that accepts and hangs up at once must not be called in a tight loop.
                failures = failures + 1 if loop.time() - started_s < RECONNECT_PAUSE_MAX_S else 0
            except (OSError, TrothError, TimeoutError, ValueError) as error:  # ValueError: an impossible name
                self.error = error
                self.attempted = True
                failures += 1
                self._owner.on_attempt_failed(self)
            if failures:
                longest_s = min(RECONNECT_PAUSE_MAX_S, RECONNECT_PAUSE_S * 2.0 ** min(failures - 1, 8))
                await self._pause(longest_s * (0.5 + random.random() / 2))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _connect_once(self) -> None:
        """Connect, introduce ourselves, and stay until the connection is lost."""
        hello = Hello(kind="client", cluster_id=self._owner.cluster_id)

        def on_lost(connection: Connection) -> None:
            if self.connection is connection:
                self.connection = None
                self.error = connection.error
                self._owner.on_down(self, connection)

        connection: Connection | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                connection = await open_connection(
                    self.address,
                    self._owner.tls,
                    hello,
                    on_welcome=self._on_welcome,
                    on_message=self._owner.on_message,
                    on_lost=on_lost,
                )
                self.is_greeting = True
                await connection.greeted
        except BaseException as error:
            if connection is not None:
                connection.abort(Unavailable("the handshake was given up"))
            if isinstance(error, TimeoutError):
                raise TimeoutError(
                    f"no answer to a greeting within {HANDSHAKE_TIMEOUT_S:g} s; is that a port for troth's clients?"
                ) from None
            raise
        finally:
            self.is_greeting = False
        await asyncio.wait([connection.gone])  # which, unlike awaiting it, leaves it alone when we are cancelled

    def _on_welcome(self, connection: Connection, welcome: Welcome) -> None:
        expected = self._owner.cluster_id
        if expected and welcome.cluster_id != expected:
            raise WrongCluster(
                f"the server at {self.address} belongs to cluster {welcome.cluster_id:x}, the others to "
                f"{expected:x}; correct the list of addresses"
            )
        self.connection, self.error, self.attempted = connection, None, True
        self.name, self.node_id = welcome.name or self.address, welcome.node_id
        self.leader, self._suspect_since_s = (0, NodeId(0)), 0.0
        connection.server, connection.link = self.name, self
        self._owner.on_up(self, welcome)


async def open_connection(
    address: str,
    tls: ssl.SSLContext | None,
    hello: Hello,
    *,
    on_welcome: Callable[[Connection, Welcome], None],
    on_message: Callable[[Connection, ServerMessage], None],
    on_lost: Callable[[Connection], None],
) -> Connection:
    """Connect to *address* (names are resolved now) and greet; `Connection.greeted` tells the answer.

    Raises:
        OSError: nobody there, or TLS failed.
    """
    connection = Connection(hello=hello, on_welcome=on_welcome, on_message=on_message, on_lost=on_lost)
    with in_words(tls):
        await streams.open_connection(connection, parse_address(address), tls=tls)
    return connection
