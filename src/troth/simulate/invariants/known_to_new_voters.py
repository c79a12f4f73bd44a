"""When it is announced that servers have left, a quorum of those who decide now durably knows it (Paxos).

From that moment on an operator may stop the old ones, and nobody else could tell who decides behind the change.
"""

from troth.errors import invariant
from troth.simulate.core_node import CoreNode
from troth.simulate.invariants.quorums import lacks_quorum, working
from troth.simulate.monitor import Invariant, Seen


class KnownToNewVoters(Invariant):
    """The announcement comes when the slot behind the membership is chosen; looks at the disks, not at messages."""

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        index = view.membership_index
        if (
            not view.leads
            or not seen.leads
            or not seen.commit_index <= index < view.commit_index
            or view.membership.is_joint
        ):
            return
        # Who has lost a part of its disk does not vote, so that nothing hangs on what it knows.
        know = {
            other.node_id
            for other in self.nodes.values()
            if other.lost or max(other.journal.durable.chosen, other.journal.file.last.index) >= index
        }
        invariant(
            not lacks_quorum(view.membership, know, working(view)),
            "a leaving is announced to the world before the new voters know it",
            leader=node.node_id,
            membership=index,
            know=sorted(know),
            voters=view.membership.voters,
        )
