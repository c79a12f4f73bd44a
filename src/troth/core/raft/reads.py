"""Linearizable reads without a log entry (thesis §6.4): read index, and leader leases.

A read index is the commit index at some moment after the read arrived, once a quorum has confirmed that nobody
else can have led at that moment. The confirmation counts only for rounds begun *after* the read arrived: rounds
are numbered by the leader, so that a late or repeated answer to an older round proves nothing (etcd issue 20418).
All reads that arrive before the next round share it.
"""

from troth.core.interface import ReadState
from troth.core.quorum import joint_quorum_value
from troth.core.raft.messages import ReadReply, ReadRequest
from troth.core.raft.progress import Mode
from troth.core.raft.roles import Follower, Leader, PendingRead
from troth.core.raft.snapshots import Snapshots
from troth.ids import LogIndex, NodeId, Tick


class Reads(Snapshots):
    """Thesis §6.4."""

    def read(self, context: int, now: Tick) -> None:
        """Ask for a linearizable read point; *context* returns in `Effects.reads` or `Effects.reads_refused`."""
        self._now = max(self._now, now)
        role = self._role
        if isinstance(role, Leader):
            self._leader_read(role, self.node_id, context)
        elif isinstance(role, Follower) and role.leader and len(role.reads) < self._config.reads_pending_max:
            self._read_number += 1
            role.reads[self._read_number] = (context, Tick(self._now + self._config.election_timeout_ticks))
            reaches = LogIndex(-1) if self._may_vote else self._log.last_index
            self._send(role.leader, ReadRequest(self._term, self._read_number, reaches))
        else:
            self._out_reads_refused.append(context)

    def _leader_read(self, leader: Leader, origin: NodeId, context: int) -> None:
        if len(leader.new_reads) + len(leader.unconfirmed) >= self._config.reads_pending_max:
            if origin == self.node_id:
                self._out_reads_refused.append(context)
            return
        valid_until = self._lease_end(leader)
        if valid_until > self._now and origin == self.node_id:
            self._out_reads.append(ReadState(context, self._commit_index, valid_until))
            return
        leader.new_reads.append((origin, context))

    def _on_read_request(self, leader: Leader, sender: NodeId, message: ReadRequest) -> None:
        progress = leader.progress.get(sender)
        if progress is not None and 0 <= message.reaches < progress.match:
            # What it has lost may have been counted for an entry that commits only now: then the index must not be
            # older than that, or it would vote again without having it.
            progress.forget_match()
            if progress.mode is not Mode.SNAPSHOT:
                progress.become_probe(LogIndex(message.reaches + 1))
        self._leader_read(leader, sender, message.number)

    def _on_read_reply(self, follower: Follower, message: ReadReply) -> None:
        asked = follower.reads.pop(message.number, None)
        if asked is not None:
            self._out_reads.append(ReadState(asked[0], message.index))

    def _committed_in_term(self, leader: Leader) -> bool:
        """Until an entry of its own term has committed, a leader may not know what is committed (§6.4, step 1)."""
        return self._commit_index >= leader.term_start

    def _begin_reads(self, leader: Leader) -> None:
        """Give all reads that have arrived since the last round a new one.

        One round at a time: those who arrive meanwhile share the next, which costs them less than it saves all. A
        round whose answers are lost is made good by the next heartbeat, since a later token confirms an earlier.
        """
        if not leader.new_reads or leader.unconfirmed or not self._committed_in_term(leader):
            return
        token = self._begin_round(leader)
        for origin, context in leader.new_reads:
            leader.unconfirmed.append(
                PendingRead(origin=origin, context=context, index=self._commit_index, token=token)
            )
        leader.new_reads.clear()
        self._confirm_rounds(leader)  # a cluster of one has answered already

    def _confirm_rounds(self, leader: Leader) -> None:
        """Release the reads, and extend the lease, by the newest round that a quorum has answered."""
        membership = self._membership
        acked = {node: progress.acked_token for node, progress in leader.progress.items()}
        confirmed = joint_quorum_value(acked, membership.voters, membership.outgoing, 0)
        while leader.rounds and leader.rounds[0][0] <= confirmed:
            # The lease counts from when the round was *sent*: followers' patience began later than that.
            leader.lease_start = leader.rounds.popleft()[1]
        while leader.unconfirmed and leader.unconfirmed[0].token <= confirmed:
            read = leader.unconfirmed.popleft()
            if read.origin == self.node_id:
                self._out_reads.append(ReadState(read.context, read.index))
            else:
                self._send(read.origin, ReadReply(self._term, read.context, read.index))

    def _lease_end(self, leader: Leader) -> Tick:
        """First tick at which the leader lease no longer holds; 0 when there is none."""
        if (
            not self._config.lease_reads
            or leader.lease_start is None
            or leader.timeout_now_sent
            or leader.transfer is not None
            or not self._committed_in_term(leader)
        ):
            return Tick(0)
        return Tick(leader.lease_start + self._config.lease_ticks)

    def _expire_reads(self, follower: Follower) -> None:
        """Give up reads whose request or answer was lost."""
        late = [number for number, (_, deadline) in follower.reads.items() if deadline <= self._now]
        for number in late:
            self._out_reads_refused.append(follower.reads.pop(number)[0])
