"""Who leads was promised its ballot by a phase-1 quorum of every membership that may decide on an open slot (Paxos).

Those are the one in force behind the leader's chosen index, and each among the values that it proposes anew: what was
chosen under one of them is known to a quorum of that one alone (core/paxos/preparing.py).
"""

from typing import Any

from troth.core.interface import Ballot, EntryKind, Membership
from troth.core.membership import decode_membership
from troth.core.paxos.messages import Promise
from troth.errors import invariant
from troth.ids import LogIndex, NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.invariants.quorums import lacks_quorum, promising
from troth.simulate.monitor import Invariant, Monitor
from troth.simulate.paxos_view import PaxosView


class PromisedByQuorum(Invariant):
    """Counts last pages of promises that have left their acceptors, which is when they are durable."""

    SENT = (Promise,)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._promised: dict[NodeId, tuple[Ballot, set[NodeId]]] = {}
        """Who prepares -> its newest ballot, and who has promised it in full."""

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        ballot, those = self._promised.get(to, (message.ballot, set()))
        if ballot < message.ballot:
            ballot, those = message.ballot, set()
        if ballot == message.ballot and message.upto >= message.last:
            those.add(node.node_id)
        self._promised[to] = ballot, those

    def on_lead(self, node: CoreNode) -> None:
        view = node.view
        if not isinstance(view, PaxosView):
            return
        ballot, those = self._promised.get(node.node_id, (view.ballot, set()))
        given = those if ballot == view.ballot else set()
        for membership in (view.membership, *_proposed_anew(view)):
            invariant(
                not lacks_quorum(membership, given, promising(view)),
                "leads without the promises of a quorum",
                node=node.node_id,
                ballot=view.ballot,
                promised=sorted(given),
                voters=membership.voters,
                outgoing=membership.outgoing,
            )


def _proposed_anew(view: PaxosView) -> list[Membership]:
    """The memberships in a new leader's window."""
    window = range(view.commit_index + 1, view.term_start() + 1)
    entries = (view.proposed(LogIndex(index)) for index in window)
    return [decode_membership(each.payload) for each in entries if each and each.kind == EntryKind.MEMBERSHIP]
