"""Linearizable reads without a slot: read points, and leader leases.

A read point is the chosen index at some moment after the read arrived, once it is certain that nobody else can have
chosen anything at that moment. It is when enough acceptors answer a heartbeat round, begun after the read arrived,
that no phase-1 quorum can do without all of them (`QuorumSizes.blocking`): whoever leads with a higher ballot has a
promise of one of them, which then would not have answered. Rounds are numbered by the leader, so that a late or
repeated answer to an older one proves nothing. All reads that arrive before the next round share it.

A new leader knows everything that was chosen before when the window it recovered is chosen, and answers no read
earlier."""

from troth.core.interface import ReadState
from troth.core.paxos.messages import ReadReply, ReadRequest
from troth.core.paxos.proposing import Proposing
from troth.core.paxos.roles import Follower, Leader, PendingRead
from troth.ids import NodeId, Tick


class Reads(Proposing):
    """The read rounds of Raft (thesis §6.4) over ballots, with quorums that block phase 1."""

    def read(self, context: int, now: Tick) -> None:
        """Ask for a linearizable read point; *context* returns in `Effects.reads` or `Effects.reads_refused`."""
        self._now = max(self._now, now)
        role = self._role
        if isinstance(role, Leader):
            self._leader_read(role, self.node_id, context)
        elif isinstance(role, Follower) and role.leader and len(role.reads) < self._config.reads_pending_max:
            self._read_number += 1
            role.reads[self._read_number] = (context, Tick(self._now + self._config.election_timeout_ticks))
            self._send(role.leader, ReadRequest(self._promised, self._read_number))
        else:
            self._out_reads_refused.append(context)

    def _leader_read(self, leader: Leader, origin: NodeId, context: int) -> None:
        if len(leader.new_reads) + len(leader.unconfirmed) >= self._config.reads_pending_max:
            if origin == self.node_id:
                self._out_reads_refused.append(context)
            return
        valid_until = self._lease_end(leader)
        if valid_until > self._now and origin == self.node_id:
            self._out_reads.append(ReadState(context, self._chosen_index, valid_until))
            return
        leader.new_reads.append((origin, context))

    def _on_read_request(self, leader: Leader, sender: NodeId, message: ReadRequest) -> None:
        self._leader_read(leader, sender, message.number)

    def _on_read_reply(self, follower: Follower, message: ReadReply) -> None:
        asked = follower.reads.pop(message.number, None)
        if asked is not None:
            self._out_reads.append(ReadState(asked[0], message.index))

    def _is_recovered(self, leader: Leader) -> bool:
        """Whether everything that may have been chosen at lower ballots is known to be chosen."""
        return self._chosen_index >= leader.recovered

    def _begin_reads(self, leader: Leader) -> None:
        """Give all reads that have arrived since the last round a new one; one round at a time.

        A round whose answers are lost is made good by the next heartbeat, since a later token confirms an earlier.
        """
        if not leader.new_reads or leader.unconfirmed or not self._is_recovered(leader):
            return
        token = self._begin_round(leader)
        for origin, context in leader.new_reads:
            leader.unconfirmed.append(
                PendingRead(origin=origin, context=context, index=self._chosen_index, token=token)
            )
        leader.new_reads.clear()
        self._confirm_rounds(leader)  # a cluster of one has answered already

    def _confirm_rounds(self, leader: Leader) -> None:
        """Release the reads, and extend the lease, by the newest round that a blocking quorum has answered."""
        acked = {node: progress.acked_token for node, progress in leader.progress.items()}
        confirmed = self._quorum_value(acked, 0, self._sizes.blocking)
        while leader.rounds and leader.rounds[0][0] <= confirmed:
            # The lease counts from when the round was *sent*: the acceptors' patience began later than that.
            leader.lease_start = leader.rounds.popleft()[1]
        while leader.unconfirmed and leader.unconfirmed[0].token <= confirmed:
            read = leader.unconfirmed.popleft()
            if read.origin == self.node_id:
                self._out_reads.append(ReadState(read.context, read.index))
            else:
                self._send(read.origin, ReadReply(self._promised, read.context, read.index))

    def _lease_end(self, leader: Leader) -> Tick:
        """First tick at which the leader lease no longer holds; 0 when there is none."""
        if (
            not self._config.lease_reads
            or leader.lease_start is None
            or leader.timeout_now_sent
            or leader.transfer is not None
            or not self._is_recovered(leader)
        ):
            return Tick(0)
        return Tick(leader.lease_start + self._config.lease_ticks)

    def _expire_reads(self, follower: Follower) -> None:
        """Give up reads whose request or answer was lost."""
        late = [number for number, (_, deadline) in follower.reads.items() if deadline <= self._now]
        for number in late:
            self._out_reads_refused.append(follower.reads.pop(number)[0])
