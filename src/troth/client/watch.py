"""Watches that survive their server: every event once, in order, whatever connection it comes over.

A watch knows the revision up to which everything was delivered. When its connection breaks, or another server
becomes the leader (who hears of commits first), it begins anew there with the next revision, under a new number, so
that nothing of the old stream can be mixed in.

The buffer between server and consumer is bounded. Ceasing to read the connection would hold up everything else on
it; instead the watch is cancelled when the buffer is full and goes on from where it stood once that is half empty.
"""

import asyncio
from collections import deque
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from troth.client import recording
from troth.client.link import Connection, checked_frame_of, frame_of
from troth.client.request import ANY, LEADER
from troth.client.retry import error_of
from troth.client.router import Router
from troth.errors import InvalidRequest, TrothError, Unavailable, UsageError, WatchCompacted
from troth.kv.requests import Event
from troth.replica.protocol import WatchCancel, WatchCanceled, WatchCreate, WatchCreated, WatchEvents

BUFFER_EVENTS_MAX = 16_384
BUFFER_BYTES_MAX = 32 << 20
RESTART_PAUSE_S = 0.05


class Watch:
    """An asynchronous iterator over lists of events; each list holds all matching events of whole revisions.

    ``await watch`` waits until the server has begun it. `revision`: everything up to it has been handed out.
    """

    def __init__(
        self,
        watches: "Watches",
        key: bytes,
        range_end: bytes,
        *,
        start_revision: int,
        floor_revision: int,
        prev_kv: bool,
        no_put: bool,
        no_delete: bool,
    ) -> None:
        self._watches = watches
        self._key = key
        self._range_end = range_end
        self._prev_kv = prev_kv
        self._no_put = no_put
        self._no_delete = no_delete
        self._from_now = start_revision == 0
        # Events before this revision are not wanted (any more). A watch "from now on" must not show what its
        # client has seen already, even if it begins on a replica that lags behind.
        self._next_revision = start_revision or floor_revision + 1
        self.revision = self._next_revision - 1
        self._buffer: deque[WatchEvents] = deque()
        self._buffer_events = 0
        self._buffer_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: TrothError | None = None
        self._is_closed = False
        self.number = 0
        self._recorded_as = next(recording.numbers)
        self._is_whole = not no_put and not no_delete
        self.connection: Connection | None = None
        self.is_paused = False
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        checked_frame_of(self.request(0))

    # ---- for the consumer ------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._begun().__await__()

    async def _begun(self) -> Self:
        """Wait until a server has begun the watch; the client's time-out bounds that."""
        timeout_s = self._watches.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([self.started])
        except TimeoutError:
            self.end(Unavailable(f"no server has begun the watch within {timeout_s:g} s"))
        self.started.result()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Event]:
        events = await self.next_events()
        if events is None:
            raise StopAsyncIteration
        return events

    async def next_events(self) -> list[Event] | None:
        """The next events, waiting for them if need be; None after `close`.

        Raises:
            WatchCompacted: what comes next is gone; `compact_revision` can be watched from.
            InvalidRequest: the server does not accept such a watch.
            Overloaded: it has too many watches already.
            Unavailable: the client was closed.
        """
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return None
            if self._waiter is not None:
                raise UsageError("two consumers wait for one watch; make a watch for each")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, first = self._buffer.popleft(), self.revision + 1
        self._buffer_events -= len(message.events)
        self._buffer_bytes -= _size_bytes(message)
        self.revision = message.revision
        if (recorder := recording.active) is not None and self._is_whole:
            recorder.watch(
                self._recorded_as, (self._key, self._range_end), first, message.revision, message.events
            )
        if (
            self.is_paused
            and self._buffer_events * 2 < BUFFER_EVENTS_MAX
            and (self._buffer_bytes * 2 < BUFFER_BYTES_MAX)
        ):
            self.is_paused = False
            self._watches.start(self)
        return message.events

    async def close(self) -> None:
        """End the watch; iteration stops after what is buffered. Closing twice is no error."""
        self.end(None)

    async def __aenter__(self) -> Self:
        try:
            return await self
        except BaseException:
            self.end(None)  # cancelled: nobody else would end it
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- for the client --------------------------------------------------------------------------------

    def request(self, number: int) -> WatchCreate:
        """What begins, or resumes, the watch under *number*."""
        return WatchCreate(
            number,
            self._key,
            self._range_end,
            0 if self._from_now else self._next_revision,
            self._prev_kv,
            self._no_put,
            self._no_delete,
            True,  # progress: an idle watch learns how far it is, so that a compaction cannot overtake it
        )

    def on_created(self, revision: int) -> None:
        """The server has begun the watch at *revision*."""
        if self._from_now:
            self._from_now = False
            self._next_revision = max(self._next_revision, revision + 1)
            self.revision = self._next_revision - 1
        if not self.started.done():
            self.started.set_result(None)

    def on_events(self, message: WatchEvents) -> None:
        """Everything up to ``message.revision`` has arrived."""
        next_revision = self._next_revision
        events = message.events
        if events and events[0].kv.mod_revision < next_revision:
            events = [event for event in events if event.kv.mod_revision >= next_revision]
            message = WatchEvents(message.watch, message.revision, events)
        self._next_revision = max(next_revision, message.revision + 1)
        if not events:
            return
        self._buffer.append(message)
        self._buffer_events += len(events)
        self._buffer_bytes += _size_bytes(message)
        self._wake()
        if self._buffer_events > BUFFER_EVENTS_MAX or self._buffer_bytes > BUFFER_BYTES_MAX:
            self.is_paused = True
            self._watches.stop(self)

    def end(self, error: TrothError | None) -> None:
        """No more events will come: because of *error*, or because the consumer wants none."""
        if self._is_closed:
            return
        self._is_closed = True
        self._error = error
        self._watches.stop(self)
        self._watches.forget(self)
        if not self.started.done():
            self.started.set_exception(error or UsageError("the watch was closed"))
            self.started.exception()  # marked as seen: not everybody waits for the beginning
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _size_bytes(message: WatchEvents) -> int:
    return sum(len(event.kv.key) + len(event.kv.value) + 64 for event in message.events)


class Watches:
    """All watches of one client, and where they run."""

    def __init__(self, router: Router, *, read_from: str) -> None:
        self._router = router
        self.timeout_s = router.timeout_s
        self._target = LEADER if read_from == ANY else read_from
        self._all: dict[Watch, None] = {}
        # A number is used for one stream of one connection; what comes late for an old one finds nobody.
        self._by_number: dict[int, Watch] = {}
        self._last_number = 0
        router.handlers[WatchCreated] = self._on_created
        router.handlers[WatchEvents] = self._on_events
        router.handlers[WatchCanceled] = self._on_canceled
        router.on_change.append(self._move)

    def add(self, watch: Watch) -> None:
        """Begin *watch*."""
        self._all[watch] = None
        self.start(watch)

    def start(self, watch: Watch) -> None:
        """Begin or resume *watch* on the best server there is; without one, the next that comes up gets it."""
        if watch not in self._all or watch.is_paused:
            return
        connection = self._router.pick(self._target)
        watch.connection = connection
        if connection is not None:
            self._last_number += 1
            watch.number = self._last_number
            self._by_number[watch.number] = watch
            connection.send(frame_of(watch.request(watch.number)))

    def stop(self, watch: Watch) -> None:
        """Stop the stream of *watch*; `start` resumes it."""
        self._by_number.pop(watch.number, None)
        if watch.connection is not None and watch.connection.is_open:
            watch.connection.send(frame_of(WatchCancel(watch.number)))
        watch.connection = None

    def forget(self, watch: Watch) -> None:
        """*watch* is over."""
        self._all.pop(watch, None)

    def close(self) -> None:
        """The client is closed."""
        for watch in list(self._all):
            watch.end(Unavailable("the client was closed"))

    def _move(self) -> None:
        """Links or leader have changed: see to it that each watch runs, and runs where it should."""
        for watch in list(self._all):
            connection = watch.connection
            if connection is None or not connection.is_open:
                self._by_number.pop(watch.number, None)
                watch.connection = None
                self.start(watch)
            elif self._target == LEADER:
                leader = self._router.leader
                if leader is not None and leader.connection not in (None, connection):
                    self.stop(watch)
                    self.start(watch)

    def _on_created(self, connection: Connection, message: WatchCreated) -> None:
        watch = self._by_number.get(message.watch)
        if watch is not None:
            watch.on_created(message.revision)

    def _on_events(self, connection: Connection, message: WatchEvents) -> None:
        watch = self._by_number.get(message.watch)
        if watch is not None:
            watch.on_events(message)

    def _on_canceled(self, connection: Connection, message: WatchCanceled) -> None:
        watch = self._by_number.get(message.watch)
        if watch is None:
            return
        self._by_number.pop(watch.number, None)
        watch.connection = None
        if message.compact_revision > 0:
            text = f"events before revision {message.compact_revision} are compacted away"
            watch.end(WatchCompacted(text, message.compact_revision))
        elif watch.started.done():
            # It was accepted once, so this passes: the server is too busy, or it stops.
            self._router.loop.call_later(RESTART_PAUSE_S, self._restart, watch)
        else:
            text = message.reason or "the server does not accept this watch"
            watch.end(error_of(message.code or InvalidRequest.code, text))

    def _restart(self, watch: Watch) -> None:
        if watch.connection is None:
            self.start(watch)
