"""purged <= snapshot <= applied <= committed <= last, on every server at all times."""

from troth.errors import invariant
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Seen


class IndexOrder(Invariant):
    """The five indexes of a log keep their order."""

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        indexes = (
            view.compacted_index,
            node.journal.file.last.index if view.compacted_index else 0,
            max(view.applied_index, node.journal.file.last.index),
            max(view.commit_index, node.journal.file.last.index),
            max(view.last_index, node.journal.file.last.index),
        )
        invariant(
            list(indexes) == sorted(indexes) and view.applied_index <= view.commit_index <= view.last_index,
            "indexes are out of order",
            node=node.node_id,
            purged_snapshot_applied_committed_last=indexes,
        )
