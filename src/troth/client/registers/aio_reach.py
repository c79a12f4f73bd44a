"""`Reach` for asyncio: where the acceptors are, a line to each, and what is done beside the calls."""

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from typing_extensions import override

from troth.client.registers.aio_lines import AsyncLine, seen
from troth.client.registers.discovery import Discovery
from troth.client.registers.lines import LineLost
from troth.client.registers.patience import COLLECT_WITHIN_S, DESCRIBE_WITHIN_S, RETRY_FOUNDING_S, now_s
from troth.client.registers.replies import explained
from troth.client.registers.whereabouts import Whereabouts
from troth.core.register.messages import Configuration, Configure, Describe, Described, ReplyMessage
from troth.core.register.task import Send
from troth.errors import TrothError, Unavailable, UsageError

CALLED_OFF = "called off"
"""With what a request is cancelled by whoever is to be told whether it has left."""


class AsyncReach(Whereabouts):
    """The lines of one client."""

    def __init__(self, given: Sequence[str], tls: ssl.SSLContext | None, discovery: Discovery) -> None:
        super().__init__(given, tls, discovery)
        self._lines: dict[str, AsyncLine] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """In which it was opened; connections belong to it."""

    def settle(self) -> None:
        """This process opens the client, and this event loop.

        Raises:
            UsageError: it was closed.
        """
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self.check()

    @override
    def check(self) -> None:
        super().check()
        if self._loop is not asyncio.get_running_loop():
            raise UsageError("this client was opened in another event loop; open one in each")

    # ---- asking --------------------------------------------------------------------------------------------

    def line(self, address: str) -> AsyncLine:
        if self.closed:
            raise UsageError("this client is closed")
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = AsyncLine(address, self._tls)
        return line

    async def ask(self, send: Send, config: Configuration) -> ReplyMessage:
        """The answer to *send*, for a task of its own: `CALLED_OFF` before anything has left, it says so.

        Raises LineLost when nothing comes of it.
        """
        if self.closed:
            raise LineLost("the client is closed", sent=False)
        line = self.line(self.address_of(send.to, config))
        try:
            connection = await line.ready(expect=send.to)
        except asyncio.CancelledError as error:
            if error.args != (CALLED_OFF,):
                raise  # nobody hears it: the loop ends, say
            raise LineLost(f"no time was left for {line.address}", sent=False) from None
        return await line.answer(connection, send.request)

    @override
    def _inquire(self, address: str) -> None:
        asking = self.aside(partial(self.describe, address))
        asking.add_done_callback(lambda _: self._inquired.discard(address))

    async def describe(self, address: str) -> ReplyMessage:
        """Ask who is at *address*, and remember it."""
        reply = await self.line(address).ask(Describe())
        self._learn(address, reply)
        return reply

    async def insist(self, address: str, deadline: float) -> Described:
        """As `Reach.insist`."""
        patience = min(deadline, now_s() + DESCRIBE_WITHIN_S)
        while True:
            try:
                async with asyncio.timeout(deadline - now_s()):
                    reply = await self.describe(address)
                if isinstance(reply, Described):
                    return reply
            except (LineLost, TimeoutError) as error:
                if now_s() > patience:
                    raise Unavailable(f"the acceptor at {address} does not answer ({error})") from None
            await asyncio.sleep(RETRY_FOUNDING_S)

    def aside(
        self, work: Callable[[], Coroutine[Any, Any, Any]], then: Callable[[], None] | None = None
    ) -> "asyncio.Task[None]":
        """Do it beside everything else, for a while; nobody waits for what comes of it. *then* is called when it or
        its time is over, but not if it was cancelled: its loop ends, and nothing is to begin there."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(DESCRIBE_WITHIN_S + COLLECT_WITHIN_S):
                    await work()
            except (TrothError, TimeoutError):
                pass
            if then is not None:
                then()

        job = asyncio.create_task(bounded())
        self._keep(job)
        return job

    def _keep(self, job: "asyncio.Task[Any]") -> None:
        self._background.add(job)
        job.add_done_callback(self._background.discard)

    # ---- finding a set -------------------------------------------------------------------------------------

    async def find(self, deadline: float) -> Configuration:
        """As `Reach.find`."""
        discovery = self._discovery
        while now_s() < deadline:
            waiting = {asyncio.create_task(self.describe(address)) for address in self._given}
            for job in waiting:
                job.add_done_callback(seen)
            while waiting and not discovery.is_enough and (left_s := deadline - now_s()) > 0:
                _, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                self.check()
            for job in waiting:
                self._keep(job)  # whoever answers late is known then
            known = discovery.settled()
            if known is not None:
                return known
            config = discovery.to_establish()
            if config is not None:
                for address in self._given:
                    self.aside(partial(self.line(address).ask, Configure(config)))
            await asyncio.sleep(RETRY_FOUNDING_S)
        raise explained(discovery.unavailable(), self.complaints())

    def close(self) -> None:
        self.closed = True
        if self._loop is not asyncio.get_running_loop():
            return  # the connections ended with theirs
        for job in list(self._background):
            job.cancel()
        for line in self._lines.values():
            line.close()
