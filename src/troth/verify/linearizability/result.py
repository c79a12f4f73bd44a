"""What became of one independent part of a history: its verdict, its order and its counter-example, when asked for."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from msgspec import Struct

from troth.verify.history import History, Value, counted, show
from troth.verify.linearizability import minimal
from troth.verify.linearizability.outcome import Budget, Outcome
from troth.verify.verdict import ConfigurationView, Counterexample, Part, Status

Instants: TypeAlias = list[tuple[int, int]]
"""(instant, operation index), ascending; see `witness`."""

_SHRINK_MAX: Final = 2_000
_SHRINK_ASKS_MAX: Final = 200
"""Configurations, and askings of the clock, that one try at shrinking may cost."""

COST: Final = {
    "jit": "linear in the history, exponential in concurrency at worst",
    "jit-model": "linear in the history, exponential in concurrency at worst",
    "chains": "O(n log n)",
    "set-chain": "linear",
    "counter-bounds": "linear",
    "queue-order": "O(n log n)",
}


class Result(Struct, frozen=True, kw_only=True):
    """One part's verdict, with what it takes to explain it when somebody asks."""

    part: Part
    order: Callable[[], Instants]
    explain: Callable[[], Counterexample]


def in_history(history: History, timeline: Sequence[int], order: Instants) -> Instants:
    """Instants of a part's timeline, in positions of the whole history."""
    operations = history.operations
    rows: Instants = []
    for instant, index in order:
        code = timeline[instant >> 1]
        op = operations[code >> 1]
        rows.append((2 * (op.completed if code & 1 else op.invoked) + (instant & 1), index))
    return rows


def small_budget() -> Budget:
    """For one try at shrinking: the clock that it may ask runs out after some askings."""
    asked = iter(range(_SHRINK_ASKS_MAX))
    return Budget(configurations_max=_SHRINK_MAX, expired=lambda: next(asked, None) is None)


def smallest_part(
    timeline: Sequence[int],
    removable: Callable[[Sequence[int]], Sequence[minimal.Group]],
    tried: Callable[[Sequence[int]], Outcome],
) -> tuple[list[int], Outcome]:
    """A small illegal part of *timeline*, and why it is illegal; (empty, unknown) when not even the whole is quick."""
    if tried(timeline).status != "illegal":
        return [], Outcome(status="unknown")
    kept = minimal.shrink(timeline, removable, lambda part: tried(part).status == "illegal")
    left = set(kept)
    return kept, tried([code for code in timeline if code >> 1 in left])


def part_of(history: History, key: Value, algorithm: str, timeline: Sequence[int], outcome: Outcome) -> Part:
    reason, at = "", "" if key is None else f"key {show(key)}: "
    if outcome.status == "illegal" and outcome.failed is not None:
        reason = f"{at}no place for [{outcome.failed}] {history.operations[outcome.failed].describe()}"
    elif outcome.status == "illegal":
        reason = f"{at}{outcome.reason}"
    elif outcome.status == "unknown":
        reason = f"{at}{outcome.reason} after {outcome.events_done} of {counted(len(timeline), 'event')}"
    return Part(
        key=key,
        status=Status(outcome.status),
        algorithm=algorithm,
        cost=COST[algorithm],
        events=len(timeline),
        events_done=outcome.events_done,
        steps=outcome.steps,
        reason=reason,
    )


def explained(
    history: History,
    outcome: Outcome,
    *,
    because: str = "",
    prefix: Callable[[], Instants] | None = None,
    smallest: Callable[[], tuple[list[int], Outcome]] | None = None,
) -> Counterexample:
    """A search's failure in the terms of the history.

    Args:
        because: why, where no search was needed.
        prefix: makes the legal order up to the failure.
        smallest: makes the smallest illegal part and says where that fails.
    """
    kept, again = ([], outcome) if smallest is None else smallest()
    failed = outcome.failed
    if again.status == "illegal" and again.failed is not None:
        # What is left is easier to follow, whether it fails at the same operation or at an earlier one.
        failed, because = again.failed, again.reason or because
        found = again.configurations
    else:
        found = outcome.configurations
    views = tuple(
        ConfigurationView(state=pending.state, placed=pending.placed, waiting=pending.open) for pending in found
    )
    reason = because or "it fits in none of the states that were possible when it returned"
    if failed is not None and views and not because:
        states = list(dict.fromkeys(show(view.state) for view in views))
        shown = ", ".join(states[:4]) + (f" and {len(states) - 4} more" if len(states) > 4 else "")
        reason = f"when it returned the state could only be {shown}, or what open operations make of that"
    before = () if prefix is None else tuple(index for _, index in prefix())
    open_then = {index for view in views for index in (*view.placed, *view.waiting)}
    involved = set(kept) or {*open_then, *before[-3:]} | ({failed} if failed is not None else set())
    return Counterexample(
        operation=failed,
        reason=reason,
        configurations=views,
        prefix=before,
        involved=tuple(sorted(involved)),
        minimal=tuple(kept),
    )
