"""Administration: membership changes, leadership transfer, and what a server tells of itself."""

from collections.abc import Callable
from dataclasses import dataclass

from troth.core.interface import Member, Refused, RoleName, Status, Trace
from troth.errors import LeadershipLost, RequestTimeout, Unavailable
from troth.ids import LogIndex, NodeId, Tick
from troth.kv.requests import AlarmType
from troth.replica.effects import ClientId
from troth.replica.protocol import ChangeMembers, Done, PeerView, ServerStatus, TransferLeadership
from troth.replica.state import ReplicaStart
from troth.replica.watching import WatchPath
from troth.replica.writes import refusal


@dataclass(frozen=True, slots=True)
class _PendingChange:
    client: ClientId
    call: int
    index: LogIndex


@dataclass(frozen=True, slots=True)
class _PendingTransfer:
    client: ClientId
    call: int
    target: NodeId
    deadline: Tick


class AdminPath(WatchPath):
    """`ChangeMembers`, `TransferLeadership`, `GetStatus`."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        self._changes: list[_PendingChange] = []
        self._transfers: list[_PendingTransfer] = []
        self._alarms_told: frozenset[tuple[int, AlarmType]] = frozenset()
        self._amnesia = start.amnesia
        """Whether a part of this server's log is lost, so that it may not vote before it has caught up."""
        self.acceptor_numbers: Callable[[], dict[str, int]] = dict
        """What there is to tell of the acceptor of registers beside this replica."""

    def _on_change_members(self, client: ClientId, message: ChangeMembers) -> None:
        result = self.engine.change_membership(message.change)
        if isinstance(result, Refused):
            self._refuse_call(client, message.call, *refusal(result))
        else:
            self._changes.append(_PendingChange(client, message.call, result.id.index))

    def _on_transfer(self, client: ClientId, message: TransferLeadership) -> None:
        if message.target == self.engine.node_id and self._leading:
            self._reply(client, Done(message.call))
            return
        refused = self.engine.transfer(message.target)
        if refused is not None:
            self._refuse_call(client, message.call, *refusal(refused))
            return
        deadline = Tick(self._now + 2 * self._config.ticks_per_second)
        self._transfers.append(_PendingTransfer(client, message.call, message.target, deadline))

    def _settle_changes(self) -> None:
        """Answer the changes that are complete: committed, and no longer joint."""
        if not self._changes or self._members.is_joint:
            return
        status = self.engine.status()
        if status.membership.is_joint or status.membership_index > status.commit_index:
            return
        for change in [change for change in self._changes if change.index <= status.commit_index]:
            self._changes.remove(change)
            self._reply(change.client, Done(change.call))

    def _settle_leadership(self) -> None:
        """Who leads has changed: transfers are done, changes under way have an unknown outcome."""
        leader = self._leader
        if leader not in (NodeId(0), self.engine.node_id):
            for transfer in self._transfers:
                if transfer.target in (NodeId(0), leader):
                    self._reply(transfer.client, Done(transfer.call))
                else:
                    text = "another server than the one named has taken over"
                    self._refuse_call(transfer.client, transfer.call, Unavailable.code, text)
            self._transfers.clear()
        if leader != self.engine.node_id:
            for change in self._changes:
                self._refuse_call(
                    change.client,
                    change.call,
                    LeadershipLost.code,
                    "the leader changed; look at `troth member list`",
                )
            self._changes.clear()

    def _expire_transfers(self) -> None:
        for transfer in [each for each in self._transfers if each.deadline <= self._now]:
            self._transfers.remove(transfer)
            # Its call to stand may still be on its way. Asked again by the client itself, it would take as long again.
            text = "the server to take over did not do so within two seconds; the leader goes on"
            self._refuse_call(transfer.client, transfer.call, RequestTimeout.code, text)

    def _tell_alarms(self) -> None:
        """An event for each alarm that was raised or cleared since the last call."""
        before, now = self._alarms_told, self.machine.store.alarms_raised
        if now is before:
            return
        self._alarms_told = now
        events = self._out.events
        for member, alarm in sorted(now - before):
            facts = {"kind": alarm.name.lower(), "member": member, "meaning": alarm.text}
            events.append(Trace(name="alarm_raised", facts=facts))
        for member, alarm in sorted(before - now):
            events.append(Trace(name="alarm_cleared", facts={"kind": alarm.name.lower(), "member": member}))

    def was_removed(self, node: NodeId) -> bool:
        """Whether a committed membership, and the newest one as well, are without *node*. Only the word of a leader
        counts that knows what was committed before it led: all others may be behind."""
        engine = self.engine
        status = engine.status()
        memberships = status.membership, engine.membership_at(self._applied)
        return status.knows_committed and not any(node in membership.everyone() for membership in memberships)

    def _role(self, status: Status) -> str:
        if self._amnesia:
            return "recovering"
        return "learner" if self.engine.node_id in status.membership.learners else status.role.value

    def status(self, call: int = 0) -> ServerStatus:
        """What this server knows, also when it knows no leader."""
        status = self.engine.status()
        store = self.machine.store
        return ServerStatus(
            call,
            self.engine.node_id,
            self.name,
            self.cluster_id,
            self._config.version,
            self._role(status),
            status.term,
            status.leader,
            store.revision,
            store.compact_revision,
            status.commit_index,
            self._applied,
            status.last.index,
            status.first_index,
            store.db_size_bytes,
            survives(status),
            status.membership.is_joint,
            [_peer_view(status, node) for node in status.membership.everyone()],
            store.alarms,
            len(self.machine.sessions),
            len(store.lease_table),
            len(self._hub),
            self._config.consensus,
            self.acceptor_numbers(),
        )


def survives(status: Status) -> int:
    """How many more voters may fail before nothing can be decided; -1 when that is so already, or not known here."""
    if status.role is not RoleName.LEADER:
        return -1
    spare = []
    for voters in (status.membership.voters, status.membership.outgoing):
        if voters:
            alive = sum(node in status.progress and status.progress[node].active for node in voters)
            count = len(voters)
            # To go on for good it takes those who accept, and those who promise when the leader is gone.
            spare.append(alive - max(status.sizes.phase1(count), status.sizes.phase2(count)))
    return max(-1, min(spare))


def _peer_view(status: Status, node: NodeId) -> PeerView:
    progress = status.progress.get(node)
    return PeerView(
        node,
        status.membership.members.get(node, Member("")),
        status.membership.is_voter(node),
        progress.match if progress else -1,
        progress.active if progress else None,
        node == status.leader,
    )
