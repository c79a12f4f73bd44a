"""The roles of a server. Each holds what only that role knows, so that it cannot outlive it.

Every server is an acceptor whatever its role; the role says what it is as a proposer.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from troth.core.interface import Entry, Membership, Slot
from troth.core.paxos.progress import AcceptorProgress
from troth.ids import LogIndex, NodeId, Tick


@dataclass(slots=True)
class Follower:
    """`leader`: the owner of the promised ballot, once it has been heard to lead; 0 before."""

    leader: NodeId = NodeId(0)
    reads: dict[int, tuple[int, Tick]] = field(default_factory=dict)
    """Reads forwarded to the leader: our number for it -> (context, tick at which to give up)."""


@dataclass(slots=True)
class PreCandidate:
    """Asks whether a ballot would be promised, without using one."""

    votes: dict[NodeId, bool] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Candidate:
    """Phase 1. What acceptors report of the slots above the chosen ones gathers here, page by page."""

    transfer: NodeId
    """The leader who asked for this; 0 for none."""
    retry_due: Tick
    asked: dict[NodeId, LogIndex] = field(default_factory=dict)
    """Acceptors that owe a page -> the slot at which it begins."""
    promised: dict[NodeId, bool] = field(default_factory=dict)
    """Acceptors whose last page has come."""
    positions: dict[NodeId, LogIndex] = field(default_factory=dict)
    """How far each of them knows what is chosen."""
    heard: dict[LogIndex, Slot] = field(default_factory=dict)
    """Per slot the report with the highest ballot."""
    memberships: list[tuple[LogIndex, Membership]] = field(default_factory=list)
    """Every membership that was reported, with its slot: each must have promised."""


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
class Leader:
    progress: dict[NodeId, AcceptorProgress]
    recovered: LogIndex
    """The last slot of the window that was open when this ballot began. Until all of it is chosen, not all is known
    that may have been chosen before, and no read is answered."""
    accepted: LogIndex
    """The last slot whose value was accepted here at this ballot, and may be sent."""
    last: LogIndex
    """The last slot given to a value, in `queue` or accepted here."""
    queue: deque[Entry]
    """Values with a slot that have not gone out yet: the rest of the turn, or all behind a membership."""
    ticked: Tick
    heartbeat_due: Tick
    own_disk_seen: Tick
    """When this server's own disk last kept up; a leader with a hung disk steps down."""
    barrier: LogIndex = LogIndex(0)
    """The newest membership sent out: what comes behind it waits until it is chosen."""
    membership_last: LogIndex = LogIndex(0)
    """The newest membership that was given a slot in this ballot."""
    token: int = 0
    rounds: deque[tuple[int, Tick]] = field(default_factory=deque)
    """(token, tick of sending) of unconfirmed heartbeat rounds: a lease counts from the *sending*."""
    lease_start: Tick | None = None
    unconfirmed: deque[PendingRead] = field(default_factory=deque)
    new_reads: list[tuple[NodeId, int]] = field(default_factory=list)
    """(origin, context) of reads that no round covers yet."""
    transfer: Transfer | None = None
    timeout_now_sent: bool = False
    """Once sent it may arrive at any time, so leases hold no longer in this ballot."""
    chosen_told: LogIndex = LogIndex(0)
    """The chosen index that followers with nothing in flight have been sent."""
    uncommitted_bytes: int = 0
    uncommitted: deque[Entry] = field(default_factory=deque)


Role: TypeAlias = Follower | PreCandidate | Candidate | Leader
