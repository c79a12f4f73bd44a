"""What a search by configurations is given and gives back: budget, configurations and trails, outcome."""

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from troth.verify.history import Value

Trail: TypeAlias = "tuple[Trail | None, int, int, Value] | None"
"""Linked from the last placement back: (earlier, operation index, place in the timeline, state reached)."""

Configuration: TypeAlias = tuple[Value, int, int, "Trail"]
"""(state, used, free, trail)."""


class Pending(Struct, frozen=True):
    """One configuration as shown to people: the state, what it placed so far, and what it could still place."""

    state: Value
    trail: Trail
    placed: tuple[int, ...]
    open: tuple[int, ...]


class Outcome(Struct, frozen=True, kw_only=True):
    """What a search found.

    status: "ok", "illegal" or "unknown".
    trail: of the configuration that survived (ok), or got furthest.
    failed: index of the operation that cannot be placed (illegal).
    configurations: those that were there when it returned (illegal).
    events_done, steps: how far the search got, in places of the timeline and in placements tried.
    reason: why it gave up (unknown).
    """

    status: str
    trail: Trail = None
    failed: int | None = None
    configurations: tuple[Pending, ...] = ()
    events_done: int = 0
    steps: int = 0
    reason: str = ""


class Budget(Struct, frozen=True, kw_only=True):
    """Bounds of a search. `expired` is asked now and then; `configurations_max` bounds memory."""

    expired: Callable[[], bool] | None = None
    configurations_max: int = 1_000_000


UNBOUNDED: Final = Budget()


class GaveUp(Exception):
    """The budget is used up."""
