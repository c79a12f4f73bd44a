"""Who leads was given the votes of a quorum, each by a voter of its own (Raft §5.2; of both sets while joint, §6)."""

from typing import Any

from troth.core.raft.messages import VoteReply
from troth.errors import invariant
from troth.ids import NodeId, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.invariants.quorums import lacks_quorum
from troth.simulate.monitor import Invariant, Monitor


class ElectedByQuorum(Invariant):
    """Counts the votes that have left their voters, which is when they are durable."""

    SENT = (VoteReply,)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._votes: dict[tuple[Term, NodeId], set[NodeId]] = {}

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        if message.granted:
            self._votes.setdefault((message.term, to), set()).add(node.node_id)

    def on_lead(self, node: CoreNode) -> None:
        given = self._votes.get((node.view.term, node.node_id), set())
        invariant(
            not lacks_quorum(node.view.membership, given),
            "leads without the votes of a quorum",
            node=node.node_id,
            term=node.view.term,
            votes=sorted(given),
            voters=node.view.membership.voters,
            outgoing=node.view.membership.outgoing,
        )
