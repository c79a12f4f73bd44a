"""Recovery (Paxos): a new leader proposes, in every slot, what was chosen there at a lower ballot; and what the
promises that it has heard ask for, chosen or not.

Either follows from agreement only when it is too late: a wrong proposal is chosen, or not, some time later.
"""

from typing import Any

from troth.core.interface import CHOSEN, Ballot, Entry, EntryKind, Slot
from troth.core.paxos.messages import Promise
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.paxos_view import PaxosView


class Recovery(Invariant):
    """Checked when somebody begins to lead, and for the leaders there are when more is chosen."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._chosen: dict[LogIndex, tuple[Ballot, object]] = {}
        """Per slot: the ballot at which it was chosen first, and the value."""

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


class HighestReported(Invariant):
    """Paxos Made Simple, P2c: of all values reported for a slot, that of the highest ballot is proposed anew."""

    RECEIVED = (Promise,)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._heard: dict[NodeId, tuple[Ballot, dict[LogIndex, tuple[Ballot, Entry]]]] = {}
        """Who prepares -> its ballot, and per slot the highest report that has come."""

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        if message.ballot == node.view.ballot and node.view.role == "Candidate":
            for slot in message.slots:
                self._hear(node, slot, chosen=slot.entry.index <= message.chosen)

    def _hear(self, node: CoreNode, slot: Slot, *, chosen: bool) -> None:
        ballot = node.view.ballot
        if node.node_id not in self._heard or self._heard[node.node_id][0] != ballot:
            self._heard[node.node_id] = ballot, {}
        heard, index = self._heard[node.node_id][1], slot.entry.index
        report = (CHOSEN if chosen else slot.ballot), slot.entry
        heard[index] = max(heard.get(index, report), report, key=lambda each: each[0])

    def on_lead(self, node: CoreNode) -> None:
        view = node.view
        if not isinstance(view, PaxosView):
            return
        for index in range(view.commit_index + 1, view.last_index + 1):
            own = view.slot(LogIndex(index))
            if own is not None and own.ballot < view.ballot:
                self._hear(node, own, chosen=False)
        ballot, heard = self._heard.pop(node.node_id, (view.ballot, {}))
        if ballot != view.ballot:
            return
        for index in range(view.commit_index + 1, max(heard, default=0) + 1):
            report, proposed = heard.get(LogIndex(index)), view.proposed(LogIndex(index))
            invariant(
                proposed is not None
                and (proposed == report[1] if report is not None else proposed.kind == EntryKind.NOOP),
                "a new leader proposes another value than the highest reported",
                leader=node.node_id,
                ballot=ballot,
                slot=index,
                reported=report,
                proposes=proposed,
            )
