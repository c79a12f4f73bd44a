"""Log Matching (Raft figure 3): entries with the same index and term have the same history before them."""

from troth.core.interface import Persist
from troth.errors import invariant
from troth.ids import LogIndex, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor


class LogMatching(Invariant):
    """Every written entry's digest, which covers its whole history, is the one first seen under its name."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._digests: dict[tuple[LogIndex, Term], int] = {}

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        log = node.journal.volatile
        for entry in persist.entries:
            digest = log.digest_at(entry.index)
            if digest is None:
                continue
            first = self._digests.setdefault((entry.index, entry.term), digest)
            if first != digest:
                invariant(False, "logs do not match", node=node.node_id, index=entry.index, term=entry.term)
        invariant(
            log.last_index == node.view.last_index,
            "what is written is not what the engine holds",
            node=node.node_id,
            written=log.last_index,
            held=node.view.last_index,
        )
