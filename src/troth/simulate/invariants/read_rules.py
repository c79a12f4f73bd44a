"""What confirms a read (thesis §6.4): a quorum (in Paxos as many as block every phase-1 quorum) answered a round that
was sent after the read had come, or a lease that counts from the sending of such a round; and an entry of the leader's
own term has committed (in Paxos all that it found open)."""

from typing import Any

from troth.core.interface import Ballot, ReadState
from troth.core.paxos import messages as paxos
from troth.core.raft import messages as raft
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.invariants.quorums import confirming, is_of_reign, lacks_quorum, reign
from troth.simulate.monitor import Invariant, Monitor, Seen
from troth.simulate.paxos_view import PaxosView


class ReadRules(Invariant):
    """Keeps for each leader when its rounds were sent, and who has answered them."""

    SENT = (
        *(raft.Heartbeat, raft.ReadRequest, raft.ReadReply, raft.TimeoutNow),
        *(paxos.Heartbeat, paxos.ReadRequest, paxos.ReadReply, paxos.TimeoutNow),
    )
    RECEIVED = (raft.HeartbeatReply, raft.ReadRequest, paxos.HeartbeatReply, paxos.ReadRequest)

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._reign: dict[NodeId, Ballot] = {}
        self._rounds: dict[NodeId, dict[int, tuple[int, Tick]]] = {}
        """Leader -> round -> when it was sent, in the time of the world and by the leader's clock."""
        self._answers: dict[NodeId, dict[NodeId, tuple[int, Tick]]] = {}
        """Leader -> server -> when the newest round that it has answered was sent."""
        self._asked: dict[tuple[NodeId, NodeId, int], int] = {}
        self._numbers: set[tuple[NodeId, int]] = set()
        self._offered: dict[NodeId, tuple[Ballot, int]] = {}
        self._changed: dict[NodeId, Tick] = {}
        self._start: dict[NodeId, LogIndex] = {}
        """What must be committed first: a Raft leader's first entry, the window that a Paxos leader found."""

    def on_lead(self, node: CoreNode) -> None:
        self._reign[node.node_id] = node.view.ballot
        self._rounds[node.node_id] = {}
        self._answers[node.node_id] = {}
        self._offered.pop(node.node_id, None)
        self._changed[node.node_id] = node.clock.ticks()
        view = node.view
        self._start[node.node_id] = view.term_start() if isinstance(view, PaxosView) else view.last_index

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        if node.view.membership is not seen.membership:
            self._changed[node.node_id] = node.clock.ticks()

    def on_sent(self, node: CoreNode, to: NodeId, message: Any) -> None:
        if isinstance(message, raft.Heartbeat | paxos.Heartbeat):
            if message.token and self._reign.get(node.node_id) == reign(message):
                self._rounds[node.node_id].setdefault(message.token, (node.world_us(), node.clock.ticks()))
        elif isinstance(message, raft.ReadRequest | paxos.ReadRequest):
            number = (node.node_id, message.number)
            invariant(
                number not in self._numbers,
                "numbers a read as one before",
                node=node.node_id,
                number=message.number,
            )
            self._numbers.add(number)
        elif isinstance(message, raft.TimeoutNow | paxos.TimeoutNow):
            self._offered.setdefault(node.node_id, (reign(message), node.world_us()))
        elif node.view.leads and is_of_reign(message, node.view):
            self._check(node, self._asked.get((node.node_id, to, message.number), node.world_us()))

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        if not node.view.leads or not is_of_reign(message, node.view):
            return
        if isinstance(message, raft.ReadRequest | paxos.ReadRequest):
            self._asked.setdefault((node.node_id, sender, message.number), node.world_us())
            return
        sent = self._rounds[node.node_id].get(message.token)
        if sent is not None:
            answers = self._answers[node.node_id]
            answers[sender] = max(sent, answers.get(sender, sent))

    def on_read_point(self, node: CoreNode, state: ReadState) -> None:
        view = node.view
        if not view.leads:
            return
        if not state.valid_until:
            asked = node.asked_read(state.context)
            if asked is not None and asked.term == view.term:
                self._check(node, asked.at_us)
            return
        asked = node.asked_read(state.context)
        offered, offered_us = self._offered.get(node.node_id, (None, 0))
        # Answered when it was asked for, which may have been before leadership was offered.
        invariant(
            asked is None
            or (
                not (view.transfer() is not None and asked.at_us > node.transfer_us)
                and not (offered == view.ballot and asked.at_us > offered_us)
            ),
            "reads under a lease while leadership is offered",
            node=node.node_id,
        )
        self._check_term(node)
        config = node.plan.config
        span = config.election_timeout_ticks * (100 - config.clock_drift_percent) // 100
        answers = self._answers[node.node_id].items()
        if state.valid_until - span <= self._changed[node.node_id]:
            return  # another membership may have confirmed it; whoever is elected by the new one has heard of both
        vouching = {peer for peer, (_, tick) in answers if tick + span > state.valid_until}
        invariant(
            not lacks_quorum(view.membership, {*vouching, node.node_id}, confirming(view)),
            "a lease lasts longer than its round allows",
            node=node.node_id,
            valid_until=state.valid_until,
            answers=dict(answers),
        )

    def _check(self, node: CoreNode, asked_us: int) -> None:
        self._check_term(node)
        answering = {peer for peer, (sent, _) in self._answers[node.node_id].items() if sent >= asked_us}
        invariant(
            not lacks_quorum(node.view.membership, {*answering, node.node_id}, confirming(node.view)),
            "a read is not confirmed by a quorum",
            node=node.node_id,
            term=node.view.term,
            answering=sorted(answering),
        )

    def _check_term(self, node: CoreNode) -> None:
        invariant(
            node.view.commit_index >= self._start[node.node_id],
            "reads before anything of its own term has committed",
            node=node.node_id,
        )
