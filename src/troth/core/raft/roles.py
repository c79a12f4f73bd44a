"""Raft's candidate and leader; the other roles stand in core/leading/roles.py."""

from dataclasses import dataclass, field

from troth.core.leading.roles import Leading, Role
from troth.core.raft.progress import FollowerProgress
from troth.ids import LogIndex, NodeId


@dataclass(slots=True)
class Candidate(Role):
    """§5.2. Its own vote is in `votes` only when it is durable."""

    votes: dict[NodeId, bool] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Leader(Leading):
    progress: dict[NodeId, FollowerProgress]
    term_start: LogIndex
    """Index of this term's first entry; nothing commits, and no read is served, before it has (§5.4.2, §6.4)."""
