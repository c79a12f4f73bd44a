"""What a leader knows of one follower, and how it sends to it.

::

    probe       one append at a time, until the follower says where the logs agree
    replicate   entries are pipelined; `next` runs ahead of `match` by what is in flight
    snapshot    the next entry is compacted away; nothing is sent until the snapshot has arrived

Flow control: at most `window` messages and `BYTES_IN_FLIGHT_MAX` bytes unacknowledged each. What follows a lost or
overtaken message is rejected and sent again, so each such loss halves the window, and each acknowledgement widens it
by one, up to `MESSAGES_IN_FLIGHT_MAX`.
Source: thesis §10.2.2 (pipelining); the three states are etcd's; the window is TCP's (Jacobson 1988).
"""

from dataclasses import dataclass
from typing import assert_never

from typing_extensions import override

from troth.core.leading.flight import BYTES_IN_FLIGHT_MAX, MESSAGES_IN_FLIGHT_MAX, Flight, Mode
from troth.ids import LogIndex


@dataclass(slots=True)
class FollowerProgress(Flight):
    """One follower; `match` falls only when the follower denies it (`forget_match`)."""

    probe_outstanding: bool = False
    window: int = MESSAGES_IN_FLIGHT_MAX
    """So many messages may be in flight."""

    def may_send(self) -> bool:
        """Whether flow control lets another append go out."""
        match self.mode:
            case Mode.PROBE:
                return not self.probe_outstanding
            case Mode.REPLICATE:
                return len(self.in_flight) < self.window and self.bytes_in_flight < BYTES_IN_FLIGHT_MAX
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
        self.window = min(self.window + 1, MESSAGES_IN_FLIGHT_MAX)
        return True

    def forget_match(self) -> None:
        """The follower does not hold what it once acknowledged: count on nothing."""
        self.match = LogIndex(0)

    @override
    def become_probe(self, next_index: LogIndex = LogIndex(0)) -> None:
        """Go back to one message at a time, from *next_index* (at the earliest what is not acknowledged)."""
        if self.mode is Mode.REPLICATE:
            self.window = max(1, self.window // 2)
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


__all__ = ["BYTES_IN_FLIGHT_MAX", "MESSAGES_IN_FLIGHT_MAX", "FollowerProgress", "Mode"]
