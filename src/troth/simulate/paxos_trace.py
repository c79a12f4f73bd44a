"""Tells the specification of Multi-Paxos (verify/specification/multipaxos_trace.py) what servers do: simulated
ones here, real ones in server/tracing.py.

Seen from outside: after each input, and before anything leaves a server, its engine is compared with what was
last told.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import ClassVar

from troth.core.config import EngineConfig
from troth.core.interface import CHOSEN, Ballot, Entry, EntryKind, HardState, Persist, Slot
from troth.core.membership import decode_membership
from troth.core.quorum import QuorumSizes
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.paxos_view import PaxosView
from troth.verify.specification.multipaxos_trace import (
    PaxosEvent,
    PaxosStep,
    PaxosTraceChecker,
    Quorums,
    TraceBallot,
    Value,
)
from troth.verify.specification.state import Config


class PaxosNodeTrace:
    """What was last told of one engine. `sink` gets what is new."""

    def __init__(self, node_id: NodeId, view: PaxosView, sink: Callable[[PaxosStep], object]) -> None:
        self._node = int(node_id)
        self._view = view
        self._sink = sink
        self._promised = _ballot(view.ballot)
        self._chosen = view.compacted_index
        self._told: dict[int, Slot] = {}
        """Accepted slots that were told and are not written yet, by their identity (what is compacted drops out)."""
        self._leads: TraceBallot = (0, 0)

    def boot(self) -> None:
        """The process has started, with what its disk holds."""
        _, slots = self._view.held()
        votes = tuple(_vote(slot) for slot in slots)
        self._tell("boot", ballot=self._promised, votes=votes, known=self._chosen)

    def look(self, written: tuple[Slot, ...] | None = None) -> None:
        """Tell what has changed. *written*: what goes to the disk now, and is not unsaved any more."""
        view, ballot = self._view, _ballot(self._view.ballot)
        unsaved = view.unsaved() if written is None else written
        new = tuple(slot for slot in unsaved if id(slot) not in self._told)
        self._told = {id(slot): slot for slot in unsaved} if written is None else {}
        if ballot != self._promised:
            # An input that has only accepted something may not be looked at by itself: it came before this promise.
            before = tuple(_vote(slot) for slot in new if _ballot(slot.ballot) <= self._promised)
            if before:
                self._tell("accept", ballot=self._promised, votes=before)
                new = tuple(slot for slot in new if _ballot(slot.ballot) > self._promised)
            self._promised = ballot
            self._tell("promise", ballot=ballot)
        learned = tuple(_vote(slot) for slot in new if slot.ballot == CHOSEN)
        if learned:
            self._tell("learn", votes=learned)
        if view.compacted_index > self._chosen:
            self._chosen = view.compacted_index
            self._tell("install", known=self._chosen)
        first = LogIndex(self._chosen + 1)
        if view.commit_index >= first:
            values = tuple(_value(entry) for entry in view.entries(first, LogIndex(view.commit_index + 1)))
            self._chosen = view.commit_index
            self._tell("chosen", slot=first, known=self._chosen, values=values)
        if view.leads and self._leads != ballot:
            self._leads = ballot
            self._tell("lead", ballot=ballot, known=view.commit_index)
        accepted = tuple(_vote(slot) for slot in new if slot.ballot != CHOSEN)
        if accepted:
            self._tell("accept", ballot=ballot, votes=accepted)

    def durable(self, hard_state: HardState | None, slots: Iterable[Slot]) -> None:
        """A sync has ended: this is on the disk now."""
        ballot = (int(hard_state.term), int(hard_state.voted_for)) if hard_state else (0, 0)
        self._tell("durable", ballot=ballot, votes=tuple(_vote(slot) for slot in slots))

    def _tell(
        self,
        event: PaxosEvent,
        *,
        ballot: TraceBallot = (0, 0),
        votes: tuple[tuple[int, TraceBallot, Value], ...] = (),
        known: int = 0,
        slot: int = 0,
        values: tuple[Value, ...] = (),
    ) -> None:
        self._sink(
            PaxosStep(
                node=self._node,
                event=event,
                ballot=ballot,
                votes=votes,
                known=int(known),
                slot=int(slot),
                values=values,
            )
        )


class PaxosTrace(Invariant):
    """Gives every step of every node to `sink`. Made by `paxos_checked_by`."""

    sink: ClassVar[Callable[[PaxosStep], object]]

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._traces: dict[NodeId, PaxosNodeTrace] = {}
        self._synced: dict[NodeId, tuple[int, int]] = {}
        self._writes: dict[NodeId, deque[tuple[int, Persist]]] = {}
        """(number, write) of what was not durable when that was last told. One sync may cover two acceptances of a
        slot, and what speaks of the first may leave after it."""

    def on_booted(self, node: CoreNode) -> None:
        view, disk = node.view, node.journal.durable
        if not isinstance(view, PaxosView):
            raise InvariantViolation("a trace of Multi-Paxos is of Multi-Paxos")
        trace = self._traces[node.node_id] = PaxosNodeTrace(node.node_id, view, type(self).sink)
        self._writes[node.node_id] = deque()
        trace.boot()
        trace.durable(disk.hard_state, disk.slots.values())
        trace.look()

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        self._traces[node.node_id].look()

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        self._traces[node.node_id].look(persist.slots)
        self._writes[node.node_id].append((node.journal.written, persist))

    def on_sent(self, node: CoreNode, to: NodeId, message: object) -> None:
        moment = (node.life, node.journal.synced)
        if self._synced.get(node.node_id) != moment:
            self._synced[node.node_id] = moment
            writes = self._writes[node.node_id]
            while writes and writes[0][0] <= node.journal.synced:
                persist = writes.popleft()[1]
                self._traces[node.node_id].durable(persist.hard_state, persist.slots)


def _ballot(ballot: Ballot) -> TraceBallot:
    return int(ballot.round), int(ballot.node)


def _vote(slot: Slot) -> tuple[int, TraceBallot, Value]:
    return int(slot.entry.index), _ballot(slot.ballot), _value(slot.entry)


def _value(entry: Entry) -> Value:
    if entry.kind != EntryKind.MEMBERSHIP:
        return f"{entry.term}:{zlib.crc32(entry.payload, entry.kind):08x}"
    membership = decode_membership(entry.payload)
    return Config(tuple(map(int, membership.voters)), tuple(map(int, membership.outgoing)))


def quorums_of(config: EngineConfig) -> Quorums:
    """The quorums of a cluster with these settings, as the specification asks for them."""
    sizes = QuorumSizes(config.phase1_size, config.phase2_size)

    def may_decide(members: Config, nodes: object, phase: int) -> bool:
        size = sizes.phase1 if phase == 1 else sizes.phase2
        present = set(nodes)  # type: ignore[call-overload]
        return all(
            len(present & set(voters)) >= size(len(voters))
            for voters in (members.voters, members.outgoing)
            if voters
        )

    return may_decide


def paxos_checked_by(checker: PaxosTraceChecker) -> type[PaxosTrace]:
    """A rule for `Simulation` that is broken by the first step that *checker* refuses."""

    def take(step: PaxosStep) -> None:
        if reason := checker.take(step):
            raise InvariantViolation(f"the specification does not allow it: {reason}")

    return type("PaxosTrace", (PaxosTrace,), {"sink": staticmethod(take)})
