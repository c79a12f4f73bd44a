"""What an answer to an append says (Raft figure 2), and that it stays true."""

from typing import Any

from troth.core.interface import Persist
from troth.core.raft.messages import AppendEntries, AppendRejected, AppendReply
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor
from troth.simulate.raft_view import raft_view


class AppendAnswers(Invariant):
    """An acknowledgement covers no more than messages of that term did; while the term lasts, nothing of that is
    written anew. What is compacted, and so committed, is never rejected. And a leader that hears a follower deny what
    it has acknowledged (a part of its log was lost) counts on that no longer."""

    SENT = (AppendReply, AppendRejected)
    RECEIVED = (AppendEntries, AppendReply, AppendRejected)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._covered: dict[NodeId, tuple[Term, LogIndex]] = {}
        self._acknowledged: dict[NodeId, tuple[Term, LogIndex]] = {}
        self._denied: dict[NodeId, dict[NodeId, LogIndex]] = {}
        """Leader -> follower -> what it has denied since the last tick."""

    def on_booted(self, node: CoreNode) -> None:
        if node.lost:
            self._acknowledged.pop(node.node_id, None)

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        if not isinstance(message, AppendEntries):
            self._on_answer(node, sender, message)
            return
        prev = message.prev
        if prev.index > node.view.commit_index and node.view.term_at(prev.index) != prev.term:
            return  # it will be rejected
        covered = (message.term, LogIndex(message.prev.index + len(message.entries)))
        self._covered[node.node_id] = max(covered, self._covered.get(node.node_id, covered))

    def _on_answer(self, node: CoreNode, sender: NodeId, message: AppendReply | AppendRejected) -> None:
        denied = self._denied.setdefault(node.node_id, {})
        denied.pop(sender, None)
        view = raft_view(node.view)
        if isinstance(message, AppendReply) or message.term != view.term:
            return
        if 0 < message.rejected == view.counted(sender):
            denied[sender] = message.rejected

    def on_tick(self, node: CoreNode, now: Tick) -> None:
        for peer, index in self._denied.pop(node.node_id, {}).items():
            invariant(
                raft_view(node.view).counted(peer) != index,
                "counts on what a follower has denied",
                node=node.node_id,
                follower=peer,
                index=index,
            )

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        if isinstance(message, AppendRejected):
            invariant(
                message.hint.index <= message.rejected,
                "rejects what it has compacted",
                node=node.node_id,
                sent=message,
            )
            return
        if message.term == node.view.term and to != node.node_id:
            term, covered = self._covered.get(node.node_id, (Term(0), LogIndex(0)))
            allowed = max(
                covered if term == message.term else 0, node.view.commit_index, node.journal.file.last.index
            )
            invariant(
                message.match <= allowed, "acknowledges what no message covered", node=node.node_id, sent=message
            )
            mine = (message.term, message.match)
            self._acknowledged[node.node_id] = max(mine, self._acknowledged.get(node.node_id, mine))

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        term, match = self._acknowledged.get(node.node_id, (Term(0), LogIndex(0)))
        if persist.entries and term == node.view.term:
            invariant(
                persist.entries[0].index > match,
                "writes anew what it has acknowledged",
                node=node.node_id,
                term=term,
                match=match,
                first=persist.entries[0].index,
            )
