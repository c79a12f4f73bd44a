"""Membership changes: a joint membership, then the new one, each a value of a slot.

A membership decides on the slots behind its own, once it is chosen; nothing behind leaves the leader before that (the
stop sign, see proposing.py). So all servers agree on who decides on a slot by the time anybody proposes a value for
it, and a server whose knowledge is old finds out in phase 1 (preparing.py).

Between the old voters and the new ones stands a joint membership, under which a quorum of both must agree. So a
quorum of the new ones (a phase-1 quorum, if that is larger) has accepted the leaving at this leader's ballot, and
promised nothing below, when they begin to decide alone; without that a lower ballot could get their promises. And old
servers can be stopped as soon as the change is
announced: by then a quorum of the new ones holds everything and knows itself in charge.
"""

from troth.core.interface import (
    Accepted,
    EntryKind,
    Membership,
    MembershipChange,
    ProposeResult,
    RefusalReason,
    Refused,
)
from troth.core.membership import changed, encode_membership, left, promotable
from troth.core.paxos.progress import AcceptorProgress, Mode
from troth.core.paxos.reads import Reads
from troth.core.paxos.roles import Leader
from troth.ids import LogIndex


class Changes(Reads):
    """Who decides, and how that changes."""

    def change_membership(self, change: MembershipChange) -> ProposeResult:
        """Start a membership change; it is over when `Status.membership` is no longer joint."""
        leader = self._role
        if not isinstance(leader, Leader):
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        if leader.transfer is not None:
            return Refused(RefusalReason.TRANSFERRING, self.node_id)
        if not self._is_recovered(leader):
            return Refused(RefusalReason.NOT_READY, self.node_id)
        if leader.membership_last > self._chosen_index or self._announced.is_joint:
            return Refused(RefusalReason.CHANGE_IN_PROGRESS, self.node_id)
        target = changed(self._membership, change)
        if isinstance(target, str):
            return Refused(RefusalReason.BAD_CHANGE, self.node_id, target)
        return Accepted(self._give_slot(leader, EntryKind.MEMBERSHIP, self._told(target)))

    def _told(self, membership: Membership) -> bytes:
        self._trace("membership", joint=membership.is_joint, voters=membership.voters)
        return encode_membership(membership)

    def _track_members(self, leader: Leader) -> None:
        """Begin to send to those who have come, cease to send to those who have gone."""
        everyone = {*self._announced.everyone(), *self._membership.everyone(), self.node_id}
        for node in sorted(everyone - leader.progress.keys()):
            leader.progress[node] = AcceptorProgress(LogIndex(self._chosen_index + 1), heard=self._now)
        for node in leader.progress.keys() - everyone:
            del leader.progress[node]

    def _go_on_changing(self, leader: Leader) -> None:
        """The next step of a change: out of the joint membership, then a slot that the new voters alone decide on."""
        membership, chosen = self._membership, self._chosen_index
        if membership.is_joint and leader.membership_last <= chosen:
            self._give_slot(leader, EntryKind.MEMBERSHIP, self._told(left(membership)))
        elif self._announced is not membership and leader.last == chosen:
            self._give_slot(leader, EntryKind.NOOP, b"")

    def _maybe_promote(self, leader: Leader) -> None:
        """Learners that have caught up become voters, without anybody having to watch them."""
        caught_up = [
            node
            for node in self._membership.learners
            if (progress := leader.progress[node]).mode is Mode.REPLICATE
            and self._is_active(progress)
            and progress.match + self._config.promote_lag_max >= leader.last
        ]
        ready = promotable(self._membership, caught_up)
        if ready:
            self.change_membership(MembershipChange(promote=ready))

    def _is_active(self, progress: AcceptorProgress) -> bool:
        """Whether an acceptor was heard from within an election timeout."""
        return self._now - progress.heard < self._config.election_timeout_ticks

    def _removed(self) -> bool:
        """Whether it is settled that this server decides nothing any more."""
        return self._announced is self._membership and not self._membership.is_voter(self.node_id)
