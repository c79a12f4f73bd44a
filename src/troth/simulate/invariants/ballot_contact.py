"""Whom an acceptor helps to lead, and when (Paxos): as `votes.LeaderContact` for Raft."""

from typing import Any

from troth.core.interface import Ballot
from troth.core.paxos.messages import Accept, Heartbeat, Prepare
from troth.errors import invariant
from troth.ids import NodeId, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen


class BallotContact(Invariant):
    """Who has heard from a leader within an election timeout promises no other ballot, unless that very leader, or one
    after it, gives way to it. With lease reads this holds right after a start as well: a lease may have been confirmed
    just before (but none was before the first ballot)."""

    RECEIVED = (Accept, Heartbeat, Prepare)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._contact: dict[NodeId, tuple[Tick, Ballot | None]] = {}
        """When a leader was last heard, and at which ballot it led, if that is known."""
        self._clock: dict[NodeId, Tick] = {}
        self._held: dict[NodeId, Ballot | None] = {}
        """The ballot that must be in force still when the request is dealt with."""

    def on_booted(self, node: CoreNode) -> None:
        self._contact.pop(node.node_id, None)
        self._clock[node.node_id] = node.clock.ticks()
        if node.plan.config.lease_reads and node.view.term:
            self._contact[node.node_id] = (node.clock.ticks(), None)

    def on_tick(self, node: CoreNode, now: Tick) -> None:
        self._clock[node.node_id] = max(self._clock[node.node_id], now)

    def on_suspected(self, node: CoreNode, peer: NodeId) -> None:
        if not node.plan.config.lease_reads:
            self._contact.pop(node.node_id, None)

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        me, view = node.node_id, node.view
        now = self._clock[me] = max(self._clock[me], now)
        self._held[me] = None
        if not isinstance(message, Prepare):
            if message.ballot >= view.ballot and message.ballot.node == sender:
                self._contact[me] = (now, message.ballot)
            return
        over = message.handed_over
        if view.leads:
            held = over is None or view.ballot > over
        else:
            heard, leader = self._contact.get(me, (None, None))
            fresh = heard is not None and now - heard < node.plan.config.election_timeout_ticks
            held = fresh and (over is None or leader is None or leader > over)
        if held:
            self._held[me] = view.ballot
        elif message.ballot > view.ballot:
            self._contact.pop(me, None)

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if node.handling is None or not isinstance(node.handling[1], Prepare):
            if view.voted_for == node.node_id and (seen.term, seen.voted_for) != (view.term, view.voted_for):
                self._contact.pop(node.node_id, None)  # it has lost patience itself
            return
        held = self._held.get(node.node_id)
        invariant(
            held is None or view.ballot == held,
            "promises though it hears a leader",
            node=node.node_id,
            candidate=node.handling[0],
            ballot=view.ballot,
            was=held,
        )
