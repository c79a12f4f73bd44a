"""Watches every step of a run: gives each invariant the moments it asks for, and keeps what all of them need.

An invariant (invariants/*.py) is one rule about the whole cluster, which no node could check by itself. It defines
only the moments it needs; the monitor calls nothing else, since this runs after every input of every node.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from troth.core.interface import ORIGIN, EntryId, Membership, Persist, ReadState, Trace
from troth.ids import LogIndex, NodeId, Term, Tick

if TYPE_CHECKING:
    from troth.simulate.core_node import CoreNode


class Seen(NamedTuple):
    """What a node's engine looked like after its last input."""

    term: Term
    voted_for: NodeId
    commit_index: LogIndex
    applied_index: LogIndex
    compacted_index: LogIndex
    leads: bool
    membership: Membership


class Ledger:
    """What the cluster as a whole has done, as somebody who sees everything knows it."""

    def __init__(self) -> None:
        self.highest = LogIndex(0)
        """Highest index that any node knows to be committed."""
        self.highest_id = ORIGIN
        self.leaders: dict[Term, NodeId] = {}
        self.committed_membership: Membership | None = None
        """In force at `highest`."""


class Invariant:
    """One rule. Subclasses define the moments they need; each raises `InvariantViolation` when the rule is broken."""

    SENT: ClassVar[tuple[type, ...]] = (object,)
    """The messages that `on_sent` wants to see; all, if not said."""
    RECEIVED: ClassVar[tuple[type, ...]] = (object,)
    """The messages that `on_received` wants to see."""

    def __init__(self, monitor: "Monitor") -> None:
        self.monitor = monitor
        self.ledger = monitor.ledger
        self.nodes = monitor.nodes


MOMENTS = (
    *("on_booted", "on_crashed", "on_input", "on_written", "on_sent", "on_applied", "on_read", "on_lead"),
    *("on_batch", "on_state"),
    *("on_received", "on_tick", "on_leader_tick", "on_suspected", "on_accepted", "on_read_point"),
)


class Monitor:
    """All invariants of a run, and the facts they share. `seen` is the state before the input that is checked."""

    def __init__(self, nodes: "dict[NodeId, CoreNode]", rules: Sequence[type[Invariant]]) -> None:
        self.nodes = nodes
        self.ledger = Ledger()
        self.seen: dict[NodeId, Seen] = {}
        self.history: list[tuple[int, NodeId, Trace]] = []
        """(event number, node, what happened) of the newest events, for the report of a red seed."""
        self.trace_counts: dict[str, int] = {}
        self.on_event: Any = None
        invariants = [rule(self) for rule in rules]
        self._hooks: dict[str, list[Any]] = {
            moment: [getattr(each, moment) for each in invariants if hasattr(each, moment)] for moment in MOMENTS
        }
        self._on_input = self._hooks["on_input"]
        self._on_tick = self._hooks["on_tick"]
        self._on_leader_tick = self._hooks["on_leader_tick"]
        self._on_applied = self._hooks["on_applied"]
        self._invariants = invariants
        self._on_sent: dict[type, list[Any]] = {}
        self._on_received: dict[type, list[Any]] = {}

    def on_booted(self, node: "CoreNode") -> None:
        """A process has started; nothing has been put into its engine yet."""
        for hook in self._hooks["on_booted"]:
            hook(node)
        self.seen[node.node_id] = node.view.look()

    def on_crashed(self, node: "CoreNode") -> None:
        """A process has ended and lost its unsynced writes."""
        for hook in self._hooks["on_crashed"]:
            hook(node)

    def on_input(self, node: "CoreNode") -> None:
        """An input has been given to a node's engine; its effects are not fetched yet."""
        view, seen = node.view, self.seen[node.node_id]
        if not view.differs(seen):
            return
        now = view.look()
        for hook in self._on_input:
            hook(node, seen)
        if now.leads and (not seen.leads or now.term != seen.term):
            for hook in self._hooks["on_lead"]:
                hook(node)
        if now.commit_index > self.ledger.highest:
            self.ledger.highest = now.commit_index
            term_there = view.term_at(now.commit_index)
            self.ledger.highest_id = EntryId(term_there if term_there is not None else Term(0), now.commit_index)
            self.ledger.committed_membership = node.engine.membership_at(now.commit_index)
        self.seen[node.node_id] = now

    def on_written(self, node: "CoreNode", persist: Persist) -> None:
        """A write has been handed to a node's disk; it is not durable yet."""
        for hook in self._hooks["on_written"]:
            hook(node, persist)

    def on_sent(self, node: "CoreNode", to: NodeId, message: Any) -> None:
        """A message leaves a node."""
        kind = type(message)
        hooks = self._on_sent.get(kind)
        if hooks is None:
            hooks = self._on_sent[kind] = [
                each.on_sent
                for each in self._invariants
                if hasattr(each, "on_sent") and issubclass(kind, each.SENT)
            ]
        for hook in hooks:
            hook(node, to, message)

    def on_received(self, node: "CoreNode", sender: NodeId, message: Any, now: Tick) -> None:
        """A message is about to be given to a node's engine, with its clock at *now*."""
        kind = type(message)
        hooks = self._on_received.get(kind)
        if hooks is None:
            hooks = self._on_received[kind] = [
                each.on_received
                for each in self._invariants
                if hasattr(each, "on_received") and issubclass(kind, each.RECEIVED)
            ]
        for hook in hooks:
            hook(node, sender, message, now)

    def on_tick(self, node: "CoreNode", now: Tick) -> None:
        """A node's engine was told the time."""
        for hook in self._on_tick:
            hook(node, now)
        if self._on_leader_tick and node.view.leads:
            for hook in self._on_leader_tick:
                hook(node, now)

    def on_suspected(self, node: "CoreNode", peer: NodeId) -> None:
        """A node is about to hear that *peer*'s process has died."""
        for hook in self._hooks["on_suspected"]:
            hook(node, peer)

    def on_accepted(self, node: "CoreNode") -> None:
        """A node's engine has taken a command."""
        for hook in self._hooks["on_accepted"]:
            hook(node)

    def on_read_point(self, node: "CoreNode", state: ReadState) -> None:
        """A node's engine has named the index that a read may be answered from."""
        for hook in self._hooks["on_read_point"]:
            hook(node, state)

    def on_applied(self, node: "CoreNode", entry: EntryId, digest: int) -> None:
        """A node's state machine has applied *entry*; *digest* stands for all it has applied."""
        for hook in self._on_applied:
            hook(node, entry, digest)

    def on_read(self, node: "CoreNode", floor: LogIndex, index: LogIndex) -> None:
        """A read was answered from the state after *index*; *floor* was committed before it was asked for."""
        for hook in self._hooks["on_read"]:
            hook(node, floor, index)

    def on_batch(self, node: Any, index: LogIndex, batch: tuple[int, int], before: int, after: int) -> None:
        """A server has applied the *batch* (session, first number) that stands at *index*; revisions around it."""
        for hook in self._hooks["on_batch"]:
            hook(node, index, batch, before, after)

    def on_state(self, node: Any, applied: LogIndex, fingerprint: Any) -> None:
        """What a server's state is after *applied*, as something that can be compared."""
        for hook in self._hooks["on_state"]:
            hook(node, applied, fingerprint)

    def on_trace(self, node: "CoreNode", traces: Sequence[Trace]) -> None:
        """An engine tells something."""
        for trace in traces:
            self.trace_counts[trace.name] = self.trace_counts.get(trace.name, 0) + 1
            if self.on_event is not None:
                self.on_event(node, trace)
