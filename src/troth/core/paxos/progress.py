"""What a leader knows of one acceptor, and how it sends to it.

::

    probe       nothing is sent until a heartbeat's answer says how far this acceptor is
    replicate   slots are pipelined; `next` runs ahead of what is acknowledged
    snapshot    the next slot is compacted away; nothing is sent until the snapshot has arrived

Slots are acknowledged one by one: `match` is the end of the unbroken run, `beyond` are those behind a gap. Flow
control: at most `MESSAGES_IN_FLIGHT_MAX` messages and `BYTES_IN_FLIGHT_MAX` bytes unacknowledged each.
"""

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
class AcceptorProgress:
    """One acceptor, as seen in this ballot. Invariant: ``match < next``; `match` never falls."""

    next: LogIndex
    match: LogIndex = LogIndex(0)
    beyond: set[LogIndex] = field(default_factory=set)
    mode: Mode = Mode.PROBE
    heard: Tick = Tick(0)
    """When anything of this ballot last came from it."""
    acked_token: int = 0
    """The newest heartbeat round that this acceptor has confirmed."""
    snapshot_index: LogIndex = LogIndex(0)
    check: tuple[int, LogIndex] | None = None
    """(token of a heartbeat, the last slot sent before it): its answer tells what was lost on the way."""
    in_flight: deque[tuple[LogIndex, int]] = field(default_factory=deque)
    """(last slot, bytes) of each message that is not wholly acknowledged."""
    bytes_in_flight: int = 0

    def may_send(self) -> bool:
        """Whether flow control lets another message go out."""
        return (
            self.mode is Mode.REPLICATE
            and len(self.in_flight) < MESSAGES_IN_FLIGHT_MAX
            and self.bytes_in_flight < BYTES_IN_FLIGHT_MAX
        )

    def on_sent(self, last: LogIndex, size_bytes: int) -> None:
        """A message with slots up to *last* has left."""
        self.in_flight.append((last, size_bytes))
        self.bytes_in_flight += size_bytes
        self.next = LogIndex(last + 1)

    def holds(self, index: LogIndex) -> bool:
        """Whether this acceptor has acknowledged the slot *index*."""
        return index <= self.match or index in self.beyond

    def on_acknowledged(self, match: LogIndex, first: LogIndex, last: LogIndex) -> None:
        """All slots up to *match*, and those of ``[first, last]``, are durably accepted."""
        self.match = max(self.match, match)
        if last > self.match:
            self.beyond.update(LogIndex(index) for index in range(max(first, self.match + 1), last + 1))
        if self.beyond:
            self.beyond = {index for index in self.beyond if index > self.match}
            while LogIndex(self.match + 1) in self.beyond:
                self.match = LogIndex(self.match + 1)
                self.beyond.discard(self.match)
        while self.in_flight and self.in_flight[0][0] <= self.match:
            self.bytes_in_flight -= self.in_flight.popleft()[1]
        self.next = max(self.next, LogIndex(self.match + 1))

    def become_probe(self) -> None:
        """Send nothing until it is known again what has arrived."""
        self._clear_flight()
        self.mode = Mode.PROBE

    def become_replicate(self, received: LogIndex) -> None:
        """Go on behind *received*: up to there everything has arrived."""
        self._clear_flight()
        self.mode = Mode.REPLICATE
        self.next = LogIndex(max(received, self.match) + 1)

    def become_snapshot(self, index: LogIndex) -> None:
        self._clear_flight()
        self.mode = Mode.SNAPSHOT
        self.snapshot_index = index

    def _clear_flight(self) -> None:
        self.in_flight.clear()
        self.bytes_in_flight = 0
        self.check = None
