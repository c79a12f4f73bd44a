"""Objects that are not made of registers: sets and queues by their orders, everything by its step."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from troth.verify.history import History, Value
from troth.verify.linearizability import bags, counters, generic, minimal, pairing, queues, sets, witness
from troth.verify.linearizability.foresight import foreseeing
from troth.verify.linearizability.outcome import Budget, Outcome
from troth.verify.linearizability.result import (
    Instants,
    Result,
    explained,
    in_history,
    part_of,
    small_budget,
    smallest_part,
)
from troth.verify.models import Call, Counter, Model, Queue, SetObject, UnorderedQueue

_UNPAIRED: Final = "however equal elements are told apart, some dequeue took what was not first"


class Objects:
    """Decides parts of any other object."""

    def __init__(self, history: History, model: Model, calls: Sequence[Call | None], budget: Budget) -> None:
        self.history, self.model, self.calls, self.budget = history, model, calls, budget

    def decide(self, key: Value, timeline: Sequence[int]) -> Result:
        if type(self.model) is SetObject and sets.applies(self.calls, timeline):
            return self._chain(key, timeline)
        if type(self.model) in (Queue, UnorderedQueue):
            found = self._examine_queue(self.calls, timeline)
            if found is None and type(self.model) is Queue:
                paired = pairing.told_apart(self.calls, timeline, self.budget)
                if paired.certain:
                    return self._unpaired(key, timeline)
                found = None if paired.calls is None else self._examine_queue(paired.calls, timeline)
                if found is not None and found[0] is not None:
                    # Only what is found legal counts.
                    found = None
            if found is not None:
                return self._queue(key, timeline, *found)
        if type(self.model) is Counter:
            wrong = counters.refuted(self.model, self.calls, timeline)
            if wrong is not None:
                return self._miscounted(key, timeline, self.model, *wrong)
        model = foreseeing(self.model, self.calls, timeline)
        outcome = generic.search(model, self.calls, timeline, budget=self.budget)

        def prefix() -> Instants:
            return witness.order_of_calls(model, self.calls, timeline[: outcome.events_done], outcome.trail)

        def tried(part: Sequence[int]) -> Outcome:
            return generic.search(
                foreseeing(self.model, self.calls, part), self.calls, part, budget=small_budget()
            )

        def smallest() -> tuple[list[int], Outcome]:
            failing = timeline[: outcome.events_done + 1]
            if model is not self.model:
                # It was refused for what comes later: the shortest beginning that is illegal with nothing behind it.
                ends = range(len(failing), len(timeline) + 1)
                at = bisect_left(ends, True, key=lambda end: tried(timeline[:end]).status == "illegal")
                failing = timeline[: ends[at]] if at < len(ends) else timeline
            return smallest_part(failing, minimal.removable_calls(self.model, self.calls), tried)

        return Result(
            part=part_of(self.history, key, "jit-model", timeline, outcome),
            order=lambda: in_history(
                self.history, timeline, witness.order_of_calls(model, self.calls, timeline, outcome.trail)
            ),
            explain=lambda: explained(self.history, outcome, prefix=prefix, smallest=smallest),
        )

    def _queue(
        self, key: Value, timeline: Sequence[int], failed: int | None, why: str, queued: queues.Queued
    ) -> Result:
        outcome = Outcome(
            status="ok" if failed is None else "illegal", failed=failed, events_done=len(timeline), reason=why
        )
        return Result(
            part=part_of(self.history, key, "queue-order", timeline, outcome),
            order=lambda: in_history(self.history, timeline, queues.order(queued)),
            explain=lambda: explained(
                self.history, outcome, because=why, smallest=lambda: self._smallest(timeline, self._examine_queue)
            ),
        )

    def _examine_queue(
        self, calls: Sequence[Call | None], timeline: Sequence[int]
    ) -> tuple[int | None, str, queues.Queued] | None:
        if type(self.model) is Queue:
            return queues.examine(calls, timeline)
        return queues.examine(calls, timeline, ordered=False) or bags.examine(calls, timeline)

    def _unpaired(self, key: Value, timeline: Sequence[int]) -> Result:
        """A queue in which elements repeat, and whose operations cannot be paired in any way."""
        outcome = Outcome(status="illegal", events_done=len(timeline), reason=_UNPAIRED)

        def none_fits(part: Sequence[int]) -> bool:
            return pairing.told_apart(self.calls, part, self.budget).certain

        def failing(part: Sequence[int]) -> Sequence[int]:
            """Up to the first return from which on nothing fits."""
            return part[: bisect_left(range(len(part)), True, key=lambda end: none_fits(part[:end]))]

        def tried(part: Sequence[int]) -> Outcome:
            if not none_fits(part):
                return Outcome(status="unknown")
            return Outcome(status="illegal", failed=failing(part)[-1] >> 1, reason=_UNPAIRED)

        def smallest() -> tuple[list[int], Outcome]:
            return smallest_part(failing(timeline), minimal.removable_calls(self.model, self.calls), tried)

        return Result(
            part=part_of(self.history, key, "queue-order", timeline, outcome),
            order=list,
            explain=lambda: explained(self.history, outcome, because=_UNPAIRED, smallest=smallest),
        )

    def _miscounted(self, key: Value, timeline: Sequence[int], counter: Counter, place: int, why: str) -> Result:
        """A counter of which a read is out of bounds."""
        failed = timeline[place] >> 1
        outcome = Outcome(status="illegal", failed=failed, events_done=place, reason=why)

        def tried(part: Sequence[int]) -> Outcome:
            found = counters.refuted(counter, self.calls, part)
            if found is None:
                return Outcome(status="unknown")
            return Outcome(status="illegal", failed=part[found[0]] >> 1, reason=found[1])

        def smallest() -> tuple[list[int], Outcome]:
            return smallest_part(timeline[: place + 1], minimal.removable_calls(counter, self.calls), tried)

        return Result(
            part=part_of(self.history, key, "counter-bounds", timeline, outcome),
            order=list,
            explain=lambda: explained(self.history, outcome, because=why, smallest=smallest),
        )

    def _chain(self, key: Value, timeline: Sequence[int]) -> Result:
        failed, why, order = sets.examine(self.calls, timeline)
        outcome = Outcome(
            status="ok" if failed is None else "illegal", failed=failed, events_done=len(timeline), reason=why
        )
        return Result(
            part=part_of(self.history, key, "set-chain", timeline, outcome),
            order=lambda: in_history(self.history, timeline, order),
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

        return smallest_part(timeline, minimal.removable_calls(self.model, self.calls), tried)
