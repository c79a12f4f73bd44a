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

from typing_extensions import override

from troth.core.interface import (
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
from troth.core.raft.roles import Candidate, Leader
from troth.core.raft.state import NOBODY, RaftConfig
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng


class Raft(Elections):
    """One server's Raft state machine; implements `core.interface.Engine`."""

    # ---- inputs ----

    def receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        """Handle one message. Malformed or stale ones change nothing."""
        if now > self._now:
            self._now = now
        if not is_well_formed(message):
            self._trace("malformed", sender=sender)
            return
        if self._admits(sender, message):
            self._dispatch(sender, message)
            if (leader := self._leader) is not None:
                self._after_leader_input(leader)

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

    # ---- gates ----

    def _admits(self, sender: NodeId, message: RaftMessage) -> bool:
        """The term gate (figure 2, "All Servers"; §5.1): False when the message's term ends its way here."""
        if message.term == self._term:
            return True
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
            case ReadRequest():
                if isinstance(role, Leader):
                    self._on_read_request(role, sender, message)
            case ReadReply():
                if isinstance(role, Follower):
                    self._on_read_point(role, message.number, message.index)
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
        if isinstance(role, Follower) and role.leader == leader:
            self._reset_election_timer()
        else:
            invariant(not isinstance(role, Leader), "two leaders in one term", term=self._term, other=leader)
            self._become_follower(leader)
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

    @override
    def _take_persist(self) -> Persist | None:
        """What storage has not been given yet; a leader's own acknowledgement waits for it (thesis §10.2.1)."""
        entries = self._log.take_unsaved()
        saved = self._saved_hard_state
        changed = self._term != saved.term or self._voted_for != saved.voted_for
        if not (changed or entries or self._out.install is not None):
            return None
        if entries and isinstance(self._role, Leader):
            self._send_durable(self.node_id, AppendReply(self._term, self._log.last_index))
        if changed:
            self._saved_hard_state = self._hard_state
        return Persist(
            hard_state=self._saved_hard_state if changed else None, entries=entries, snapshot=self._out.install
        )

    @property
    @override
    def _hard_state(self) -> HardState:
        return HardState(self._term, self._voted_for)

    @property
    @override
    def _ends(self) -> tuple[LogIndex, EntryId]:
        return self._log.first_index, self._log.last


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
