"""Phase 2: how values get slots, and slots get chosen.

A slot is chosen when a phase-2 quorum of the membership in force there has accepted one value at one ballot. Slots
are pipelined and acknowledged each for itself: what is lost holds up delivery, never the acceptance of what comes
behind.

The membership in force at a slot is the newest one in the slots *before* it. So that nobody can be in doubt about it,
a membership is a stop sign: nothing behind it leaves the leader before it is chosen (Lamport, Malkhi, Zhou 2010,
"Reconfiguring a State Machine", §3.4; docs/adr/0009-paxos-memberships-behind-a-stop-sign.md).

The leader writes its own disk while the others write theirs: its own acknowledgement is a message to itself that
waits in the same "once durable" outbox, so it counts exactly when it is true.

Thrifty (`EngineConfig`): of the voters only as many as choose a value are sent it at once. The others are spared until
the next heartbeat, which many values share: so they learn all, a little later, and choose it when those who were asked
first do not answer. Who has not acknowledged what others have is not among the first next time."""

from collections.abc import Callable

from typing_extensions import override

from troth.core.interface import Entry, EntryId, EntryKind
from troth.core.paxos.accepting import Accepting
from troth.core.paxos.messages import Accept, AcceptReply, HeartbeatReply
from troth.core.paxos.progress import AcceptorProgress, Mode
from troth.core.paxos.roles import Leader
from troth.core.quorum import Number, quorum_value
from troth.errors import invariant
from troth.ids import LogIndex, NodeId


class Proposing(Accepting):
    """The leader's half of phase 2."""

    # ---- a slot for a value ----

    @override
    def _place(self, leader: Leader, kind: EntryKind, payload: bytes) -> EntryId:
        """Put a new value behind all others."""
        entry = Entry(LogIndex(leader.last + 1), self._promised.round, kind, payload)
        self._queue(leader, entry)
        return EntryId(entry.term, entry.index)

    def _queue(self, leader: Leader, entry: Entry) -> None:
        leader.last = entry.index
        leader.queue.append(entry)
        leader.on_proposed(entry)
        if entry.kind == EntryKind.MEMBERSHIP:
            leader.membership_last = entry.index

    def _accept_queue(self, leader: Leader) -> None:
        """Accept here what may leave: everything up to the first membership that is not chosen yet."""
        queue = leader.queue
        while queue and leader.stop_sign <= self._chosen_index:
            entry = queue.popleft()
            self._accept(entry)
            leader.accepted = entry.index
            if entry.kind == EntryKind.MEMBERSHIP:
                leader.stop_sign = entry.index
        self._advance_match()

    # ---- sending ----

    @override
    def _replicate(self, leader: Leader) -> None:
        """Send every acceptor what flow control allows, of what is accepted here; those who are spared what is due."""
        if leader.queue:
            self._accept_queue(leader)
        spared = self._spared(leader) if self._config.thrifty else ()
        for peer in self._others():
            progress = leader.progress[peer]
            upto = leader.rest_upto if peer in spared else leader.accepted
            while progress.next <= upto and progress.may_send():
                if not self._send_accept(peer, progress, upto):
                    break

    def _spared(self, leader: Leader) -> list[NodeId]:
        """Voters without whom there is a phase-2 quorum, of those who have most.

        Nobody while members change or what was open before is not chosen yet; nor who is to take over the leadership.
        """
        membership = self._membership
        if self._change_unfinished(leader) or not self._knows_committed(leader):
            return []
        seen, target = leader.progress, leader.transfer and leader.transfer.target
        others = self._other_voters(membership)
        ranked = sorted(others, key=lambda peer: (seen[peer].mode is not Mode.REPLICATE, -seen[peer].match))
        needed = self._sizes.phase2(len(membership.voters)) - (self.node_id in membership.voters)
        return [peer for peer in ranked[needed:] if peer != target]

    def _send_accept(self, peer: NodeId, progress: AcceptorProgress, upto: LogIndex) -> bool:
        """Phase 2a: slots from ``progress.next`` to *upto*, without those that *peer* has acknowledged; False: none."""
        slots, beyond = self._slots, progress.beyond
        lo, hi = progress.next, LogIndex(upto + 1)
        if lo <= slots.compacted.index:
            progress.become_snapshot(slots.compacted.index)
            self._out.snapshots_wanted.append(peer)
            self._trace("snapshot_wanted", peer=peer)
            return False
        if beyond:
            while lo in beyond:
                lo = LogIndex(lo + 1)
            hi = min([hi, *(index for index in beyond if index > lo)])
            progress.next = lo
            if lo > upto:
                return False
        entries = slots.run(lo, hi, self._config.append_bytes_max)
        progress.fly(entries[-1].index, sum(entry.size_bytes for entry in entries))
        progress.commit_told = self._chosen_index
        self._send(peer, Accept(self._promised, entries, self._chosen_index))
        return True

    # ---- answers ----

    def _on_accept_reply(self, leader: Leader, sender: NodeId, message: AcceptReply) -> None:
        progress = leader.progress.get(sender)
        if progress is None:
            return
        invariant(
            max(message.match, message.last) <= leader.last,
            "acknowledges what was never sent",
            sender=sender,
            match=message.match,
        )
        progress.heard = self._now
        progress.on_acknowledged(message.match, message.first, message.last)
        if sender == self.node_id:
            leader.own_disk_seen = self._now
            return
        if progress.mode is Mode.SNAPSHOT and progress.match >= progress.snapshot_index:
            progress.become_replicate(progress.match)
        self._on_landed(leader, progress)

    def _on_heartbeat_reply(self, leader: Leader, sender: NodeId, message: HeartbeatReply) -> None:
        """Also tells what was lost: slots sent before the heartbeat which had not arrived when it did."""
        progress = leader.progress.get(sender)
        if progress is None:
            return
        progress.heard = self._now
        progress.acked_token = max(progress.acked_token, message.token)
        if progress.mode is Mode.SNAPSHOT:
            if message.received >= progress.snapshot_index:
                progress.become_replicate(message.received)
            return
        upto = message.received
        if progress.mode is Mode.REPLICATE:
            if progress.check is None or message.token < progress.check[0]:
                return
            upto, progress.check = progress.check[1], None
        if progress.mode is Mode.PROBE or message.received < upto:
            progress.become_replicate(message.received)
        if progress.match < min(upto, message.received):
            # All has arrived, but not its acknowledgement: that may have been lost as well.
            self._send(sender, Accept(self._promised, (), self._chosen_index))

    # ---- quorums ----

    def _quorum_value(self, held: dict[NodeId, Number], zero: Number, size: Callable[[int], int]) -> Number:
        """What as many voters as *size* says have reached, in both sets while the membership is joint."""
        sets = (self._membership.voters, self._membership.outgoing)
        return min(quorum_value(held, voters, zero, size=size(len(voters))) for voters in sets if voters)

    def _maybe_choose(self, leader: Leader) -> bool:
        """Advance the chosen index over all slots that a phase-2 quorum of the membership in force has accepted."""
        before = self._chosen_index
        while self._chosen_index < leader.accepted:
            match = {node: progress.match for node, progress in leader.progress.items()}
            index = min(self._quorum_value(match, LogIndex(0), self._acceptors_needed), leader.accepted)
            if index <= self._chosen_index:
                index = LogIndex(self._chosen_index + 1)
                if not self._is_accepted(leader, index):
                    break
            self._choose(index)
        leader.on_committed(self._chosen_index)
        return self._chosen_index > before

    def _is_accepted(self, leader: Leader, index: LogIndex) -> bool:
        """Whether a quorum has accepted this one slot, whatever it has of those before.

        The slot right behind a membership is counted by unbroken runs alone: whoever has one that reaches beyond it
        knows, durably, that the membership is chosen, since nothing behind leaves the leader before it can say so.
        """
        if index == self._memberships.index + 1 or not any(seen.beyond for seen in leader.progress.values()):
            return False
        holds = {node: int(progress.holds(index)) for node, progress in leader.progress.items()}
        return bool(self._quorum_value(holds, 0, self._acceptors_needed))

    def _acceptors_needed(self, count: int) -> int:
        """A phase-2 quorum; while joint, also a phase-1 quorum. The new voters have promised this ballot nothing: that
        so many accept the membership which lets them decide alone stands for it."""
        phase2 = self._sizes.phase2(count)
        return max(phase2, self._sizes.phase1(count)) if self._membership.is_joint else phase2
