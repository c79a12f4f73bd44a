"""The view (view.py) of a Raft engine."""

from troth.core.interface import Ballot, Engine, Entry, Membership
from troth.core.raft.node import Raft
from troth.core.raft.roles import Leader
from troth.ids import LogIndex, NodeId, Term, Tick


class RaftView:
    """One engine, read only."""

    __slots__ = ("_raft",)

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Raft):
            raise TypeError(f"not a Raft engine: {engine!r}")
        self._raft = engine

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

    def lease_end(self) -> Tick:
        """First tick at which this server's leader lease no longer holds; 0 when it has none."""
        role = self._raft._role
        return self._raft._lease_end(role) if isinstance(role, Leader) else Tick(0)
