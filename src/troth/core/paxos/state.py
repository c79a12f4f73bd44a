"""The state of a Multi-Paxos server and the outboxes its rules write to.

The rules are layered over it: accepting.py (the acceptor: promises, accepted values, what is chosen), proposing.py
(phase 2), reads.py, changes.py (membership), preparing.py (phase 1 and who begins it), and node.py, which is the
entry: it admits messages and gathers the effects.
"""

from collections.abc import Iterable

from troth.core.config import EngineConfig
from troth.core.interface import (
    Ballot,
    EntryKind,
    HardState,
    Membership,
    ReadState,
    Send,
    Slot,
    SnapshotMeta,
    Trace,
)
from troth.core.membership import MembershipLog
from troth.core.paxos.messages import AcceptReply, PaxosMessage
from troth.core.paxos.roles import Follower, Leader, Role
from troth.core.paxos.slots import Slots
from troth.core.quorum import QuorumSizes
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Tick
from troth.ports import Rng

NOBODY = NodeId(0)


class State:
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
        prepares until `restore_vote`.
        """
        self.node_id = node_id
        self._config = config
        self._sizes = QuorumSizes(config.phase1_size, config.phase2_size)
        self._rng = rng
        self._now = now
        self._promised = Ballot(hard_state.term, hard_state.voted_for)
        self._saved_promise = self._promised
        self._may_vote = may_vote
        self._slots = Slots(snapshot.last, slots)
        self._memberships = MembershipLog(snapshot.membership, snapshot.last.index, ())
        self._announced = snapshot.membership
        """The membership that the outside has been told of (see `_announce`)."""
        self._chosen_index = snapshot.last.index
        """Every slot up to here is chosen."""
        self._match = snapshot.last.index
        """Every slot up to here is chosen or accepted at the promised ballot."""
        self._told_chosen = snapshot.last.index
        """What the leader of the promised ballot has said to be chosen, whether it is here or not."""
        self._delivered_index = snapshot.last.index
        self._applied_index = snapshot.last.index
        self._role: Role = Follower()
        # It may have confirmed a lease just before it went down, even in a ballot that it did not get to store.
        self._leader_contact: Tick | None = now if config.lease_reads else None
        self._leader_heard: Ballot | None = None
        """The ballot of the leader that was heard then; None if that is not known."""
        self._quick_attempts = 0
        self._read_number = rng.getrandbits(48)
        self._election_deadline = self._now
        self._others_of: Membership | None = None
        """The membership that `_others_now` was made from: it is asked for several times a turn."""
        self._others_now: tuple[NodeId, ...] = ()

        self._out_send: list[Send] = []
        self._out_after_persist: list[Send] = []
        self._out_reads: list[ReadState] = []
        self._out_reads_refused: list[int] = []
        self._out_snapshots_wanted: list[NodeId] = []
        self._out_install: SnapshotMeta | None = None
        self._out_membership: Membership | None = None
        self._out_trace: list[Trace] = []

        self._reset_election_timer()
        known = self._chosen_index
        while known < chosen and self._slots.get(LogIndex(known + 1)) is not None:
            known = LogIndex(known + 1)
        self._choose(known)
        self._advance_match()

    # ---- small questions ----

    @property
    def _membership(self) -> Membership:
        """Who decides on the slots that are open: the newest membership among the chosen slots."""
        return self._memberships.current

    @property
    def _leader_id(self) -> NodeId:
        role = self._role
        if isinstance(role, Leader):
            return self.node_id
        return role.leader if isinstance(role, Follower) else NOBODY

    def _others(self) -> tuple[NodeId, ...]:
        """Everybody else who receives the log, in a fixed order; who is leaving stays until the leaving is
        announced."""
        if self._announced is not self._others_of:
            self._others_of = self._announced
            self._others_now = tuple(node for node in self._announced.everyone() if node != self.node_id)
        return self._others_now

    # ---- outboxes ----

    def _send(self, to: NodeId, message: PaxosMessage) -> None:
        """May leave at once: it reveals nothing that a crash could take back."""
        self._out_send.append(Send(to, message))

    def _send_durable(self, to: NodeId, message: PaxosMessage) -> None:
        """Leaves when everything so far is durable: promises, acknowledgements, and whatever reveals the ballot."""
        outbox = self._out_after_persist
        if isinstance(message, AcceptReply) and not message.last and outbox:
            before = outbox[-1].message
            if (
                outbox[-1].to == to
                and isinstance(before, AcceptReply)
                and before.ballot == message.ballot
                and not before.last
            ):
                # Both wait for the same write, so one acknowledgement of the greater slot says it all.
                outbox[-1] = Send(to, AcceptReply(message.ballot, max(before.match, message.match)))
                return
        outbox.append(Send(to, message))

    def _trace(self, name: str, **facts: object) -> None:
        self._out_trace.append(Trace(name=name, facts=facts))

    # ---- changes that several rules make ----

    def _reset_election_timer(self) -> None:
        """Draw a new patience: randomised, so that two rarely prepare at once."""
        base = self._config.election_timeout_ticks
        self._election_deadline = Tick(self._now + self._rng.randrange(base, base + base // 2 + 1))

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

    def _become_follower(self, leader: NodeId) -> None:
        """Follow *leader* (0: nobody known yet) in the promised ballot."""
        self._drop_reads()
        self._role = Follower(leader=leader)
        self._quick_attempts = 0
        self._reset_election_timer()
        self._trace("follower", term=self._promised.round, leader=leader)

    def _drop_reads(self) -> None:
        """Refuse the reads that this role was waiting for; it is left at once, and they with it."""
        role = self._role
        if isinstance(role, Leader):
            pending = [(read.origin, read.context) for read in role.unconfirmed] + role.new_reads
            self._out_reads_refused.extend(context for origin, context in pending if origin == self.node_id)
        elif isinstance(role, Follower):
            self._out_reads_refused.extend(context for context, _ in role.reads.values())

    def _choose(self, index: LogIndex) -> None:
        """All slots up to *index*, which are held, are chosen; memberships among them take effect."""
        for each in range(self._chosen_index + 1, index + 1):
            entry = self._slots.entry(LogIndex(each))
            if entry.kind == EntryKind.MEMBERSHIP:
                self._memberships.on_append(entry)
        self._chosen_index = index
        if self._match < index:
            self._match = index
            self._advance_match()
        self._announce()

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
            self._announced = newest
            self._out_membership = newest
