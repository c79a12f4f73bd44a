"""What a leader knows of one follower, and how it sends to it.

::

    probe       one append at a time, until the follower says where the logs agree
    replicate   entries are pipelined; `next` runs ahead of `match` by what is in flight
    snapshot    the next entry is compacted away; nothing is sent until the snapshot has arrived

Flow control: core/leading/flight.py. What follows a lost or overtaken message is rejected.
"""

from dataclasses import dataclass
from typing import assert_never

from typing_extensions import override

from troth.core.leading.flight import Flight, Mode
from troth.ids import LogIndex


@dataclass(slots=True)
class FollowerProgress(Flight):
    """One follower; `match` falls only when the follower denies it (`forget_match`)."""

    probe_outstanding: bool = False

    def may_send(self) -> bool:
        """Whether flow control lets another append go out."""
        match self.mode:
            case Mode.PROBE:
                return not self.probe_outstanding
            case Mode.REPLICATE:
                return self.has_room()
            case Mode.SNAPSHOT:
                return False
            case _:
                assert_never(self.mode)

    def on_sent(self, last: LogIndex, size_bytes: int) -> None:
        """An append with entries up to *last* has left."""
        if self.mode is Mode.REPLICATE:
            self.fly(last, size_bytes)
        else:
            self.probe_outstanding = True

    def on_acknowledged(self, match: LogIndex) -> bool:
        """The follower holds the leader's log up to *match*; True when that is news."""
        self.land(match)
        self.probe_outstanding = False
        if match <= self.match:
            return False
        self.match = match
        self.widen()
        return True

    def forget_match(self) -> None:
        """The follower does not hold what it once acknowledged: count on nothing."""
        self.match = LogIndex(0)

    @override
    def become_probe(self, next_index: LogIndex = LogIndex(0)) -> None:
        """Go back to one message at a time, from *next_index* (at the earliest what is not acknowledged)."""
        if self.mode is Mode.REPLICATE:
            self.narrow()
        self.ground()
        self.mode = Mode.PROBE
        self.next = max(next_index, LogIndex(self.match + 1))

    def become_replicate(self) -> None:
        self.ground()
        self.mode = Mode.REPLICATE
        self.next = LogIndex(self.match + 1)

    @override
    def ground(self) -> None:
        self.in_flight.clear()
        self.bytes_in_flight = 0
        self.probe_outstanding = False


__all__ = ["FollowerProgress", "Mode"]
