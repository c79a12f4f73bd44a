"""Agreement (Paxos): one value per slot for ever, on whoever knows it; and below it, one value per slot and ballot."""

from troth.core.interface import CHOSEN, Ballot, Entry, Persist
from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen


class Agreement(Invariant):
    """The first server to learn a slot's value fixes it; the first to accept at a ballot fixes that ballot's value."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._chosen: dict[LogIndex, Entry] = {}
        self._proposed: dict[tuple[LogIndex, Ballot], Entry] = {}

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        first = LogIndex(max(seen.commit_index, view.compacted_index) + 1)
        for entry in view.entries(first, LogIndex(view.commit_index + 1)):
            known = self._chosen.setdefault(entry.index, entry)
            invariant(known == entry, "two values chosen for one slot", node=node.node_id, one=known, other=entry)

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        for slot in persist.slots:
            if slot.ballot != CHOSEN:
                key = (slot.entry.index, slot.ballot)
                known = self._proposed.setdefault(key, slot.entry)
                invariant(
                    known == slot.entry,
                    "two values for one slot and ballot",
                    node=node.node_id,
                    slot=slot,
                    other=known,
                )
