"""The view (view.py) of a Multi-Paxos engine."""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from troth.core.config import EngineConfig
from troth.core.interface import Ballot, Entry, Membership, Slot
from troth.core.leading.roles import Transfer
from troth.core.paxos.node import Paxos
from troth.core.paxos.roles import Leader
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.monitor import Seen

_facts = attrgetter(
    *("_promised.round", "_promised.node", "_chosen_index", "_applied_index"),
    *("_slots.compacted.index", "_role.leads", "_memberships.current"),
)
"""What `Seen` holds, in its order."""


class PaxosView:
    """One engine, read only."""

    __slots__ = ("_paxos", "facts")

    def __init__(self, engine: Paxos) -> None:
        self._paxos = engine
        self.facts: Callable[[], tuple[Any, ...]] = partial(_facts, engine)

    # Asked for all the time: a getter that is no Python function costs half.
    term: Term = property(attrgetter("_paxos._promised.round"))  # type: ignore[assignment]
    voted_for: NodeId = property(attrgetter("_paxos._promised.node"))  # type: ignore[assignment]
    ballot: Ballot = property(attrgetter("_paxos._promised"))  # type: ignore[assignment]
    leads: bool = property(attrgetter("_paxos._role.leads"))  # type: ignore[assignment]
    commit_index: LogIndex = property(attrgetter("_paxos._chosen_index"))  # type: ignore[assignment]
    applied_index: LogIndex = property(attrgetter("_paxos._applied_index"))  # type: ignore[assignment]
    compacted_index: LogIndex = property(attrgetter("_paxos._slots.compacted.index"))  # type: ignore[assignment]
    last_index: LogIndex = property(attrgetter("_paxos._slots.last_index"))  # type: ignore[assignment]
    membership: Membership = property(attrgetter("_paxos._memberships.current"))  # type: ignore[assignment]
    membership_index: LogIndex = property(attrgetter("_paxos._memberships.index"))  # type: ignore[assignment]

    def look(self) -> Seen:
        return Seen(*self.facts())

    @property
    def config(self) -> EngineConfig:
        return self._paxos._config

    @property
    def role(self) -> str:
        return type(self._paxos._role).__name__

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
