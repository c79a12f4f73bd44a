"""Whom a vote may be given to, and when (Raft §5.4.1, §6 at its end, thesis §6.4.1)."""

from typing import Any

from troth.core.interface import EntryId
from troth.core.raft.messages import AppendEntries, Heartbeat, RequestVote, VoteReply
from troth.errors import invariant
from troth.ids import NodeId, Term, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.raft_view import raft_view


class ElectionRestriction(Invariant):
    """A vote goes to a candidate whose log is at least as complete (§5.4.1), and is not denied later."""

    SENT = (VoteReply,)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._given: dict[tuple[NodeId, Term], tuple[NodeId, EntryId]] = {}

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if node.handling is None or not isinstance(node.handling[1], RequestVote):
            return
        sender, message = node.handling
        if view.voted_for == sender and (seen.term, seen.voted_for) != (view.term, sender):
            invariant(
                message.last >= raft_view(view).last(),
                "votes for a log behind its own",
                node=node.node_id,
                own=raft_view(view).last(),
                request=message,
            )

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        given = (to, raft_view(node.view).last())
        if message.granted:
            self._given[node.node_id, message.term] = given
        elif message.term == node.view.term and node.view.role == "Follower" and not node.engine.leader()[1]:
            # Once it has heard of that term's leader, it does not matter any more.
            invariant(
                self._given.get((node.node_id, message.term)) != given,
                "denies the vote it has given",
                node=node.node_id,
                candidate=to,
                term=message.term,
            )


class LeaderContact(Invariant):
    """Who has heard from a leader within an election timeout lets no other candidate move it, unless the leader itself
    has asked for that election. With lease reads this also holds in the candidate's own term, and right after a start,
    since a lease may have been confirmed just before (but none was before the first term)."""

    RECEIVED = (AppendEntries, Heartbeat, RequestVote)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._contact: dict[NodeId, Tick] = {}
        self._clock: dict[NodeId, Tick] = {}
        self._held: dict[NodeId, bool] = {}

    def on_booted(self, node: CoreNode) -> None:
        self._contact.pop(node.node_id, None)
        self._held.pop(node.node_id, None)
        self._clock[node.node_id] = node.clock.ticks()
        if node.plan.config.lease_reads and node.view.term:
            self._contact[node.node_id] = node.clock.ticks()

    def on_tick(self, node: CoreNode, now: Tick) -> None:
        if now > self._clock[node.node_id]:
            self._clock[node.node_id] = now

    def on_suspected(self, node: CoreNode, peer: NodeId) -> None:
        if not node.plan.config.lease_reads:
            self._contact.pop(node.node_id, None)

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        now = self._clock[node.node_id] = max(self._clock[node.node_id], now)
        if not isinstance(message, RequestVote):
            if message.term >= node.view.term:
                self._contact[node.node_id] = now
            return
        contact = self._contact.get(node.node_id)
        fresh = contact is not None and now - contact < node.plan.config.election_timeout_ticks
        if message.transfer and message.term > node.view.term:
            self._contact.pop(node.node_id, None)
        self._held[node.node_id] = not message.transfer and (fresh or node.view.leads)

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if view.term > seen.term and view.voted_for == node.node_id:
            self._contact.pop(node.node_id, None)  # it has lost patience itself
        if node.handling is None or not isinstance(node.handling[1], RequestVote):
            return
        sender, message = node.handling[0], node.handling[1]
        if not self._held.get(node.node_id):
            return
        invariant(
            view.term == seen.term,
            "a candidate disturbs who hears a leader",
            node=node.node_id,
            candidate=sender,
            term=message.term,
        )
        invariant(
            not node.plan.config.lease_reads or view.voted_for == seen.voted_for,
            "votes while a lease may hold",
            node=node.node_id,
            candidate=sender,
            term=message.term,
        )
