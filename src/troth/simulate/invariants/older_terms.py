"""Whoever asks in an older term, or at a lower ballot, is told the newer one (Raft §5.1), or it might never learn
(etcd issues 8243, 8501): nobody answers a leader that was outbid, and it would ask for ever.
"""

from typing import Any

from troth.core.interface import Ballot
from troth.core.paxos import messages as paxos
from troth.core.raft import messages as raft
from troth.errors import invariant
from troth.ids import NodeId, Term, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor

PATIENCE_US = 50_000
"""An answer may wait for effects to be fetched; one that waits for the disk is waited for as long as that takes."""

QUESTIONS = (raft.PreVote, paxos.Probe)
"""They name a term (ballot) that nobody is in yet, and teach none."""


class OlderTermsAreTold(Invariant):
    """An answer is owed from the moment the question comes; a crash, or a question that was forgotten in it, is not
    held against anybody."""

    RECEIVED = (
        *(raft.AppendEntries, raft.Heartbeat, raft.PreVote, raft.RequestVote),
        *(paxos.Accept, paxos.Heartbeat, paxos.Probe, paxos.Prepare),
    )

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._owed: dict[NodeId, dict[NodeId, tuple[Ballot, int]]] = {}

    def on_booted(self, node: CoreNode) -> None:
        self._owed[node.node_id] = {}

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        asked = _ballot_of(message)
        if asked < node.view.ballot:
            self._owed[node.node_id].setdefault(sender, (asked, node.world_us()))

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        owed = self._owed[node.node_id]
        if to in owed and not isinstance(message, QUESTIONS) and _ballot_of(message) > owed[to][0]:
            del owed[to]

    def on_tick(self, node: CoreNode, now: Tick) -> None:
        if not self._owed[node.node_id] or node.has_work():
            return
        for peer, (asked, since_us) in self._owed[node.node_id].items():
            invariant(
                node.world_us() - since_us <= PATIENCE_US,
                "does not tell an older term of the newer",
                node=node.node_id,
                peer=peer,
                asked_in=asked,
                ballot=node.view.ballot,
            )


def _ballot_of(message: Any) -> Ballot:
    """As `EngineView.ballot`; the lowest of all for what servers say to each other that belongs to no term."""
    ballot: Ballot | None = getattr(message, "ballot", None)
    return ballot or Ballot(getattr(message, "term", Term(0)), NodeId(0))
