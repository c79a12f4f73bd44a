"""What a commit index may rise to: on a leader an entry of its own term (Raft §5.4.2), on a follower what the leader's
message has vouched for (figure 2: "min(leaderCommit, index of last new entry)")."""

from troth.core.raft.messages import AppendEntries
from troth.errors import invariant
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Seen


class CommitRule(Invariant):
    """Holds whether or not anything came of it: a tail that nobody verified may be right by chance."""

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        index = view.commit_index
        if index <= seen.commit_index:
            return
        if view.leads and seen.leads:
            invariant(
                view.term_at(index) == view.term,
                "a leader commits through an entry of an older term",
                node=node.node_id,
                index=index,
                term=view.term,
                entry_term=view.term_at(index),
            )
        elif node.handling is not None and isinstance(node.handling[1], AppendEntries):
            message = node.handling[1]
            covered = message.prev.index + len(message.entries)
            invariant(
                index <= min(message.commit, covered),
                "a follower commits what the message did not cover",
                node=node.node_id,
                index=index,
                leader_commit=message.commit,
                covered=covered,
            )
