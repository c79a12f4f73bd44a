"""Splits a history into independent parts and decides each with the cheapest algorithm that is sound for it."""

from collections.abc import Iterator, Sequence
from functools import partial
from heapq import merge
from typing import Final

from msgspec import structs

from troth.verify.history import History, Value, show
from troth.verify.linearizability import chains, minimal, register, repeats, witness
from troth.verify.linearizability.keys import Key, gather
from troth.verify.linearizability.objects import Objects
from troth.verify.linearizability.outcome import UNBOUNDED, Budget, Outcome
from troth.verify.linearizability.result import (
    COST,
    Instants,
    Result,
    explained,
    in_history,
    part_of,
    small_budget,
    smallest_part,
)
from troth.verify.models import Model, Register, SetObject
from troth.verify.verdict import Counterexample, Part, Status, Verdict, combine

_EXPLAIN_MAX: Final = 20_000
"""Configurations that explaining a contradiction may cost; a contradiction found without search is never in doubt."""
_SEARCHED_MAX: Final = 5_000
"""Events of which a contradiction is explained as a whole; of more, only what is left once it was made small."""


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
    results: list[Result] = []
    illegal: Result | None = None
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


def _decisions(history: History, model: Model, budget: Budget) -> Iterator[Result]:
    """Decide part after part, so that the caller may stop at the first illegal one."""
    operations, reading = history.operations, history.reading
    if not isinstance(model, Register) or type(model).step is not Register.step:
        objects = Objects(history, model, model.calls(history), budget)
        for key, timeline in _parts(history, model):
            result = objects.decide(key, timeline)
            if result.part.status is Status.ILLEGAL:
                result = _despite_unsaid(history, model, objects, timeline, result)
            yield result
        return
    gathered = gather(operations, reading, model.init())
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


def _despite_unsaid(
    history: History, model: Model, objects: Objects, timeline: Sequence[int], illegal: Result
) -> Result:
    """An illegal part in which something crashed that may have done anything: only what came before it is certain."""
    unsaid = {op.index for op in history.operations if model.unsaid(op)}
    at = next((place for place, code in enumerate(timeline) if code >> 1 in unsaid), None)
    if at is None:
        return illegal
    before = objects.decide(illegal.part.key, timeline[:at])
    if before.part.status is Status.ILLEGAL:
        return before
    op = history.operations[timeline[at] >> 1]
    reason = (
        f"there is no legal order without [{op.index}] {op.describe()}, and what that may have done is not known"
    )
    return structs.replace(before, part=structs.replace(illegal.part, status=Status.UNKNOWN, reason=reason))


def _merged(results: Sequence[Result]) -> list[int]:
    """One order of all parts: each part's own, merged by instant, which respects real time across parts."""
    return [index for _, index in merge(*(result.order() for result in results), key=lambda row: row[0])]


def _chained(history: History, model: Register, name: Value, key: Key, found: chains.Found) -> Result:
    size = len(key.reads) + len(key.written)
    at = "" if name is None or not found.conflict else f"key {show(name)}: "
    part = Part(
        key=name,
        status=Status.ILLEGAL if found.conflict else Status.OK,
        algorithm="chains",
        cost=COST["chains"],
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
            gathered = gather(operations, history.reading, model.init())
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

    return Result(part=part, order=lambda: chains.order(key, found), explain=explain)


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

    def decide(self, key: Value, timeline: Sequence[int]) -> Result:
        primitives, initial, history = self.primitives, self.initial, self.history
        outcome = register.search(primitives, timeline, initial=initial, budget=self.budget)

        def prefix() -> Instants:
            return witness.order(primitives, timeline[: outcome.events_done], initial, outcome.trail)

        def smallest() -> tuple[list[int], Outcome]:
            failing = timeline[: outcome.events_done + 1]
            known = minimal.cut(primitives, failing)

            def tried(part: Sequence[int]) -> Outcome:
                return register.search(known, part, initial=initial, budget=small_budget())

            return smallest_part(failing, lambda left: minimal.unseen(known, left), tried)

        return Result(
            part=part_of(history, key, "jit", timeline, outcome),
            order=lambda: in_history(
                history, timeline, witness.order(primitives, timeline, initial, outcome.trail)
            ),
            explain=lambda: explained(history, outcome, because=outcome.reason, prefix=prefix, smallest=smallest),
        )
