"""Remove the tombstone of a deleted register from all acceptors.

Paper: CASPaxos §3.1. Four steps, and each needs *every* acceptor, so it ends with the first in which one is silent:
what is left stays a tombstone, which is safe.

1. Look. It promises nothing and writes nothing: most keys that were deleted and written again are live, and while an
   acceptor is away nobody is disturbed.
2. Prepare. All promise, so an earlier accept is either seen now, and ends this if it is of a value, or is refused by
   all: its proposer then knows that it never happened.
3. Accept the tombstone.
4. Remove it. An acceptor that has promised a higher ballot since keeps it: somebody is about to change the register.
"""

from collections.abc import Callable
from typing import TypeVar

from typing_extensions import override

from troth.core.register.messages import (
    Accept,
    Accepted,
    Ballot,
    Collect,
    Collected,
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
from troth.core.register.states import highest_accepted
from troth.core.register.task import Exchange, Outcome, ProposerState, outcome_of
from troth.errors import QuotaExceeded, TrothError, Unavailable
from troth.ids import NodeId

BALLOTS_MAX = 4
"""So many ballots a collection takes. The first is often too low; whoever refuses later ones is at work on the key."""

ReplyT = TypeVar("ReplyT", bound=ReplyMessage)


class Look(Exchange):
    """What all acceptors hold of a key (`Outcome.tombstone`: one that may be collected)."""

    def __init__(self, proposer: ProposerState, key: bytes) -> None:
        super().__init__(proposer)
        self.key = key
        self._answers: dict[NodeId, ReplyMessage] = {}
        self._silent: set[NodeId] = set()
        self._wanted: type[ReplyMessage]
        self._then: Callable[[], None]
        self._look()

    def resume(self) -> None:
        """It makes no pauses."""

    def give_up(self) -> None:
        """The caller's time is over."""
        if self.outcome is None:
            self._end(self._missing())

    def _missing(self) -> TrothError:
        return Unavailable(f"not every acceptor answers, so {self.key!r:.60} is not collected now")

    def _end(self, error: TrothError) -> None:
        self.outcome = Outcome(error=error)

    def _ask(self, request: RequestMessage, wanted: type[ReplyMessage], then: Callable[[], None]) -> None:
        """Ask everybody; when all have answered as *wanted* go on with *then*."""
        self._answers = {}
        self._silent = set()
        self._wanted = wanted
        self._then = then
        self._broadcast(request)

    def _answered(self, kind: type[ReplyT]) -> dict[NodeId, ReplyT]:
        return {acceptor: reply for acceptor, reply in self._answers.items() if isinstance(reply, kind)}

    @override
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        if not isinstance(reply, self._wanted | Conflict | Full):
            self._on_silence(acceptor)
            return
        self._silent.discard(acceptor)
        self._answers[acceptor] = reply
        self._go_on()

    @override
    def _on_silence(self, acceptor: NodeId) -> None:
        if acceptor not in self._answers:
            self._silent.add(acceptor)
            self._go_on()

    def _go_on(self) -> None:
        """If all have been heard of. Not before: one that is gone is silent at once, because there is a newer set of
        acceptors, which others will name."""
        if len(self._answers) + len(self._silent) < len(self.config.acceptors):
            return
        if self._silent:
            self._end(self._missing())
        elif len(self._answered(self._wanted)) == len(self._answers):
            self._then()
        else:
            self._refused()

    @override
    def _on_new_config(self) -> None:
        self._look()

    def _look(self) -> None:
        self.config = self._proposer.config
        self._ask(Read(self.config.id, self.key), Holding, self._on_looked)

    def _on_looked(self) -> None:
        newest = max(self._answered(Holding).values(), key=lambda holding: holding.accepted)
        self._on_seen(newest.state)

    def _on_seen(self, state: State | None) -> None:
        self.outcome = outcome_of(state, changed=False)

    def _refused(self) -> None:
        """All have answered, and not all as they were asked to."""
        self._end(self._missing())


class Collection(Look):
    """Looks, and removes what it finds if that is a tombstone (then so says the outcome, without an error)."""

    def __init__(self, proposer: ProposerState, key: bytes) -> None:
        self._ballots = 0
        self._ballot = Ballot()
        self._state: State
        super().__init__(proposer, key)

    @override
    def _on_seen(self, state: State | None) -> None:
        if state is None or state.value is not None:
            super()._on_seen(state)
        else:
            self._prepare()

    def _prepare(self) -> None:
        if self._ballots == BALLOTS_MAX:
            self._end(Unavailable(f"others are changing {self.key!r:.60}, so it is not collected now"))
            return
        self._ballots += 1
        self._proposer.take_prepared(self.key)  # outbid by ourselves: the next change would be refused
        self._ballot = self._proposer.new_ballot()
        self._ask(Prepare(self.config.id, self.key, self._ballot), Promise, self._on_promised)

    def _on_promised(self) -> None:
        promises = self._answered(Promise)
        _, state = highest_accepted(promises)
        if state is not None and state.value is not None:
            super()._on_seen(state)
            return
        # An earlier collection may have ended just now: what nobody holds is accepted and removed all the same, or our
        # promises would stay behind.
        fence = max(promise.fence for promise in promises.values())
        self._state = state or State(None, 0, self._ballot, fence)
        self._ask(Accept(self.config.id, self.key, self._ballot, self._state), Accepted, self._on_accepted)

    def _on_accepted(self) -> None:
        self._ask(Collect(self.config.id, self.key, self._ballot), Collected, self._on_collected)

    def _on_collected(self) -> None:
        if all(reply.removed for reply in self._answered(Collected).values()):
            super()._on_seen(self._state)
        else:
            self._refused()

    @override
    def _refused(self) -> None:
        """Somebody else has a higher ballot; or there is no room."""
        for full in self._answered(Full).values():
            self._end(QuotaExceeded(full.text))
            return
        for conflict in self._answered(Conflict).values():
            self._proposer.observe(conflict.ballot)
        self._prepare()
