"""Leader Completeness (Raft figure 3): what is committed is in the log of every leader of a later term."""

from troth.errors import invariant
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Seen


class LeaderCompleteness(Invariant):
    """Checked when a leader is elected, and for the leaders there are when more is committed."""

    def on_lead(self, node: CoreNode) -> None:
        self._check(node)

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        commit_index = node.view.commit_index
        if commit_index <= self.ledger.highest:
            return
        term = node.view.term_at(commit_index)
        for other in self.nodes.values():
            if other is not node and other.up and other.view.leads and other.view.term > node.view.term:
                held = other.view.term_at(commit_index)
                invariant(
                    held == term or other.view.compacted_index >= commit_index,
                    "a later leader lacks what is committed",
                    leader=other.node_id,
                    index=commit_index,
                    held=held,
                    committed=term,
                )

    def _check(self, node: CoreNode) -> None:
        highest = self.ledger.highest_id
        if node.view.term <= highest.term:
            return  # elected by votes that came very late; whatever it does, it can commit nothing any more
        held = node.view.term_at(highest.index)
        invariant(
            held == highest.term or node.view.compacted_index >= highest.index,
            "a new leader lacks what is committed",
            leader=node.node_id,
            term=node.view.term,
            highest=highest,
            held=held,
        )
