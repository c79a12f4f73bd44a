"""What a leader knows of one acceptor, and how it sends to it.

::

    probe       nothing is sent until a heartbeat's answer says how far this acceptor is
    replicate   slots are pipelined; `next` runs ahead of what is acknowledged
    snapshot    the next slot is compacted away; nothing is sent until the snapshot has arrived

Slots are acknowledged one by one: `match` is the end of the unbroken run, `beyond` are those behind a gap.
Flow control: core/leading/flight.py.
"""

from dataclasses import dataclass, field

from typing_extensions import override

from troth.core.leading.flight import Flight, Mode
from troth.ids import LogIndex


@dataclass(slots=True)
class AcceptorProgress(Flight):
    """One acceptor, as seen in this ballot; `match` never falls."""

    beyond: set[LogIndex] = field(default_factory=set)
    check: tuple[int, LogIndex] | None = None
    """(token of a heartbeat, the last slot sent before it): its answer tells what was lost on the way."""

    def may_send(self) -> bool:
        """Whether flow control lets another message go out."""
        return self.mode is Mode.REPLICATE and self.has_room()

    def holds(self, index: LogIndex) -> bool:
        """Whether this acceptor has acknowledged the slot *index*."""
        return index <= self.match or index in self.beyond

    def on_acknowledged(self, match: LogIndex, first: LogIndex, last: LogIndex) -> None:
        """All slots up to *match*, and those of ``[first, last]``, are durably accepted."""
        if match > self.match or not self.holds(last):
            self.widen()
        self.match = max(self.match, match)
        if last > self.match:
            self.beyond.update(LogIndex(index) for index in range(max(first, self.match + 1), last + 1))
        if self.beyond:
            self.beyond = {index for index in self.beyond if index > self.match}
            while LogIndex(self.match + 1) in self.beyond:
                self.match = LogIndex(self.match + 1)
                self.beyond.discard(self.match)
        self.land(self.match)

    @override
    def become_probe(self) -> None:
        """Send nothing until it is known again what has arrived."""
        if self.mode is Mode.REPLICATE:
            self.narrow()
        self.ground()
        self.mode = Mode.PROBE

    def become_replicate(self, received: LogIndex) -> None:
        """Go on behind *received*: up to there everything has arrived, and nothing else that is under way will."""
        if self.mode is Mode.REPLICATE:
            self.narrow()
        self.ground()
        self.mode = Mode.REPLICATE
        self.next = LogIndex(max(received, self.match) + 1)

    @override
    def ground(self) -> None:
        self.in_flight.clear()
        self.bytes_in_flight = 0
        self.check = None


__all__ = ["AcceptorProgress", "Mode"]
