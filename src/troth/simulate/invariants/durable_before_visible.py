"""A vote, and what a server claims to hold, are on its disk when they leave it (Raft figure 2).

A message of an older term may leave late, when one sync covered both what it speaks of and a truncation by a newer
leader: that is harmless, because whoever elected the newer leader did so with the older entries in its log.
"""

from typing import Any

from troth.core.raft.messages import AppendReply, RequestVote, VoteReply
from troth.errors import invariant
from troth.ids import NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant


class DurableBeforeVisible(Invariant):
    """Looks at the disk of whoever speaks."""

    SENT = (AppendReply, RequestVote, VoteReply)

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        kind = type(message)
        if kind is AppendReply:
            disk = node.journal.durable
            if disk.hard_state.term >= message.term and disk.last_index >= message.match:
                return
            invariant(disk.hard_state.term >= message.term, "term not durable", node=node.node_id, sent=message)
            held = max(disk.last_index, node.journal.file.last.index)
            invariant(
                held >= message.match or message.term < node.view.term,
                "acknowledges what is not durable",
                node=node.node_id,
                sent=message,
            )
        elif kind is VoteReply and message.granted:
            hard = node.journal.durable.hard_state
            invariant(
                hard.term > message.term or (hard.term == message.term and hard.voted_for == to),
                "vote not durable",
                node=node.node_id,
                to=to,
                sent=message,
                durable=hard,
            )
        elif kind is RequestVote:
            disk = node.journal.durable
            invariant(
                disk.hard_state.term > message.term
                or (disk.hard_state.term == message.term and disk.hard_state.voted_for == node.node_id),
                "own vote not durable",
                node=node.node_id,
                sent=message,
            )
            held = max(disk.last_index, node.journal.file.last.index)
            invariant(
                held >= message.last.index or node.view.role != "Candidate",
                "claims a log it may lose",
                node=node.node_id,
                sent=message,
            )
