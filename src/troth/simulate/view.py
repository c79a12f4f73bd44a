"""A cheap look into an engine, for invariants that run after every step: the same questions for every protocol.

`Engine.status` builds a full picture and is too slow for that. The views are the only files of the simulator that read
an engine's private state.
"""

from typing import Protocol

from troth.core.config import EngineConfig
from troth.core.interface import Ballot, Engine, Entry, Membership, Slot
from troth.core.leading.roles import Transfer
from troth.core.paxos.node import Paxos
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.monitor import Seen
from troth.simulate.paxos_view import PaxosView
from troth.simulate.raft_view import RaftView


class EngineView(Protocol):
    """One engine, read only."""

    def look(self) -> Seen:
        """All that most rules compare, in one go."""

    def differs(self, seen: Seen) -> bool:
        """Whether a look would not show *seen* again."""

    @property
    def config(self) -> EngineConfig: ...

    @property
    def term(self) -> Term: ...

    @property
    def voted_for(self) -> NodeId: ...

    @property
    def ballot(self) -> Ballot:
        """What one leader at most leads with: the promised ballot; Raft's term, with nobody's name."""

    @property
    def leads(self) -> bool: ...

    @property
    def role(self) -> str: ...

    @property
    def commit_index(self) -> LogIndex: ...

    @property
    def applied_index(self) -> LogIndex: ...

    @property
    def compacted_index(self) -> LogIndex: ...

    @property
    def last_index(self) -> LogIndex: ...

    @property
    def membership(self) -> Membership:
        """Who decides, as far as this server knows."""

    @property
    def membership_index(self) -> LogIndex: ...

    def term_at(self, index: LogIndex) -> Term | None:
        """Term of the entry at *index*; None when it is not here."""

    def entries(self, lo: LogIndex, hi: LogIndex) -> tuple[Entry, ...]:
        """The entries of ``[lo, hi)``, none of them compacted, all of them committed or a log without gaps."""

    def held(self) -> tuple[tuple[Entry, ...], tuple[Slot, ...]]:
        """All that is not compacted: Raft's log, or Paxos's slots."""

    def lease_end(self) -> Tick:
        """First tick at which this server's leader lease no longer holds; 0 when it has none."""

    def term_start(self) -> LogIndex:
        """What must be committed before this leader knows all that was committed before it led; 0 when it does not."""

    def own_last(self) -> LogIndex:
        """The last entry that a leader has given its own disk."""

    def newest_change(self) -> LogIndex:
        """The last membership that stands in its log, or that a Paxos leader has given a slot."""

    def transfer(self) -> Transfer | None:
        """The leadership transfer that is under way here."""


def view_of(engine: Engine) -> EngineView:
    """The view that fits *engine*."""
    return PaxosView(engine) if isinstance(engine, Paxos) else RaftView(engine)
