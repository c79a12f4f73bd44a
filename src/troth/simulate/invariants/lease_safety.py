"""While a leader lease holds, nobody else is elected (thesis §6.4.1)."""

from troth.errors import invariant
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant


class LeaseSafety(Invariant):
    """Whoever is elected meets no other server that may still answer from its lease."""

    def on_lead(self, node: CoreNode) -> None:
        for other in self.nodes.values():
            # Who is elected by votes that come very late can commit nothing any more: the holder has them since.
            if other is not node and other.up and other.view.leads and other.view.ballot < node.view.ballot:
                end = other.view.lease_end()
                invariant(
                    end <= other.clock.ticks(),
                    "elected while a lease holds",
                    elected=node.node_id,
                    holder=other.node_id,
                    lease_end=end,
                    holder_now=other.clock.ticks(),
                )
