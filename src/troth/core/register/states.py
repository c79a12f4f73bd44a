"""What a change makes of a register's state, and what a later state says of an earlier attempt. Pure functions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from troth.core.register.messages import MARKS_KEPT, ZERO, Ballot, Mark, Promise, State
from troth.errors import NotApplied
from troth.ids import NodeId


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
