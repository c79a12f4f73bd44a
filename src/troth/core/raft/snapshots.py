"""Log compaction and snapshot installation, as far as the log is concerned (Raft §7).

The bytes of a snapshot are moved by the layer above; here it is decided when one is needed and what its arrival
means for log, commit index and membership.
"""

from typing_extensions import override

from troth.core.interface import EntryId, SnapshotMeta
from troth.core.raft.messages import AppendReply
from troth.core.raft.progress import Mode
from troth.core.raft.replication import Replication
from troth.core.raft.roles import Leader
from troth.errors import invariant
from troth.ids import LogIndex, NodeId


class Snapshots(Replication):
    """§7: what happens to the log when a snapshot is taken, sent or received."""

    def compact(self, meta: SnapshotMeta, keep_from: LogIndex) -> None:
        """A snapshot at `meta` is durable here; entries before *keep_from* (<= ``meta.last.index + 1``) go."""
        invariant(meta.last.index <= self._applied_index, "snapshot of what was not applied", last=meta.last)
        upto = LogIndex(min(keep_from - 1, meta.last.index))
        if upto <= self._log.compacted.index:
            return
        self._log.compact_to(self._log.id_at(upto))
        self._memberships.on_compact(upto)

    @override
    def _entry_id(self, index: LogIndex) -> EntryId:
        return self._log.id_at(index)

    def _install(self, sender: NodeId, meta: SnapshotMeta) -> bool:
        """A whole snapshot from the leader has arrived and is durable; True when it replaces our state."""
        if meta.last.index <= self._commit_index:
            self._send_durable(sender, AppendReply(self._term, self._commit_index))
            return False
        if self._log.holds(meta.last):
            # Our log reaches that far and agrees: "retain log entries following it" (figure 13, step 6). Nothing
            # needs replacing; we have only learned that so much is committed.
            self._advance_commit(meta.last.index)
            self._send_durable(sender, AppendReply(self._term, meta.last.index))
            return False
        # Whatever stands in our log is either covered or contradicts what is committed (figure 13, step 7).
        self._log.reset_to(meta.last)
        self._memberships.reset(meta.membership, meta.last.index)
        self._out.membership = self._membership
        self._commit_index = meta.last.index
        self._delivered_index = meta.last.index
        self._applied_index = meta.last.index
        self._out.install = meta
        self._trace("install", last=meta.last)
        self._send_durable(sender, AppendReply(self._term, meta.last.index))
        return True

    def snapshot_sent(self, peer: NodeId, meta: SnapshotMeta, ok: bool) -> None:
        """Streaming to *peer* ended; *ok* says whether all of it was acknowledged."""
        role = self._role
        if not isinstance(role, Leader) or (progress := role.progress.get(peer)) is None:
            return
        if progress.mode is not Mode.SNAPSHOT:
            return
        # Its acknowledgement (an AppendReply) may still be on its way: probe behind the snapshot.
        progress.become_probe(LogIndex(meta.last.index + 1 if ok else progress.match + 1))
        # After a failure the next try waits for a sign of life, or it would be made again at once, for ever.
        progress.probe_outstanding = not ok
