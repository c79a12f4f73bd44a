"""Splits a history into independent parts and decides each with the cheapest algorithm that is sound for it."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import merge
from typing import Final, TypeAlias

from msgspec import Struct, structs

from troth.verify.history import History, Value, show
from troth.verify.linearizability import (
    chains,
    generic,
    minimal,
    pairing,
    queues,
    register,
    repeats,
    sets,
    witness,
)
from troth.verify.linearizability.foresight import foreseeing
from troth.verify.linearizability.outcome import UNBOUNDED, Budget, Outcome
from troth.verify.models import Call, Model, Queue, Register, SetObject, UnorderedQueue
from troth.verify.verdict import ConfigurationView, Counterexample, Part, Status, Verdict, combine

Instants: TypeAlias = list[tuple[int, int]]
"""(instant, operation index), ascending; see `witness`."""

_EXPLAIN_MAX: Final = 20_000
"""Configurations that explaining a contradiction may cost; a contradiction found without search is never in doubt."""
_SEARCHED_MAX: Final = 5_000
"""Events of which a contradiction is explained as a whole; of more, only what is left once it was made small."""
_SHRINK_MAX: Final = 2_000
_SHRINK_ASKS_MAX: Final = 200
"""Configurations, and askings of the clock, that one try at shrinking may cost."""

_COST: Final = {
    "jit": "linear in the history, exponential in concurrency at worst",
    "jit-model": "linear in the history, exponential in concurrency at worst",
    "chains": "O(n log n)",
    "set-chain": "linear",
    "queue-order": "O(n log n)",
}


class _Result(Struct, frozen=True, kw_only=True):
    """One part's verdict, with what it takes to explain it when somebody asks."""

    part: Part
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
    results: list[_Result] = []
    illegal: _Result | None = None
    for result in _decisions(history, model, budget):
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
        witness=(lambda: _merged(results)) if status is Status.OK else None,
    )


def _decisions(history: History, model: Model, budget: Budget) -> Iterator[_Result]:
    """Decide part after part, so that the caller may stop at the first illegal one."""
    operations, reading = history.operations, history.reading
    if not isinstance(model, Register) or type(model).step is not Register.step:
        objects = _Objects(history, model, model.calls(history), budget)
        for key, timeline in _parts(history, model):
            yield objects.decide(key, timeline)
        return
    gathered = chains.gather(operations, reading, model.init())
    registers: _Registers | None = None
    timelines: dict[Value, Sequence[int]] = {}
    for name, key in ({} if gathered is None else gathered).items():
        key, found = repeats.decided(key)
        if found is not None:
            yield _chained(history, model, name, key, found)
            continue
        if registers is None:
            registers = _Registers(history, model, budget)
            timelines = dict(_parts(history, model))
        yield registers.decide(name, timelines[name])
    if gathered is None:
        registers = _Registers(history, model, budget)
        for part, timeline in _parts(history, model):
            yield registers.decide(part, timeline)


def _merged(results: Sequence[_Result]) -> list[int]:
    """One order of all parts: each part's own, merged by instant, which respects real time across parts."""
    return [index for _, index in merge(*(result.order() for result in results), key=lambda row: row[0])]


def _in_history(history: History, timeline: Sequence[int], order: Instants) -> Instants:
    """Instants of a part's timeline, in positions of the whole history."""
    operations = history.operations
    rows: Instants = []
    for instant, index in order:
        code = timeline[instant >> 1]
        op = operations[code >> 1]
        rows.append((2 * (op.completed if code & 1 else op.invoked) + (instant & 1), index))
    return rows


def _chained(history: History, model: Register, name: Value, key: chains.Key, found: chains.Found) -> _Result:
    size = len(key.reads) + len(key.written)
    at = "" if name is None or not found.conflict else f"key {show(name)}: "
    part = Part(
        key=name,
        status=Status.ILLEGAL if found.conflict else Status.OK,
        algorithm="chains",
        cost=_COST["chains"],
        events_done=size,
        events=size,
        reason=at + found.conflict,
    )

    def explain() -> Counterexample:
        # That there is a contradiction is certain; the search shows where it first bites.
        timeline = next(timeline for part_key, timeline in _parts(history, model) if part_key == name)
        registers = _Registers(history, model, Budget(configurations_max=_EXPLAIN_MAX))

        def contradicts(part: Sequence[int]) -> bool:
            operations = [history.operations[index] for index in sorted({code >> 1 for code in part})]
            gathered = chains.gather(operations, history.reading, model.init())
            left = None if gathered is None else repeats.decided(gathered[name])[1]
            return left is not None and left.conflict != ""

        if len(timeline) > _SEARCHED_MAX:
            kept = set(minimal.shrink(timeline, partial(minimal.unseen, registers.primitives), contradicts))
            timeline = [code for code in timeline if code >> 1 in kept]
        searched = registers.decide(name, timeline)
        if searched.part.status is not Status.ILLEGAL:
            return Counterexample(operation=None, reason=found.conflict)
        shown = searched.explain()
        return structs.replace(shown, reason=f"{found.conflict}; {shown.reason}")

    return _Result(part=part, order=lambda: chains.order(key, found), explain=explain)


def _parts(history: History, model: Model) -> list[tuple[Value, Sequence[int]]]:
    """(key, timeline) of every independent part, in order of first use."""
    operations = history.operations
    if not operations:
        return []
    keys: list[Value]
    if not model.keyed:
        return [(None, history.timeline)]
    if type(model) is SetObject and not any(op.f == "read" for op in operations):
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
    """Decides parts of an object that is made of registers, by search."""

    def __init__(self, history: History, model: Register, budget: Budget) -> None:
        reading, lower = history.reading, model.primitive
        self.history, self.budget, self.initial = history, budget, model.init()
        self.primitives = [lower(op, reading) for op in history.operations]

    def decide(self, key: Value, timeline: Sequence[int]) -> _Result:
        primitives, initial, history = self.primitives, self.initial, self.history
        outcome = register.search(primitives, timeline, initial=initial, budget=self.budget)

        def prefix() -> Instants:
            return witness.order(primitives, timeline[: outcome.events_done], initial, outcome.trail)

        def smallest() -> tuple[list[int], Outcome]:
            failing = timeline[: outcome.events_done + 1]
            known = minimal.cut(primitives, failing)

            def tried(part: Sequence[int]) -> Outcome:
                return register.search(known, part, initial=initial, budget=_small_budget())

            return _smallest(failing, lambda left: minimal.unseen(known, left), tried)

        return _Result(
            part=_part(history, key, "jit", timeline, outcome),
            order=lambda: _in_history(
                history, timeline, witness.order(primitives, timeline, initial, outcome.trail)
            ),
            explain=lambda: explained(history, outcome, because=outcome.reason, prefix=prefix, smallest=smallest),
        )


class _Objects:
    """Decides parts of any other object."""

    def __init__(self, history: History, model: Model, calls: Sequence[Call | None], budget: Budget) -> None:
        self.history, self.model, self.calls, self.budget = history, model, calls, budget

    def decide(self, key: Value, timeline: Sequence[int]) -> _Result:
        if type(self.model) is SetObject and sets.applies(self.calls, timeline):
            return self._chain(key, timeline)
        if type(self.model) in (Queue, UnorderedQueue):
            found = self._examine_queue(self.calls, timeline) or self._paired(timeline)
            if found is not None:
                return self._queue(key, timeline, *found)
        model = foreseeing(self.model, self.calls, timeline)
        outcome = generic.search(model, self.calls, timeline, budget=self.budget)

        def prefix() -> Instants:
            return witness.order_of_calls(model, self.calls, timeline[: outcome.events_done], outcome.trail)

        def tried(part: Sequence[int]) -> Outcome:
            return generic.search(
                foreseeing(self.model, self.calls, part), self.calls, part, budget=_small_budget()
            )

        def smallest() -> tuple[list[int], Outcome]:
            failing = timeline[: outcome.events_done + 1]
            if model is not self.model:
                # It was refused for what comes later: the shortest beginning that is illegal with nothing behind it.
                ends = range(len(failing), len(timeline) + 1)
                at = bisect_left(ends, True, key=lambda end: tried(timeline[:end]).status == "illegal")
                failing = timeline[: ends[at]] if at < len(ends) else timeline
            return _smallest(failing, minimal.removable_calls(self.model, self.calls), tried)

        return _Result(
            part=_part(self.history, key, "jit-model", timeline, outcome),
            order=lambda: _in_history(
                self.history, timeline, witness.order_of_calls(model, self.calls, timeline, outcome.trail)
            ),
            explain=lambda: explained(self.history, outcome, prefix=prefix, smallest=smallest),
        )

    def _queue(
        self, key: Value, timeline: Sequence[int], failed: int | None, why: str, queued: queues.Queued
    ) -> _Result:
        outcome = Outcome(
            status="ok" if failed is None else "illegal", failed=failed, events_done=len(timeline), reason=why
        )
        return _Result(
            part=_part(self.history, key, "queue-order", timeline, outcome),
            order=lambda: _in_history(self.history, timeline, queues.order(queued)),
            explain=lambda: explained(
                self.history, outcome, because=why, smallest=lambda: self._smallest(timeline, self._examine_queue)
            ),
        )

    def _examine_queue(
        self, calls: Sequence[Call | None], timeline: Sequence[int]
    ) -> tuple[int | None, str, queues.Queued] | None:
        return queues.examine(calls, timeline, ordered=type(self.model) is Queue)

    def _paired(self, timeline: Sequence[int]) -> tuple[int | None, str, queues.Queued] | None:
        """A queue in which elements repeat: only what is found legal counts."""
        told_apart = pairing.told_apart(self.calls, timeline) if type(self.model) is Queue else None
        found = None if told_apart is None else self._examine_queue(told_apart, timeline)
        return found if found is not None and found[0] is None else None

    def _chain(self, key: Value, timeline: Sequence[int]) -> _Result:
        failed, why, order = sets.examine(self.calls, timeline)
        outcome = Outcome(
            status="ok" if failed is None else "illegal", failed=failed, events_done=len(timeline), reason=why
        )
        return _Result(
            part=_part(self.history, key, "set-chain", timeline, outcome),
            order=lambda: _in_history(self.history, timeline, order),
            explain=lambda: explained(
                self.history, outcome, because=why, smallest=lambda: self._smallest(timeline, sets.examine)
            ),
        )

    def _smallest(
        self,
        timeline: Sequence[int],
        examine: Callable[[Sequence[Call | None], Sequence[int]], tuple[int | None, str, object] | None],
    ) -> tuple[list[int], Outcome]:
        def tried(part: Sequence[int]) -> Outcome:
            found = examine(self.calls, part)
            if found is None or found[0] is None:
                return Outcome(status="unknown")
            return Outcome(status="illegal", failed=found[0], reason=found[1])

        return _smallest(timeline, minimal.removable_calls(self.model, self.calls), tried)


def _small_budget() -> Budget:
    """For one try at shrinking: the clock that it may ask runs out after some askings."""
    asked = iter(range(_SHRINK_ASKS_MAX))
    return Budget(configurations_max=_SHRINK_MAX, expired=lambda: next(asked, None) is None)


def _smallest(
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


def _part(history: History, key: Value, algorithm: str, timeline: Sequence[int], outcome: Outcome) -> Part:
    reason, at = "", "" if key is None else f"key {show(key)}: "
    if outcome.status == "illegal" and outcome.failed is not None:
        reason = f"{at}no place for [{outcome.failed}] {history.operations[outcome.failed].describe()}"
    elif outcome.status == "unknown":
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
