"""Session exactly-once (Raft thesis §6.3): a batch of a session is applied once, however often it stands in the log."""

from typing import Any

from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.monitor import Invariant, Monitor


class ExactlyOnce(Invariant):
    """A batch that changes the state at one index changes it at no other."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._applied: dict[tuple[int, int], LogIndex] = {}

    def on_batch(self, node: Any, index: LogIndex, batch: tuple[int, int], before: int, after: int) -> None:
        session, _ = batch
        if session and after > before:
            first = self._applied.setdefault(batch, index)
            if first != index:
                invariant(False, "a batch is applied twice", node=node.host.name, batch=batch, at=(first, index))
