"""Acceptors in the process of the test, for a registers' client that believes to reach them by connections."""

import asyncio
import sys
import threading
from concurrent.futures import Future

import pytest

from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.lines import LineLost
from troth.client.registers.reach import Reach
from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import (
    Configuration,
    Configure,
    Read,
    ReplyMessage,
    Seat,
    founding,
    group_of,
)
from troth.core.register.task import Send
from troth.ids import NodeId

SEATS = tuple(Seat(NodeId(number), f"a{number}:1") for number in (1, 2, 3))
CONFIG = founding(group_of(SEATS))
OTHER = founding(group_of(SEATS[:2]))
ADDRESSES = ["a1:1", "a2:1", "a3:1"]
LONG_S = 600.0
"""A call that takes so long is one that hangs."""

NO_TIME_S = sys.float_info.min
"""Above 0, and nothing beside the time of any clock."""


class Acceptors:
    """Three acceptors in this process, in place of connections; `silent`: requests of these kinds are not answered."""

    def __init__(self) -> None:
        self.acceptors = {seat.acceptor: Acceptor(seat.acceptor) for seat in SEATS}
        for acceptor in self.acceptors.values():
            acceptor.on_request(Configure(CONFIG))
        self.silent: tuple[type, ...] = ()
        self.stuck: tuple[type, ...] = ()
        """Requests of these kinds find no room and never leave."""
        self.away: set[NodeId] = set()
        """Acceptors that answer nothing."""
        self.lost: set[NodeId] = set()
        """Acceptors that no connection can be made to."""
        self.broken: set[NodeId] = set()
        """Acceptors whose connections break when a request has left."""
        self.looked = threading.Event()
        """One of them was asked what it holds."""
        self.asked = threading.Event()
        """Somebody waits for an answer that does not come."""
        self.asked_aio = asyncio.Event()
        self.unanswered: list[Future[ReplyMessage]] = []

    def ask(self, reach: Reach, send: Send, config: Configuration, deadline: float) -> "Future[ReplyMessage]":
        answer: Future[ReplyMessage] = Future()
        if reach.closed:
            answer.set_exception(LineLost("the client is closed", sent=False))
        elif isinstance(send.request, self.stuck):
            pass
        elif send.to in self.lost:
            answer.set_exception(LineLost("refused", sent=False))
        elif send.to in self.broken:
            answer.set_exception(LineLost("the connection broke"))
        elif self._is_unanswered(send):
            if isinstance(send.request, self.silent):
                answer.set_running_or_notify_cancel()
            self.unanswered.append(answer)
            self.asked.set()
        else:
            answer.set_result(self.acceptors[send.to].on_request(send.request)[0])
        return answer

    async def ask_aio(self, reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        if isinstance(send.request, self.stuck):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise LineLost("no room", sent=False) from None
        if send.to in self.lost:
            raise LineLost("refused", sent=False)
        if send.to in self.broken:
            raise LineLost("the connection broke")
        if self._is_unanswered(send):
            self.asked_aio.set()
            await asyncio.get_running_loop().create_future()
        return self.acceptors[send.to].on_request(send.request)[0]

    def _is_unanswered(self, send: Send) -> bool:
        if send.to in self.away and isinstance(send.request, Read):
            self.looked.set()
        return isinstance(send.request, self.silent) or send.to in self.away

    def let_go(self) -> None:
        for answer in self.unanswered:
            if not answer.cancelled():
                answer.set_exception(LineLost("the connection broke"))


def reached(monkeypatch: pytest.MonkeyPatch) -> Acceptors:
    """Every client reaches the acceptors that are returned, and no others."""
    made = Acceptors()

    async def find(reach: AsyncReach, deadline: float) -> Configuration:
        return CONFIG

    async def ask(reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        return await made.ask_aio(reach, send, config)

    monkeypatch.setattr(Reach, "find", lambda reach, deadline: CONFIG)
    monkeypatch.setattr(Reach, "ask", lambda *given: made.ask(*given))
    monkeypatch.setattr(AsyncReach, "find", find)
    monkeypatch.setattr(AsyncReach, "ask", ask)
    return made
