"""Raft, complete: the entry to a server's protocol state machine.

Theory of operation. One server of a cluster keeps a log; the rules make all logs the same. Inputs are method
calls, the outcome is fetched with `take_effects`; in between nothing happens. Every message passes the same
gates: is it well formed, does its term stop it here (figure 2, "Rules for Servers"), who sent it; then the role
decides.

What may be assumed of the world: messages may be lost, delayed, repeated and reordered, not forged. A write that
`after_persist` waited for survives a crash. Clocks matter for liveness alone, unless lease reads are chosen.

Source: Ongaro & Ousterhout 2014 ("the paper", sections as §), Ongaro's thesis 2014. Divergences from the
paper are listed in docs/divergences.md.
"""

from collections.abc import Sequence
from typing import assert_never

from troth.core.interface import (
    ORIGIN,
    Accepted,
    Effects,
    Engine,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Membership,
    Message,
    Persist,
    Progress,
    ProposeResult,
    RefusalReason,
    Refused,
    RoleName,
    Slot,
    SnapshotMeta,
    Status,
)
from troth.core.raft.elections import Elections
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    HigherTerm,
    PreVote,
    PreVoteReply,
    RaftMessage,
    ReadReply,
    ReadRequest,
    RequestVote,
    TimeoutNow,
    VoteReply,
    is_well_formed,
)
from troth.core.raft.roles import Candidate, Follower, Leader, PreCandidate
from troth.core.raft.state import NOBODY, RaftConfig
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng

NO_EFFECTS = Effects()


class Raft(Elections):
    """One server's Raft state machine; implements `core.interface.Engine`."""

    # ---- inputs ----

    def propose(self, payload: bytes) -> ProposeResult:
        """Append *payload* to the log if this server leads."""
        leader = self._role
        if not isinstance(leader, Leader):
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        if leader.transfer is not None:
            return Refused(RefusalReason.TRANSFERRING, leader.transfer.target)
        if leader.uncommitted_bytes and (
            leader.uncommitted_bytes + len(payload) > self._config.uncommitted_bytes_max
        ):
            return Refused(RefusalReason.QUEUE_FULL, self.node_id)
        entry = self._append_own(EntryKind.COMMANDS, payload)
        return Accepted(EntryId(entry.term, entry.index))

    def tick(self, now: Tick) -> None:
        """Let time pass up to *now* (never falls)."""
        self._now = max(self._now, now)
        role = self._role
        if isinstance(role, Leader):
            self._leader_tick(role)
            return
        if isinstance(role, Follower) and role.reads:
            self._expire_reads(role)
        if self._now >= self._election_deadline:
            self._on_election_timeout()

    def receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        """Handle one message. Malformed or stale ones change nothing."""
        self._now = max(self._now, now)
        if not isinstance(message, RaftMessage) or not is_well_formed(message):
            self._trace("malformed", sender=sender)
            return
        if self._admits(sender, message):
            self._dispatch(sender, message)
            if isinstance(self._role, Leader):
                self._after_leader_input(self._role)

    def snapshot_received(self, sender: NodeId, term: Term, meta: SnapshotMeta, now: Tick) -> bool:
        """A whole snapshot has arrived and is durable; True when it is installed (see `Effects.install`)."""
        self._now = max(self._now, now)
        if term < self._term:
            return False
        if term > self._term:
            self._set_term(term)
            self._become_follower(NOBODY)
        self._follow(sender)
        return self._install(sender, meta)

    def applied(self, index: LogIndex) -> None:
        """The state machine has applied up to *index*."""
        invariant(index <= self._commit_index, "applies what is not committed", index=index)
        self._applied_index = max(self._applied_index, index)

    # ---- gates ----

    def _admits(self, sender: NodeId, message: RaftMessage) -> bool:
        """The term gate (figure 2, "All Servers"; §5.1): False when the message's term ends its way here."""
        if message.term < self._term:
            match message:
                case AppendEntries() | Heartbeat() | RequestVote():
                    # No VoteReply: to a candidate of the present term it would take back the vote it was given.
                    self._tell_term(sender)
                case PreVote():
                    self._send_durable(sender, PreVoteReply(self._term, False))
                case _:
                    pass
            return False
        if message.term == self._term:
            return True
        match message:
            case PreVote():
                return True  # a question about a term, not a message of it
            case PreVoteReply() if message.granted:
                return True
            case RequestVote() if self._hears_leader() and not message.transfer:
                self._trace("disregarded", candidate=sender, term=message.term)
                return False
            case _:
                self._set_term(message.term)
                self._become_follower(NOBODY)
                if isinstance(message, RequestVote):
                    self._leader_contact = None
                return True

    def _dispatch(self, sender: NodeId, message: RaftMessage) -> None:
        role = self._role
        match message:
            case PreVote():
                self._on_pre_vote(sender, message)
            case RequestVote():
                self._on_request_vote(sender, message)
            case PreVoteReply():
                if isinstance(role, PreCandidate) and message.term == self._term + message.granted:
                    role.votes[sender] = message.granted
                    self._count_pre_votes(role)
            case VoteReply():
                if isinstance(role, Candidate):
                    # A vote is not taken back: a refusal that comes later is older, or speaks of another request.
                    role.votes[sender] = message.granted or role.votes.get(sender, False)
                    self._count_votes(role)
            case AppendEntries():
                self._follow(sender)
                self._on_append_entries(sender, message)
            case Heartbeat():
                self._follow(sender)
                self._on_heartbeat(sender, message)
            case AppendReply():
                if isinstance(role, Leader):
                    self._on_append_reply(role, sender, message)
            case AppendRejected():
                if isinstance(role, Leader):
                    self._on_append_rejected(role, sender, message)
            case HeartbeatReply():
                if isinstance(role, Leader):
                    self._on_heartbeat_reply(role, sender, message)
            case ReadRequest():
                if isinstance(role, Leader):
                    self._on_read_request(role, sender, message)
            case ReadReply():
                if isinstance(role, Follower):
                    self._on_read_reply(role, message)
            case TimeoutNow():
                if not isinstance(role, Leader):
                    self._on_timeout_now()
            case HigherTerm():
                pass  # its term has done its work at the gate
            case _:
                assert_never(message)

    def _follow(self, leader: NodeId) -> None:
        """A message that only this term's leader sends has come: follow it (§5.2)."""
        role = self._role
        invariant(not isinstance(role, Leader), "two leaders in one term", term=self._term, other=leader)
        if not isinstance(role, Follower) or role.leader != leader:
            self._become_follower(leader)
        else:
            self._reset_election_timer()
        self._leader_contact = self._now

    def _after_leader_input(self, leader: Leader) -> None:
        """What a leader does when an answer may have changed what a quorum holds."""
        if self._maybe_commit(leader):
            self._maybe_leave_joint(leader)
            if self._removed():
                self._hand_over_when_removed(leader)
                return
        self._maybe_hand_over(leader)

    # ---- outcome ----

    def take_effects(self) -> Effects:
        """Everything to be done since the last call."""
        role = self._role
        if isinstance(role, Leader):
            if role.rounds:
                self._confirm_rounds(role)
            self._begin_reads(role)
            self._replicate(role)
            if role.commit_told < self._commit_index:
                role.commit_told = self._commit_index
                self._send_commit_notice(role)
        persist = self._take_persist()
        committed = self._take_committed()
        if not (
            persist
            or committed
            or self._out_send
            or self._out_after_persist
            or self._out_reads
            or self._out_reads_refused
            or self._out_snapshots_wanted
            or self._out_trace
            or self._out_membership
        ):
            return NO_EFFECTS
        effects = Effects(
            send=tuple(self._out_send),
            persist=persist,
            after_persist=tuple(self._out_after_persist),
            committed=committed,
            more_committed=self._delivered_index < self._commit_index,
            install=self._out_install,
            reads=tuple(self._out_reads),
            reads_refused=tuple(self._out_reads_refused),
            snapshots_wanted=tuple(self._out_snapshots_wanted),
            membership=self._out_membership,
            trace=tuple(self._out_trace),
        )
        self._out_send.clear()
        self._out_after_persist.clear()
        self._out_reads.clear()
        self._out_reads_refused.clear()
        self._out_snapshots_wanted.clear()
        self._out_trace.clear()
        self._out_install = None
        self._out_membership = None
        return effects

    def _take_persist(self) -> Persist | None:
        """What storage has not been given yet; a leader's own acknowledgement waits for it (thesis §10.2.1)."""
        entries = self._log.take_unsaved()
        saved = self._saved_hard_state
        changed = self._term != saved.term or self._voted_for != saved.voted_for
        if not (changed or entries or self._out_install is not None):
            return None
        if entries and isinstance(self._role, Leader):
            self._send_durable(self.node_id, AppendReply(self._term, self._log.last_index))
        if changed:
            self._saved_hard_state = HardState(self._term, self._voted_for)
        return Persist(
            hard_state=self._saved_hard_state if changed else None, entries=entries, snapshot=self._out_install
        )

    def status(self) -> Status:
        """A frozen look at the present state."""
        role = self._role
        progress: dict[NodeId, Progress] = {}
        transferring_to = NOBODY
        if isinstance(role, Leader):
            transferring_to = role.transfer.target if role.transfer else NOBODY
            progress = {
                node: Progress(
                    match=seen.match,
                    next=seen.next,
                    state=seen.mode.value,
                    active=node == self.node_id or self._is_active(seen),
                    in_flight=len(seen.in_flight),
                )
                for node, seen in sorted(role.progress.items())
            }
        return Status(
            node_id=self.node_id,
            role=_ROLE_NAMES[type(role)],
            term=self._term,
            voted_for=self._voted_for,
            leader=self._leader_id,
            first_index=self._log.first_index,
            last=self._log.last,
            commit_index=self._commit_index,
            applied_index=self._applied_index,
            membership=self._membership,
            membership_index=self._memberships.index,
            progress=progress,
            transferring_to=transferring_to,
        )

    @property
    def commit_index(self) -> LogIndex:
        """Everything up to here is agreed upon."""
        return self._commit_index

    def leader(self) -> tuple[Term, NodeId]:
        """The present term and its leader (0: unknown): the part of `status` that is asked for all the time."""
        return self._term, self._leader_id


_ROLE_NAMES: dict[type, RoleName] = {
    Follower: RoleName.FOLLOWER,
    PreCandidate: RoleName.PRE_CANDIDATE,
    Candidate: RoleName.CANDIDATE,
    Leader: RoleName.LEADER,
}


def new_cluster(membership: Membership) -> SnapshotMeta:
    """The empty state that every founding member starts behind."""
    return SnapshotMeta(ORIGIN, membership)


def start(
    *,
    node_id: NodeId,
    config: RaftConfig,
    rng: Rng,
    snapshot: SnapshotMeta,
    hard_state: HardState | None = None,
    entries: Sequence[Entry] = (),
    slots: Sequence[Slot] = (),
    chosen: LogIndex = LogIndex(0),
    now: Tick = Tick(0),
    may_vote: bool = True,
) -> Engine:
    """A Raft engine in the state that storage recovered (see `State.__init__`)."""
    invariant(not slots and not chosen, "what Paxos has stored was given to Raft", chosen=chosen)
    return Raft(
        node_id=node_id,
        config=config,
        rng=rng,
        hard_state=hard_state or HardState(),
        snapshot=snapshot,
        entries=entries,
        now=now,
        may_vote=may_vote,
    )
