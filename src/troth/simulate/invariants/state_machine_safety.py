"""State Machine Safety (Raft figure 3): no two servers apply different entries at one index, and none skips one."""

from troth.core.interface import EntryId
from troth.errors import invariant
from troth.ids import LogIndex, NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor


class StateMachineSafety(Invariant):
    """The digest of everything applied is the same on whoever has applied as much."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._digests: dict[LogIndex, int] = {}
        self._applied: dict[NodeId, LogIndex] = {}

    def on_booted(self, node: CoreNode) -> None:
        self._applied[node.node_id] = node.applied.index

    def on_applied(self, node: CoreNode, entry: EntryId, digest: int) -> None:
        first, before = self._digests.setdefault(entry.index, digest), self._applied[node.node_id]
        self._applied[node.node_id] = entry.index
        if first == digest and entry.index == before + 1:
            return
        invariant(first == digest, "different entries applied at one index", node=node.node_id, entry=entry)
        invariant(
            entry.index > before and entry.index == node.journal.volatile.base.last.index,
            "applies out of order",
            node=node.node_id,
            before=before,
            entry=entry,
        )
