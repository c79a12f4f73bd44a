"""A leader that no quorum answers, or whose disk hangs, does not go on for long (thesis §6.2; hashicorp #503)."""

from typing import Any

from troth.core.paxos import messages as paxos
from troth.core.raft import messages as raft
from troth.errors import InvariantViolation, invariant
from troth.ids import LogIndex, NodeId, Tick
from troth.simulate.core_node import CoreNode
from troth.simulate.invariants.quorums import is_of_reign, lacks_quorum, working
from troth.simulate.monitor import Invariant, Monitor, Seen


class LeaderFitness(Invariant):
    """Counts the time in which the leader's process has run, tick by tick."""

    RECEIVED = (
        *(raft.AppendReply, raft.AppendRejected, raft.HeartbeatReply),
        *(paxos.AcceptReply, paxos.HeartbeatReply),
    )

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._ran: dict[NodeId, int] = {}
        self._ticked: dict[NodeId, Tick] = {}
        self._heard: dict[NodeId, dict[NodeId, int]] = {}
        self._stored: dict[NodeId, tuple[LogIndex, Tick | None]] = {}
        """What a leader's own disk has acknowledged, and since when it has been seen to lag behind that."""

    def on_lead(self, node: CoreNode) -> None:
        now = node.clock.ticks()
        self._ran[node.node_id] = 0
        self._ticked[node.node_id] = now
        self._heard[node.node_id] = {}
        self._stored[node.node_id] = (node.view.commit_index, None)

    def on_received(self, node: CoreNode, sender: NodeId, message: Any, now: Tick) -> None:
        if not node.view.leads or not is_of_reign(message, node.view):
            return
        if sender != node.node_id and not node.view.membership.is_member(sender):
            return
        self._heard[node.node_id][sender] = self._ran[node.node_id]
        if sender == node.node_id and isinstance(message, raft.AppendReply | paxos.AcceptReply):
            self._stored[sender] = (message.match, None)

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        if node.view.leads and seen.leads and node.view.membership is not seen.membership:
            heard, members = self._heard[node.node_id], node.view.membership.everyone()
            for gone in [peer for peer in heard if peer not in members]:
                del heard[gone]  # if it comes back it is new

    def on_leader_tick(self, node: CoreNode, now: Tick) -> None:
        view, me, config = node.view, node.node_id, node.plan.config
        if me not in self._ran:
            return
        ran = self._ran[me] = self._ran[me] + min(now - self._ticked[me], config.heartbeat_ticks)
        self._ticked[me] = now
        slack = config.heartbeat_ticks + node.plan.tick_stride + 2
        heard = self._heard[me]
        for members in (view.membership.voters, view.membership.outgoing, view.membership.learners):
            for member in members:
                heard.setdefault(member, ran)
        answering = {peer for peer, at in heard.items() if ran - at < config.election_timeout_ticks + slack}
        answering.add(me)
        if lacks_quorum(view.membership, answering, working(view)):
            raise InvariantViolation(
                f"leads though no quorum answers (node={me}, term={view.term}, answering={sorted(answering)})"
            )
        upto, since = self._stored[me]
        if upto >= view.own_last() or since is None:
            # An entry that this very tick has appended (a promotion) does not count yet.
            self._stored[me] = (upto, None if upto >= view.own_last() else now)
            return
        invariant(
            now - since < config.disk_timeout_ticks + slack,
            "leads though its disk hangs",
            node=me,
            term=view.term,
            ticks=now - since,
        )
