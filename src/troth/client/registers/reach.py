"""Where the acceptors are, and how the blocking client reaches them: a line for each, finding a set, founding one."""

import os
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, as_completed

from troth.client.registers.lines import Line, LineLost, failure_of
from troth.client.registers.request import DESCRIBE_SECONDS_MAX, RETRY_FOUNDING_S, Finding
from troth.core.register.messages import Configuration, Configure, Describe, Described, ReplyMessage
from troth.core.register.task import Send
from troth.errors import TrothError, Unavailable, UsageError, WrongCluster
from troth.ids import NodeId


class Reach:
    """The lines of one client. May be shared by threads."""

    def __init__(self, given: Sequence[str], tls: ssl.SSLContext | None, finding: Finding) -> None:
        self.closed = False
        self._given = tuple(given)
        self._tls = tls
        self._finding = finding
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        self._mixed: WrongCluster | None = None
        self._pid = os.getpid()

    # ---- who may use it ------------------------------------------------------------------------------------

    @property
    def is_of_this_process(self) -> bool:
        """False in a forked child: connections are the parent's there, as are the ballots of its proposer."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Takes no lock: in a forked child somebody may hold it for ever.

        Raises:
            UsageError: the client is closed, or another process's.
            WrongCluster: its acceptors do not belong together.
        """
        if self.closed:
            raise UsageError("this client is closed")
        if not self.is_of_this_process:
            raise UsageError("this client was made before a fork; make one in each process")
        if self._mixed is not None:
            raise self._mixed

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

    def address_of(self, acceptor: NodeId, config: Configuration) -> str:
        """Where *acceptor* is.

        Raises:
            LineLost: neither an answer nor *config* tells.
        """
        known = self._finding.address_of(acceptor, config)
        if known is not None:
            return known
        # It may be at one of the addresses given that has not answered yet; ask there, and do not wait for it.
        mapped = set(self._finding.addresses.values())
        for address in self._given:
            if address not in mapped:
                self.describe(address, time.monotonic() + DESCRIBE_SECONDS_MAX)
        seat = config.seat_of(acceptor)
        if seat is None:
            raise LineLost(f"nobody knows where acceptor {acceptor:x} is", sent=False)
        return seat.address

    def describe(self, address: str, deadline: float) -> "Future[ReplyMessage]":
        """Ask who is at *address*, and remember it when the answer comes."""

        def learn(future: "Future[ReplyMessage]") -> None:
            if not future.cancelled() and future.exception() is None:
                self._learn(address, future.result())

        future = self.line(address).ask(Describe(), deadline)
        future.add_done_callback(learn)
        return future

    def _learn(self, address: str, reply: ReplyMessage) -> None:
        """The acceptor at *address* has said who it is; one of another set makes this client refuse its work."""
        if isinstance(reply, Described):
            with self._lock:
                try:
                    self._finding.on_described(address, reply)
                except WrongCluster as error:
                    self._mixed = error

    def insist(self, address: str, deadline: float) -> Described:
        """Who is at *address*; one that has just been started is given a moment.

        Raises:
            Unavailable: it does not answer.
        """
        patience = min(deadline, time.monotonic() + DESCRIBE_SECONDS_MAX)
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
        finding = self._finding
        while time.monotonic() < deadline:
            asked = [self.describe(address, deadline) for address in self._given]
            try:
                for _ in as_completed(asked, timeout=max(0.0, deadline - time.monotonic())):
                    self.check()
                    if finding.is_enough:
                        break
            except TimeoutError:
                pass
            if finding.config is not None:
                return finding.config
            config = finding.to_found()
            if config is not None:
                self._found(config, deadline)
            else:
                time.sleep(RETRY_FOUNDING_S)
        raise finding.unavailable()

    def _found(self, config: Configuration, deadline: float) -> None:
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
