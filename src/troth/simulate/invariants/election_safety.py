"""Election Safety (Raft figure 3): at most one leader in a term; and below it, one vote a term, in all lives."""

from typing import Any

from troth.core.raft.messages import VoteReply
from troth.errors import invariant
from troth.ids import NodeId, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor


class ElectionSafety(Invariant):
    """One leader a term, one vote a term."""

    SENT = (VoteReply,)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._votes: dict[tuple[NodeId, Term], NodeId] = {}

    def on_lead(self, node: CoreNode) -> None:
        term = node.view.term
        other = self.ledger.leaders.setdefault(term, node.node_id)
        invariant(other == node.node_id, "two leaders in one term", term=term, first=other, second=node.node_id)

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        if message.granted:
            first = self._votes.setdefault((node.node_id, message.term), to)
            invariant(
                first == to, "two votes in one term", voter=node.node_id, term=message.term, first=first, second=to
            )
