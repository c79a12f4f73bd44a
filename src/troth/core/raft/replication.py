"""Log replication and the commit rule (Raft §5.3, §5.4; pipelining: thesis §10.2.2).

The leader writes its own disk while the followers write theirs: its own acknowledgement is a message to itself
that waits in the same "once durable" outbox, so it counts exactly when it is true (thesis §10.2.1).
"""

from typing_extensions import override

from troth.core.interface import Entry, EntryId
from troth.core.leading.rounds import COMMIT_NOTICE
from troth.core.quorum import joint_quorum_value
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
)
from troth.core.raft.progress import FollowerProgress, Mode
from troth.core.raft.roles import Leader
from troth.core.raft.state import State
from troth.errors import invariant
from troth.ids import LogIndex, NodeId


class Replication(State):
    """§5.3: how the leader's log becomes everybody's."""

    # ---- leader: sending ----

    @override
    def _replicate(self, leader: Leader) -> None:
        """Send every follower what flow control allows."""
        for peer in self._others():
            progress = leader.progress[peer]
            if progress.next > self._log.last_index and progress.mode is not Mode.PROBE:
                continue  # nearly always, and asked after every input
            while progress.may_send() and (progress.next <= self._log.last_index or progress.mode is Mode.PROBE):
                if not self._send_append(peer, progress):
                    break

    def _send_append(self, peer: NodeId, progress: FollowerProgress) -> bool:
        """Send the entries from ``progress.next``; in probe mode also when there are none, to find agreement."""
        prev_index = LogIndex(progress.next - 1)
        prev_term = self._log.term_at(prev_index)
        if prev_term is None:
            self._want_snapshot(peer, progress)
            return False
        entries = self._log.slice(progress.next, LogIndex(self._log.last_index + 1), self._config.append_bytes_max)
        last = entries[-1].index if entries else prev_index
        progress.on_sent(last, sum(entry.size_bytes for entry in entries))
        progress.commit_told = self._commit_index
        self._send(peer, AppendEntries(self._term, EntryId(prev_term, prev_index), entries, self._commit_index))
        return True

    def _want_snapshot(self, peer: NodeId, progress: FollowerProgress) -> None:
        """§7: the entry that *peer* needs next is compacted away."""
        progress.become_snapshot(self._log.compacted.index)
        self._out.snapshots_wanted.append(peer)
        self._trace("snapshot_wanted", peer=peer)

    # ---- leader: answers ----

    def _on_append_reply(self, leader: Leader, sender: NodeId, message: AppendReply) -> None:
        progress = leader.progress.get(sender)
        if progress is None:
            return
        invariant(
            message.match <= self._log.last_index,
            "acknowledges what was never sent",
            sender=sender,
            match=message.match,
        )
        progress.heard = self._now
        progress.on_acknowledged(message.match)
        if sender == self.node_id:
            leader.own_disk_seen = self._now
            return
        if (progress.mode is Mode.PROBE and message.match == progress.match) or (
            progress.mode is Mode.SNAPSHOT and progress.match >= progress.snapshot_index
        ):
            progress.become_replicate()
        self._on_landed(leader, progress)

    def _on_append_rejected(self, leader: Leader, sender: NodeId, message: AppendRejected) -> None:
        """§5.3: "the leader decrements nextIndex and retries"; a whole term at a time."""
        progress = leader.progress.get(sender)
        if progress is None:
            return
        progress.heard = self._now
        if progress.mode is Mode.SNAPSHOT:
            return
        if 0 < message.rejected == progress.match:
            # It denies what it has acknowledged: its log was damaged (or this answer is old, then it costs a probe).
            progress.forget_match()
        elif progress.mode is Mode.REPLICATE:
            if message.rejected > progress.match:
                progress.become_probe()
            return
        elif message.rejected != progress.next - 1:
            return  # an old answer to an earlier probe
        agreeing = self._log.last_agreeing(message.hint.index, message.hint.term)
        progress.become_probe(LogIndex(min(message.rejected, agreeing.index + 1)))

    def _on_heartbeat_reply(self, leader: Leader, sender: NodeId, message: HeartbeatReply) -> None:
        progress = leader.progress.get(sender)
        if progress is None:
            return
        progress.heard = self._now
        progress.acked_token = max(progress.acked_token, message.token)
        progress.probe_outstanding = False
        if progress.mode is Mode.REPLICATE and progress.match < self._log.last_index:
            # The last append may have been lost, and no later one would reveal it: an empty one will.
            prev_index = LogIndex(progress.next - 1)
            prev_term = self._log.term_at(prev_index)
            if prev_term is None:
                # Compacted while it was in flight: with a full pipeline nothing else would ever be sent.
                progress.become_probe()
                return
            prev = EntryId(prev_term, prev_index)
            self._send(sender, AppendEntries(self._term, prev, (), self._commit_index))

    def _stored(self, leader: Leader) -> dict[NodeId, LogIndex]:
        return {node: progress.match for node, progress in leader.progress.items()}

    def _maybe_commit(self, leader: Leader) -> bool:
        """Advance the commit index to what a quorum holds durably (both quorums, while membership is joint)."""
        if self._commit_index == self._log.last_index:
            return False
        membership = self._membership
        index = joint_quorum_value(self._stored(leader), membership.voters, membership.outgoing, LogIndex(0))
        # Copies of an older term's entry prove nothing: it may still be overwritten. It commits when an entry of
        # our own term does (§5.4.2, figure 8).
        if index <= self._commit_index or self._log.term_at(index) != self._term:
            return False
        self._advance_commit(index)
        leader.on_committed(index)
        return True

    # ---- follower ----

    def _on_append_entries(self, sender: NodeId, message: AppendEntries) -> None:
        """§5.3, figure 2, "AppendEntries RPC: receiver implementation"."""
        if message.entries and not self._takes_entries:
            return
        prev_index, entries = message.prev.index, message.entries
        if prev_index < self._commit_index:
            # What is committed here is the leader's too (Leader Completeness), so the message can be read as
            # beginning there. A message from below the compacted part must never look like a conflict.
            entries = entries[self._commit_index - prev_index :]
            prev_index = self._commit_index
        elif not self._log.holds(message.prev):
            hint = self._log.last_agreeing(prev_index, message.prev.term)
            self._send_durable(sender, AppendRejected(self._term, prev_index, hint))
            return
        for entry in entries:
            here = self._log.term_at(entry.index)
            if here == entry.term:
                continue  # already here: a duplicate, or a part of a later message; never a reason to truncate
            if here is not None:
                self._truncate_from(entry.index)
            self._log.append(entry)
            self._on_entry_appended(entry)
        covered = LogIndex(prev_index + len(entries))
        # Figure 2: commitIndex = min(leaderCommit, index of last *new* entry); what stands behind is unverified.
        index = min(message.commit, covered)
        if index > self._commit_index:
            self._advance_commit(index)
        self._send_durable(sender, AppendReply(self._term, covered))

    def _truncate_from(self, index: LogIndex) -> None:
        """§5.3: "if an existing entry conflicts with a new one, delete it and all that follow it"."""
        self._trace("truncate", index=index)
        self._log.truncate_from(index, self._commit_index)
        if self._memberships.index >= index:
            self._memberships.on_truncate(index)
            self._out.membership = self._membership

    def _on_heartbeat(self, sender: NodeId, message: Heartbeat) -> None:
        # Told by the entry and not by its index: an unverified tail of ours may reach as far (raft PR#139 and others),
        # and a server that has just started has verified nothing yet, though nothing may be missing.
        if message.commit.index > self._commit_index and self._log.holds(message.commit):
            self._advance_commit(message.commit.index)
        if message.token != COMMIT_NOTICE:
            self._send(sender, HeartbeatReply(self._term, message.token))

    # ---- both ----

    @property
    @override
    def _deliverable_index(self) -> LogIndex:
        return self._commit_index

    @override
    def _take_committed(self) -> tuple[Entry, ...]:
        """Entries newly committed, each exactly once, in order; a piece at a time, so that a server that catches up
        goes on answering in between."""
        if self._delivered_index >= self._commit_index:
            return ()
        entries = self._log.slice(
            LogIndex(self._delivered_index + 1),
            LogIndex(self._commit_index + 1),
            self._config.append_bytes_max,
        )
        self._delivered_index = entries[-1].index
        return entries
