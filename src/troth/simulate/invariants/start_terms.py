"""A server starts in no earlier term (Multi-Paxos: at no lower ballot) than one in which what it knows was known."""

from troth.core.interface import Ballot
from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen


class StartTerms(Invariant):
    """In an earlier one it would follow a leader that may lack all that, and that is told: it is held here."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._known: dict[LogIndex, Ballot] = {}
        """The lowest ballot in which anybody has come to know that so much is agreed upon."""

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if view.commit_index == seen.commit_index:
            return
        ballot, known = view.ballot, self._known
        for each in range(seen.commit_index + 1, view.commit_index + 1):
            index = LogIndex(each)
            # The answers that a deposed leader waited for may come late: then it was agreed upon in its time.
            known[index] = min(known.get(index, ballot), ballot)

    def on_booted(self, node: CoreNode) -> None:
        view = node.view
        known = self._known.get(view.commit_index, view.ballot)
        invariant(
            view.ballot >= known,
            "starts before what it knows was agreed upon",
            node=node.node_id,
            begins=view.ballot,
            known=known,
            index=view.commit_index,
        )
