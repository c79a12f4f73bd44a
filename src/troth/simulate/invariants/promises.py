"""What an acceptor promised and accepted never falls, in memory and on the disk, in all its lives (Paxos)."""

from troth.core.interface import Ballot, Persist
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen


class Promises(Invariant):
    """Also: nothing is accepted below the promise that was in force."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._promised: dict[NodeId, Ballot] = {}
        self._durable: dict[NodeId, Ballot] = {}
        self._accepted: dict[NodeId, dict[LogIndex, Ballot]] = {}

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        ballot = node.view.ballot
        before = self._promised.get(node.node_id, ballot)
        invariant(ballot >= before, "a promise falls", node=node.node_id, was=before, now=ballot)
        invariant(
            node.view.commit_index >= seen.commit_index and node.view.applied_index >= seen.applied_index,
            "chosen or applied index falls",
            node=node.node_id,
            was=(seen.commit_index, seen.applied_index),
        )
        self._promised[node.node_id] = ballot

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        accepted = self._accepted.setdefault(node.node_id, {})
        for slot in persist.slots:
            before = accepted.get(slot.entry.index, slot.ballot)
            invariant(slot.ballot >= before, "an accepted ballot falls", node=node.node_id, was=before, now=slot)
            accepted[slot.entry.index] = slot.ballot

    def on_booted(self, node: CoreNode) -> None:
        disk = node.journal.durable
        begins = disk.begins_with
        ballot = Ballot(begins.term, begins.voted_for)
        before = self._durable.get(node.node_id, Ballot(Term(0), NodeId(0)))
        invariant(ballot >= before, "the disk's promise falls", node=node.node_id, was=before, now=ballot)
        invariant(node.view.ballot == ballot, "forgets its promise", node=node.node_id, disk=ballot)
        self._durable[node.node_id] = self._promised[node.node_id] = ballot
        self._accepted[node.node_id] = {index: slot.ballot for index, slot in disk.slots.items()}
