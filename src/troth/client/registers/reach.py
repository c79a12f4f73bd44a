"""Where the acceptors are, and how the blocking client reaches them: a line for each, finding a set, founding one."""

import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, as_completed

from typing_extensions import override

from troth.client.registers.discovery import Discovery
from troth.client.registers.lines import Line, LineLost, failure_of
from troth.client.registers.patience import DESCRIBE_WITHIN_S, RETRY_FOUNDING_S
from troth.client.registers.replies import explained
from troth.client.registers.whereabouts import Whereabouts
from troth.core.register.messages import Configuration, Configure, Describe, Described, ReplyMessage
from troth.core.register.task import Send
from troth.errors import TrothError, Unavailable, UsageError


class Reach(Whereabouts):
    """The lines of one client. May be shared by threads."""

    def __init__(self, given: Sequence[str], tls: ssl.SSLContext | None, discovery: Discovery) -> None:
        super().__init__(given, tls, discovery)
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()

    # ---- asking --------------------------------------------------------------------------------------------

    def line(self, address: str) -> Line:
        with self._lock:
            if self.closed:
                raise UsageError("this client is closed")
            line = self._lines.get(address)
            if line is None:
                line = self._lines[address] = Line(address, self._tls)
            return line

    def ask(self, send: Send, config: Configuration, deadline: float) -> "Future[ReplyMessage]":
        """The answer to *send*; what can not be sent has failed already."""
        try:
            line = self.line(self.address_of(send.to, config))
        except TrothError as error:
            failed: Future[ReplyMessage] = Future()
            failed.set_exception(LineLost(str(error), sent=False))
            return failed
        return line.ask(send.request, deadline, expect=send.to)

    @override
    def _inquire(self, address: str) -> None:
        asked = self.describe(address, time.monotonic() + DESCRIBE_WITHIN_S)
        asked.add_done_callback(lambda _: self._inquired.discard(address))

    def describe(self, address: str, deadline: float) -> "Future[ReplyMessage]":
        """Ask who is at *address*, and remember it when the answer comes."""

        def learn(future: "Future[ReplyMessage]") -> None:
            if not future.cancelled() and future.exception() is None:
                self._learn(address, future.result())

        future = self.line(address).ask(Describe(), deadline)
        future.add_done_callback(learn)
        return future

    @override
    def _learn(self, address: str, reply: ReplyMessage) -> None:
        with self._lock:
            super()._learn(address, reply)

    def insist(self, address: str, deadline: float) -> Described:
        """Who is at *address*; one that has just been started is given a moment.

        Raises:
            Unavailable: it does not answer.
        """
        patience = min(deadline, time.monotonic() + DESCRIBE_WITHIN_S)
        while True:
            future = self.describe(address, deadline)
            error = failure_of(future, deadline)
            if error is None and isinstance(reply := future.result(), Described):
                return reply
            if time.monotonic() > patience:
                raise Unavailable(f"the acceptor at {address} does not answer ({error})")
            time.sleep(RETRY_FOUNDING_S)

    # ---- finding a set -------------------------------------------------------------------------------------

    def find(self, deadline: float) -> Configuration:
        """The configuration of the acceptors, or one that they are founded with.

        Raises:
            UsageError, Unavailable, WrongCluster: as `PaxosClient`.
        """
        discovery = self._discovery
        while time.monotonic() < deadline:
            asked = [self.describe(address, deadline) for address in self._given]
            try:
                for _ in as_completed(asked, timeout=max(0.0, deadline - time.monotonic())):
                    self.check()
                    if discovery.is_enough:
                        break
            except TimeoutError:
                pass
            known = discovery.settled()
            if known is not None:
                return known
            config = discovery.to_establish()
            if config is not None:
                self._establish(config, deadline)
            else:
                time.sleep(RETRY_FOUNDING_S)
        raise explained(discovery.unavailable(), self.complaints())

    def _establish(self, config: Configuration, deadline: float) -> None:
        asked = {address: self.line(address).ask(Configure(config), deadline) for address in self._given}
        for address, future in asked.items():
            if failure_of(future, deadline) is None:
                self._learn(address, future.result())

    def close(self) -> None:
        with self._lock:
            self.closed = True
            lines = list(self._lines.values())
        for line in lines:
            line.close()
