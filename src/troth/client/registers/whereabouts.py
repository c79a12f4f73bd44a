"""Who and where the acceptors of a client are, and whether it may ask them; how it asks them is its reach's."""

import os
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from troth.client.registers.discovery import Discovery
from troth.client.registers.lines import LineLost
from troth.core.register.messages import Configuration, Described, ReplyMessage
from troth.errors import UsageError
from troth.ids import NodeId

CLOSED_MEANWHILE = "this client was closed during the call"


class Complains(Protocol):
    """A line: what its last request failed with, if it did."""

    complaint: str


class Whereabouts(ABC):
    """What `Reach` and `AsyncReach` know alike."""

    _lines: Mapping[str, Complains]
    """By address; theirs."""

    def __init__(self, given: Sequence[str], tls: ssl.SSLContext | None, discovery: Discovery) -> None:
        self.closed = False
        self._given = tuple(given)
        self._tls = tls
        self._discovery = discovery
        self._pid = os.getpid()
        self._inquired: set[str] = set()
        """Where somebody is being asked who it is. Once at a time: while it hangs every request would ask again."""

    @property
    def is_of_this_process(self) -> bool:
        """False in a forked child: its connections and ballots are the parent's there. Two processes would ask under
        the same numbers, and propose different values at one ballot."""
        return os.getpid() == self._pid

    @property
    def has_founded(self) -> bool:
        return self._discovery.founded

    def check(self) -> None:
        """Takes no lock: in a forked child somebody may hold it for ever.

        Raises:
            UsageError: the client is closed, or another process's.
        """
        if self.closed:
            raise UsageError("this client is closed")
        if not self.is_of_this_process:
            raise UsageError("this client was made before a fork; make one in each process")

    def address_of(self, acceptor: NodeId, config: Configuration) -> str:
        """Where *acceptor* is.

        Raises:
            LineLost: neither an answer nor *config* tells.
        """
        known = self._discovery.address_of(acceptor, config)
        if known is not None:
            return known
        # It may be at one of the addresses given that has not answered yet; ask there, and do not wait for it.
        mapped = set(self._discovery.addresses.values())
        for address in self._given:
            if address not in mapped and address not in self._inquired:
                self._inquired.add(address)
                self._inquire(address)
        seat = config.seat_of(acceptor)
        if seat is None:
            raise LineLost(f"nobody knows where acceptor {acceptor:x} is", sent=False)
        return seat.address

    def complaints(self, config: Configuration | None = None) -> list[str]:
        """Why nobody answers: what the last request to each acceptor of *config* (None: at the addresses given) failed
        with, if it did."""
        if self.closed:
            return [CLOSED_MEANWHILE]
        at = list(self._given)
        if config is not None:
            at = [self._discovery.address_of(seat.acceptor, config) or seat.address for seat in config.seats]
        lines = [self._lines[address] for address in at if address in self._lines]
        return [line.complaint for line in lines if line.complaint]

    @abstractmethod
    def _inquire(self, address: str) -> None:
        """Have the acceptor at *address* asked who it is; its answer comes to `_learn`. When it is here, or its time is
        over, *address* leaves `_inquired`."""

    def _learn(self, address: str, reply: ReplyMessage) -> None:
        """The acceptor at *address* has said who it is."""
        if isinstance(reply, Described):
            self._discovery.on_described(address, reply)
