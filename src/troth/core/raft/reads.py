"""Linearizable reads without a log entry (thesis §6.4): what core/leading/rounds.py leaves to Raft.

Who else could have led when a round began needed the votes of a majority, so the answers of a majority exclude it.
"""

from typing_extensions import override

from troth.core.interface import Message
from troth.core.leading.flight import Mode
from troth.core.quorum import joint_quorum_value
from troth.core.raft.messages import Heartbeat, ReadReply, ReadRequest
from troth.core.raft.roles import Leader
from troth.core.raft.snapshots import Snapshots
from troth.ids import LogIndex, NodeId


class Reads(Snapshots):
    """Thesis §6.4."""

    @override
    def _heartbeat(self, token: int) -> Message:
        return Heartbeat(self._term, self._log.id_at(self._commit_index), token)

    @override
    def _confirmed_round(self, acked: dict[NodeId, int]) -> int:
        membership = self._membership
        return joint_quorum_value(acked, membership.voters, membership.outgoing, 0)

    @override
    def _knows_committed(self, leader: Leader) -> bool:
        """Until an entry of its own term has committed, a leader may not know what is committed (§6.4, step 1)."""
        return self._commit_index >= leader.term_start

    @override
    def _read_request(self, number: int) -> Message:
        return ReadRequest(self._term, number, LogIndex(-1) if self._may_vote else self._log.last_index)

    @override
    def _read_reply(self, number: int, index: LogIndex) -> Message:
        return ReadReply(self._term, number, index)

    def _on_read_request(self, leader: Leader, sender: NodeId, message: ReadRequest) -> None:
        progress = leader.progress.get(sender)
        if progress is not None and 0 <= message.reaches < progress.match:
            # What it has lost may have been counted for an entry that commits only now: then the index must not be
            # older than that, or it would vote again without having it.
            progress.forget_match()
            if progress.mode is not Mode.SNAPSHOT:
                progress.become_probe(LogIndex(message.reaches + 1))
        self._leader_read(leader, sender, message.number)
