"""Writes: what one turn of the loop asks for becomes one batch, and a batch is applied exactly once.

A batch is numbered, sealed when it is first sent, kept until it is answered, and sent again unchanged under the same
(session, first_seq) whenever the answer may have been lost; the cluster remembers its results until `acked_below`
has passed it. The session is opened with the first write. What its caller has given up (cancelled) before a batch is
sealed is left out of it, and its numbers are used by nobody.

When the cluster has forgotten the session, batches that were certainly never applied are numbered anew in another
one; for the rest nobody can tell, and the caller learns that (`OutcomeUnknown`).

Bounds: at most `window_commands` and `window_bytes` are under way; more waits here, up to `queue_commands_max`
commands in all. A write beyond that fails at once with `Overloaded`.
"""

import asyncio
from collections import deque
from typing import Any

import msgspec
from typing_extensions import override

from troth.client import request as requests
from troth.client.link import Connection, frame_of
from troth.client.replies import PutReply, write_reply
from troth.client.request import LEADER, CallRequest, Request
from troth.client.retry import class_of
from troth.client.router import Router
from troth.errors import (
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    RequestTimeout,
    SessionExpired,
    TrothError,
    Unavailable,
)
from troth.kv.refusals import REQUEST_TOO_LARGE
from troth.kv.requests import Command, PutResult
from troth.replica.protocol import (
    WRITES_BYTES_MAX,
    WRITES_COMMANDS_MAX,
    CloseSession,
    OpenSession,
    Results,
    SessionOpened,
    Writes,
    WritesRefused,
)
from troth.wire.frames import frame

COMMAND_OVERHEAD_BYTES = 32
"""Struct framing of one command, at most, on top of its keys and values."""

_encode = msgspec.msgpack.Encoder().encode
_is_done = asyncio.Future.done


class WriteBatch(Request):
    """Commands of one loop turn and who waits for each of them."""

    __slots__ = (
        "acked_below",
        "body",
        "commands",
        "count",
        "first_seq",
        "futures",
        "pipeline",
        "session",
        "size_bytes",
        "turn",
    )

    def __init__(
        self,
        pipeline: "WritePipeline",
        commands: list[Command],
        futures: list[asyncio.Future[Any]],
        size_bytes: int,
        deadline_s: float,
    ) -> None:
        super().__init__(LEADER, deadline_s)
        self.changes_state = True
        self.pipeline = pipeline
        self.commands = commands
        self.futures = futures
        self.count = len(commands)
        """How many there are, those that will have been left out included."""
        self.size_bytes = size_bytes
        self.session = 0
        self.first_seq = 0
        self.acked_below = 0
        self.body = b""
        self.turn = 0
        """Its place in the order in which batches were asked for."""

    def number(self, session: int, first_seq: int, acked_below: int) -> None:
        """Give the batch its identity."""
        self.session, self.first_seq = session, first_seq
        self.acked_below = acked_below
        self.is_idempotent = session != 0

    @override
    def is_given_up(self) -> bool:
        return all(map(_is_done, self.futures))

    @override
    def frame(self) -> bytes:
        if not self.body:
            self._leave_out_given_up()
            commands = tuple(self.commands)
            self.body = frame(_encode(Writes(self.session, self.first_seq, self.acked_below, commands)))
        return self.body

    def _leave_out_given_up(self) -> None:
        if any(map(_is_done, self.futures)):
            wanted = [place for place, future in enumerate(self.futures) if not future.done()]
            self.commands = [self.commands[place] for place in wanted]
            self.futures = [self.futures[place] for place in wanted]

    @override
    def fail(self, error: TrothError) -> None:
        self.pipeline.on_finished(self)
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


class _OpenSession(CallRequest):
    """Asks for a session; a retry carries the same nonce and finds the session that the first one made."""

    __slots__ = ("_frame", "_pipeline")

    def __init__(self, call: int, pipeline: "WritePipeline") -> None:
        super().__init__(call, LEADER, float("inf"))
        self._pipeline = pipeline
        self._frame = frame_of(OpenSession(call, requests.draw_bits(63)))

    @override
    def frame(self) -> bytes:
        return self._frame

    @override
    def answer(self, connection: Connection, message: SessionOpened) -> None:
        self._pipeline.on_session(message.session)

    @override
    def fail(self, error: TrothError) -> None:
        self._pipeline.on_session_failed(error)


class WritePipeline:
    """All writes of one client."""

    def __init__(
        self,
        router: Router,
        *,
        use_session: bool,
        window_commands: int = 16_384,
        window_bytes: int = 32 << 20,
        queue_commands_max: int = 65_536,
    ) -> None:
        self._router = router
        self._loop = router.loop
        self._create_future = router.loop.create_future
        self._use_session = use_session
        self._window_commands = window_commands
        self._window_bytes = window_bytes
        self._queue_commands_max = queue_commands_max
        self.seen_revision = 0
        """The newest revision that an answer to this client has named."""
        self._session = 0
        self._opening: _OpenSession | None = None
        self._next_seq = 1
        self._held = 0
        self._turn = 0
        self._in_flight_commands = 0
        self._in_flight_bytes = 0
        # The batch being gathered in this turn of the loop.
        self._commands: list[Command] = []
        self._futures: list[asyncio.Future[Any]] = []
        self._bytes = 0
        self._queue: deque[WriteBatch] = deque()
        self._batches: dict[int, WriteBatch] = {}
        router.handlers[Results] = self._on_results
        router.handlers[WritesRefused] = self._on_refused
        router.on_tick.append(self._expire_queued)

    def submit(self, command: Command, size_bytes: int, timeout_s: float | None = None) -> "asyncio.Future[Any]":
        """Add *command* to this turn's batch. `size_bytes`: its keys and values, for the bounds."""
        if timeout_s is not None:
            return self._submit_within(command, size_bytes, timeout_s)
        future: asyncio.Future[Any] = self._create_future()
        size_bytes += COMMAND_OVERHEAD_BYTES
        if self._held >= self._queue_commands_max or size_bytes > WRITES_BYTES_MAX:
            future.set_exception(self._refusal(size_bytes))
            return future
        commands = self._commands
        if not commands:
            self._router.require_loop()
            self._loop.call_soon(self._flush)
        elif len(commands) >= WRITES_COMMANDS_MAX or self._bytes + size_bytes > WRITES_BYTES_MAX:
            self._cut()
            commands = self._commands
        commands.append(command)
        self._futures.append(future)
        self._bytes += size_bytes
        self._held += 1
        return future

    def _submit_within(self, command: Command, size_bytes: int, timeout_s: float) -> "asyncio.Future[Any]":
        """`submit` for a caller who is patient for *timeout_s*, and not for what the client usually waits."""
        if self._router.is_shorter(timeout_s):
            return self._router.limited(self.submit(command, size_bytes), timeout_s, RequestTimeout)
        if self._commands:
            self._cut()
        future = self.submit(command, size_bytes)
        if self._commands:
            self._cut(timeout_s)
        return future

    def _refusal(self, size_bytes: int) -> TrothError:
        if size_bytes > WRITES_BYTES_MAX:
            return InvalidRequest(REQUEST_TOO_LARGE.text)
        return Overloaded(
            f"{self._held} writes of this client are waiting, which is its bound; await some before the next"
        )

    def _cut(self, within_s: float = 0.0) -> None:
        """End this batch, and begin another."""
        deadline_s = self._loop.time() + (within_s or self._router.timeout_s)
        batch = WriteBatch(self, self._commands, self._futures, self._bytes, deadline_s)
        batch.within_s = within_s
        batch.turn = self._turn = self._turn + 1
        self._queue.append(batch)
        self._commands, self._futures, self._bytes = [], [], 0

    def _flush(self) -> None:
        if self._commands:
            self._cut()
        self._pump()

    def _pump(self) -> None:
        """Send what waits, as far as session and window allow."""
        queue = self._queue
        while queue:
            if self._use_session and not self._session:
                self._open_session()
                return
            batch = queue[0]
            commands = self._in_flight_commands + batch.count
            size_bytes = self._in_flight_bytes + batch.size_bytes
            if self._batches and (commands > self._window_commands or size_bytes > self._window_bytes):
                return
            queue.popleft()
            self._in_flight_commands, self._in_flight_bytes = commands, size_bytes
            first_seq = self._next_seq
            self._next_seq += batch.count
            acked_below = next(iter(self._batches), first_seq)
            batch.number(self._session, first_seq, acked_below)
            self._batches[first_seq] = batch
            self._router.submit(batch)

    def _on_results(self, connection: Connection, message: Results) -> None:
        batch = self._batches.get(message.first_seq)
        if batch is None or batch.session != message.session:
            return  # The second answer to a batch that was sent twice.
        results = message.results
        if len(results) != len(batch.futures):
            raise ProtocolError(f"{len(results)} results for {len(batch.futures)} commands")
        self._router.forget(batch)
        self._router.is_settled = True
        self.on_finished(batch)
        server = connection.server
        revision = 0
        for future, result in zip(batch.futures, results, strict=True):
            revision = result.revision
            if future.done():
                continue  # The caller has given up.
            if type(result) is PutResult:
                future.set_result(PutReply(revision, server, result.prev_kv))
            else:
                reply = write_reply(result, server)
                if isinstance(reply, TrothError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        if revision > self.seen_revision:
            self.seen_revision = revision
        if self._queue:
            self._pump()

    def _on_refused(self, connection: Connection, message: WritesRefused) -> None:
        batch = self._batches.get(message.first_seq)
        if batch is None or batch.session != message.session:
            return
        if class_of(message.code) is SessionExpired:
            self._on_session_expired(batch, connection)
        else:
            self._router.refused(batch, connection, message.code, message.text, message.leader)

    def on_finished(self, batch: WriteBatch) -> None:
        """*batch* is over; if it was sent, the cluster may forget it."""
        self._held -= batch.count
        if self._batches.pop(batch.first_seq, None) is not None:
            self._in_flight_commands -= batch.count
            self._in_flight_bytes -= batch.size_bytes

    def _expire_queued(self, now_s: float) -> None:
        """Fail what has waited here too long; the router sees to what was sent."""
        queue = self._queue
        # (Not only the first: those behind one that is patient for longer have their own deadlines.)
        for batch in [batch for batch in queue if batch.deadline_s <= now_s]:
            queue.remove(batch)
            limit_s = batch.within_s or self._router.timeout_s
            batch.fail(Unavailable(f"not sent within {limit_s:g} s; {self._router.describe()}"))
        if queue:
            self._pump()

    # ---- the session -----------------------------------------------------------------------------------

    def _open_session(self) -> None:
        if self._opening is None:
            self._opening = _OpenSession(self._router.next_call(), self)
            self._router.submit(self._opening)

    def on_session(self, session: int) -> None:
        """The cluster has made *session* for us."""
        self._opening = None
        self._session = session
        self._pump()

    def on_session_failed(self, error: TrothError) -> None:
        """No session was to be had, for a reason that does not pass."""
        self._opening = None
        while self._queue:
            batch = self._queue.popleft()
            batch.fail(error)

    def _on_session_expired(self, batch: WriteBatch, connection: Connection) -> None:
        batch.open_sends -= 1
        if batch.session == self._session:
            self._session = 0
        self._router.forget(batch)
        if batch.open_sends > 0:
            batch.fail(OutcomeUnknown("the session expired while it was unknown whether this write was applied"))
            return
        self.on_finished(batch)
        fresh = WriteBatch(self, batch.commands, batch.futures, batch.size_bytes, batch.deadline_s)
        fresh.within_s, fresh.turn = batch.within_s, batch.turn
        self._held += fresh.count
        # What the caller asked for first is done first: ahead of what has waited here.
        self._queue.insert(sum(waiting.turn < fresh.turn for waiting in self._queue), fresh)
        self._pump()

    # ---- the end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Fail what was not sent; let the cluster forget the session. The router fails what was."""
        if self._commands:
            self._cut()
        while self._queue:
            self._queue.popleft().fail(Unavailable("the client was closed before this write was sent"))
        leader = self._router.leader
        if self._session and leader is not None and leader.connection is not None:
            leader.connection.send(frame_of(CloseSession(self._router.next_call(), self._session)))
