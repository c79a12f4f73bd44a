"""Where requests go, and what happens to them until they are answered.

The router holds one `Link` to every server and knows, from what the servers push, who leads (`Servers`). A `Request`
(a batch of writes, a batch of reads, a single call) given to `Router.submit` is sent to the right server and sent
again when that helps: the connection broke, another leader was announced, the server refused for a reason that passes.
It ends with an answer or at its deadline. How often and when is the table in retry.py; whether it may be sent
again at all while an earlier sending is unaccounted for, the request says itself (`Request.is_idempotent`).

Liveness. A killed server closes its connections, which we see at once. A stopped or cut-off one says nothing:
after `PROBE_AFTER_S` without a sound while something is outstanding, it is pinged and all others are asked who
leads; after `SUSPECT_AFTER_S` what it owes us is asked of others; after `DEAD_AFTER_S` its connection is given up.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from typing_extensions import override

from troth.client.link import Connection, Link, frame_of
from troth.client.request import ANY, LEADER, CallRequest, Request
from troth.client.retry import Action, action_for, class_of, error_of, is_definite, pause_s
from troth.client.servers import ASK_STATUS, UNTRACKED, Servers
from troth.errors import (
    NotApplied,
    OutcomeUnknown,
    RequestTimeout,
    TrothError,
    Unavailable,
    UsageError,
)
from troth.replica.protocol import (
    CallRefused,
    Done,
    LeaderChanged,
    LeaseIds,
    LeaseTtls,
    LeaseView,
    Ping,
    ReadResults,
    ServerMessage,
    ServerStatus,
    SessionOpened,
    StateHash,
)

T = TypeVar("T")

TICK_S = 0.05
IDLE_TICK_S = 1.0
PING_EVERY_S = 1.0
PROBE_AFTER_S = 0.3
SUSPECT_AFTER_S = 0.7
DEAD_AFTER_S = 5.0
"""Silence after which a connection that owes an answer, or has not answered pings, is given up."""

HOPS_MAX = 4
"""How often a request follows one server's word on who leads to the next before it pauses: they may name each other."""


def check_seconds(timeout: object) -> None:
    """Raise UsageError unless *timeout* is a time that one can wait."""
    try:
        is_time = isinstance(timeout, int | float) and not isinstance(timeout, bool) and float(timeout) > 0
    except OverflowError:
        is_time = False
    if not is_time:
        raise UsageError(f"timeout={timeout!r:.60}: a positive number of seconds is needed")


class Router(Servers):
    """What one client has asked of the servers, and where it is sent."""

    def __init__(self, addresses: Iterable[str], *, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        super().__init__(addresses, tls=tls)
        self.timeout_s = timeout_s
        self.handlers: dict[type[Any], Callable[[Connection, Any], None]] = {}
        self.handlers[LeaderChanged] = self._on_leader_changed
        for answer in (ReadResults, SessionOpened, LeaseTtls, LeaseView, LeaseIds, ServerStatus, StateHash, Done):
            self.handlers[answer] = self._on_answer
        self.handlers[CallRefused] = self._on_call_refused
        self.on_tick: list[Callable[[float], None]] = []
        self._requests: dict[Request, None] = {}
        self._calls: dict[int, CallRequest] = {}
        self._last_call = UNTRACKED
        self._reader: Link | None = None
        self._probed_at_s = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None
        self._tick_due_s = 0.0
        self._schedule_tick(IDLE_TICK_S)

    # ---- requests --------------------------------------------------------------------------------------

    def next_call(self) -> int:
        """A call number never used before by this client."""
        self._last_call += 1
        return self._last_call

    def submit(self, request: Request) -> None:
        """Take charge of *request* until it is answered, refused for good, or out of time."""
        if not self._requests:
            self._schedule_tick(TICK_S)
        self._requests[request] = None
        if isinstance(request, CallRequest):
            self._calls[request.call] = request
        self._send(request)

    def require_loop(self) -> None:
        """Raise UsageError when another event loop runs here than the client's, or none."""
        if asyncio._get_running_loop() is not self.loop:
            raise UsageError(
                "a client is used in the event loop that it was made in: make one in each loop; threads share what "
                "troth.connect gives"
            )

    def is_shorter(self, timeout_s: float) -> bool:
        """Whether a call that may take *timeout_s* is to be ended before its batch is.

        Raises:
            UsageError: no time is that short.
        """
        check_seconds(timeout_s)
        return timeout_s <= self.timeout_s

    def limited(
        self, future: "asyncio.Future[T]", timeout_s: float, kind: type[TrothError]
    ) -> "asyncio.Future[T]":
        """*future*, which fails with a *kind* of error when it is not done within *timeout_s*."""

        def give_up() -> None:
            if not future.done():
                future.set_exception(kind(f"no answer within {timeout_s:g} s; {self.describe()}"))

        timer = self.loop.call_later(timeout_s, give_up)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def forget(self, request: Request) -> None:
        """*request* is over (answered, or nobody waits for it any more)."""
        self._requests.pop(request, None)
        if isinstance(request, CallRequest):
            self._calls.pop(request.call, None)
        if request.pause is not None:
            request.pause.cancel()
            request.pause = None

    def _send(self, request: Request) -> None:
        if request.pause is not None:
            request.pause.cancel()
            request.pause = None
        if request.open_sends <= 0 and request.is_given_up():
            self.forget(request)
            request.fail(Unavailable("it was given up before it was sent"))
            return
        if request.open_sends <= 0 and (error := self.mixed()) is not None:
            self.forget(request)
            request.fail(error)
            return
        connection = self.pick(request.target, request.refused_by)
        request.connection = connection
        if connection is not None:
            request.open_sends += 1
            request.sent_at_s = self.loop.time()
            connection.send(request.frame())

    def pick(self, target: str, refused_by: Connection | None = None) -> Connection | None:
        """Where a request for *target* would go now, which *refused_by* has just refused; None: nobody suitable is
        connected."""
        if target == LEADER:
            leader = self.leader
            if leader is not None and leader.connection is not None and not leader.is_suspect:
                return leader.connection
            return self._someone(refused_by)
        if target == ANY:
            return self._pick_reader(refused_by)
        link = self.find(target)
        return None if link is None else link.connection

    def _someone(self, refused_by: Connection | None) -> Connection | None:
        """Any server, rather not the one that has just refused; a follower passes a request on to the leader."""
        best: tuple[bool, bool, float] = (False, False, 0.0)
        found = None
        for link in self.links.values():
            if link.connection is not None:
                refused = link.connection is refused_by
                rank = (not link.is_suspect, not refused, random.random())
                if found is None or rank > best:
                    best, found = rank, link.connection
        return found

    def _pick_reader(self, refused_by: Connection | None) -> Connection | None:
        """The server that weaker reads go to: always the same while it answers, and not the leader if possible."""
        link = self._reader
        if link is not None and not link.is_suspect and link.connection not in (None, refused_by):
            return link.connection
        ready = [link for link in self.links.values() if link.connection is not None and not link.is_suspect]
        others = [link for link in ready if link.connection is not refused_by] or ready
        followers = [link for link in others if link is not self.leader] or others
        if not followers:
            return self._someone(refused_by)
        self._reader = random.choice(followers)
        return self._reader.connection

    # ---- answers and refusals --------------------------------------------------------------------------

    @override
    def on_message(self, connection: Connection, message: ServerMessage) -> None:
        """Hand a server's *message* to the part of the client that it is for."""
        handler = self.handlers.get(type(message))
        if handler is not None:
            handler(connection, message)

    def _on_answer(self, connection: Connection, message: Any) -> None:
        if type(message) is ServerStatus and connection.link is not None:
            self._learn_leader(connection.link, message.term, message.leader, "")
            self._learn_members(message)
        request = self._calls.get(message.call)
        if request is not None:
            # (In this order: an answer that makes no sense ends the connection, and the request is asked elsewhere.)
            request.answer(connection, message)
            self.forget(request)
            granted = type(message) is LeaseTtls and max(message.ttls_s, default=-1) >= 0
            self.is_settled = self.is_settled or request.changes_state or granted

    def _on_call_refused(self, connection: Connection, message: CallRefused) -> None:
        request = self._calls.get(message.call)
        if request is not None:
            self.refused(request, connection, message.code, message.text, message.leader)

    def refused(self, request: Request, connection: Connection, code: str, text: str, hint: str) -> None:
        """*connection* has refused *request*: follow, wait, or tell the caller, as the table says."""
        kind = class_of(code)
        if is_definite(kind):
            request.open_sends -= 1
        if request.connection is not connection:
            return  # It has been sent elsewhere meanwhile; that answer counts.
        request.refused_by = connection
        action = action_for(kind)
        match action:
            case Action.FOLLOW:
                named = self._adopt_hint(connection, hint)
                if named is not None and named.connection not in (None, connection) and request.hops < HOPS_MAX:
                    request.hops += 1
                    self._send(request)
                else:
                    self._pause(request, action)
            case Action.BACK_OFF:
                request.refusal = text
                self._pause(request, action)
            case Action.SAME_ID if request.is_idempotent:
                self._pause(request, Action.FOLLOW)
            case _:
                self.forget(request)
                if request.open_sends > 0 and request.changes_state and issubclass(kind, NotApplied):
                    request.fail(
                        OutcomeUnknown(f"it may have been applied when sent earlier; last answer: {text}")
                    )
                else:
                    request.fail(error_of(code, text))

    def _pause(self, request: Request, action: Action) -> None:
        request.connection = None
        request.hops = 0
        seconds = pause_s(action, request.attempts, random.random())
        request.attempts += 1
        request.pause = self.loop.call_later(seconds, self._resume, request)

    def _resume(self, request: Request) -> None:
        request.pause = None
        if request in self._requests:
            self._send(request)

    def _send_again(self, request: Request, why: str) -> None:
        """The last sending of *request* may or may not have arrived."""
        if request.is_idempotent or request.open_sends <= 0:
            self._send(request)
        else:
            self.forget(request)
            request.fail(OutcomeUnknown(why))

    # ---- servers that come, go, lead -------------------------------------------------------------------

    def _on_leader_changed(self, connection: Connection, message: LeaderChanged) -> None:
        if connection.link is not None:
            self._learn_leader(connection.link, message.term, message.node_id, message.leader)

    @override
    def _redirect(self) -> None:
        """The leadership has moved: what waits for a leader, or for an old one, goes to the new one at once."""
        leader = self.leader
        if leader is not None and leader.connection is not None:
            for request in list(self._requests):
                if request.target != LEADER or request.connection is leader.connection:
                    continue
                if request.is_idempotent or request.open_sends <= 0:
                    self._send(request)
        self._notify()

    @override
    def _serve_waiting(self) -> None:
        for request in list(self._requests):
            if request.connection is None and request.pause is None:
                self._send(request)

    @override
    def on_down(self, link: Link, connection: Connection) -> None:
        """A connection is lost: what it owed us is asked of others at once."""
        why = f"the connection to {link.name} was lost ({connection.error}) before the answer came"
        if not self.is_closed:
            for request in list(self._requests):
                if request.connection is connection:
                    self._send_again(request, why)
        self._notify()

    # ---- time ------------------------------------------------------------------------------------------

    def _schedule_tick(self, delay_s: float) -> None:
        due_s = self.loop.time() + delay_s
        if self._tick_handle is not None:
            if self._tick_due_s <= due_s:
                return
            self._tick_handle.cancel()
        self._tick_due_s = due_s
        self._tick_handle = self.loop.call_at(due_s, self._tick)

    def _tick(self) -> None:
        self._tick_handle = None
        now_s = self.loop.time()
        oldest_s: dict[Connection, float] = {}
        for request in list(self._requests):
            if request.deadline_s <= now_s:
                self._expire(request)
            elif request.connection is not None:
                since_s = oldest_s.get(request.connection, now_s)
                oldest_s[request.connection] = min(since_s, request.sent_at_s)
        for callback in self.on_tick:
            callback(now_s)
        for link in list(self.links.values()):
            connection = link.connection
            if connection is not None and (connection in oldest_s or now_s - connection.heard_at_s > PING_EVERY_S):
                self._watch_liveness(link, connection, oldest_s.get(connection), now_s)
        self._schedule_tick(TICK_S if self._requests else IDLE_TICK_S)

    def _expire(self, request: Request) -> None:
        self.forget(request)
        text = f"no answer within {request.within_s or self.timeout_s:g} s; {self.describe()}"
        if request.target not in (LEADER, ANY) and self.find(request.target) is None:
            text += f"; no server is called {request.target!r}"
        if request.refusal:
            text += f"; last answer: {request.refusal}"
        if request.changes_state and request.open_sends > 0:
            request.fail(RequestTimeout(text))
        else:
            request.fail(Unavailable(text))

    def _watch_liveness(self, link: Link, connection: Connection, oldest_s: float | None, now_s: float) -> None:
        """*oldest_s*: when the oldest request that *connection* owes us an answer to was sent; None: it owes none."""
        silent_s = now_s - connection.heard_at_s
        owed_s = 0.0 if oldest_s is None else min(silent_s, now_s - oldest_s)
        if max(owed_s, silent_s - IDLE_TICK_S - PING_EVERY_S) > DEAD_AFTER_S:
            connection.abort(TimeoutError(f"nothing heard for {silent_s:.1f} s"))
            return
        if (silent_s > PING_EVERY_S or owed_s > PROBE_AFTER_S) and now_s - link.pinged_at_s > PROBE_AFTER_S:
            link.pinged_at_s = now_s
            connection.send(_PING)
        if owed_s > PROBE_AFTER_S and now_s - self._probed_at_s > PROBE_AFTER_S:
            self._probed_at_s = now_s
            for other in self.links.values():
                if other is not link and other.connection is not None:
                    other.connection.send(ASK_STATUS)
        if owed_s > SUSPECT_AFTER_S and not link.is_suspect:
            link.suspect(now_s)
            if any(other.connection is not None and not other.is_suspect for other in self.links.values()):
                for request in list(self._requests):
                    movable = request.is_idempotent and request.target in (LEADER, ANY)
                    if movable and request.connection is connection:
                        self._send(request)

    # ---- the end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every link; whatever is outstanding fails with a typed error."""
        self.is_closed = True
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        for request in list(self._requests):
            self.forget(request)
            text = "the client was closed before the answer came"
            if request.changes_state and request.open_sends > 0:
                request.fail(OutcomeUnknown(text))
            else:
                request.fail(Unavailable(text))
        for link in self.links.values():
            link.close()


_PING = frame_of(Ping(UNTRACKED))
