"""Membership changes: a joint membership, then the new one, each a value of a slot.

A membership decides on the slots behind its own, once it is chosen; nothing behind leaves the leader before that (the
stop sign, see proposing.py). So all servers agree on who decides on a slot by the time anybody proposes a value for
it, and a server whose knowledge is old finds out in phase 1 (preparing.py).

Between the old voters and the new ones stands a joint membership, under which a quorum of both must agree. So a
quorum of the new ones (a phase-1 quorum, if that is larger) has accepted the leaving at this leader's ballot, and
promised nothing below, when they begin to decide alone; without that a lower ballot could get their promises. And old
servers can be stopped as soon as the change is announced: by then a quorum of the new ones holds everything and knows
itself in charge.
"""

from typing_extensions import override

from troth.core.interface import EntryId, EntryKind, Membership
from troth.core.membership import encode_membership, left
from troth.core.paxos.progress import AcceptorProgress
from troth.core.paxos.reads import Reads
from troth.core.paxos.roles import Leader
from troth.ids import LogIndex


class Changes(Reads):
    """Who decides, and how that changes."""

    @override
    def _change_unfinished(self, leader: Leader) -> bool:
        return leader.membership_last > self._chosen_index or self._announced.is_joint

    @override
    def _propose_membership(self, leader: Leader, membership: Membership) -> EntryId:
        self._trace("membership", joint=membership.is_joint, voters=membership.voters)
        return self._place(leader, EntryKind.MEMBERSHIP, encode_membership(membership))

    def _track_members(self, leader: Leader) -> None:
        """Begin to send to those who have come, cease to send to those who have gone."""
        everyone = {*self._announced.everyone(), self.node_id}
        for node in sorted(everyone - leader.progress.keys()):
            leader.progress[node] = AcceptorProgress(LogIndex(self._chosen_index + 1), heard=self._now)
        for node in leader.progress.keys() - everyone:
            del leader.progress[node]

    def _go_on_changing(self, leader: Leader) -> None:
        """The next step of a change: out of the joint membership, then a slot that the new voters alone decide on."""
        membership, chosen = self._membership, self._chosen_index
        if membership.is_joint and leader.membership_last <= chosen:
            self._propose_membership(leader, left(membership))
        elif self._announced is not membership and leader.last == chosen:
            self._place(leader, EntryKind.NOOP, b"")

    def _removed(self) -> bool:
        """Whether it is settled that this server decides nothing any more."""
        return self._announced is self._membership and not self._membership.is_voter(self.node_id)
