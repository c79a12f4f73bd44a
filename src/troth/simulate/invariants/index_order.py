"""purged <= snapshot <= applied <= committed <= last, on every server at all times."""

from troth.errors import invariant
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Seen


class IndexOrder(Invariant):
    """The five indexes of a log keep their order."""

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view, saved = node.view, node.journal.file.last.index
        purged, applied, committed, last = (
            view.compacted_index,
            view.applied_index,
            view.commit_index,
            view.last_index,
        )
        if (purged <= saved or not purged) and applied <= committed <= last:
            return
        invariant(
            False,
            "indexes are out of order",
            node=node.node_id,
            purged=purged,
            snapshot=saved,
            applied=applied,
            committed=committed,
            last=last,
        )
