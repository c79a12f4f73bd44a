"""The revision of a store never falls, and after the same entry it is the same everywhere."""

from typing import Any

from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.monitor import Invariant, Monitor


class RevisionOrder(Invariant):
    """Each batch takes the store from one revision to another, on all servers the same two."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._seen: dict[tuple[LogIndex, tuple[int, int], int], int] = {}

    def on_batch(self, node: Any, index: LogIndex, batch: tuple[int, int], before: int, after: int) -> None:
        first = self._seen.setdefault((index, batch, before), after)
        if before <= after == first:
            return
        invariant(after >= before, "the revision falls", node=node.host.name, before=before, after=after)
        invariant(
            first == after, "a batch leads to different revisions", node=node.host.name, index=index, batch=batch
        )
