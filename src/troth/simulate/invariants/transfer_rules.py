"""Leadership transfer (thesis §3.10): intake stops, only a server with the whole log is told to stand, and all of it is
given up in time."""

from typing import Any

from troth.core.interface import EntryKind
from troth.core.raft.messages import TimeoutNow
from troth.errors import invariant
from troth.ids import NodeId, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor


class TransferRules(Invariant):
    """Looks at transfers that are under way."""

    SENT = (TimeoutNow,)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._since: dict[NodeId, tuple[object, Tick]] = {}

    def on_accepted(self, node: CoreNode) -> None:
        invariant(
            node.view.transfer() is None,
            "takes a command while it gives up leadership",
            node=node.node_id,
        )

    def on_leader_tick(self, node: CoreNode, now: Tick) -> None:
        transfer = node.view.transfer()
        if transfer is None:
            return
        known, since = self._since.get(node.node_id, (None, now))
        if known is not transfer:
            self._since[node.node_id] = (transfer, now)
            return
        invariant(
            now - since < node.plan.config.election_timeout_ticks,
            "a transfer is not given up",
            node=node.node_id,
            target=transfer.target,
            ticks=now - since,
        )

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        if node.view.transfer() is None or self.nodes[to].lost:
            return  # it had everything, if it has lost some of it since
        log = node.journal.volatile
        last = log.last_index
        # A membership may be appended at any time: it is left when it commits, whoever is to lead next.
        entries = [entry.index for entry in log.entries if entry.kind != EntryKind.MEMBERSHIP]
        if log.entries:
            last = max(entries, default=log.base.last.index)
        target = self.nodes[to].journal
        invariant(
            max(target.durable.last_index, target.file.last.index) >= last,
            "told to stand before it has everything",
            node=node.node_id,
            target=to,
            last=last,
        )
