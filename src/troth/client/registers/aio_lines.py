"""Asyncio connections to acceptors: one for each, pipelined, with a bound on what waits for an answer."""

import asyncio
import ssl
from typing import Any

from typing_extensions import override

from troth.client.registers.lines import (
    CONNECT_SECONDS_MAX,
    WAITING_MAX,
    LineLost,
    complaint_of,
    stranger,
)
from troth.client.registers.patience import Rest, now_s
from troth.client.retry import error_of, in_words, ungreeted
from troth.core.register.codec import decode_answer, encode_ask
from troth.core.register.messages import ReplyMessage, RequestMessage
from troth.errors import DecodeError, TrothError
from troth.ids import NodeId
from troth.runtime.addresses import parse_address
from troth.runtime.streams import FrameConnection, open_connection
from troth.wire.frames import FRAME_BYTES_MAX
from troth.wire.handshake import Greeting, Hello, Welcome

UNSENT_BYTES_MAX = 32 << 20
"""For one acceptor; beyond it no further request is queued."""


class _Connection(FrameConnection):
    """One connection to an acceptor; `ready` ends with its id, or with why there is none."""

    def __init__(self) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[NodeId] = loop.create_future()
        self.ready.add_done_callback(seen)
        self._asked: dict[int, asyncio.Future[ReplyMessage]] = {}
        self._answered = asyncio.Event()
        """Pulsed: whoever waits for room looks again."""
        self._number = 0
        self._stands = False

    @property
    def is_full(self) -> bool:
        """Whether as much as is allowed was not answered. Askers that have given up count as well: what they sent waits
        in the transport while the acceptor does not read."""
        return len(self._asked) >= WAITING_MAX or self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX

    async def room(self) -> None:
        """Wait until it is not full, or has ended."""
        while self.is_full and not self.closed:
            await self._answered.wait()

    def ask(self, request: RequestMessage) -> "asyncio.Future[ReplyMessage]":
        self._number += 1
        number = self._number
        future: asyncio.Future[ReplyMessage] = asyncio.get_running_loop().create_future()
        future.add_done_callback(seen)
        if self.closed:
            future.set_exception(LineLost("the connection broke", sent=False))
            return future
        body = encode_ask(number, request)  # before it takes up room, which only an answer makes free
        self._asked[number] = future
        self.send(body)
        return future

    def give_up(self) -> None:
        """Whoever opened it waits no longer, whether it stands by now or not."""
        self.ready.cancel()
        if self._stands:
            self.transport.abort()

    @override
    def on_opened(self) -> None:
        self._stands = True
        self.greet(Hello("register"))

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        if self.ready.done():
            self.transport.abort()
            return
        if isinstance(greeting, Welcome):
            self.admit(FRAME_BYTES_MAX)
            self.ready.set_result(greeting.node_id)
            return
        error: TrothError = DecodeError("the other side did not welcome us")
        if not isinstance(greeting, Hello):
            error = error_of(greeting.code, greeting.text)
        self.ready.set_exception(LineLost(str(error)))
        self.transport.abort()

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        for body in bodies:
            number, reply = decode_answer(body)
            future = self._asked.pop(number, None)
            if future is not None and not future.done():
                future.set_result(reply)
        self._wake()

    @override
    def on_garbage(self, error: DecodeError) -> None:
        self._end(LineLost(f"{error}; is that a troth acceptor?"))

    @override
    def on_closed(self, error: Exception | None) -> None:
        if not self.ready.done() and (error is None or isinstance(error, ConnectionError)):
            is_tls = self.transport.get_extra_info("ssl_object") is not None
            self._end(LineLost(ungreeted("acceptor", is_tls=is_tls)))
            return
        self._end(LineLost(f"the connection broke ({error})" if error else "the acceptor closed the connection"))

    def _end(self, error: LineLost) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(error)
        self._wake()

    def _wake(self) -> None:
        self._answered.set()
        self._answered.clear()


class AsyncLine:
    """The connection to the acceptor at one address, made when it is needed."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self._tls = tls
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[_Connection] | None = None
        self._rest = Rest()
        self.complaint = ""
        """Why the last request failed, with the address; empty when it did not."""

    async def ask(self, request: RequestMessage, *, expect: int = 0) -> ReplyMessage:
        """The answer to *request*. *expect*: the acceptor meant, if it matters who answers.

        Raises LineLost when nothing comes of it.
        """
        return await self.answer(await self.ready(expect=expect), request)

    async def ready(self, *, expect: int = 0) -> _Connection:
        """A connection with room for a request. Waits for that, if too much of what was asked before is not answered,
        for as long as the caller does: a request that is refused at once would be taken for one that the acceptor has
        lost, and be made again.

        Raises LineLost when there is none.
        """
        connection = self._connection
        if connection is None or connection.closed:
            connection = await self._opened()
        acceptor = connection.ready.result()
        if expect and acceptor != expect:
            self.complaint = stranger(self.address, acceptor, expect)
            raise LineLost(self.complaint, sent=False)
        await connection.room()
        return connection

    async def answer(self, connection: _Connection, request: RequestMessage) -> ReplyMessage:
        """What comes of *request* on a connection that is ready. Raises LineLost."""
        try:
            reply = await connection.ask(request)
        except LineLost as error:
            self.complaint = complaint_of(self.address, error)
            raise
        self.complaint = ""
        return reply

    async def _opened(self) -> _Connection:
        if now_s() < self._rest.until_s:
            raise LineLost(self.complaint, sent=False)
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(seen)
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Connection:
        connection = _Connection()
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                with in_words(self._tls):
                    await open_connection(connection, parse_address(self.address), tls=self._tls)
                await connection.ready
        except asyncio.CancelledError:
            connection.give_up()
            raise
        except (OSError, LineLost) as error:
            connection.give_up()
            self._rest.begin(now_s())
            self.complaint = complaint_of(self.address, error)
            raise LineLost(self.complaint, sent=False) from error
        self._rest.end()
        self._connection = connection
        return connection

    def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None and not self._connection.closed:
            self._connection.transport.abort()


def seen(future: "asyncio.Future[Any]") -> None:
    """Nobody need wait for it: what it failed with is not to be reported as lost."""
    if not future.cancelled():
        future.exception()
