"""Promises and acceptances are on the disk when they leave a server, and a ballot before it is used (Paxos)."""

from typing import Any

from troth.core.interface import CHOSEN, Ballot
from troth.core.paxos.messages import AcceptReply, Prepare, Promise
from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant


class DurablePromises(Invariant):
    """Looks at the disk of whoever speaks."""

    def on_sent(self, node: CoreNode, to: object, message: Any) -> None:
        kind = type(message)
        if kind is not AcceptReply and kind is not Promise and kind is not Prepare:
            return
        disk = node.journal.durable
        durable = Ballot(disk.hard_state.term, disk.hard_state.voted_for)
        invariant(durable >= message.ballot, "promise not durable", node=node.node_id, sent=message, disk=durable)
        if kind is AcceptReply:
            claimed = range(message.first, message.last + 1) if message.last else ()
            for index in {message.match, *claimed}:
                self._check(node, LogIndex(index), message.ballot)
        elif kind is Promise:
            for slot in message.slots:
                held = disk.slots.get(slot.entry.index)
                invariant(
                    slot.entry.index <= self._floor(node) or (held is not None and held.ballot >= slot.ballot),
                    "reports what it may lose",
                    node=node.node_id,
                    slot=slot,
                    disk=held,
                )

    @staticmethod
    def _floor(node: CoreNode) -> LogIndex:
        """What the disk holds as a snapshot, or knows to be chosen."""
        disk = node.journal.durable
        return max(disk.base.last.index, node.journal.file.last.index, disk.chosen)

    def _check(self, node: CoreNode, index: LogIndex, ballot: Ballot) -> None:
        held = node.journal.durable.slots.get(index)
        # A value that was chosen later, at a higher ballot, may have taken its place: it is the same value.
        settled = held is not None and (held.ballot >= ballot or held.ballot == CHOSEN)
        invariant(
            settled or index <= max(self._floor(node), node.view.commit_index if held else 0),
            "acknowledges what is not durable",
            node=node.node_id,
            index=index,
            ballot=ballot,
            disk=held,
        )
