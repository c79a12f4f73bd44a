"""Whoever asks in an older term is told the newer one (Raft §5.1), or it might never learn (etcd issues 8243, 8501)."""

from typing import Any

from troth.core.raft.messages import AppendEntries, Heartbeat, PreVote, RequestVote
from troth.errors import invariant
from troth.ids import NodeId, Term, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor

PATIENCE_US = 50_000
"""An answer may wait for effects to be fetched; one that waits for the disk is waited for as long as that takes."""


class OlderTermsAreTold(Invariant):
    """An answer is owed from the moment the question comes; a crash, or a question that was forgotten in it, is not
    held against anybody."""

    RECEIVED = (AppendEntries, Heartbeat, PreVote, RequestVote)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._owed: dict[NodeId, dict[NodeId, tuple[Term, int]]] = {}

    def on_booted(self, node: CoreNode) -> None:
        self._owed[node.node_id] = {}

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        if message.term < node.view.term:
            self._owed[node.node_id].setdefault(sender, (message.term, node.world_us()))

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        owed = self._owed[node.node_id]
        # Servers also say things to each other that belong to no term.
        if to in owed and getattr(message, "term", Term(0)) > owed[to][0]:
            del owed[to]

    def on_tick(self, node: CoreNode, now: Tick) -> None:
        if not self._owed[node.node_id] or node.has_work():
            return
        for peer, (term, since_us) in self._owed[node.node_id].items():
            invariant(
                node.world_us() - since_us <= PATIENCE_US,
                "does not tell an older term of the newer",
                node=node.node_id,
                peer=peer,
                asked_in=term,
                term=node.view.term,
            )
