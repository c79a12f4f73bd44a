"""The state of a Multi-Paxos server.

The rules are layered over it: accepting.py (the acceptor: promises, accepted values, what is chosen), proposing.py
(phase 2), reads.py, changes.py (membership), preparing.py (phase 1 and who begins it), and node.py, which is the
entry: it admits messages. What Raft does in the same way stands in core/leading.
"""

from collections.abc import Iterable

from typing_extensions import override

from troth.core.config import EngineConfig
from troth.core.interface import Ballot, EntryKind, HardState, Membership, Message, Slot, SnapshotMeta
from troth.core.leading.engine import LeaderEngine
from troth.core.leading.server import NOBODY
from troth.core.membership import MembershipLog
from troth.core.paxos.messages import AcceptReply, Promise
from troth.core.paxos.roles import Leader
from troth.core.paxos.slots import Slots
from troth.core.quorum import QuorumSizes
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng


class State(LeaderEngine[Leader]):
    """What the rules read and write. Only the rules' files touch the underscored names."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        config: EngineConfig,
        rng: Rng,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        slots: Iterable[Slot],
        chosen: LogIndex,
        now: Tick,
        may_vote: bool,
    ) -> None:
        """Start from what storage recovered. *snapshot* names the state in front of all slots: for a new cluster
        ``SnapshotMeta(ORIGIN, genesis membership)``. *slots* up to *chosen* hold chosen values.

        *may_vote* False: this server has lost a part of what it had accepted. It accepts, but neither promises nor
        prepares until `restore_vote`. If it has been the only voter, what is left without a gap is chosen.
        """
        super().__init__(
            node_id=node_id,
            config=config,
            rng=rng,
            snapshot=snapshot,
            memberships=MembershipLog(snapshot.membership, snapshot.last.index, ()),
            now=now,
            may_vote=may_vote,
        )
        self._sizes = QuorumSizes(config.phase1_size, config.phase2_size)
        self._promised = Ballot(hard_state.term, hard_state.voted_for)
        self._saved_promise = self._promised
        # A crash may leave a snapshot durable and the promise not.
        self._promised = max(self._promised, snapshot.floor)
        self._slots = Slots(snapshot.last, slots)
        self._announced_membership = snapshot.membership
        self._chosen_index = snapshot.last.index
        """Every slot up to here is chosen."""
        self._match = snapshot.last.index
        """Every slot up to here is chosen or accepted at the promised ballot."""
        self._told_chosen = snapshot.last.index
        """What the leader of the promised ballot has said to be chosen, whether it is here or not."""
        self._leader_heard: Ballot | None = None
        """The ballot of the leader that was heard at `_leader_contact`; None if that is not known."""
        self._helped: Tick | None = None
        """When the owner of the promised ballot, while it is not known to lead, was last sent a page of a promise, or,
        being this server, has got one that was not the last."""
        known = self._chosen_index
        while known < chosen and self._slots.get(LogIndex(known + 1)) is not None:
            known = LogIndex(known + 1)
        self._choose(known)
        if not may_vote:
            self._choose_alone()
        self._advance_match()

    # ---- small questions ----

    @property
    @override
    def term(self) -> Term:
        """The round of the promised ballot."""
        return self._promised.round

    @property
    @override
    def _ballot(self) -> Ballot:
        return self._promised

    @property
    @override
    def commit_index(self) -> LogIndex:
        """Every slot up to here is chosen."""
        return self._chosen_index

    @property
    @override
    def _leader(self) -> Leader | None:
        role = self._role
        return role if isinstance(role, Leader) else None

    @property
    @override
    def _announced(self) -> Membership:
        """See `_announce`; who is leaving receives the log until the leaving is announced."""
        return self._announced_membership

    @override
    def _merged(self, before: Message, after: Message) -> Message | None:
        if (
            isinstance(before, AcceptReply)
            and isinstance(after, AcceptReply)
            and before.ballot == after.ballot
            and not (before.last or after.last)
        ):
            return AcceptReply(after.ballot, max(before.match, after.match))
        if isinstance(after, Promise) and before == after:
            # Who was paused is asked the same again and again, and pages are large: a turn's answers share a frame.
            return after
        return None

    # ---- changes that several rules make ----

    def _promise(self, ballot: Ballot) -> None:
        """Accept nothing below *ballot* any more. What is accepted keeps the ballot it was accepted at."""
        invariant(ballot > self._promised, "a promise falls", ballot=ballot, promised=self._promised)
        self._promised = ballot
        self._match = self._told_chosen = self._chosen_index
        self._advance_match()

    def _advance_match(self) -> None:
        """Extend the unbroken run. It leads over a membership only when that is chosen (the stop sign, proposing.py);
        who was told so before a restart may have forgotten it, and would be counted for the slot behind."""
        slots, ballot = self._slots, self._promised
        last = slots.get(self._match)
        while slots.is_settled(LogIndex(self._match + 1), ballot):
            if last is not None and last.entry.kind == EntryKind.MEMBERSHIP:
                self._told_chosen = max(self._told_chosen, self._match)
            self._match = LogIndex(self._match + 1)
            last = slots.get(self._match)

    def _choose(self, index: LogIndex) -> None:
        """All slots up to *index*, which are held, are chosen; memberships among them take effect."""
        for each in range(self._chosen_index + 1, index + 1):
            entry = self._slots.entry(LogIndex(each))
            if entry.kind == EntryKind.MEMBERSHIP:
                self._memberships.on_append(entry)
        self._chosen_index = index
        self._match = max(self._match, index)
        self._announce()

    def _choose_alone(self) -> None:
        """As long as this server has been the only voter, a slot was chosen once it had durably accepted it, at
        whatever ballot. After a loss no leader may ever come to say so, and then nothing of it could be read."""
        while self._memberships.is_only_voter(self.node_id):
            behind = LogIndex(self._chosen_index + 1)
            if self._slots.get(behind) is None:
                break
            self._choose(behind)

    def _announce(self) -> None:
        """Tell the outside who the members are, if that has changed.

        That servers have left is told one slot late. The first slot behind is chosen by the new voters alone, and by
        each of them only when it durably knows that the old ones have left (`Proposing._maybe_choose`); until then
        the old ones are needed, and an operator who sees them listed keeps them running."""
        newest = self._membership
        if self._memberships.index == self._chosen_index and not newest.is_joint:
            before = self._memberships.at(LogIndex(self._chosen_index - 1))
            if before.is_joint:
                newest = before
        if newest is not self._announced:
            self._announced_membership = newest
            self._out.membership = newest


__all__ = ["NOBODY", "State"]
