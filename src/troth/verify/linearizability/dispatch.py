"""Splits a history into independent parts and decides each with the cheapest algorithm that is sound for it."""

from collections.abc import Callable, Sequence
from heapq import merge
from typing import Final, TypeAlias

from msgspec import Struct

from troth.verify.history import History, Value, show
from troth.verify.linearizability import generic, register, sets, witness, zones
from troth.verify.linearizability.register import UNBOUNDED, Budget, Outcome, Primitive
from troth.verify.models import Call, Model, Register, SetObject
from troth.verify.verdict import ConfigurationView, Counterexample, Part, Status, Verdict, combine

Instants: TypeAlias = list[tuple[int, int]]
"""(instant, operation index), ascending; see `witness`."""

ZONES_FROM: Final = 400
"""Below this many operations the just-in-time search is quicker than finding out whether zones apply."""

_COST: Final = {
    "jit": "linear in the history, exponential in concurrency at worst",
    "jit-model": "linear in the history, exponential in concurrency at worst",
    "zones": "O(n log n)",
    "set-chain": "linear",
}


class _Result(Struct, frozen=True, kw_only=True):
    """One part's verdict, with what it takes to explain it when somebody asks."""

    part: Part
    timeline: Sequence[int]
    order: Callable[[], Instants]
    explain: Callable[[], Counterexample]


def check_linearizable(
    history: History,
    object: Model,
    *,
    budget: Budget = UNBOUNDED,
    name: str = "linearizable",
    every_part: bool = False,
) -> Verdict:
    """Decide whether *history* is linearizable as *object*.

    Args:
        history: what happened.
        object: the sequential object.
        budget: when to give up.
        name: the model's name in the verdict.
        every_part: look at every part even after one was found illegal.
    """
    model = object.reading(history.reading)
    reading, operations = history.reading, history.operations
    results: list[_Result] = []
    illegal: _Result | None = None
    decide: Callable[[Value, Sequence[int]], _Result]
    if isinstance(model, Register):
        lower = model.primitive
        decide = _Registers(history, [lower(op, reading) for op in operations], model.init(), budget).decide
    else:
        decide = _Objects(history, model, [model.call(op, reading) for op in operations], budget).decide
    for key, timeline in _parts(history, model):
        result = decide(key, timeline)
        results.append(result)
        if result.part.status is Status.ILLEGAL:
            illegal = illegal or result
            if not every_part:
                break
    status = combine([result.part.status for result in results])
    reason = next((result.part.reason for result in results if result.part.status is status), "")
    return Verdict(
        status,
        history=history,
        model=name,
        object=model.name,
        reason=reason,
        parts=[result.part for result in results],
        counterexample=None if illegal is None else illegal.explain,
        witness=(lambda: _merged(history, results)) if status is Status.OK else None,
    )


def _merged(history: History, results: Sequence[_Result]) -> list[int]:
    """One order of all parts: each part's own, merged by instant, which respects real time across parts."""
    where = {code: place for place, code in enumerate(history.timeline)}
    rows = []
    for result in results:
        # An instant counts half places of the part's own timeline.
        places = [where[code] for code in result.timeline]
        rows.append([(2 * places[instant >> 1] + (instant & 1), index) for instant, index in result.order()])
    return [index for _, index in merge(*rows, key=lambda row: row[0])]


def _parts(history: History, model: Model) -> list[tuple[Value, Sequence[int]]]:
    """(key, timeline) of every independent part, in order of first use."""
    operations = history.operations
    if not operations:
        return []
    keys: list[Value]
    if not model.keyed:
        return [(None, history.timeline)]
    if isinstance(model, SetObject) and not any(op.f == "read" for op in operations):
        # Without whole reads every element is an object of its own.
        keys = [(op.key, op.argument) for op in operations]
    else:
        keys = [op.key for op in operations]
    if keys.count(keys[0]) == len(keys):
        return [(keys[0], history.timeline)]
    timelines: dict[Value, list[int]] = {key: [] for key in keys}
    appenders = [timelines[key].append for key in keys]
    for code in history.timeline:
        appenders[code >> 1](code)
    return list(timelines.items())


class _Registers:
    """Decides parts of an object that is made of registers."""

    def __init__(
        self, history: History, primitives: Sequence[Primitive | None], initial: Value, budget: Budget
    ) -> None:
        self.history, self.primitives, self.initial, self.budget = history, primitives, initial, budget

    def decide(self, key: Value, timeline: Sequence[int]) -> _Result:
        primitives, initial = self.primitives, self.initial
        if len(timeline) >= 2 * ZONES_FROM and zones.applies(primitives, timeline, initial):
            return self._zones(key, timeline)
        outcome = register.search(primitives, timeline, initial=initial, budget=self.budget)
        return _Result(
            part=_part(self.history, key, "jit", timeline, outcome),
            timeline=timeline,
            order=lambda: witness.order(primitives, timeline, initial, outcome.trail),
            explain=lambda: explained(self.history, outcome),
        )

    def _zones(self, key: Value, timeline: Sequence[int]) -> _Result:
        found = zones.examine(self.primitives, timeline, self.initial)
        if not found.conflict:
            outcome = Outcome(status="ok", events_done=len(timeline))
        else:
            # The two values alone are illegal already, and small enough for a search that can show why.
            conflict = set(found.conflict)
            two = [code for code in timeline if _argument(self.primitives[code >> 1]) in conflict]
            outcome = register.search(self.primitives, two, initial=self.initial)
        part = _part(self.history, key, "zones", timeline, outcome)

        def explain() -> Counterexample:
            values = " and ".join(show(value) for value in found.conflict)
            return explained(self.history, outcome, because=f"values {values}: {found.reason}")

        return _Result(
            part=part,
            timeline=timeline,
            order=lambda: zones.order(self.primitives, timeline, self.initial, found),
            explain=explain,
        )


def _argument(primitive: Primitive | None) -> Value:
    # No value equals this string object's identity-free stand-in: None primitives say nothing and are left out.
    return _Nothing if primitive is None else primitive[1]


class _Nothing:
    """Equal to no value."""


class _Objects:
    """Decides parts of any other object."""

    def __init__(self, history: History, model: Model, calls: Sequence[Call | None], budget: Budget) -> None:
        self.history, self.model, self.calls, self.budget = history, model, calls, budget

    def decide(self, key: Value, timeline: Sequence[int]) -> _Result:
        if isinstance(self.model, SetObject) and sets.applies(self.calls, timeline):
            return self._chain(key, timeline)
        outcome = generic.search(self.model, self.calls, timeline, budget=self.budget)
        return _Result(
            part=_part(self.history, key, "jit-model", timeline, outcome),
            timeline=timeline,
            order=lambda: witness.order_of_calls(self.model, self.calls, timeline, outcome.trail),
            explain=lambda: explained(self.history, outcome),
        )

    def _chain(self, key: Value, timeline: Sequence[int]) -> _Result:
        failed, why, order = sets.examine(self.calls, timeline)
        outcome = Outcome(
            status="ok" if failed is None else "illegal", failed=failed, events_done=len(timeline), reason=why
        )
        return _Result(
            part=_part(self.history, key, "set-chain", timeline, outcome),
            timeline=timeline,
            order=lambda: order,
            explain=lambda: explained(self.history, outcome, because=why),
        )


def _part(history: History, key: Value, algorithm: str, timeline: Sequence[int], outcome: Outcome) -> Part:
    reason = ""
    if outcome.status == "illegal" and outcome.failed is not None:
        at = "" if key is None else f"key {show(key)}: "
        reason = f"{at}no place for [{outcome.failed}] {history.operations[outcome.failed].describe()}"
    elif outcome.status == "unknown":
        at = "" if key is None else f"key {show(key)}: "
        reason = f"{at}{outcome.reason} after {outcome.events_done} of {len(timeline)} events"
    return Part(
        key=key,
        status=Status(outcome.status),
        algorithm=algorithm,
        cost=_COST[algorithm],
        events=len(timeline),
        events_done=outcome.events_done,
        steps=outcome.steps,
        reason=reason,
    )


def explained(history: History, outcome: Outcome, *, because: str = "") -> Counterexample:
    """A search's failure in the terms of the history."""
    views = tuple(
        ConfigurationView(state=found.state, placed=found.placed, waiting=found.open)
        for found in outcome.configurations
    )
    failed = outcome.failed
    reason = because or "it fits in none of the states that were possible when it returned"
    if failed is not None and views and not because:
        states = list(dict.fromkeys(show(view.state) for view in views))
        shown = ", ".join(states[:4]) + (f" and {len(states) - 4} more" if len(states) > 4 else "")
        reason = f"when it returned the state could only be {shown}, or what open operations make of that"
    prefix = tuple(index for index, _, _ in witness.unroll(outcome.trail) if index >= 0)
    open_then = {index for view in views for index in (*view.placed, *view.waiting)}
    involved = {*open_then, *prefix[-3:]} | ({failed} if failed is not None else set())
    return Counterexample(
        operation=failed, reason=reason, configurations=views, prefix=prefix, involved=tuple(sorted(involved))
    )
