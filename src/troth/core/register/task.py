"""Tasks: what a driver drives, the sends that they ask for, and what all tasks of one proposer share.

A task is a state machine without clock or sockets:

* `take` gives the sends that wait to leave; the driver hands back what came of each: `on_reply` or `on_lost`. Answers
  to sends of an earlier phase are ignored, so nothing need be called off.
* `pause` above 0 asks the driver to wait, longer the higher it is, with jitter, and then to call `resume`: two
  proposers that duel would otherwise go on for ever.
* `outcome` ends it; `give_up` ends it when the caller's time is over, with the error that is right.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from troth.core.register.messages import (
    Ballot,
    ConfigId,
    Configuration,
    Configure,
    Described,
    ReplyMessage,
    RequestMessage,
    State,
    WrongConfig,
)
from troth.errors import TrothError, Unavailable, WrongCluster
from troth.ids import NodeId

PREPARED_MAX = 4096
PREPARED_BYTES_MAX = 64 << 20
"""For so many keys, and so large states, a proposer remembers a promise at once; the oldest is forgotten."""


RIVALS_MAX = 64
COURTESY_MAX = 10
"""Of so many rivals a proposer remembers how much time to leave them; and how much at most (a pause's number)."""


NO_STAMP = -1
"""Of a send whose answer nobody waits for, see `Send.is_awaited`."""


@dataclass(frozen=True, slots=True)
class Send:
    """One request to one acceptor; `stamp` says to which moment of its task it belongs."""

    to: NodeId
    request: RequestMessage
    stamp: int
    then: RequestMessage | None = None
    """What is asked again once this (a `Configure`) has been answered."""
    again: bool = False
    """It was asked before, and the acceptor was told of our configuration since."""

    @property
    def is_awaited(self) -> bool:
        """Whether its task wants to hear what came of it. What is only told goes its way when the task has ended."""
        return self.stamp != NO_STAMP


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


def outcome_of(state: State | None, *, changed: bool, error: TrothError | None = None) -> Outcome:
    """An outcome that tells *state* (None: nothing is there)."""
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


@dataclass(frozen=True, slots=True)
class PreparedBallot:
    """A ballot that needs no prepare any more: `state` was chosen directly before it (round.py, `_on_accepted`)."""

    config: ConfigId
    ballot: Ballot
    state: State

    @property
    def size_bytes(self) -> int:
        return len(self.state.value or b"")


class ProposerState:
    """What all tasks of a proposer share: its ballots, the promises that it keeps, the configuration it believes in."""

    def __init__(self, client: int, config: Configuration) -> None:
        """*client* is drawn at random for this object (63 bits), and never used again."""
        self.client = client
        self.config = config
        self._round = 0
        self._stamps = 0
        self._prepared: dict[bytes, PreparedBallot] = {}
        self._prepared_bytes = 0
        self._courtesy: dict[int, int] = {}

    def new_ballot(self, ahead: int = 1) -> Ballot:
        """A ballot that nobody has used, *ahead* rounds above all that this proposer has met."""
        self._round += ahead
        return Ballot(self._round, self.client)

    def new_stamp(self) -> int:
        """For a phase of a task, used once: what bears an earlier one, of whatever task, is stale."""
        self._stamps += 1
        return self._stamps

    def observe(self, ballot: Ballot) -> None:
        """Somebody uses *ballot*: ours must be above it (§2.1: "fast-forward")."""
        self._round = max(self._round, ballot.round)

    def courtesy(self, rival: int) -> int:
        """How long a pause to make when *rival* has refused us, so that it can finish; 0: none."""
        return self._courtesy.get(rival, 0)

    def met(self, rival: int, *, served: bool) -> None:
        """We have overtaken *rival*; *served*: it had got its way before.

        A proposer that is near the acceptors comes back before one that is far has finished, each time, for ever. So
        whoever overtakes a rival in the middle leaves it more time when they meet next, until that is enough.
        """
        level = self._courtesy.pop(rival, 0) + (-1 if served else 2)
        if level > 0:
            self._courtesy[rival] = min(level, COURTESY_MAX)
            if len(self._courtesy) > RIVALS_MAX:
                del self._courtesy[next(iter(self._courtesy))]

    def adopt(self, config: Configuration) -> None:
        """Move to a newer configuration. Promises belong to the one that they were made in."""
        if config.id.cluster == self.config.id.cluster and config.id.epoch > self.config.id.epoch:
            self.config = config
            self._prepared.clear()
            self._prepared_bytes = 0

    def take_prepared(self, key: bytes) -> PreparedBallot | None:
        """The promise kept for *key*. It is gone from here: a ballot is for one accept of a state."""
        kept = self._prepared.pop(key, None)
        if kept is not None:
            self._prepared_bytes -= kept.size_bytes
        return kept

    def remember(self, key: bytes, kept: PreparedBallot) -> None:
        """Remember *kept* for the next change of *key*."""
        if kept.config != self.config.id:
            return
        self.take_prepared(key)
        self._prepared[key] = kept
        self._prepared_bytes += kept.size_bytes
        while len(self._prepared) > PREPARED_MAX or self._prepared_bytes > PREPARED_BYTES_MAX:
            self.take_prepared(next(iter(self._prepared)))


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

    def on_lost(self, send: Send, *, sent: bool = True) -> None: ...

    def resume(self) -> None: ...

    def give_up(self) -> None: ...


class Exchange(ABC):
    """What all tasks share: sends of a phase, and acceptors that are in another configuration."""

    def __init__(self, proposer: ProposerState) -> None:
        self.outcome: Outcome | None = None
        self.pause = 0
        self.config = proposer.config
        self._proposer = proposer
        self._stamp = proposer.new_stamp()
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
        return send.stamp == self._stamp and self.outcome is None

    def on_reply(self, send: Send, reply: ReplyMessage) -> None:
        """*send* was answered."""
        if send.stamp != self._stamp or self.outcome is not None:
            if isinstance(reply, WrongConfig) and reply.mine is not None:
                self._proposer.adopt(reply.mine)  # too late for this phase, in time for the next
            return
        match reply:
            case WrongConfig():
                self._on_wrong_config(send, reply.mine)
            case Described() if send.then is not None:
                self._sends.append(Send(send.to, send.then, self._stamp, again=True))
            case _:
                self._on_answer(send.to, reply)

    def on_lost(self, send: Send, *, sent: bool = True) -> None:
        """Nothing will come of *send*, or it can not be known: the connection broke, or could not be made. *sent*
        False: it has certainly not left."""
        if send.stamp == self._stamp and self.outcome is None:
            self._on_silence(send.to)

    def _broadcast(self, request: RequestMessage) -> None:
        """A new phase begins with *request* to everybody."""
        self._stamp = self._proposer.new_stamp()
        self._sends = [Send(acceptor, request, self._stamp) for acceptor in self.config.acceptors]

    def _on_wrong_config(self, send: Send, theirs: Configuration | None) -> None:
        mine = self.config
        if theirs is not None and theirs.id.cluster != mine.id.cluster:
            self._strangers += 1
            self._on_silence(send.to)
        elif theirs is not None and theirs.id.epoch > mine.id.epoch:
            self._proposer.adopt(theirs)
            self._stamp = self._proposer.new_stamp()
            self._on_new_config()
        elif (theirs is None or theirs.id.epoch < mine.id.epoch) and not send.again:
            self._sends.append(Send(send.to, Configure(mine), self._stamp, then=send.request))
        else:
            self._on_silence(send.to)

    def _unanswered(self, text: str) -> TrothError:
        """Why there was no quorum in time: *text*, unless acceptors were asked that have another set."""
        if self._strangers:
            return WrongCluster(
                "acceptors there belong to another set of registers: check the addresses (a new client that is given "
                "all of them says which belong to which, and what helps)"
            )
        return Unavailable(text)

    @abstractmethod
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        """*acceptor* has said *reply* in this phase."""

    @abstractmethod
    def _on_silence(self, acceptor: NodeId) -> None:
        """Nothing will be heard from *acceptor* in this phase, or nothing that counts."""

    @abstractmethod
    def _on_new_config(self) -> None:
        """The configuration has changed under us; begin anew in the proposer's present one."""
