"""Term, commit index and applied index never fall within a life; term and vote not across durable restarts either."""

from troth.errors import invariant
from troth.ids import NodeId, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen


class NeverFalls(Invariant):
    """Also: within one term a vote is given once and not taken back."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._durable: dict[NodeId, tuple[Term, NodeId]] = {}

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if (
            view.term == seen.term
            and seen.voted_for in (0, view.voted_for)
            and view.commit_index >= seen.commit_index
            and view.applied_index >= seen.applied_index
        ):
            return
        invariant(view.term >= seen.term, "term falls", node=node.node_id, was=seen.term, now=view.term)
        if view.term == seen.term and seen.voted_for:
            invariant(view.voted_for == seen.voted_for, "a vote is changed", node=node.node_id, term=view.term)
        invariant(
            view.commit_index >= seen.commit_index,
            "commit index falls",
            node=node.node_id,
            was=seen.commit_index,
            now=view.commit_index,
        )
        invariant(
            view.applied_index >= seen.applied_index,
            "applied index falls",
            node=node.node_id,
            was=seen.applied_index,
            now=view.applied_index,
        )

    def on_booted(self, node: CoreNode) -> None:
        hard = node.journal.durable.begins_with
        term, vote = self._durable.get(node.node_id, (Term(0), NodeId(0)))
        invariant(hard.term >= term, "the disk's term falls", node=node.node_id, was=term, now=hard.term)
        if hard.term == term and vote:
            invariant(hard.voted_for == vote, "the disk's vote is changed", node=node.node_id, term=term)
        invariant(node.view.term == hard.term, "starts in another term than the disk's", node=node.node_id)
        invariant(node.view.voted_for == hard.voted_for, "forgets its vote", node=node.node_id)
        self._durable[node.node_id] = (hard.term, hard.voted_for)
