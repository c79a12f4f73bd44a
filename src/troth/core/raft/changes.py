"""Membership changes (Raft §6: joint consensus) and learners (thesis §4.2.1).

A change of voters is two entries: a joint membership, under which old and new voters must both agree, and, as soon
as that has committed, the new membership alone.
"""

from typing_extensions import override

from troth.core.interface import EntryId, EntryKind, Membership
from troth.core.membership import encode_membership, left
from troth.core.raft.progress import FollowerProgress
from troth.core.raft.reads import Reads
from troth.core.raft.roles import Leader
from troth.ids import LogIndex


class Changes(Reads):
    """§6."""

    @override
    def _change_unfinished(self, leader: Leader) -> bool:
        return self._memberships.index > self._commit_index or self._membership.is_joint

    @override
    def _propose_membership(self, leader: Leader, membership: Membership) -> EntryId:
        entry = self._place(leader, EntryKind.MEMBERSHIP, encode_membership(membership))
        self._trace("membership", index=entry.index, joint=membership.is_joint, voters=membership.voters)
        self._track_members(leader)
        return entry

    def _track_members(self, leader: Leader) -> None:
        """Begin to send to those who have come, cease to send to those who have gone."""
        everyone = self._membership.everyone()
        for node in everyone:
            if node not in leader.progress:
                leader.progress[node] = FollowerProgress(
                    match=LogIndex(0), next=LogIndex(self._log.last_index + 1), heard=self._now
                )
        for node in [node for node in leader.progress if node not in everyone and node != self.node_id]:
            del leader.progress[node]

    def _maybe_leave_joint(self, leader: Leader) -> None:
        """The joint membership has committed: the new voters may now decide alone (§6)."""
        if self._membership.is_joint and self._memberships.index <= self._commit_index:
            self._propose_membership(leader, left(self._membership))

    def _removed(self) -> bool:
        """Whether a committed membership is without this server."""
        membership = self._membership
        return not membership.is_voter(self.node_id) and self._memberships.index <= self._commit_index
