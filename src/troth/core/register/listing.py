"""Questions to all acceptors about all of their registers: which keys they hold, and up to where they have promised.

None of it is at one instant. A key that was chosen before the question was asked is held by one of any phase-1 quorum.
"""

from abc import abstractmethod
from itertools import chain, repeat

from typing_extensions import override

from troth.core.quorum import VoteResult, combined, vote_result
from troth.core.register.messages import ZERO, Ballot, ReplyMessage, Scan, Scanned
from troth.core.register.task import Exchange, Outcome, ProposerState, Send
from troth.errors import AcceptorsChanged
from troth.ids import NodeId

SCAN_PAGE_KEYS = 500
CENSUS_TRIES_MAX = 3
"""A connection may be to a process that has ended since, and be made anew."""


class Poll(Exchange):
    """One question to all acceptors, asked again after a pause until a phase-1 quorum has answered it."""

    missing = "no quorum of the acceptors has answered"
    """What is said when the caller's time is over."""

    def __init__(self, proposer: ProposerState) -> None:
        super().__init__(proposer)
        self._tries = 0
        self._votes: dict[NodeId, bool] = {}
        self.resume()

    def resume(self) -> None:
        self.pause = 0
        self._votes = {}
        self._ask()

    def give_up(self) -> None:
        self.outcome = self.outcome or Outcome(error=self._unanswered(self.missing))

    @override
    def _on_silence(self, acceptor: NodeId) -> None:
        self._vote(acceptor, agreed=False)

    def _vote(self, acceptor: NodeId, *, agreed: bool) -> None:
        self._votes[acceptor] = agreed or self._votes.get(acceptor, False)
        match self._result():
            case VoteResult.WON:
                self.outcome = Outcome()
            case VoteResult.LOST:
                self._tries += 1
                self._stamp = self._proposer.new_stamp()
                self.pause = self._tries
            case VoteResult.PENDING:
                pass

    def _result(self) -> VoteResult:
        return self.config.prepared(self._votes)

    @override
    def _on_new_config(self) -> None:
        self.outcome = Outcome(error=AcceptorsChanged(self._proposer.config.describe()))

    @abstractmethod
    def _ask(self) -> None:
        """A new phase, with the question to everybody."""


class Listing(Poll):
    """All keys that a phase-1 quorum holds, and the highest fence."""

    missing = "no quorum of the acceptors has listed its registers"

    def __init__(self, proposer: ProposerState) -> None:
        self._newest: dict[bytes, tuple[Ballot, bool]] = {}
        """The highest ballot at which each key was seen accepted, and whether it holds a value there: an acceptor that
        was away at a deletion still holds what was deleted."""
        self.fence = ZERO
        self.highest = ZERO
        super().__init__(proposer)

    @property
    def keys(self) -> list[bytes]:
        """All, tombstones as well, sorted."""
        return sorted(self._newest)

    @property
    def living(self) -> list[bytes]:
        """Those that hold a value, sorted."""
        return [key for key in self.keys if self._newest[key][1]]

    @property
    def tombstones(self) -> list[bytes]:
        """Those that were deleted, sorted."""
        return [key for key in self.keys if not self._newest[key][1]]

    @override
    def _ask(self) -> None:
        self._broadcast(Scan(self.config.id, b"", SCAN_PAGE_KEYS))

    @override
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        if not isinstance(reply, Scanned):
            self._on_silence(acceptor)
            return
        for (key, is_tombstone), at in zip(reply.keys, chain(reply.accepted, repeat(ZERO)), strict=False):
            self._newest[key] = max((at, not is_tombstone), self._newest.get(key, (ZERO, False)))
        self.fence = max(self.fence, reply.fence)
        self.highest = max(self.highest, reply.highest)
        if reply.more and reply.keys:
            self._sends.append(
                Send(acceptor, Scan(self.config.id, reply.keys[-1][0], SCAN_PAGE_KEYS), self._stamp)
            )
            return
        self._vote(acceptor, agreed=True)


class Census(Listing):
    """All keys that any acceptor holds. Needs all of them, and ends soon if one is silent."""

    missing = "not every acceptor answers, and all are needed"

    @override
    def _result(self) -> VoteResult:
        return vote_result(self.config.acceptors, self._votes, size=len(self.config.acceptors))

    @override
    def resume(self) -> None:
        if self._tries < CENSUS_TRIES_MAX:
            super().resume()
        else:
            self.give_up()


class Survey(Listing):
    """Also meets whoever promised any ballot before this configuration: a phase-2 quorum is heard as well."""

    @override
    def _result(self) -> VoteResult:
        return combined((self.config.prepared(self._votes), self.config.accepted(self._votes)))
