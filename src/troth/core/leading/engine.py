"""The entry: commands and time go in, effects come out. Messages go in through the protocol's own gates."""

from abc import abstractmethod

from troth.core.interface import (
    Accepted,
    Ballot,
    Effects,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Persist,
    Progress,
    ProposeResult,
    RefusalReason,
    Refused,
    RoleName,
    SnapshotMeta,
    Status,
)
from troth.core.leading.leadership import Leadership
from troth.core.leading.roles import Follower, Leading, PreCandidate
from troth.core.leading.server import NOBODY, LeaderT
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Tick


class LeaderEngine(Leadership[LeaderT]):
    """Half of a `core.interface.Engine`; the protocols add the other."""

    # ---- what a protocol fills in ----

    @abstractmethod
    def _place(self, leader: LeaderT, kind: EntryKind, payload: bytes) -> EntryId:
        """Give a new value the next place in the log."""

    @abstractmethod
    def _replicate(self, leader: LeaderT) -> None:
        """Send everybody what flow control allows."""

    @abstractmethod
    def _take_persist(self) -> Persist | None:
        """What storage has not been given yet."""

    @abstractmethod
    def _take_committed(self) -> tuple[Entry, ...]:
        """Entries newly committed, each exactly once, in order, a piece at a time."""

    @property
    @abstractmethod
    def _deliverable_index(self) -> LogIndex:
        """The last entry that may be delivered."""

    @property
    @abstractmethod
    def _hard_state(self) -> HardState:
        """What must be remembered before this server speaks."""

    @property
    @abstractmethod
    def _ballot(self) -> Ballot:
        """The present term; Paxos: the promised ballot."""

    @abstractmethod
    def _entry_id(self, index: LogIndex) -> EntryId:
        """The full name of the entry at *index*, which is applied and not compacted."""

    @property
    @abstractmethod
    def _ends(self) -> tuple[LogIndex, EntryId]:
        """The first index that is not compacted, and the newest entry."""

    # ---- inputs ----

    def propose(self, payload: bytes) -> ProposeResult:
        """Put *payload* into the log if this server leads."""
        leader = self._leader
        if leader is None:
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        if leader.transfer is not None:
            return Refused(RefusalReason.TRANSFERRING, leader.transfer.target)
        if leader.uncommitted_bytes and (
            leader.uncommitted_bytes + len(payload) > self._config.uncommitted_bytes_max
        ):
            return Refused(RefusalReason.QUEUE_FULL, self.node_id)
        return Accepted(self._place(leader, EntryKind.COMMANDS, payload))

    def tick(self, now: Tick) -> None:
        """Let time pass up to *now* (never falls)."""
        if now > self._now:
            self._now = now
        role, leader = self._role, self._leader
        if leader is not None:
            self._leader_tick(leader)
            return
        if isinstance(role, Follower) and role.reads:
            self._expire_reads(role)
        if self._now >= self._election_deadline:
            self._on_election_timeout()

    def asleep_until(self) -> Tick:
        """A follower only waits for its patience to run out; whoever leads or stands has something to do any time."""
        role = self._role
        return self._election_deadline if isinstance(role, Follower) and not role.reads else self._now

    def applied(self, index: LogIndex) -> None:
        """The state machine has applied up to *index*."""
        invariant(index <= self.commit_index, "applies what is not committed", index=index)
        self._applied_index = max(self._applied_index, index)

    def snapshot_meta(self, index: LogIndex) -> SnapshotMeta:
        """The header of a snapshot of the state at *index*, which is applied and not compacted."""
        return SnapshotMeta(self._entry_id(index), self.membership_at(index), self._ballot)

    # ---- outcome ----

    def take_effects(self) -> Effects:
        """Everything to be done since the last call."""
        leader = self._leader
        if leader is not None:
            if leader.rounds:
                self._confirm_rounds(leader)
            self._begin_reads(leader)
            self._replicate(leader)
            if leader.commit_told < self.commit_index:
                leader.commit_told = self.commit_index
                self._send_commit_notice(leader)
        persist = self._take_persist()
        committed = self._take_committed()
        more = bool(committed) and self._delivered_index < self._deliverable_index
        return self._out.take(persist, committed, more_committed=more)

    def status(self) -> Status:
        """A frozen look at the present state."""
        leader, hard_state = self._leader, self._hard_state
        first_index, last = self._ends
        progress: dict[NodeId, Progress] = {}
        transferring_to = NOBODY
        knows_committed = leader is not None and self._knows_committed(leader)
        if leader is not None:
            transferring_to = leader.transfer.target if leader.transfer else NOBODY
            progress = {
                node: Progress(
                    match=seen.match,
                    next=seen.next,
                    state=seen.mode.value,
                    active=node == self.node_id or self._is_active(seen),
                    in_flight=len(seen.in_flight),
                )
                for node, seen in sorted(leader.progress.items())
            }
        return Status(
            node_id=self.node_id,
            role=self._role_name,
            term=hard_state.term,
            voted_for=hard_state.voted_for,
            leader=self._leader_id,
            first_index=first_index,
            last=last,
            commit_index=self.commit_index,
            applied_index=self._applied_index,
            membership=self._announced,
            membership_index=self._memberships.index,
            progress=progress,
            knows_committed=knows_committed,
            transferring_to=transferring_to,
            sizes=self._sizes,
        )

    @property
    def _role_name(self) -> RoleName:
        match self._role:
            case Leading():
                return RoleName.LEADER
            case Follower():
                return RoleName.FOLLOWER
            case PreCandidate():
                return RoleName.PRE_CANDIDATE
            case _:
                return RoleName.CANDIDATE
