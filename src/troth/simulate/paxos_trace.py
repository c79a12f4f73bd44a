"""Tells the specification of Multi-Paxos (verify/specification/multipaxos_trace.py) what simulated servers do.

Seen from outside: after each input, and before anything leaves a server, its engine is compared with what was
last told.
"""

import zlib
from collections import deque
from collections.abc import Callable, Hashable
from typing import ClassVar

from troth.core.config import EngineConfig
from troth.core.interface import CHOSEN, Ballot, Entry, EntryKind, Persist, Slot
from troth.core.membership import decode_membership
from troth.core.quorum import QuorumSizes
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.paxos_view import PaxosView
from troth.verify.specification.multipaxos_trace import PaxosStep, PaxosTraceChecker, Quorums, TraceBallot
from troth.verify.specification.state import Config


class PaxosTrace(Invariant):
    """Gives every step of every node to `sink`. Made by `paxos_checked_by`."""

    sink: ClassVar[Callable[[PaxosStep], object]]

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._promised: dict[NodeId, TraceBallot] = {}
        self._chosen: dict[NodeId, LogIndex] = {}
        self._told: dict[NodeId, list[Slot]] = {}
        """Accepted slots that were told and are not written yet."""
        self._synced: dict[NodeId, tuple[int, int]] = {}
        self._writes: dict[NodeId, deque[tuple[int, Persist]]] = {}
        """(number, write) of what was not durable when that was last told. One sync may cover two acceptances of a
        slot, and what speaks of the first may leave after it."""
        self._leads: dict[NodeId, TraceBallot] = {}

    def on_booted(self, node: CoreNode) -> None:
        disk, view = node.journal.durable, node.view
        known = view.compacted_index
        self._promised[node.node_id] = _ballot(view.ballot)
        self._chosen[node.node_id] = known
        self._told[node.node_id] = []
        self._writes[node.node_id] = deque()
        _, slots = view.held()
        self._tell(
            PaxosStep(
                node=node.node_id,
                event="boot",
                ballot=_ballot(view.ballot),
                votes=tuple(_vote(slot) for slot in slots),
                known=known,
            )
        )
        hard = disk.hard_state
        self._tell_durable(node, (int(hard.term), int(hard.voted_for)), tuple(disk.slots.values()))
        self._look(node)

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        self._look(node)

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        self._look(node, persist.slots)
        self._told[node.node_id] = []
        self._writes[node.node_id].append((node.journal.written, persist))

    def on_sent(self, node: CoreNode, to: NodeId, message: object) -> None:
        moment = (node.life, node.journal.synced)
        if self._synced.get(node.node_id) != moment:
            self._synced[node.node_id] = moment
            writes = self._writes[node.node_id]
            while writes and writes[0][0] <= node.journal.synced:
                persist = writes.popleft()[1]
                hard = persist.hard_state
                ballot = (int(hard.term), int(hard.voted_for)) if hard else (0, 0)
                self._tell_durable(node, ballot, persist.slots)

    def _look(self, node: CoreNode, written: tuple[Slot, ...] | None = None) -> None:
        view, name = node.view, node.node_id
        if not isinstance(view, PaxosView):
            raise InvariantViolation("a trace of Multi-Paxos is of Multi-Paxos")
        ballot = _ballot(view.ballot)
        told = self._told[name]
        new = (view.unsaved() if written is None else written)[len(told) :]
        told += new
        if ballot != self._promised[name]:
            # An input that has only accepted something is not looked at by itself: it came before this promise.
            before = tuple(_vote(slot) for slot in new if _ballot(slot.ballot) <= self._promised[name])
            if before:
                self._tell(PaxosStep(node=name, event="accept", ballot=self._promised[name], votes=before))
                new = tuple(slot for slot in new if _ballot(slot.ballot) > self._promised[name])
            self._promised[name] = ballot
            self._tell(PaxosStep(node=name, event="promise", ballot=ballot))
        learned = tuple(_vote(slot) for slot in new if slot.ballot == CHOSEN)
        if learned:
            self._tell(PaxosStep(node=name, event="learn", votes=learned))
        if view.compacted_index > self._chosen[name]:
            self._chosen[name] = view.compacted_index
            self._tell(PaxosStep(node=name, event="install", known=view.compacted_index))
        first = LogIndex(self._chosen[name] + 1)
        if view.commit_index >= first:
            values = tuple(_value(entry) for entry in view.entries(first, LogIndex(view.commit_index + 1)))
            self._chosen[name] = view.commit_index
            self._tell(PaxosStep(node=name, event="chosen", slot=first, known=view.commit_index, values=values))
        if view.leads and self._leads.get(name) != ballot:
            self._leads[name] = ballot
            self._tell(PaxosStep(node=name, event="lead", ballot=ballot, known=view.commit_index))
        accepted = tuple(_vote(slot) for slot in new if slot.ballot != CHOSEN)
        if accepted:
            self._tell(PaxosStep(node=name, event="accept", ballot=ballot, votes=accepted))

    def _tell_durable(self, node: CoreNode, ballot: TraceBallot, slots: tuple[Slot, ...]) -> None:
        votes = tuple(_vote(slot) for slot in slots)
        self._tell(PaxosStep(node=node.node_id, event="durable", ballot=ballot, votes=votes))

    def _tell(self, step: PaxosStep) -> None:
        type(self).sink(step)


def _ballot(ballot: Ballot) -> TraceBallot:
    return int(ballot.round), int(ballot.node)


def _vote(slot: Slot) -> tuple[int, TraceBallot, Hashable]:
    return int(slot.entry.index), _ballot(slot.ballot), _value(slot.entry)


def _value(entry: Entry) -> Hashable:
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
