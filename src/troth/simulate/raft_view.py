"""The view (view.py) of a Raft engine."""

from troth.core.config import EngineConfig
from troth.core.interface import Ballot, Engine, Entry, EntryId, Membership, Slot
from troth.core.leading.flight import Mode
from troth.core.leading.roles import Transfer
from troth.core.raft.node import Raft
from troth.core.raft.roles import Leader
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.monitor import Seen


class RaftView:
    """One engine, read only."""

    __slots__ = ("_raft",)

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Raft):
            raise TypeError(f"not a Raft engine: {engine!r}")
        self._raft = engine

    def look(self) -> Seen:
        """All that most rules compare, in one go."""
        return Seen(*self._facts())

    def differs(self, seen: Seen) -> bool:
        """Whether a look would not show *seen* again: cheaper than to look, and asked after every input."""
        return seen != self._facts()

    def _facts(self) -> tuple[Term, NodeId, LogIndex, LogIndex, LogIndex, bool, Membership]:
        raft = self._raft
        return (
            raft._term,
            raft._voted_for,
            raft._commit_index,
            raft._applied_index,
            raft._log.compacted.index,
            isinstance(raft._role, Leader),
            raft._memberships.current,
        )

    @property
    def config(self) -> EngineConfig:
        return self._raft._config

    @property
    def term(self) -> Term:
        return self._raft._term

    @property
    def voted_for(self) -> NodeId:
        return self._raft._voted_for

    @property
    def ballot(self) -> Ballot:
        return Ballot(self._raft._term, NodeId(0))

    @property
    def leads(self) -> bool:
        return isinstance(self._raft._role, Leader)

    @property
    def role(self) -> str:
        return type(self._raft._role).__name__

    @property
    def commit_index(self) -> LogIndex:
        return self._raft._commit_index

    @property
    def applied_index(self) -> LogIndex:
        return self._raft._applied_index

    @property
    def compacted_index(self) -> LogIndex:
        return self._raft._log.compacted.index

    @property
    def last_index(self) -> LogIndex:
        return self._raft._log.last_index

    def last(self) -> EntryId:
        """The newest entry of its log."""
        return self._raft._log.last

    @property
    def membership(self) -> Membership:
        return self._raft._memberships.current

    @property
    def membership_index(self) -> LogIndex:
        return self._raft._memberships.index

    def term_at(self, index: LogIndex) -> Term | None:
        return self._raft._log.term_at(index)

    def entries(self, lo: LogIndex, hi: LogIndex) -> tuple[Entry, ...]:
        """The entries of ``[lo, hi)``, none of them compacted."""
        return self._raft._log.slice(lo, hi, 1 << 62) if lo < hi else ()

    def held(self) -> tuple[tuple[Entry, ...], tuple[Slot, ...]]:
        """The whole log behind the compacted part; Raft has no slots."""
        return self.entries(LogIndex(self.compacted_index + 1), LogIndex(self.last_index + 1)), ()

    def lease_end(self) -> Tick:
        """First tick at which this server's leader lease no longer holds; 0 when it has none."""
        role = self._raft._role
        return self._raft._lease_end(role) if isinstance(role, Leader) else Tick(0)

    def term_start(self) -> LogIndex:
        role = self._raft._role
        return role.term_start if isinstance(role, Leader) else LogIndex(0)

    def own_last(self) -> LogIndex:
        return self.last_index

    def newest_change(self) -> LogIndex:
        return self.membership_index

    def transfer(self) -> Transfer | None:
        role = self._raft._role
        return role.transfer if isinstance(role, Leader) else None

    def counted(self, peer: NodeId) -> LogIndex:
        """What this leader believes *peer* to hold, unless a snapshot is on its way there; 0 when it does not lead."""
        role = self._raft._role
        progress = role.progress.get(peer) if isinstance(role, Leader) else None
        return progress.match if progress is not None and progress.mode is not Mode.SNAPSHOT else LogIndex(0)

    def flight(self, peer: NodeId) -> tuple[int, int]:
        """How many messages are in flight to *peer*, and how many may be."""
        role = self._raft._role
        progress = role.progress.get(peer) if isinstance(role, Leader) else None
        return (len(progress.in_flight), progress.window) if progress else (0, 0)


def raft_view(view: object) -> RaftView:
    """*view* as that of a Raft engine; for rules that only Raft has."""
    if not isinstance(view, RaftView):
        raise TypeError(f"not the view of a Raft engine: {view!r}")
    return view
