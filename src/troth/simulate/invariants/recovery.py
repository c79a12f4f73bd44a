"""Recovery (Paxos): a new leader proposes, in every slot, what was chosen there at a lower ballot.

It follows from agreement only when it is too late: a wrong proposal is chosen, or not, some time later.
"""

from troth.core.interface import Ballot
from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.paxos_view import PaxosView


class Recovery(Invariant):
    """Checked when somebody begins to lead, and for the leaders there are when more is chosen."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._chosen: dict[LogIndex, tuple[Ballot, object]] = {}
        """Per slot: the ballot at which it was chosen first, and the value."""
        self._lowest = LogIndex(1)

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if not view.leads or not seen.leads or view.commit_index <= seen.commit_index:
            return
        for entry in view.entries(LogIndex(seen.commit_index + 1), LogIndex(view.commit_index + 1)):
            if entry.index not in self._chosen:
                self._chosen[entry.index] = view.ballot, entry
                for other in self.nodes.values():
                    if other is not node and other.up and other.view.leads and other.view.ballot > view.ballot:
                        self._check(other, entry.index)

    def on_lead(self, node: CoreNode) -> None:
        for index in range(node.view.commit_index + 1, self.ledger.highest + 1):
            self._check(node, LogIndex(index))

    def _check(self, leader: CoreNode, index: LogIndex) -> None:
        view = leader.view
        if index not in self._chosen or index <= view.compacted_index or not isinstance(view, PaxosView):
            return
        ballot, entry = self._chosen[index]
        proposed = view.proposed(index)
        invariant(
            ballot >= view.ballot or proposed == entry,
            "a new leader lacks what is chosen",
            leader=leader.node_id,
            ballot=view.ballot,
            chosen=(ballot, entry),
            proposes=proposed,
        )
