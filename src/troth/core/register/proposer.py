"""A proposer: drives one change of one register through both phases, until it is known what became of it.

Paper: CASPaxos §2.1 (phases), §2.2.1 (one round trip), §3.1 (deletion). A `Proposer` is one client; it makes a `Task`
for each request. A task is a state machine without clock or sockets:

* `take` gives the sends that wait to leave; the driver hands back what came of each: `on_reply` or `on_lost`. Answers
  to sends of an earlier phase are ignored, so nothing need be called off.
* `pause` above 0 asks the driver to wait, longer the higher it is, with jitter, and then to call `resume`: two
  proposers that duel would otherwise go on for ever.
* `outcome` ends it; `give_up` ends it when the caller's time is over, with the error that is right.

**What is promised about a change.** Every attempt proposes a state that bears its ballot as the proposer's mark. Later
states inherit it, so any of them says whether that attempt is part of its past (`fate`). Therefore a retry never
applies a change twice, and an error is exact: `NotApplied` only if no accept of any attempt can still come true, else
`OutcomeUnknown`. Knowledge ends where `MARKS_KEPT` other proposers have changed the register between two attempts, or
a deletion was collected; then the outcome is reported as unknown rather than guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from typing_extensions import override

from troth.core.quorum import VoteResult
from troth.core.register.messages import (
    MARKS_KEPT,
    ZERO,
    Accept,
    Ballot,
    Collect,
    ConfigId,
    Configuration,
    Configure,
    Conflict,
    Described,
    Full,
    Gone,
    Holding,
    Mark,
    Prepare,
    Promise,
    Read,
    ReplyMessage,
    RequestMessage,
    State,
    Took,
    WrongConfig,
)
from troth.errors import (
    AcceptorsChanged,
    AlreadyDecided,
    ChangeFailed,
    NotApplied,
    OutcomeUnknown,
    QuotaExceeded,
    RequestTimeout,
    TrothError,
    Unavailable,
    WrongCluster,
)
from troth.ids import NodeId

KEPT_MAX = 4096
"""Keys for which a proposer remembers a promise at once; the oldest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """The register becomes `value` (None: is deleted)."""

    value: bytes | None
    decide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The register stays as it is; `error` is raised to the caller once that is known to be the present state."""

    error: NotApplied | None = None


Decision: TypeAlias = Write | Keep
Change: TypeAlias = Callable[[State | None], Decision]
"""What a request makes of a register. May be called several times, on states that turn out not to be the present one:
it must depend on nothing but its argument."""


@dataclass(frozen=True, slots=True)
class Send:
    """One request to one acceptor; `phase` says to which moment of its task it belongs."""

    to: NodeId
    request: RequestMessage
    phase: int
    then: RequestMessage | None = None
    """What is asked again once this (a `Configure`) has been answered."""
    again: bool = False
    """It was asked before, and the acceptor was told of our configuration since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a task. `changed`: this very request has changed the register (exactly once)."""

    value: bytes | None = None
    version: int = 0
    changed: bool = False
    decided: bool = False
    tombstone: bool = False
    """A tombstone is left, to be collected."""
    error: TrothError | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A ballot that a phase-1 quorum has promised already, and the state accepted by a phase-2 quorum before it."""

    config: ConfigId
    ballot: Ballot
    state: State


@dataclass(frozen=True, slots=True)
class Attempt:
    """An accept that was sent: `ballot` would turn `before` into `after`. `base_born` is ZERO where nothing was."""

    ballot: Ballot
    before: State | None
    after: State
    open: set[NodeId] = field(default_factory=set)
    """Acceptors that have not answered yet."""
    doubtful: set[NodeId] = field(default_factory=set)
    """Acceptors that have not refused."""

    @property
    def base_born(self) -> Ballot:
        return ZERO if self.before is None else self.before.born


class Fate(Enum):
    """What a later state says of an attempt."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"
    UNKNOWN = "unknown"


def fate(attempt: Attempt, seen: State | None, fence: Ballot) -> Fate:
    """Whether *attempt* is part of the past of the state *seen* by a later prepare; *fence* is the highest it met.

    Ballots rise along a register's past, so the proposer's own mark tells, if it is there. Between two lives of a
    register (`State.born`) lies a collected deletion; the fence, and later `State.floor`, is at least its tombstone's
    ballot, which is above that of any change that the tombstone had in its past.
    """
    if seen is not None:
        mine = next((mark for mark in seen.marks if mark.ballot.client == attempt.ballot.client), None)
        if attempt.ballot == seen.born or (mine is not None and mine.ballot == attempt.ballot):
            return Fate.APPLIED
        if mine is not None and mine.ballot > attempt.ballot:
            return Fate.UNKNOWN  # another request of the same proposer covers it
        is_same_life = seen.born == attempt.base_born
        base_version = attempt.before.version if is_same_life and attempt.before is not None else 0
        if mine is None and seen.forgotten > base_version:
            return Fate.UNKNOWN
        if is_same_life:
            return Fate.NOT_APPLIED
        fence = seen.floor
    return Fate.NOT_APPLIED if fence < attempt.ballot else Fate.UNKNOWN


def highest_accepted(promises: dict[NodeId, Promise]) -> tuple[Ballot, State | None]:
    """§2.1 step 4: "picks the value of the tuple with the highest ballot number"."""
    newest = max(promises.values(), key=lambda promise: promise.accepted)
    return newest.accepted, newest.state


def next_state(before: State | None, decision: Write, ballot: Ballot, fence: Ballot) -> State:
    """The state that *decision* makes of *before*, proposed at *ballot*; *fence* as the prepare phase met it."""
    if before is None:
        return State(decision.value, 1, ballot, fence, (Mark(ballot, 1),), decided=decision.decide)
    version = before.version + 1
    marks = [mark for mark in before.marks if mark.ballot.client != ballot.client]
    forgotten = before.forgotten
    if len(marks) >= MARKS_KEPT:
        forgotten = marks.pop(0).version
    return State(
        decision.value,
        version,
        before.born,
        before.floor,
        (*marks, Mark(ballot, version)),
        forgotten,
        decision.decide,
    )


class Proposer:
    """One client: its ballots, the promises that it keeps, and the configuration that it believes in."""

    def __init__(self, client: int, config: Configuration) -> None:
        """*client* is drawn at random for this object (63 bits), and never used again."""
        self.client = client
        self.config = config
        self._round = 0
        self._phases = 0
        self._kept: dict[bytes, Kept] = {}

    def new_ballot(self) -> Ballot:
        """A ballot that nobody has used, above all that this proposer has met."""
        self._round += 1
        return Ballot(self._round, self.client)

    def new_phase(self) -> int:
        """A number for a phase of a task, used once: what was sent in an earlier one, of whatever task, is stale."""
        self._phases += 1
        return self._phases

    def observe(self, ballot: Ballot) -> None:
        """Somebody uses *ballot*: ours must be above it (§2.1: "fast-forward")."""
        self._round = max(self._round, ballot.round)

    def adopt(self, config: Configuration) -> None:
        """Move to a newer configuration. Promises belong to the one that they were made in."""
        if config.id.cluster == self.config.id.cluster and config.id.epoch > self.config.id.epoch:
            self.config = config
            self._kept.clear()

    def take_kept(self, key: bytes) -> Kept | None:
        """The promise kept for *key*. It is gone from here: a ballot is for one accept of a state."""
        return self._kept.pop(key, None)

    def keep(self, key: bytes, kept: Kept) -> None:
        """Remember *kept* for the next change of *key*."""
        if kept.config == self.config.id:
            if len(self._kept) >= KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = kept

    # ---- tasks ---------------------------------------------------------------------------------------------

    def change(self, key: bytes, change: Change, *, bound: bool = False) -> "Round":
        """Apply *change* to *key*, once. *bound*: under the present configuration or not at all."""
        return Round(self, key, change, bound=bound)

    def read(self, key: bytes) -> "Round":
        """The present state of *key*, in one round trip if a quorum agrees about it."""
        return Round(self, key, _keep, reading=True)

    def confirm(self, key: bytes) -> "Round":
        """The identity change: whatever *key* holds is accepted once more, under the present configuration (§2.3)."""
        return Round(self, key, _keep, bound=True)

    def collect(self, key: bytes) -> "Round":
        """Remove the tombstone of *key* from all acceptors (§3.1)."""
        return Round(self, key, _keep, collecting=True)


def _keep(state: State | None) -> Decision:
    del state
    return Keep()


class Task(Protocol):
    """What a driver drives."""

    outcome: Outcome | None

    @property
    def pause(self) -> int: ...

    @property
    def config(self) -> Configuration: ...

    @property
    def has_sends(self) -> bool: ...

    def take(self) -> list[Send]: ...

    def is_current(self, send: Send) -> bool: ...

    def on_reply(self, send: Send, reply: ReplyMessage) -> None: ...

    def on_lost(self, send: Send) -> None: ...

    def resume(self) -> None: ...

    def give_up(self) -> None: ...


class Exchange:
    """What all tasks share: sends of a phase, and acceptors that are in another configuration."""

    def __init__(self, proposer: Proposer) -> None:
        self.outcome: Outcome | None = None
        self.pause = 0
        self.config = proposer.config
        self._proposer = proposer
        self._phase = proposer.new_phase()
        self._sends: list[Send] = []
        self._strangers = 0

    @property
    def has_sends(self) -> bool:
        """Whether `take` would give any."""
        return bool(self._sends)

    def take(self) -> list[Send]:
        """Sends that have not left yet."""
        sends, self._sends = self._sends, []
        return sends

    def is_current(self, send: Send) -> bool:
        """Whether an answer to *send* still matters."""
        return send.phase == self._phase and self.outcome is None

    def on_reply(self, send: Send, reply: ReplyMessage) -> None:
        """*send* was answered."""
        if send.phase != self._phase or self.outcome is not None:
            if isinstance(reply, WrongConfig) and reply.mine is not None:
                self._proposer.adopt(reply.mine)  # too late for this phase, in time for the next
            return
        match reply:
            case WrongConfig():
                self._on_wrong_config(send, reply.mine)
            case Described() if send.then is not None:
                self._sends.append(Send(send.to, send.then, self._phase, again=True))
            case _:
                self._on_answer(send.to, reply)

    def on_lost(self, send: Send) -> None:
        """Nothing will come of *send*, or it can not be known: the connection broke, or could not be made."""
        if send.phase == self._phase and self.outcome is None:
            self._on_silence(send.to)

    def _broadcast(self, request: RequestMessage) -> None:
        """A new phase begins with *request* to everybody."""
        self._phase = self._proposer.new_phase()
        self._sends = [Send(acceptor, request, self._phase) for acceptor in self.config.acceptors]

    def _on_wrong_config(self, send: Send, theirs: Configuration | None) -> None:
        mine = self.config
        if theirs is not None and theirs.id.cluster != mine.id.cluster:
            self._strangers += 1
            self._on_silence(send.to)
        elif theirs is not None and theirs.id.epoch > mine.id.epoch:
            self._proposer.adopt(theirs)
            self._phase = self._proposer.new_phase()
            self._on_new_config()
        elif (theirs is None or theirs.id.epoch < mine.id.epoch) and not send.again:
            self._sends.append(Send(send.to, Configure(mine), self._phase, then=send.request))
        else:
            self._on_silence(send.to)

    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        raise NotImplementedError

    def _on_silence(self, acceptor: NodeId) -> None:
        raise NotImplementedError

    def _on_new_config(self) -> None:
        """The configuration has changed under us; begin anew in the proposer's present one."""
        raise NotImplementedError


class Phase(Enum):
    READING = "reading"
    PREPARING = "preparing"
    ACCEPTING = "accepting"
    COLLECTING = "collecting"


@dataclass(slots=True)
class _Votes:
    """Who has agreed in this phase, and what the acceptors said with it."""

    votes: dict[NodeId, bool] = field(default_factory=dict)
    promises: dict[NodeId, Promise] = field(default_factory=dict)
    holdings: dict[NodeId, Holding] = field(default_factory=dict)


class Round(Exchange):
    """One change of one register: prepare, accept, and again if need be."""

    def __init__(
        self,
        proposer: Proposer,
        key: bytes,
        change: Change,
        *,
        reading: bool = False,
        collecting: bool = False,
        bound: bool = False,
    ) -> None:
        """*bound*: give up rather than go on in another configuration."""
        super().__init__(proposer)
        self.key = key
        self.attempts: list[Attempt] = []
        """Changes that were sent to acceptors and may have happened, each at a ballot of its own."""
        self.phases = 0
        """How many times all acceptors were asked something."""
        self._change = change
        self._collecting = collecting
        self._bound = bound
        self._tries = 0
        self._full = ""
        self._contended = False
        self._votes = _Votes()
        self._ballot = ZERO
        self._next = ZERO
        self._parked: tuple[State | None, Ballot] | None = None
        """What phase 1 has found, while it does not say what became of an earlier attempt."""
        self._ending = Outcome()
        self._state = State(None, 0, ZERO, ZERO)
        """What is proposed at `_ballot`."""
        kept = None if reading or collecting else proposer.take_kept(key)
        if reading:
            self._begin(Phase.READING, Read(self.config.id, key))
        elif kept is not None:
            self._ballot = kept.ballot
            self._propose(kept.state, ZERO)
        else:
            self._prepare()

    @override
    def is_current(self, send: Send) -> bool:
        return super().is_current(send) or (self.outcome is None and self._attempt_of(send) is not None)

    @override
    def on_reply(self, send: Send, reply: ReplyMessage) -> None:
        attempt = self._attempt_of(send)
        is_late = send.phase != self._phase
        if attempt is not None and (is_late or not isinstance(reply, WrongConfig)):
            attempt.open.discard(send.to)
            if isinstance(reply, Conflict | Full | WrongConfig):
                attempt.doubtful.discard(send.to)
                if not attempt.doubtful:
                    # Every acceptor has refused this ballot for good: nobody holds it, nobody ever will.
                    self.attempts.remove(attempt)
        super().on_reply(send, reply)
        self._unpark()

    @override
    def on_lost(self, send: Send) -> None:
        attempt = self._attempt_of(send)
        if attempt is not None:
            attempt.open.discard(send.to)
        super().on_lost(send)
        self._unpark()

    def _attempt_of(self, send: Send) -> Attempt | None:
        """The attempt that *send* is the accept of, if its answer may still tell something."""
        request = send.request
        if not isinstance(request, Accept):
            return None
        return next(
            (each for each in self.attempts if each.ballot == request.ballot and send.to in each.open), None
        )

    def _unpark(self) -> None:
        if self._parked is not None and self.outcome is None:
            parked, self._parked = self._parked, None
            self._propose(*parked)

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
        if self._full:
            return QuotaExceeded(self._full)
        if self._collecting:
            return Unavailable(f"not every acceptor is up, so {self.key!r:.60} is not collected now")
        if self._strangers:
            return WrongCluster("acceptors there belong to another set of registers: check the addresses")
        return Unavailable(
            f"no quorum of the acceptors has answered in time about {self.key!r:.60} ({self.config.describe()})"
        )

    # ---- phases --------------------------------------------------------------------------------------------

    def _begin(self, phase: Phase, request: RequestMessage) -> None:
        self.phase = phase
        self.pause = 0
        self._parked = None
        self.phases += 1
        self._votes = _Votes()
        self._broadcast(request)

    def _prepare(self) -> None:
        """§2.1 step 2: a new ballot, and "prepare" to the acceptors."""
        if self._bound and self.config.id != self._proposer.config.id:
            self.outcome = Outcome(error=AcceptorsChanged(self._proposer.config.describe()))
            return
        self.config = self._proposer.config
        self._ballot = self._proposer.new_ballot()
        self._begin(Phase.PREPARING, Prepare(self.config.id, self.key, self._ballot))

    @override
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        match reply:
            case Conflict():
                self._proposer.observe(reply.ballot)
                self._contended = True
                self._on_silence(acceptor)
            case Full():
                self._full = reply.text
                self._on_silence(acceptor)
            case Promise() if self.phase is Phase.PREPARING:
                self._votes.promises[acceptor] = reply
                self._vote(acceptor, agreed=True)
            case Took() if self.phase is Phase.ACCEPTING:
                self._vote(acceptor, agreed=True)
            case Holding() if self.phase is Phase.READING:
                self._votes.holdings[acceptor] = reply
                self._vote(acceptor, agreed=True)
            case Gone() if self.phase is Phase.COLLECTING:
                self._vote(acceptor, agreed=reply.gone)
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
                return self.config.everyone(votes) if self._collecting else self.config.accepted(votes)
            case Phase.COLLECTING:
                return self.config.everyone(votes)
            case Phase.READING:
                both = (self.config.prepared(votes), self.config.accepted(votes))
                if VoteResult.LOST in both:
                    return VoteResult.LOST
                return VoteResult.PENDING if VoteResult.PENDING in both else VoteResult.WON

    def _won(self) -> None:
        match self.phase:
            case Phase.READING:
                self._on_read()
            case Phase.PREPARING:
                promises = self._votes.promises
                _, state = highest_accepted(promises)
                self._propose(state, max(promise.fence for promise in promises.values()))
            case Phase.ACCEPTING:
                self._on_accepted()
            case Phase.COLLECTING:
                self.outcome = self._ending

    def _lost(self) -> None:
        """No quorum any more in this phase."""
        if self._full and not self.attempts:
            self.outcome = Outcome(error=QuotaExceeded(self._full))
            return
        if self.phase is Phase.READING:
            self._prepare()
            return
        self._again()

    def _again(self) -> None:
        """Another attempt. The first follows at once: more often than not only the ballot was too low."""
        self._tries += 1
        if self._tries == 1 and self._contended:
            self._prepare()
            return
        self._phase = self._proposer.new_phase()
        self.pause = self._tries

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
            self.outcome = _outcome_of(newest.state, changed=False)
        else:
            self._prepare()

    def _propose(self, state: State | None, fence: Ballot) -> None:
        """§2.1 step 4: apply the change to the newest state, and "accept" to the acceptors."""
        fates = {attempt.ballot: fate(attempt, state, fence) for attempt in self.attempts}
        for attempt in self.attempts:
            if fates[attempt.ballot] is Fate.APPLIED and state is not None:
                # It may be on few acceptors only, so what has been seen is accepted once more before we say so.
                self._ending = _outcome_of(attempt.after, changed=True)
                self._accept(state)
                return
        if Fate.UNKNOWN in fates.values():
            if any(attempt.open for attempt in self.attempts):
                self._parked = (state, fence)  # a refusal that is still on its way may settle it
                return
            text = f"other changes of {self.key!r:.60} hide whether this one has happened"
            self.outcome = Outcome(error=OutcomeUnknown(text))
            return
        decision = self._decide(state)
        if isinstance(decision, Write):
            after = next_state(state, decision, self._ballot, fence)
            asked = self.config.acceptors
            self.attempts.append(Attempt(self._ballot, state, after, set(asked), set(asked)))
            self._ending = _outcome_of(after, changed=True)
            self._accept(after)
            return
        self._ending = _outcome_of(state, changed=False, error=decision.error)
        if state is None and not self.attempts and not self._collecting:
            # Nothing was chosen before, and a quorum has promised that nothing below our ballot ever will be.
            self.outcome = self._ending
            return
        # With earlier attempts in doubt even "nothing" has to be accepted, or one of them might still come true. And an
        # earlier collection may have ended half-way: this quorum has forgotten the tombstone, others have not.
        self._accept(state or State(None, 0, self._ballot, fence))

    def _decide(self, state: State | None) -> Decision:
        try:
            decision = self._change(state)
        except NotApplied as error:
            return Keep(error=error)
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything; it is told what it was
            failed = ChangeFailed(f"the change function raised {type(error).__name__}: {error}")
            failed.__cause__ = error
            return Keep(error=failed)
        if isinstance(decision, Write) and state is not None and state.decided:
            return Keep(error=AlreadyDecided(f"{self.key!r:.60} is decided and never changes again"))
        return decision

    def _accept(self, state: State) -> None:
        if self._collecting and state.value is not None:
            self.outcome = _outcome_of(state, changed=False)
            return
        self._state = state
        # The next ballot is promised with this accept, so that our next change needs no prepare (§2.2.1).
        self._next = ZERO if self._collecting else self._proposer.new_ballot()
        self._begin(Phase.ACCEPTING, Accept(self.config.id, self.key, self._ballot, state, self._next))

    def _on_accepted(self) -> None:
        """§2.1 step 6: a quorum has accepted; the state is chosen."""
        if self._collecting:
            self._begin(Phase.COLLECTING, Collect(self.config.id, self.key, self._ballot))
            return
        if self.config.prepared(self._votes.votes) is VoteResult.WON:
            self._proposer.keep(self.key, Kept(self.config.id, self._next, self._state))
        self.outcome = self._ending


def _outcome_of(state: State | None, *, changed: bool, error: TrothError | None = None) -> Outcome:
    if state is None:
        return Outcome(changed=changed, error=error)
    return Outcome(
        value=state.value,
        version=state.version,
        changed=changed,
        decided=state.decided,
        tombstone=state.value is None,
        error=error,
    )
