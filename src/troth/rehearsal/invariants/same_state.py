"""State equality: servers that have applied the same entries hold the same keys, versions, leases and sessions."""

from typing import Any

from troth.errors import invariant
from troth.ids import LogIndex
from troth.simulate.monitor import Invariant, Monitor


class SameState(Invariant):
    """Compares fingerprints wherever two servers were looked at after the same entry (`Cluster.compare` looks)."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._hashes: dict[LogIndex, tuple[Any, str]] = {}
        self.compared = 0

    def on_state(self, node: Any, applied: LogIndex, fingerprint: Any) -> None:
        first = self._hashes.setdefault(applied, (fingerprint, node.host.name))
        self.compared += first[1] != node.host.name
        invariant(
            first[0] == fingerprint,
            "two servers have applied the same entries and differ",
            applied=applied,
            one=first,
            other=(fingerprint, node.host.name),
        )
