"""Who has lost a part of its log elects nobody, and does not stand, before it has all of it again."""

from typing import Any

from troth.core.paxos.messages import Prepare, Probe, ProbeReply, Promise
from troth.core.raft.messages import PreVote, PreVoteReply, RequestVote, VoteReply
from troth.errors import invariant
from troth.ids import NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant


class LostLogs(Invariant):
    """It may have acknowledged what it has lost, and a quorum with it would not know of that."""

    SENT = (PreVote, PreVoteReply, RequestVote, VoteReply, Probe, ProbeReply, Prepare, Promise)

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        refuses = isinstance(message, PreVoteReply | VoteReply | ProbeReply) and not message.granted
        invariant(
            refuses or not node.lost,
            "votes or stands without a part of its log",
            node=node.node_id,
            sent=message,
        )
