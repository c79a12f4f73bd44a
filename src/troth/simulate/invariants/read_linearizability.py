"""A linearizable read sees all that was committed before it was asked for (thesis §6.4)."""

from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant


class ReadLinearizability(Invariant):
    """The index a read is answered from is not below the highest one committed anywhere when it was asked for."""

    def on_read(self, node: CoreNode, floor: LogIndex, index: LogIndex) -> None:
        invariant(index >= floor, "stale read", node=node.node_id, floor=floor, answered_from=index)
