"""What the router takes charge of: something to be sent, and sent again, until it is answered or out of time."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from troth.client.link import Connection
from troth.errors import TrothError

LEADER = "leader"
"""As a target: whoever leads."""

ANY = "any"
"""As a target: one server, preferably a follower, the same while it answers."""


draw_bits: Callable[[int], int] = random.SystemRandom().getrandbits
"""Draws what must be of one client alone. Not the interpreter's generator: programs that seed it alike would be taken
for one client, and the writes of one answered with the results of the other."""


class Request(ABC):
    """Something that wants an answer before `deadline_s` (loop time).

    `open_sends` counts sendings that may have reached a server and were not definitely refused by it: at 0 the
    request has certainly not been applied. `connection` is where it was sent last, None while it waits.
    """

    __slots__ = (
        "attempts",
        "changes_state",
        "connection",
        "deadline_s",
        "hops",
        "is_idempotent",
        "open_sends",
        "pause",
        "refusal",
        "refused_by",
        "sent_at_s",
        "target",
        "within_s",
    )

    def __init__(self, target: str, deadline_s: float) -> None:
        self.target = target
        self.deadline_s = deadline_s
        self.within_s = 0.0
        """How long it may take, if not as long as usual."""
        self.is_idempotent = True
        self.changes_state = False
        self.connection: Connection | None = None
        self.pause: asyncio.TimerHandle | None = None
        self.refused_by: Connection | None = None
        self.refusal = ""
        """Why it was not served the last time, when that passes."""
        self.open_sends = 0
        self.attempts = 0
        self.hops = 0
        self.sent_at_s = 0.0

    def is_given_up(self) -> bool:
        """Whether it would change something, and nobody waits for that any more: if it was not sent, it never is."""
        return False

    @abstractmethod
    def frame(self) -> bytes:
        """What goes on the wire; the same bytes at every sending."""

    @abstractmethod
    def fail(self, error: TrothError) -> None:
        """Tell whoever waits."""


class CallRequest(Request):
    """A request that is answered under its `call` number."""

    __slots__ = ("call",)

    def __init__(self, call: int, target: str, deadline_s: float) -> None:
        super().__init__(target, deadline_s)
        self.call = call

    @abstractmethod
    def answer(self, connection: Connection, message: Any) -> None:
        """Tell whoever waits."""
