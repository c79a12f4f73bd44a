"""Multi-Paxos's candidate and leader; the other roles stand in core/leading/roles.py.

Every server is an acceptor whatever its role; the role says what it is as a proposer.
"""

from collections import deque
from dataclasses import dataclass, field

from troth.core.interface import Entry, Membership, Slot
from troth.core.leading.roles import Leading, Role
from troth.core.paxos.progress import AcceptorProgress
from troth.ids import LogIndex, NodeId, Tick


@dataclass(slots=True, kw_only=True)
class Candidate(Role):
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
    reports: dict[LogIndex, Slot] = field(default_factory=dict)
    """Per slot the report with the highest ballot."""
    memberships: dict[LogIndex, Membership] = field(default_factory=dict)
    """Slot -> the membership in `reports`: each must have promised. One that a higher ballot has replaced was never
    chosen, and its servers may never have been started."""


@dataclass(slots=True, kw_only=True)
class Leader(Leading):
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
    stop_sign: LogIndex = LogIndex(0)
    """The newest membership sent out: what comes behind it waits until it is chosen."""
    rest_upto: LogIndex = LogIndex(0)
    """The last slot that acceptors who are spared (proposing.py) are sent."""
    rest_due: Tick = Tick(0)
    """The first round from then on raises it."""
    membership_last: LogIndex = LogIndex(0)
    """The newest membership that was given a slot in this ballot."""
