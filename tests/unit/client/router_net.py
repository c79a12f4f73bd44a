"""A router between servers that are lists, and a loop whose timers are fired by the test."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from typing_extensions import override

from troth.client.link import Connection
from troth.client.request import LEADER, CallRequest, Request
from troth.client.router import (
    Router,
)
from troth.errors import (
    ProtocolError,
    TrothError,
)
from troth.ids import NodeId
from troth.replica.protocol import LeaderChanged

TIMEOUT_S = 5.0


class Server:
    """A link and its connection, in one."""

    def __init__(self, address: str, owner: object) -> None:
        self.address = self.name = address
        self.node_id = NodeId(int(address[1:]))
        self.link = self
        self.up = self
        self.connection: Server | None = self
        self.server = address
        self.sent: list[bytes] = []
        self.heard_at_s = 0.0
        self.pinged_at_s = 0.0
        self.is_suspect = False
        self.leader = (0, NodeId(0))
        self.error: Exception | None = None
        self.is_greeting = False
        self.aborted = False
        self.closed = False
        self.attempted = True

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def suspect(self, now_s: float) -> None:
        self.is_suspect = True

    def abort(self, error: Exception) -> None:
        self.aborted = True

    def hurry(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Ask(Request):
    """A request by name; what came of it."""

    def __init__(
        self, name: str, target: str = LEADER, *, within_s: float = TIMEOUT_S, once: bool = False
    ) -> None:
        super().__init__(target, 100.0 + within_s)
        self.is_idempotent, self.changes_state = not once, True
        self.name = name.encode()
        self.error: TrothError | None = None
        self.given_up = False

    @override
    def is_given_up(self) -> bool:
        return self.given_up

    @override
    def frame(self) -> bytes:
        return self.name

    @override
    def fail(self, error: TrothError) -> None:
        assert self.error is None, "once"
        self.error = error


class Call(CallRequest):
    def __init__(self, call: int) -> None:
        super().__init__(call, LEADER, 100.0 + TIMEOUT_S)
        self.answers: list[object] = []
        self.broken = False

    @override
    def frame(self) -> bytes:
        return b"call"

    @override
    def fail(self, error: TrothError) -> None: ...

    @override
    def answer(self, connection: Connection, message: Any) -> None:
        if self.broken:
            raise ProtocolError("no sense")
        self.answers.append(message)


class Net:
    """Three servers, of which `s1` leads, and a loop whose timers are fired by the test."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[SimpleNamespace] = []
        self.router = Router(("s1", "s2", "s3"), tls=None, timeout_s=TIMEOUT_S)
        self.s1, self.s2, self.s3 = (cast(Any, link) for link in self.router.links.values())
        for server in self.servers:
            server.heard_at_s = self.now_s
        self.lead(self.s1)

    @property
    def servers(self) -> list[Any]:
        return [self.s1, self.s2, self.s3]

    # ---- the loop ----

    def time(self) -> float:
        return self.now_s

    def call_later(self, seconds: float, callback: Callable[..., None], *args: object) -> SimpleNamespace:
        return self.call_at(self.now_s + seconds, callback, *args)

    def call_at(self, when_s: float, callback: Callable[..., None], *args: object) -> SimpleNamespace:
        timer = SimpleNamespace(when_s=when_s, call=lambda: callback(*args), cancelled=False)
        timer.cancel = lambda: setattr(timer, "cancelled", True)
        self.timers.append(timer)
        return timer

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and all that it brings."""
        until_s = self.now_s + seconds
        while due := [each for each in self.timers if not each.cancelled and each.when_s <= until_s]:
            timer = min(due, key=lambda each: each.when_s)
            timer.cancelled = True
            self.now_s = max(self.now_s, timer.when_s)
            timer.call()
        self.now_s = until_s

    # ---- the servers ----

    def lead(self, server: Any, term: int = 1) -> None:
        self.router.on_message(server, LeaderChanged(term, server.node_id, server.address))

    def refuse(self, server: Any, request: Ask, code: str, hint: str = "") -> None:
        self.router.refused(request, server, code, "no", hint)

    def sent(self, request: Ask) -> list[str]:
        """To whom *request* was sent, in the order of the servers."""
        return [server.address for server in self.servers for frame in server.sent if frame == request.name]

    def submit(self, *args: Any, **options: Any) -> Ask:
        request = Ask(*args, **options)
        self.router.submit(request)
        return request
