"""Membership changes (Raft §6: joint consensus) and learners (thesis §4.2.1).

A change of voters is two entries: a joint membership, under which old and new voters must both agree, and, as soon
as that has committed, the new membership alone. No change starts before an entry of the leader's own term has
committed, nor while another is unfinished (Ongaro 2015, the bug in single-server changes).
"""

from troth.core.interface import (
    Accepted,
    EntryId,
    EntryKind,
    Membership,
    MembershipChange,
    ProposeResult,
    RefusalReason,
    Refused,
)
from troth.core.membership import changed, encode_membership, left, promotable
from troth.core.raft.progress import FollowerProgress, Mode
from troth.core.raft.reads import Reads
from troth.core.raft.roles import Leader
from troth.ids import LogIndex


class Changes(Reads):
    """§6."""

    def change_membership(self, change: MembershipChange) -> ProposeResult:
        """Start a membership change; it is over when `Status.membership` is no longer joint."""
        leader = self._role
        if not isinstance(leader, Leader):
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        if leader.transfer is not None:
            return Refused(RefusalReason.TRANSFERRING, self.node_id)
        if not self._committed_in_term(leader):
            return Refused(RefusalReason.NOT_READY, self.node_id)
        if self._memberships.index > self._commit_index or self._membership.is_joint:
            return Refused(RefusalReason.CHANGE_IN_PROGRESS, self.node_id)
        target = changed(self._membership, change)
        if isinstance(target, str):
            return Refused(RefusalReason.BAD_CHANGE, self.node_id, target)
        return Accepted(self._append_membership(leader, target))

    def _append_membership(self, leader: Leader, membership: Membership) -> EntryId:
        entry = self._append_own(EntryKind.MEMBERSHIP, encode_membership(membership))
        self._trace("membership", index=entry.index, joint=membership.is_joint, voters=membership.voters)
        self._track_members(leader)
        return EntryId(entry.term, entry.index)

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
            self._append_membership(leader, left(self._membership))

    def _maybe_promote(self, leader: Leader) -> None:
        """Learners that have caught up become voters, without anybody having to watch them."""
        caught_up = [
            node
            for node in self._membership.learners
            if (progress := leader.progress[node]).mode is Mode.REPLICATE
            and self._is_active(progress)
            and progress.match + self._config.promote_lag_max >= self._log.last_index
        ]
        ready = promotable(self._membership, caught_up)
        if ready:
            self.change_membership(MembershipChange(promote=ready))

    def _is_active(self, progress: FollowerProgress) -> bool:
        """Whether a follower was heard from within an election timeout."""
        return self._now - progress.heard < self._config.election_timeout_ticks

    def _removed(self) -> bool:
        """Whether a committed membership is without this server."""
        membership = self._membership
        return not membership.is_voter(self.node_id) and self._memberships.index <= self._commit_index
