"""Leader Append-Only (Raft figure 3): a leader never overwrites or deletes entries in its log."""

from troth.core.interface import Persist
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor


class LeaderAppendOnly(Invariant):
    """What a leader writes begins right behind what it wrote before in the same term."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._last: dict[NodeId, tuple[Term, LogIndex]] = {}

    def on_lead(self, node: CoreNode) -> None:
        self._last.pop(node.node_id, None)

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        if not node.view.leads or not persist.entries:
            return
        term, last = self._last.get(node.node_id, (Term(-1), LogIndex(0)))
        first = persist.entries[0].index
        if term == node.view.term:
            invariant(first == last + 1, "a leader rewrites its log", node=node.node_id, first=first, last=last)
        self._last[node.node_id] = (node.view.term, persist.entries[-1].index)
