"""The state of a Raft server.

The rules are layered over it, one file for each part of the paper: replication.py (§5.3, §5.4), snapshots.py (§7),
reads.py (thesis §6.4), changes.py (§6), elections.py (§5.2, thesis §9.6, §3.10), and node.py, which is the
entry: it admits messages. What Multi-Paxos does in the same way stands in core/leading.
"""

from collections.abc import Sequence

from typing_extensions import override

from troth.core.config import EngineConfig
from troth.core.interface import (
    Ballot,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Membership,
    Message,
    SnapshotMeta,
)
from troth.core.leading.engine import LeaderEngine
from troth.core.leading.server import NOBODY
from troth.core.membership import MembershipLog
from troth.core.raft.log import Log
from troth.core.raft.messages import AppendReply
from troth.core.raft.roles import Leader
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng

RaftConfig = EngineConfig
"""The settings have their home in core/config.py; tests and the simulator know them by this name."""


class State(LeaderEngine[Leader]):
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
        election until `restore_vote`. If it has been the only voter, what is left is committed.
        """
        super().__init__(
            node_id=node_id,
            config=config,
            rng=rng,
            snapshot=snapshot,
            memberships=MembershipLog(snapshot.membership, snapshot.last.index, entries),
            now=now,
            may_vote=may_vote,
        )
        self._term = hard_state.term
        self._voted_for = hard_state.voted_for
        self._saved_hard_state = hard_state
        if self._term < snapshot.floor.round:
            # A crash may leave a snapshot durable and the term not.
            self._set_term(snapshot.floor.round)
        self._log = Log(snapshot.last, entries)
        self._commit_index = snapshot.last.index
        if not may_vote and self._memberships.is_only_voter(node_id):
            # A quorum of one: each entry was committed once it was durable, whoever joined in the part that is lost.
            # No leader may ever come to say so, and then nothing of it could be read.
            self._commit_index = self._log.last_index

    # ---- small questions ----

    @property
    @override
    def term(self) -> Term:
        """The present term."""
        return self._term

    @property
    @override
    def _ballot(self) -> Ballot:
        return Ballot(self._term, NOBODY)

    @property
    @override
    def commit_index(self) -> LogIndex:
        """Everything up to here is agreed upon."""
        return self._commit_index

    @property
    @override
    def _leader(self) -> Leader | None:
        role = self._role
        return role if isinstance(role, Leader) else None

    @property
    @override
    def _announced(self) -> Membership:
        """The newest in the log, committed or not (§6)."""
        return self._memberships.current

    @override
    def _merged(self, before: Message, after: Message) -> Message | None:
        if isinstance(before, AppendReply) and isinstance(after, AppendReply) and before.term == after.term:
            return AppendReply(after.term, max(before.match, after.match))
        return None

    # ---- changes that several rules make ----

    def _set_term(self, term: Term) -> None:
        invariant(term > self._term, "term falls", term=term, current=self._term)
        self._term = term
        self._voted_for = NOBODY

    @override
    def _place(self, leader: Leader, kind: EntryKind, payload: bytes) -> EntryId:
        """Append an entry of the own term (leader only, append-only: §5.3)."""
        entry = Entry(LogIndex(self._log.last_index + 1), self._term, kind, payload)
        self._log.append(entry)
        leader.on_proposed(entry)
        self._on_entry_appended(entry)
        return EntryId(entry.term, entry.index)

    def _on_entry_appended(self, entry: Entry) -> None:
        if entry.kind == EntryKind.MEMBERSHIP:
            self._memberships.on_append(entry)
            self._out.membership = self._membership

    def _advance_commit(self, index: LogIndex) -> None:
        invariant(index <= self._log.last_index, "commits beyond the log", index=index)
        invariant(index >= self._commit_index, "commit index falls", index=index, was=self._commit_index)
        self._commit_index = index


__all__ = ["NOBODY", "RaftConfig", "State"]
