"""The view (view.py) of a Multi-Paxos engine."""

from troth.core.config import EngineConfig
from troth.core.interface import Ballot, Entry, Membership, Slot
from troth.core.leading.roles import Transfer
from troth.core.paxos.node import Paxos
from troth.core.paxos.roles import Leader
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.monitor import Seen


class PaxosView:
    """One engine, read only."""

    __slots__ = ("_paxos",)

    def __init__(self, engine: Paxos) -> None:
        self._paxos = engine

    def look(self) -> Seen:
        paxos = self._paxos
        return Seen(
            paxos._promised.round,
            paxos._promised.node,
            paxos._chosen_index,
            paxos._applied_index,
            paxos._slots.compacted.index,
            isinstance(paxos._role, Leader),
            paxos._memberships.current,
        )

    def differs(self, seen: Seen) -> bool:
        """Whether a look would not show *seen* again."""
        return seen != self.look()

    @property
    def config(self) -> EngineConfig:
        return self._paxos._config

    @property
    def term(self) -> Term:
        return self._paxos._promised.round

    @property
    def voted_for(self) -> NodeId:
        return self._paxos._promised.node

    @property
    def ballot(self) -> Ballot:
        return self._paxos._promised

    @property
    def leads(self) -> bool:
        return isinstance(self._paxos._role, Leader)

    @property
    def role(self) -> str:
        return type(self._paxos._role).__name__

    @property
    def commit_index(self) -> LogIndex:
        return self._paxos._chosen_index

    @property
    def applied_index(self) -> LogIndex:
        return self._paxos._applied_index

    @property
    def compacted_index(self) -> LogIndex:
        return self._paxos._slots.compacted.index

    @property
    def last_index(self) -> LogIndex:
        return self._paxos._slots.last_index

    @property
    def membership(self) -> Membership:
        return self._paxos._memberships.current

    @property
    def membership_index(self) -> LogIndex:
        return self._paxos._memberships.index

    def term_at(self, index: LogIndex) -> Term | None:
        slots = self._paxos._slots
        if index == slots.compacted.index:
            return slots.compacted.term
        slot = slots.get(index)
        return slot.entry.term if slot is not None else None

    def entries(self, lo: LogIndex, hi: LogIndex) -> tuple[Entry, ...]:
        return self._paxos._slots.run(lo, hi, 1 << 62) if lo < hi else ()

    def held(self) -> tuple[tuple[Entry, ...], tuple[Slot, ...]]:
        """All slots behind the compacted part."""
        slots = self._paxos._slots
        return (), tuple(slots.above(slots.compacted.index))

    def lease_end(self) -> Tick:
        role = self._paxos._role
        return self._paxos._lease_end(role) if isinstance(role, Leader) else Tick(0)

    def term_start(self) -> LogIndex:
        role = self._paxos._role
        return role.recovered if isinstance(role, Leader) else LogIndex(0)

    def own_last(self) -> LogIndex:
        role = self._paxos._role
        return role.accepted if isinstance(role, Leader) else LogIndex(0)

    def newest_change(self) -> LogIndex:
        role = self._paxos._role
        return role.membership_last if isinstance(role, Leader) else LogIndex(0)

    def transfer(self) -> Transfer | None:
        role = self._paxos._role
        return role.transfer if isinstance(role, Leader) else None

    def slot(self, index: LogIndex) -> Slot | None:
        """What is accepted at *index*."""
        return self._paxos._slots.get(index)

    def unsaved(self) -> tuple[Slot, ...]:
        """What is accepted and not handed to storage yet."""
        return tuple(self._paxos._slots._unsaved)

    def proposed(self, index: LogIndex) -> Entry | None:
        """What a leader has accepted, or is about to propose, at *index*."""
        role = self._paxos._role
        queue = role.queue if isinstance(role, Leader) else ()
        queued = next((entry for entry in queue if entry.index == index), None)
        slot = self.slot(index)
        return queued or (slot.entry if slot is not None else None)
