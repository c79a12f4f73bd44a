"""The roles of a server (Raft figure 4). Each holds what only that role knows, so that it cannot outlive it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from troth.core.interface import Entry
from troth.core.leading.flight import Flight
from troth.ids import LogIndex, NodeId, Tick


class Role:
    """What a server is at the moment; a candidate is the protocol's own."""

    __slots__ = ()


@dataclass(slots=True)
class Follower(Role):
    """`leader`: whose messages of this term (ballot) have come; 0 before the first."""

    leader: NodeId = NodeId(0)
    reads: dict[int, tuple[int, Tick]] = field(default_factory=dict)
    """Reads forwarded to the leader: our number for it -> (context, tick at which to give up)."""


@dataclass(slots=True)
class PreCandidate(Role):
    """Asks whether an election could be won (a ballot would be promised), without using a term (Raft thesis §9.6)."""

    votes: dict[NodeId, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRead:
    """A read waiting for a quorum to confirm the leader after round `token` began."""

    origin: NodeId
    context: int
    index: LogIndex
    token: int


@dataclass(slots=True, kw_only=True)
class Transfer:
    """Leadership is on its way to `target`; intake is stopped until `deadline`."""

    target: NodeId
    deadline: Tick
    handed_over: bool = False


@dataclass(slots=True, kw_only=True)
class Leading(Role):
    """What every leader knows; a protocol's `Leader` adds its own."""

    progress: Mapping[NodeId, Flight]
    ticked: Tick
    heartbeat_due: Tick
    own_disk_seen: Tick
    """When this server's own disk last kept up; a leader with a hung disk steps down."""
    token: int = 0
    rounds: deque[tuple[int, Tick]] = field(default_factory=deque)
    """(token, tick of sending) of unconfirmed heartbeat rounds: a lease counts from the *sending*."""
    lease_start: Tick | None = None
    unconfirmed: deque[PendingRead] = field(default_factory=deque)
    new_reads: list[tuple[NodeId, int]] = field(default_factory=list)
    """(origin, context) of reads that no round covers yet."""
    transfer: Transfer | None = None
    timeout_now_sent: bool = False
    """Once sent it may arrive at any time, so leases hold no longer in this term (ballot)."""
    commit_told: LogIndex = LogIndex(0)
    """The commit index that followers with nothing in flight have been sent (`Flight.commit_told`)."""
    uncommitted_bytes: int = 0
    uncommitted: deque[Entry] = field(default_factory=deque)

    def on_proposed(self, entry: Entry) -> None:
        """*entry* has a place in the log, and counts as uncommitted."""
        self.uncommitted.append(entry)
        self.uncommitted_bytes += entry.size_bytes

    def on_committed(self, index: LogIndex) -> None:
        """Everything up to *index* has committed."""
        while self.uncommitted and self.uncommitted[0].index <= index:
            self.uncommitted_bytes -= self.uncommitted.popleft().size_bytes
