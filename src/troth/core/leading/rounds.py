"""Heartbeat rounds, and what they prove: linearizable reads without a log entry, and leader leases (thesis §6.4).

A read point is the commit index at some moment after the read arrived, once it is certain that nobody else can have
led at that moment. The confirmation counts only for rounds begun *after* the read arrived: rounds are numbered by the
leader, so that a late or repeated answer to an older round proves nothing (etcd issue 20418). All reads that arrive
before the next round share it.
"""

from abc import abstractmethod

from troth.core.interface import Message, ReadState
from troth.core.leading.flight import Flight, Mode
from troth.core.leading.roles import Follower, PendingRead
from troth.core.leading.server import LeaderT, Server
from troth.ids import LogIndex, NodeId, Tick

COMMIT_NOTICE = 0
"""The token of a heartbeat that only tells the commit index: it belongs to no round and wants no answer."""


class Rounds(Server[LeaderT]):
    """Raft's thesis §6.4, over terms or ballots."""

    # ---- what a protocol fills in ----

    @abstractmethod
    def _heartbeat(self, token: int) -> Message:
        """Tells what is committed; an answer to *token* confirms this leader."""

    @abstractmethod
    def _confirmed_round(self, acked: dict[NodeId, int]) -> int:
        """The newest round answered by so many that nobody else can have led when it began."""

    @abstractmethod
    def _knows_committed(self, leader: LeaderT) -> bool:
        """Whether this leader knows all that was committed before it led."""

    @abstractmethod
    def _read_request(self, number: int) -> Message:
        """Asks the leader for a read point."""

    @abstractmethod
    def _read_reply(self, number: int, index: LogIndex) -> Message:
        """Tells a follower its read point."""

    # ---- rounds ----

    def _begin_round(self, leader: LeaderT) -> int:
        """Send a numbered heartbeat round; its confirmation by a quorum proves leadership after this moment."""
        leader.token += 1
        leader.rounds.append((leader.token, self._now))
        leader.heartbeat_due = Tick(self._now + self._config.heartbeat_ticks)
        heartbeat = self._heartbeat(leader.token)
        for peer in self._others():
            leader.progress[peer].commit_told = self.commit_index
            self._send(peer, heartbeat)
        leader.progress[self.node_id].acked_token = leader.token
        return leader.token

    def _send_commit_notice(self, leader: LeaderT) -> None:
        """Tell followers with nothing in flight, and something to commit, that the commit index has risen; others
        hear it with their next entries, or when they have acknowledged the last (`_on_landed`)."""
        commit_index = self.commit_index
        for peer in self._others():
            progress = leader.progress[peer]
            if progress.mode is not Mode.REPLICATE or progress.in_flight:
                continue
            if progress.commit_told < min(commit_index, progress.next - 1):
                progress.commit_told = commit_index
                self._send(peer, self._heartbeat(COMMIT_NOTICE))

    @staticmethod
    def _on_landed(leader: LeaderT, progress: Flight) -> None:
        """An acknowledgement has come from another server. If nothing else is on its way there, and others were told
        of a commit meanwhile, it is told now: no entries will, and the next heartbeat may be long in coming."""
        if not progress.in_flight and progress.commit_told < leader.commit_told:
            leader.commit_told = progress.commit_told

    def _confirm_rounds(self, leader: LeaderT) -> None:
        """Release the reads, and extend the lease, by the newest round that a quorum has answered."""
        confirmed = self._confirmed_round({node: seen.acked_token for node, seen in leader.progress.items()})
        while leader.rounds and leader.rounds[0][0] <= confirmed:
            # The lease counts from when the round was *sent*: followers' patience began later than that.
            leader.lease_start = leader.rounds.popleft()[1]
        while leader.unconfirmed and leader.unconfirmed[0].token <= confirmed:
            read = leader.unconfirmed.popleft()
            if read.origin == self.node_id:
                self._out.reads.append(ReadState(read.context, read.index))
            else:
                self._send(read.origin, self._read_reply(read.context, read.index))

    # ---- reads ----

    def read(self, context: int, now: Tick) -> None:
        """Ask for a linearizable read point; *context* returns in `Effects.reads` or `Effects.reads_refused`."""
        self._now = max(self._now, now)
        role, leader = self._role, self._leader
        if leader is not None:
            self._leader_read(leader, self.node_id, context)
        elif isinstance(role, Follower) and role.leader and len(role.reads) < self._config.reads_pending_max:
            self._read_number += 1
            role.reads[self._read_number] = (context, Tick(self._now + self._config.election_timeout_ticks))
            self._send(role.leader, self._read_request(self._read_number))
        else:
            self._out.reads_refused.append(context)

    def _leader_read(self, leader: LeaderT, origin: NodeId, context: int) -> None:
        if len(leader.new_reads) + len(leader.unconfirmed) >= self._config.reads_pending_max:
            if origin == self.node_id:
                self._out.reads_refused.append(context)
            return
        valid_until = self._lease_end(leader)
        if valid_until > self._now and origin == self.node_id:
            self._out.reads.append(ReadState(context, self.commit_index, valid_until))
            return
        leader.new_reads.append((origin, context))

    def _on_read_point(self, follower: Follower, number: int, index: LogIndex) -> None:
        asked = follower.reads.pop(number, None)
        if asked is not None:
            self._out.reads.append(ReadState(asked[0], index))

    def _begin_reads(self, leader: LeaderT) -> None:
        """Give all reads that have arrived since the last round a new one.

        One round at a time: those who arrive meanwhile share the next, which costs them less than it saves all. A
        round whose answers are lost is made good by the next heartbeat, since a later token confirms an earlier.
        """
        if not leader.new_reads or leader.unconfirmed or not self._knows_committed(leader):
            return
        token = self._begin_round(leader)
        for origin, context in leader.new_reads:
            leader.unconfirmed.append(
                PendingRead(origin=origin, context=context, index=self.commit_index, token=token)
            )
        leader.new_reads.clear()
        self._confirm_rounds(leader)  # a cluster of one has answered already

    def _lease_end(self, leader: LeaderT) -> Tick:
        """First tick at which the leader lease no longer holds; 0 when there is none."""
        if (
            not self._config.lease_reads
            or leader.lease_start is None
            or leader.timeout_now_sent
            or leader.transfer is not None
            or not self._knows_committed(leader)
        ):
            return Tick(0)
        return Tick(leader.lease_start + self._config.lease_ticks)

    def _expire_reads(self, follower: Follower) -> None:
        """Give up reads whose request or answer was lost."""
        late = [number for number, (_, deadline) in follower.reads.items() if deadline <= self._now]
        for number in late:
            self._out.reads_refused.append(follower.reads.pop(number)[0])
