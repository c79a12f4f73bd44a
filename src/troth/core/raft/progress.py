"""What a leader knows of one follower, and how it sends to it.

::

    probe       one append at a time, until the follower says where the logs agree
    replicate   entries are pipelined; `next` runs ahead of `match` by what is in flight
    snapshot    the next entry is compacted away; nothing is sent until the snapshot has arrived

Flow control: at most `window` messages and `BYTES_IN_FLIGHT_MAX` bytes unacknowledged each. What follows a lost or
overtaken message is rejected and sent again, so each such loss halves the window, and each acknowledgement widens it
by one, up to `MESSAGES_IN_FLIGHT_MAX`.
Source: thesis §10.2.1 (pipelining); the three states are etcd's; the window is TCP's (Jacobson 1988).
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from troth.ids import LogIndex, Tick

MESSAGES_IN_FLIGHT_MAX = 128
BYTES_IN_FLIGHT_MAX = 8 << 20


class Mode(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class FollowerProgress:
    """One follower. Invariant: ``match < next``; `match` falls only when the follower denies it (`forget_match`)."""

    match: LogIndex
    next: LogIndex
    mode: Mode = Mode.PROBE
    probe_outstanding: bool = False
    heard: Tick = Tick(0)
    """When anything of this leader's term last came from it."""
    acked_token: int = 0
    """The newest heartbeat round that this follower has confirmed."""
    snapshot_index: LogIndex = LogIndex(0)
    in_flight: deque[tuple[LogIndex, int]] = field(default_factory=deque)
    """(last index, bytes) of each append sent in replicate mode and not yet acknowledged."""
    bytes_in_flight: int = 0
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
            self.in_flight.append((last, size_bytes))
            self.bytes_in_flight += size_bytes
            self.next = LogIndex(last + 1)
        else:
            self.probe_outstanding = True

    def on_acknowledged(self, match: LogIndex) -> bool:
        """The follower holds the leader's log up to *match*; True when that is news."""
        while self.in_flight and self.in_flight[0][0] <= match:
            self.bytes_in_flight -= self.in_flight.popleft()[1]
        self.probe_outstanding = False
        self.next = max(self.next, LogIndex(match + 1))
        if match <= self.match:
            return False
        self.match = match
        self.window = min(self.window + 1, MESSAGES_IN_FLIGHT_MAX)
        return True

    def forget_match(self) -> None:
        """The follower does not hold what it once acknowledged: count on nothing."""
        self.match = LogIndex(0)

    def become_probe(self, next_index: LogIndex) -> None:
        """Go back to one message at a time, from *next_index*."""
        if self.mode is Mode.REPLICATE:
            self.window = max(1, self.window // 2)
        self._clear_flight()
        self.mode = Mode.PROBE
        self.next = max(next_index, LogIndex(self.match + 1))

    def become_replicate(self) -> None:
        self._clear_flight()
        self.mode = Mode.REPLICATE
        self.next = LogIndex(self.match + 1)

    def become_snapshot(self, index: LogIndex) -> None:
        self._clear_flight()
        self.mode = Mode.SNAPSHOT
        self.snapshot_index = index

    def _clear_flight(self) -> None:
        self.in_flight.clear()
        self.bytes_in_flight = 0
        self.probe_outstanding = False
