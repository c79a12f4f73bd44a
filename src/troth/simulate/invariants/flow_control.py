"""No more is in flight to a follower than flow control allows (thesis §10.2.2): a slow one must not fill memory."""

from typing import Any

from troth.core.raft.messages import AppendEntries
from troth.errors import invariant
from troth.ids import NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant
from troth.simulate.raft_view import raft_view


class FlowControl(Invariant):
    """Looks when something is sent."""

    SENT = (AppendEntries,)

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        flying, allowed = raft_view(node.view).flight(to)
        if flying > allowed:
            invariant(False, "too much in flight", node=node.node_id, to=to, flying=flying, allowed=allowed)
