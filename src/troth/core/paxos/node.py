"""Multi-Paxos, complete: the entry to a server's protocol state machine.

Theory of operation. The log is a row of slots, and each slot is one instance of Paxos. All servers are acceptors for
all slots; one of them, with the highest ballot, is the proposer for all. It prepares its ballot once for all slots
that are open (phase 1), proposes anew what may be chosen in them, and from then on a new value costs one round of
phase 2. Inputs are method calls, the outcome is fetched with `take_effects`; in between nothing happens. Every
message passes the same gates: is it well formed, does its ballot stop it here, who sent it; then the role decides.

What may be assumed of the world: messages may be lost, delayed, repeated and reordered, not forged. A write that
`after_persist` waited for survives a crash. Clocks matter for liveness alone, unless lease reads are chosen.

Sources: Lamport 1998 "The Part-Time Parliament"; Lamport 2001 "Paxos Made Simple" (§3, the multi-decree protocol);
van Renesse & Altinbuken 2015 "Paxos Made Moderately Complex"; Howard, Malkhi, Spiegelman 2016 "Flexible Paxos". What
is not in them: probes and leases (as Raft's pre-vote and check-quorum), pages, and the stop sign for memberships
(docs/adr/0009-paxos-memberships-behind-a-stop-sign.md)."""

from collections.abc import Sequence
from typing import assert_never

from typing_extensions import override

from troth.core.config import EngineConfig
from troth.core.interface import (
    Ballot,
    Engine,
    Entry,
    EntryId,
    HardState,
    Message,
    Persist,
    Slot,
    SnapshotMeta,
)
from troth.core.leading.roles import Follower, PreCandidate
from troth.core.paxos.messages import (
    Accept,
    AcceptReply,
    Heartbeat,
    HeartbeatReply,
    Outbid,
    PaxosMessage,
    Prepare,
    Probe,
    ProbeReply,
    Promise,
    ReadReply,
    ReadRequest,
    TimeoutNow,
    is_well_formed,
)
from troth.core.paxos.preparing import Preparing
from troth.core.paxos.roles import Candidate, Leader
from troth.core.paxos.state import NOBODY
from troth.core.quorum import check_flexible
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng


class Paxos(Preparing):
    """One server's Multi-Paxos state machine; implements `core.interface.Engine`."""

    # ---- inputs ----

    @override
    def tick(self, now: Tick) -> None:
        """Let time pass up to *now* (never falls); who prepares asks again for what is missing."""
        super().tick(now)
        if isinstance(self._role, Candidate):
            self._candidate_tick(self._role)

    def receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        """Handle one message. Malformed or stale ones change nothing."""
        self._now = max(self._now, now)
        if not isinstance(message, PaxosMessage) or not is_well_formed(sender, message):
            self._trace("malformed", sender=sender)
            return
        if self._admits(sender, message):
            self._dispatch(sender, message)
            if (leader := self._leader) is not None:
                self._after_leader_input(leader)

    def snapshot_received(self, sender: NodeId, term: Term, meta: SnapshotMeta, now: Tick) -> bool:
        """A whole snapshot has arrived and is durable; True when it is installed (see `Effects.install`).

        What is in it is chosen, whoever sends it in whatever *term*; a leader, though, has all that is chosen. Only a
        leader sends one, so its ballot is promised like that of any other message: the leader of a lower one may not
        know what is chosen here, and must learn that it is outbid before it is told of slots that it never filled.
        """
        self._now = max(self._now, now)
        ballot = Ballot(term, sender)
        if ballot > self._promised:
            self._promise(ballot)
            self._become_follower(NOBODY)
        if isinstance(self._role, Leader | Candidate):
            return False
        return self._install(sender, meta)

    # ---- gates ----

    def _admits(self, sender: NodeId, message: PaxosMessage) -> bool:
        """The ballot gate: False when the message's ballot ends its way here."""
        ballot = message.ballot
        if ballot < self._promised:
            match message:
                case Accept() | Heartbeat() | Prepare():
                    self._answer_outbid(sender)
                case Probe():
                    self._on_probe(sender, message)
                case _:
                    pass
            return False
        if ballot == self._promised:
            return True
        match message:
            case Probe():
                return True  # a question about a ballot, not a message of it
            case ProbeReply() if message.granted:
                return True
            case Prepare() if not self._may_promise(message.start, handed_over=message.handed_over):
                self._trace("disregarded", candidate=sender, term=ballot.round)
                return False
            case _:
                self._promise(ballot)
                self._become_follower(NOBODY)
                if isinstance(message, Prepare):
                    self._leader_contact = None
                return True

    def _dispatch(self, sender: NodeId, message: PaxosMessage) -> None:
        role = self._role
        match message:
            case Probe():
                self._on_probe(sender, message)
            case ProbeReply():
                if isinstance(role, PreCandidate):
                    self._on_probe_reply(role, sender, message)
            case Prepare():
                self._on_prepare(sender, message)
            case Promise():
                if isinstance(role, Candidate):
                    self._on_promise(role, sender, message)
            case Accept():
                self._follow(sender)
                self._on_accept(sender, message)
            case Heartbeat():
                self._follow(sender)
                self._on_heartbeat(sender, message)
            case AcceptReply():
                if isinstance(role, Leader):
                    self._on_accept_reply(role, sender, message)
            case HeartbeatReply():
                if isinstance(role, Leader):
                    self._on_heartbeat_reply(role, sender, message)
            case ReadRequest():
                if isinstance(role, Leader):
                    self._leader_read(role, sender, message.number)
            case ReadReply():
                if isinstance(role, Follower):
                    self._on_read_point(role, message.number, message.index)
            case TimeoutNow():
                if not isinstance(role, Leader):
                    self._on_timeout_now()
            case Outbid():
                pass  # its ballot has done its work at the gate
            case _:
                assert_never(message)

    def _follow(self, leader: NodeId) -> None:
        """A message that only the owner of the promised ballot sends, and only when it leads, has come: follow it."""
        role = self._role
        invariant(not isinstance(role, Leader), "two leaders with one ballot", ballot=self._promised, other=leader)
        if not isinstance(role, Follower) or role.leader != leader:
            self._become_follower(leader)
        else:
            self._reset_election_timer()
        self._leader_contact, self._leader_heard, self._helped = self._now, self._promised, None

    def _after_leader_input(self, leader: Leader) -> None:
        """What a leader does when an answer may have changed what a quorum holds."""
        if self._maybe_choose(leader):
            self._track_members(leader)
            if self._removed():
                self._hand_over_when_removed(leader)
                return
            self._go_on_changing(leader)
        self._maybe_hand_over(leader)

    # ---- outcome ----

    @override
    def _take_persist(self) -> Persist | None:
        """What storage has not been given yet; a leader's own acknowledgement waits for it."""
        slots = self._slots.take_unsaved()
        promise = self._promised
        if not slots and promise == self._saved_promise and self._out.install is None:
            return None
        if slots and isinstance(self._role, Leader):
            self._send_durable(self.node_id, AcceptReply(promise, self._match))
        changed = promise != self._saved_promise
        self._saved_promise = promise
        return Persist(
            hard_state=self._hard_state if changed else None,
            slots=slots,
            chosen=self._chosen_index,
            snapshot=self._out.install,
        )

    @property
    @override
    def _hard_state(self) -> HardState:
        return HardState(self._promised.round, self._promised.node)

    @property
    @override
    def _ends(self) -> tuple[LogIndex, EntryId]:
        slots = self._slots
        return LogIndex(slots.compacted.index + 1), slots.id_at(slots.last_index)


def start(
    *,
    node_id: NodeId,
    config: EngineConfig,
    rng: Rng,
    snapshot: SnapshotMeta,
    hard_state: HardState | None = None,
    entries: Sequence[Entry] = (),
    slots: Sequence[Slot] = (),
    chosen: LogIndex = LogIndex(0),
    now: Tick = Tick(0),
    may_vote: bool = True,
) -> Engine:
    """A Multi-Paxos engine in the state that storage recovered (see `State.__init__`).

    Raises:
        UsageError: the quorum sizes of *config* need not meet among the voters.
    """
    invariant(not entries, "a log of Raft was given to Paxos", first=entries[:1])
    if config.phase1_size and snapshot.last.index == 0 and snapshot.membership.voters:
        check_flexible(len(snapshot.membership.voters), config.phase1_size, config.phase2_size)
    return Paxos(
        node_id=node_id,
        config=config,
        rng=rng,
        hard_state=hard_state or HardState(),
        snapshot=snapshot,
        slots=slots,
        chosen=chosen,
        now=now,
        may_vote=may_vote,
    )
