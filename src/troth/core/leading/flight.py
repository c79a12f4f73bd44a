"""What a leader knows of one other server, and what is on its way there.

Flow control: at most `window` messages and `BYTES_IN_FLIGHT_MAX` bytes unacknowledged each. What is lost, overtaken or
not taken in is sent again, so each such loss halves the window, and each acknowledgement that is news widens it by one,
up to `MESSAGES_IN_FLIGHT_MAX`. What the three modes mean for sending is the protocol's.
Source: Raft thesis §10.2.2 (pipelining); the modes are etcd's; the window is TCP's (Jacobson 1988).
"""

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from troth.ids import LogIndex, Tick

MESSAGES_IN_FLIGHT_MAX = 128
BYTES_IN_FLIGHT_MAX = 8 << 20


class Mode(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Flight(ABC):
    """One server, as its leader sees it. Invariant: ``match < next``."""

    next: LogIndex
    match: LogIndex = LogIndex(0)
    mode: Mode = Mode.PROBE
    heard: Tick = Tick(0)
    """When anything of this leader's term (ballot) last came from it."""
    acked_token: int = 0
    """The newest heartbeat round that it has confirmed."""
    commit_told: LogIndex = LogIndex(0)
    """The newest commit index that it was sent, with entries or without."""
    snapshot_index: LogIndex = LogIndex(0)
    in_flight: deque[tuple[LogIndex, int]] = field(default_factory=deque)
    """(last index, bytes) of each message that is pipelined and not wholly acknowledged."""
    bytes_in_flight: int = 0
    window: int = MESSAGES_IN_FLIGHT_MAX
    """So many messages may be in flight."""

    def has_room(self) -> bool:
        """Whether flow control lets another pipelined message leave."""
        return len(self.in_flight) < self.window and self.bytes_in_flight < BYTES_IN_FLIGHT_MAX

    def narrow(self) -> None:
        """What was sent ahead was sent for nothing."""
        self.window = max(1, self.window // 2)

    def widen(self) -> None:
        """What was sent has arrived."""
        self.window = min(self.window + 1, MESSAGES_IN_FLIGHT_MAX)

    def fly(self, last: LogIndex, size_bytes: int) -> None:
        """A pipelined message up to *last* has left."""
        self.in_flight.append((last, size_bytes))
        self.bytes_in_flight += size_bytes
        self.next = LogIndex(last + 1)

    def land(self, match: LogIndex) -> None:
        """Whatever ends at or below *match* has arrived."""
        while self.in_flight and self.in_flight[0][0] <= match:
            self.bytes_in_flight -= self.in_flight.popleft()[1]
        self.next = max(self.next, LogIndex(match + 1))

    def ground(self) -> None:
        """Count nothing as being under way any more."""
        self.in_flight.clear()
        self.bytes_in_flight = 0

    @abstractmethod
    def become_probe(self) -> None:
        """Stop pipelining until it is known again what has arrived."""

    def become_snapshot(self, index: LogIndex) -> None:
        """Send nothing until it has a snapshot that ends at *index* or behind."""
        self.ground()
        self.mode = Mode.SNAPSHOT
        self.snapshot_index = index
