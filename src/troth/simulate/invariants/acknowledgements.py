"""An acknowledgement names a prefix that the sender shares with the leader of that term: the receiver counts on it."""

from typing import Any

from troth.core.raft.messages import AppendReply
from troth.errors import invariant
from troth.ids import NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant


class Acknowledgements(Invariant):
    """Compared with the log of the leader, while it leads."""

    SENT = (AppendReply,)

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        if not message.match:
            return
        leader = self.nodes[to]
        if not leader.up or not leader.view.leads or leader.view.term != message.term:
            return
        theirs = leader.journal.volatile.digest_at(message.match)
        ours = node.journal.durable.digest_at(message.match)
        invariant(
            theirs is None or ours is None or theirs == ours,
            "acknowledges another history",
            node=node.node_id,
            leader=to,
            sent=message,
        )
