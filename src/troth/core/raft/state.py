"""The state of a Raft server and the outboxes its rules write to.

The rules are layered over it, one file for each part of the paper: replication.py (§5.3, §5.4), snapshots.py (§7),
reads.py (thesis §6.4), changes.py (§6), elections.py (§5.2, thesis §9.6, §3.10), and node.py, which is the
entry: it admits messages and gathers the effects.
"""

from collections.abc import Sequence

from troth.core.config import EngineConfig
from troth.core.interface import (
    Entry,
    EntryKind,
    HardState,
    Membership,
    ReadState,
    Send,
    SnapshotMeta,
    Trace,
)
from troth.core.membership import MembershipLog
from troth.core.raft.log import Log
from troth.core.raft.messages import AppendReply, RaftMessage
from troth.core.raft.roles import Candidate, Follower, Leader, PreCandidate, Role
from troth.errors import InvariantViolation, invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng

NOBODY = NodeId(0)

RaftConfig = EngineConfig
"""The settings have their home in core/config.py; tests and the simulator know them by this name."""


class State:
    """What the rules read and write. Only the rules' files touch the underscored names."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        config: RaftConfig,
        rng: Rng,
        hard_state: HardState,
        snapshot: SnapshotMeta,
        entries: Sequence[Entry],
        now: Tick,
        may_vote: bool,
    ) -> None:
        """Start from what storage recovered. *snapshot* names the state that the log begins behind: for a new
        cluster ``SnapshotMeta(ORIGIN, genesis membership)``.

        *may_vote* False: this server has lost part of its log. It takes entries, but neither votes nor stands for
        election until `restore_vote`.
        """
        self.node_id = node_id
        self._config = config
        self._rng = rng
        self._now = now
        self._term = hard_state.term
        self._voted_for = hard_state.voted_for
        self._saved_hard_state = hard_state
        self._may_vote = may_vote
        self._log = Log(snapshot.last, entries)
        self._memberships = MembershipLog(snapshot.membership, snapshot.last.index, entries)
        self._others_of: Membership | None = None
        """The membership that `_others_now` was made from: it is asked for several times a turn."""
        self._others_now: tuple[NodeId, ...] = ()
        self._commit_index = snapshot.last.index
        self._delivered_index = snapshot.last.index
        self._applied_index = snapshot.last.index
        self._role: Role = Follower()
        # It may have confirmed a lease just before it went down, even in a term that it did not get to store.
        self._leader_contact: Tick | None = now if config.lease_reads else None
        self._quick_attempts = 0
        self._read_number = rng.getrandbits(48)
        self._election_deadline = self._now
        self._reset_election_timer()

        self._out_send: list[Send] = []
        self._out_after_persist: list[Send] = []
        self._out_reads: list[ReadState] = []
        self._out_reads_refused: list[int] = []
        self._out_snapshots_wanted: list[NodeId] = []
        self._out_install: SnapshotMeta | None = None
        self._out_membership: Membership | None = None
        self._out_trace: list[Trace] = []

    # ---- small questions ----

    @property
    def _membership(self) -> Membership:
        return self._memberships.current

    @property
    def _leader_id(self) -> NodeId:
        role = self._role
        if isinstance(role, Leader):
            return self.node_id
        return role.leader if isinstance(role, Follower) else NOBODY

    def _others(self) -> tuple[NodeId, ...]:
        """Everybody else who receives the log, in a fixed order."""
        membership = self._membership
        if membership is not self._others_of:
            self._others_of = membership
            self._others_now = tuple(node for node in membership.everyone() if node != self.node_id)
        return self._others_now

    def _other_voters(self) -> tuple[NodeId, ...]:
        membership = self._membership
        return tuple(node for node in self._others() if membership.is_voter(node))

    # ---- outboxes ----

    def _send(self, to: NodeId, message: RaftMessage) -> None:
        """May leave at once: it reveals nothing that a crash could take back."""
        self._out_send.append(Send(to, message))

    def _send_durable(self, to: NodeId, message: RaftMessage) -> None:
        """Leaves when everything so far is durable: votes, acknowledgements, and whatever reveals the term."""
        outbox = self._out_after_persist
        if isinstance(message, AppendReply) and outbox:
            last = outbox[-1]
            if last.to == to and isinstance(last.message, AppendReply) and last.message.term == message.term:
                # Both wait for the same write, so one acknowledgement of the greater index says it all.
                outbox[-1] = Send(to, AppendReply(message.term, max(last.message.match, message.match)))
                return
        outbox.append(Send(to, message))

    def _trace(self, name: str, **facts: object) -> None:
        self._out_trace.append(Trace(name=name, facts=facts))

    # ---- changes that several rules make ----

    def _reset_election_timer(self) -> None:
        """Draw a new patience (§5.2: randomised, so that split votes are rare)."""
        base = self._config.election_timeout_ticks
        self._election_deadline = Tick(self._now + self._rng.randrange(base, base + base // 2 + 1))

    def _set_term(self, term: Term) -> None:
        invariant(term > self._term, "term falls", term=term, current=self._term)
        self._term = term
        self._voted_for = NOBODY

    def _become_follower(self, leader: NodeId) -> None:
        """Follow *leader* (0: nobody known yet) in the present term."""
        self._drop_reads()
        self._role = Follower(leader=leader)
        self._quick_attempts = 0
        self._reset_election_timer()
        self._trace("follower", term=self._term, leader=leader)

    def _drop_reads(self) -> None:
        """Refuse the reads that this role was waiting for; it is left at once, and they with it."""
        role = self._role
        if isinstance(role, Leader):
            pending = [(read.origin, read.context) for read in role.unconfirmed] + role.new_reads
            self._out_reads_refused.extend(context for origin, context in pending if origin == self.node_id)
        elif isinstance(role, Follower):
            self._out_reads_refused.extend(context for context, _ in role.reads.values())

    def _append_own(self, kind: EntryKind, payload: bytes) -> Entry:
        """Append an entry of the own term (leader only, append-only: §5.3)."""
        role = self._role
        if not isinstance(role, Leader):
            raise InvariantViolation(f"only a leader appends (term={self._term})")
        entry = Entry(LogIndex(self._log.last_index + 1), self._term, kind, payload)
        self._log.append(entry)
        role.uncommitted_bytes += entry.size_bytes
        role.uncommitted.append(entry)
        self._on_entry_appended(entry)
        return entry

    def _on_entry_appended(self, entry: Entry) -> None:
        if entry.kind == EntryKind.MEMBERSHIP:
            self._memberships.on_append(entry)
            self._out_membership = self._membership

    def _advance_commit(self, index: LogIndex) -> None:
        invariant(index <= self._log.last_index, "commits beyond the log", index=index)
        invariant(index >= self._commit_index, "commit index falls", index=index, was=self._commit_index)
        self._commit_index = index


__all__ = ["NOBODY", "Candidate", "PreCandidate", "RaftConfig", "State"]
