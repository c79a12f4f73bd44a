"""One change of one register, driven until it is known what became of it: prepare, accept, and again if need be.

Paper: CASPaxos §2.1 (phases), §2.2.1 (one round trip).
"""

from dataclasses import dataclass, field
from enum import Enum

from typing_extensions import override

from troth.core.quorum import VoteResult, combined
from troth.core.register.attempts import Attempting
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    Ballot,
    Conflict,
    Full,
    Holding,
    Prepare,
    Promise,
    Read,
    ReplyMessage,
    RequestMessage,
    State,
)
from troth.core.register.states import (
    Attempt,
    Change,
    Decision,
    Fate,
    Keep,
    Write,
    fate,
    highest_accepted,
    next_state,
)
from troth.core.register.task import Outcome, PreparedBallot, ProposerState, outcome_of
from troth.errors import (
    AcceptorsChanged,
    AlreadyDecided,
    ChangeFailed,
    OutcomeUnknown,
    QuotaExceeded,
    RequestTimeout,
    TrothError,
)
from troth.ids import NodeId

OVERTAKE_TRIES_MAX = 8
"""From this refusal on a ballot overtakes by 4**8 rounds: more than anybody makes in the longest pause."""


class Phase(Enum):
    READING = "reading"
    PREPARING = "preparing"
    ACCEPTING = "accepting"


@dataclass(slots=True)
class _Votes:
    """Who has agreed in this phase, and what the acceptors said with it."""

    votes: dict[NodeId, bool] = field(default_factory=dict)
    promises: dict[NodeId, Promise] = field(default_factory=dict)
    holdings: dict[NodeId, Holding] = field(default_factory=dict)
    full: set[NodeId] = field(default_factory=set)


class Round(Attempting):
    """A task: the change, or the read that ends as one where the acceptors disagree."""

    def __init__(
        self,
        proposer: ProposerState,
        key: bytes,
        change: Change,
        *,
        reading: bool = False,
        bound: bool = False,
    ) -> None:
        """*bound*: give up rather than go on in another configuration."""
        super().__init__(proposer)
        self.key = key
        self._change = change
        self._bound = bound
        self._tries = 0
        self._full_text = ""
        self._contended = False
        self._rival = ZERO
        """The highest ballot that refused us, until we have overtaken it."""
        self._votes = _Votes()
        self._ballot = ZERO
        self._next = ZERO
        self._ending = Outcome()
        self._state = State(None, 0, ZERO, ZERO)
        """What is proposed at `_ballot`."""
        kept = None if reading else proposer.take_prepared(key)
        if reading:
            self._begin(Phase.READING, Read(self.config.id, key))
        elif kept is not None and kept.config == self.config.id:
            self._ballot = kept.ballot
            self._propose(kept.state, ZERO)
        else:
            self._prepare()

    def resume(self) -> None:
        """The pause is over."""
        if self.outcome is None:
            self._prepare()

    def give_up(self) -> None:
        """The caller's time is over."""
        if self.outcome is None:
            self.outcome = Outcome(error=self._end_of_time())

    def _end_of_time(self) -> TrothError:
        if self.attempts:
            return RequestTimeout(
                f"no quorum has answered in time about {self.key!r:.60}; the change may have happened or may yet"
            )
        if self._full_text:
            return QuotaExceeded(self._full_text)
        return self._unanswered(
            f"no quorum of the acceptors has answered in time about {self.key!r:.60} ({self.config.describe()})"
        )

    # ---- phases --------------------------------------------------------------------------------------------

    def _begin(self, phase: Phase, request: RequestMessage) -> None:
        self.phase = phase
        self.pause = 0
        self._parked = None
        self._votes = _Votes()
        self._drop_sends()
        self._broadcast(request)

    def _prepare(self) -> None:
        """§2.1 step 2: a new ballot, and "prepare" to the acceptors."""
        if self._bound and self.config.id != self._proposer.config.id:
            self.outcome = Outcome(error=AcceptorsChanged(self._proposer.config.describe()))
            return
        self.config = self._proposer.config
        self._ballot = self._proposer.new_ballot(self._ahead())
        self._begin(Phase.PREPARING, Prepare(self.config.id, self.key, self._ballot))

    def _ahead(self) -> int:
        """How far to overtake. A rival that keeps its ballot takes a new one for each change, many while we pause: one
        round above the last that we have seen would be refused again, for as long as the rival goes on."""
        return 4 ** min(self._tries, OVERTAKE_TRIES_MAX) if self._contended else 1

    @override
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        match reply:
            case Conflict():
                self._proposer.observe(reply.ballot)
                self._contended = True
                self._rival = max(self._rival, reply.ballot)
                self._on_silence(acceptor)
            case Full():
                self._full_text = reply.text
                self._votes.full.add(acceptor)
                self._on_silence(acceptor)
            case Promise() if self.phase is Phase.PREPARING:
                self._votes.promises[acceptor] = reply
                self._vote(acceptor, agreed=True)
            case Accepted() if self.phase is Phase.ACCEPTING:
                self._vote(acceptor, agreed=True)
            case Holding() if self.phase is Phase.READING:
                self._votes.holdings[acceptor] = reply
                self._vote(acceptor, agreed=True)
            case _:
                self._on_silence(acceptor)

    @override
    def _on_silence(self, acceptor: NodeId) -> None:
        self._vote(acceptor, agreed=False)

    def _vote(self, acceptor: NodeId, *, agreed: bool) -> None:
        votes = self._votes.votes
        votes[acceptor] = agreed or votes.get(acceptor, False)
        match self._result(votes):
            case VoteResult.WON:
                self._won()
            case VoteResult.LOST:
                self._lost()
            case VoteResult.PENDING:
                pass

    def _result(self, votes: dict[NodeId, bool]) -> VoteResult:
        match self.phase:
            case Phase.PREPARING:
                return self.config.prepared(votes)
            case Phase.ACCEPTING:
                return self.config.accepted(votes)
            case Phase.READING:
                return combined((self.config.prepared(votes), self.config.accepted(votes)))

    def _won(self) -> None:
        match self.phase:
            case Phase.READING:
                self._on_read()
            case Phase.PREPARING:
                promises = self._votes.promises
                accepted, state = highest_accepted(promises)
                self._note_rival(accepted, state)
                self._propose(state, max(promise.fence for promise in promises.values()))
            case Phase.ACCEPTING:
                self._on_accepted()

    def _lost(self) -> None:
        """No quorum any more in this phase."""
        others = {acceptor: acceptor not in self._votes.full for acceptor in self.config.acceptors}
        if self._result(others) is VoteResult.LOST:
            if not self.attempts:
                self.outcome = Outcome(error=QuotaExceeded(self._full_text))
                return
            if self.attempts[-1].ballot == self._ballot and self.attempts[-1].open:
                return  # whoever has not answered may have no room either, and then nothing has happened
        if self.phase is Phase.READING:
            self._prepare()
            return
        self._again()

    def _again(self) -> None:
        """Another attempt. The first follows at once (more often than not only the ballot was too low), unless whoever
        refused us is known to need more time."""
        self._tries += 1
        courtesy = self._proposer.courtesy(self._rival.client)
        if self._tries == 1 and self._contended and not courtesy:
            self._prepare()
            return
        self._stamp = self._proposer.new_stamp()
        self.pause = max(self._tries, courtesy)

    def _note_rival(self, accepted: Ballot, state: State | None) -> None:
        """We have overtaken whoever refused us: had it got its way before (see `ProposerState.met`)?"""
        rival, self._rival = self._rival, ZERO
        if rival.client not in (0, self._proposer.client):
            marks = () if state is None else state.marks
            changed = any(mark.ballot.client == rival.client and mark.ballot >= rival for mark in marks)
            self._proposer.met(rival.client, served=changed or accepted.client == rival.client)

    @override
    def _on_new_config(self) -> None:
        self._prepare()

    def _on_read(self) -> None:
        """A quorum holds one and the same accepted ballot: it is chosen, and nothing newer is ("consistent quorum",
        Skrzypczak, Schintke, Schütt 2020, RMWPaxos §3). Otherwise the identity change settles it."""
        holdings = self._votes.holdings
        newest = max(holdings.values(), key=lambda holding: holding.accepted)
        same = {acceptor: held.accepted == newest.accepted for acceptor, held in holdings.items()}
        if self.config.accepted(same) is VoteResult.WON:
            self.outcome = outcome_of(newest.state, changed=False)
        else:
            self._prepare()

    @override
    def _propose(self, state: State | None, fence: Ballot) -> None:
        """Phase 1 is over; it may tell what became of an earlier attempt."""
        if not self._follows_attempt(state, fence):
            self._apply(state, fence)

    def _follows_attempt(self, state: State | None, fence: Ballot) -> bool:
        """Whether an earlier attempt says what follows: it was applied, or whether it was can not be told (yet)."""
        fates = {attempt.ballot: fate(attempt, state, fence) for attempt in self.attempts}
        for attempt in self.attempts:
            if fates[attempt.ballot] is Fate.APPLIED and state is not None:
                # It may be on few acceptors only, so what has been seen is accepted once more before we say so.
                self._ending = outcome_of(attempt.after, changed=True)
                self._accept(state)
                return True
        if Fate.UNKNOWN in fates.values():
            if any(attempt.open for attempt in self.attempts):
                self._parked = (state, fence)  # a refusal that is still on its way may settle it
                return True
            text = (
                f"what became of this change of {self.key!r:.60} can not be told any more: while it was in doubt "
                "others changed the register, or deleted registers were removed"
            )
            self.outcome = Outcome(error=OutcomeUnknown(text))
            return True
        return False

    def _apply(self, state: State | None, fence: Ballot) -> None:
        """§2.1 step 4: apply the change to the newest state, and "accept" to the acceptors."""
        decision = self._decide(state)
        if isinstance(decision, Write):
            after = next_state(state, decision, self._ballot, fence)
            asked = self.config.acceptors
            self.attempts.append(Attempt(self._ballot, state, after, set(asked), set(asked)))
            self._ending = outcome_of(after, changed=True)
            self._accept(after)
            return
        self._ending = outcome_of(state, changed=False, error=decision.error)
        if state is None and not self.attempts:
            # Nothing was chosen before, and a quorum has promised that nothing below our ballot ever will be.
            self.outcome = self._ending
            return
        # With earlier attempts in doubt even "nothing" has to be accepted, or one of them might still come true.
        self._accept(state or State(None, 0, self._ballot, fence))

    def _decide(self, state: State | None) -> Decision:
        try:
            decision = self._change(state)
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything; it is told what it was
            failed = ChangeFailed(f"the change function raised {type(error).__name__}: {error}")
            failed.__cause__ = error
            return Keep(error=failed)
        if isinstance(decision, Write) and state is not None and state.decided:
            return Keep(error=AlreadyDecided(f"{self.key!r:.60} is decided and never changes again"))
        return decision

    def _accept(self, state: State) -> None:
        self._state = state
        # The next ballot is promised with this accept, so that our next change needs no prepare (§2.2.1).
        self._next = self._proposer.new_ballot()
        self._begin(Phase.ACCEPTING, Accept(self.config.id, self.key, self._ballot, state, self._next))

    def _on_accepted(self) -> None:
        """§2.1 step 6: a quorum has accepted; the state is chosen."""
        # Those that have accepted have promised the next ballot as well, and every phase-1 quorum meets them: no ballot
        # in between can complete phase 1 any more. So the next one is prepared, whatever the sizes of the quorums are.
        self._proposer.remember(self.key, PreparedBallot(self.config.id, self._next, self._state))
        self.outcome = self._ending
