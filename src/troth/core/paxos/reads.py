"""Linearizable reads without a slot: what core/leading/rounds.py leaves to Paxos.

Nobody else can have chosen anything when a round began, once so many acceptors have answered it that no phase-1 quorum
can do without all of them (`QuorumSizes.blocking`): whoever leads with a higher ballot has a promise of one of them,
which then would not have answered.

A new leader knows everything that was chosen before when the window it recovered is chosen, and answers no read
earlier."""

from typing_extensions import override

from troth.core.interface import Message
from troth.core.paxos.messages import Heartbeat, ReadReply, ReadRequest
from troth.core.paxos.proposing import Proposing
from troth.core.paxos.roles import Leader
from troth.ids import LogIndex, NodeId, Tick


class Reads(Proposing):
    """The read rounds of core/leading/rounds.py over ballots, with quorums that block phase 1."""

    @override
    def _heartbeat(self, token: int) -> Message:
        return Heartbeat(self._promised, self._chosen_index, token)

    @override
    def _begin_round(self, leader: Leader) -> int:
        """The answers tell also what was lost of all that was sent before (`_on_heartbeat_reply`).

        Rounds of reads may follow each other closely, so not each of them has the rest follow (`_spared`).
        """
        if self._now >= leader.rest_due:
            leader.rest_upto, leader.rest_due = leader.accepted, Tick(self._now + self._config.heartbeat_ticks)
        for peer in self._others():
            progress = leader.progress[peer]
            if progress.check is None:
                progress.check = leader.token + 1, LogIndex(progress.next - 1)
        return super()._begin_round(leader)

    @override
    def _confirmed_round(self, acked: dict[NodeId, int]) -> int:
        return self._quorum_value(acked, 0, self._sizes.blocking)

    @override
    def _read_request(self, number: int) -> Message:
        return ReadRequest(self._promised, number)

    @override
    def _read_reply(self, number: int, index: LogIndex) -> Message:
        return ReadReply(self._promised, number, index)

    @override
    def _knows_committed(self, leader: Leader) -> bool:
        """Whether everything that may have been chosen at lower ballots is known to be chosen."""
        return self._chosen_index >= leader.recovered
