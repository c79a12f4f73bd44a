"""Which membership is in force, and when the next may come (Raft §6; Ongaro 2015)."""

from troth.core.interface import EntryKind, Membership, Persist
from troth.core.membership import decode_membership
from troth.errors import invariant
from troth.ids import LogIndex, NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.journal import Stored
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.paxos_view import PaxosView


class MembershipFromLog(Invariant):
    """A server uses the newest membership in its log, committed or not; a truncation or a snapshot changes that."""

    def on_booted(self, node: CoreNode) -> None:
        self._compare(node)

    def on_written(self, node: CoreNode, persist: Persist) -> None:
        entries = persist.entries
        if (
            persist.snapshot is not None
            or (entries and entries[0].index <= node.view.membership_index)
            or any(entry.kind == EntryKind.MEMBERSHIP for entry in entries)
        ):
            self._compare(node)

    @staticmethod
    def _compare(node: CoreNode) -> None:
        newest = newest_membership(node.journal.volatile)
        invariant(
            node.view.membership == newest,
            "another membership than the newest in its log",
            node=node.node_id,
            uses=node.view.membership,
            newest=newest,
        )


def newest_membership(log: Stored) -> Membership:
    """The last membership in *log*, or that of the snapshot in front of it."""
    for entry in reversed(log.entries):
        if entry.kind == EntryKind.MEMBERSHIP:
            return decode_membership(entry.payload)
    return log.base.membership


class OneChangeAtATime(Invariant):
    """A leader appends a membership only when the last one has committed, and an entry of its own term with it."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._index: dict[NodeId, LogIndex] = {}

    def on_booted(self, node: CoreNode) -> None:
        self._index[node.node_id] = node.view.newest_change()

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        before = self._index[node.node_id]
        self._index[node.node_id] = view.newest_change()
        if not view.leads or not seen.leads or view.term != seen.term:
            return
        in_paxos = isinstance(view, PaxosView)
        if view.newest_change() > before:
            # A Paxos leader has given a slot to all that it found; it may leave a joint membership among that at once.
            invariant(
                before <= view.commit_index and (in_paxos or view.term_start() <= view.commit_index),
                "a change before the last has committed, or nothing of the own term",
                node=node.node_id,
                last_change=before,
                term_start=view.term_start(),
                commit=view.commit_index,
            )
        # Paxos announces a leaving when the slot behind it is chosen.
        settled = view.membership_index + in_paxos
        invariant(
            view.membership.is_voter(node.node_id) or not seen.commit_index < settled <= view.commit_index,
            "leads though its removal has committed",
            node=node.node_id,
            index=view.membership_index,
        )
