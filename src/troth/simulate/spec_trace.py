"""Tells the executable specification (verify/specification) what simulated nodes do, seen from outside.

After each input that changed something, and before anything leaves a node, its engine is compared with what was last
told. The product knows nothing of it.
"""

import zlib
from collections.abc import Callable
from typing import ClassVar, Literal

from troth.core.interface import Entry, EntryKind, Persist
from troth.core.membership import decode_membership
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.view import EngineView
from troth.verify.specification import Change, Step, TraceChecker

ROLES: dict[str, Literal["follower", "candidate", "leader"]] = {
    "Follower": "follower",
    "PreCandidate": "follower",
    "Candidate": "candidate",
    "Leader": "leader",
}
"""A pre-candidate has promised nothing yet: to the specification it is a follower."""


class NodeTrace:
    """What was last told of one engine; `look` says what is new."""

    def __init__(self, node_id: NodeId, view: EngineView) -> None:
        self._node = int(node_id)
        self._view = view
        self._log: list[tuple[int, str]] = []
        """(term, digest) of every entry since index 1; those in front of the snapshot it began with are unknown."""
        self._told: tuple[object, ...] = ()

    def boot(self, at: float) -> Step:
        """The process has started."""
        view = self._view
        entries = view.entries(LogIndex(view.compacted_index + 1), LogIndex(view.last_index + 1))
        self._log = [(-1, "")] * view.compacted_index + [_told(entry)[:2] for entry in entries]
        if self._log and view.compacted_index:
            self._log[view.compacted_index - 1] = (view.term_at(view.compacted_index) or 0, "")
        self._told = self._seen()
        snapshot = (int(view.term_at(view.compacted_index) or 0), int(view.compacted_index))
        return self._step("boot", at, log=_change(view.compacted_index + 1, entries), snapshot=snapshot)

    def look(self, at: float) -> Step | None:
        """What has changed since the last look, if anything."""
        seen = self._seen()
        if seen == self._told:
            return None
        self._told = seen
        view, log = self._view, self._log
        last, compacted = view.last_index, view.compacted_index
        snapshot = None
        if compacted > len(log) or (compacted and log[compacted - 1][0] not in (-1, view.term_at(compacted))):
            # Not a compaction of its own log, so a snapshot was installed.
            snapshot = (int(view.term_at(compacted) or 0), int(compacted))
            self._log = log = [(-1, "")] * (compacted - 1) + [(snapshot[0], "")]
        same = min(len(log), last)
        while same > compacted and log[same - 1][0] != view.term_at(LogIndex(same)):
            same -= 1
        change = None
        if same < max(len(log), last):
            entries = view.entries(LogIndex(same + 1), LogIndex(last + 1))
            del log[same:]
            log += [_told(entry)[:2] for entry in entries]
            change = _change(same + 1, entries)
        return self._step("change", at, log=change, snapshot=snapshot)

    def durable(self, at: float, *, term: int, voted_for: int, stored: tuple[int, int]) -> Step:
        """A sync has ended: this is on the disk now."""
        view = self._view
        return Step(
            node=self._node,
            event="durable",
            term=term,
            voted_for=voted_for,
            role=ROLES[view.role],
            commit=int(view.commit_index),
            stored=stored,
            at=at,
        )

    def _seen(self) -> tuple[object, ...]:
        view = self._view
        last = view.last_index
        return view.term, view.voted_for, ROLES[view.role], view.commit_index, last, view.term_at(last)

    def _step(
        self,
        event: Literal["boot", "change"],
        at: float,
        *,
        log: Change | None,
        snapshot: tuple[int, int] | None,
    ) -> Step:
        view = self._view
        return Step(
            node=self._node,
            event=event,
            term=int(view.term),
            voted_for=int(view.voted_for),
            role=ROLES[view.role],
            commit=int(view.commit_index),
            log=log,
            snapshot=snapshot,
            at=at,
        )


def _change(first: int, entries: tuple[Entry, ...]) -> Change:
    return Change(first=int(first), entries=tuple(_told(entry) for entry in entries))


def _told(entry: Entry) -> tuple[int, str, tuple[tuple[int, ...], tuple[int, ...]]] | tuple[int, str]:
    digest = f"{zlib.crc32(entry.payload, entry.kind):08x}"
    if entry.kind != EntryKind.MEMBERSHIP:
        return int(entry.term), digest
    membership = decode_membership(entry.payload)
    return int(entry.term), digest, (tuple(map(int, membership.voters)), tuple(map(int, membership.outgoing)))


class SpecificationTrace(Invariant):
    """Gives every step of every node to `sink`. Made by `traced_to`."""

    sink: ClassVar[Callable[[Step], object]]

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._traces: dict[NodeId, NodeTrace] = {}
        self._synced: dict[NodeId, tuple[int, int]] = {}

    def on_booted(self, node: CoreNode) -> None:
        trace = self._traces[node.node_id] = NodeTrace(node.node_id, node.view)
        self._tell(trace.boot(node.clock.ticks()))

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        self._look(node)

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        self._look(node)

    def on_sent(self, node: CoreNode, to: NodeId, message: object) -> None:
        self._look(node)
        moment = (node.life, node.journal.synced)
        if self._synced.get(node.node_id) != moment:
            self._synced[node.node_id] = moment
            self._tell_durable(node)

    def _look(self, node: CoreNode) -> None:
        step = self._traces[node.node_id].look(node.clock.ticks())
        if step is not None:
            self._tell(step)

    def _tell_durable(self, node: CoreNode) -> None:
        stored = node.journal.durable
        last, begins = stored.last_index, stored.begins_with
        self._tell(
            self._traces[node.node_id].durable(
                node.clock.ticks(),
                term=int(begins.term),
                voted_for=int(begins.voted_for),
                stored=(int(stored.term_at(last) or 0), int(last)),
            )
        )

    def _tell(self, step: Step) -> None:
        type(self).sink(step)


def traced_to(sink: Callable[[Step], object]) -> type[SpecificationTrace]:
    """A rule for `Simulation` that tells *sink* every step."""
    return type("SpecificationTrace", (SpecificationTrace,), {"sink": staticmethod(sink)})


def checked_by(checker: TraceChecker) -> type[SpecificationTrace]:
    """A rule for `Simulation` that is broken by the first step that *checker* refuses."""

    def take(step: Step) -> None:
        refusal = checker.take(step)
        if refusal is not None:
            raise InvariantViolation(refusal.text())

    return traced_to(take)
