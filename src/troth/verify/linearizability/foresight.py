"""Queues and stacks searched with an eye on what is to come.

The plain search keeps every order of operations that overlapped until something tells which one it was, and for a
queue that may be hundreds of operations later. But the whole history is there, so a state can be refused at once when
what is dequeued later cannot follow from it:

* *Queue.* The p-th element enqueued is the p-th dequeued. A dequeue has a window of places among all dequeues (those
  that returned before it was invoked come before it, those invoked after it returned come after it), so an element
  may be enqueued in place p only if some dequeue of it has p in its window.
* *Stack.* An element is popped before all below it. So b may not be pushed onto a if a's pop returned before b's pop
  was invoked, or if b is never popped and a is.

Elements that nobody will ever take are all alike. With crashed dequeues, which may have taken anything or nothing, the
windows are wider by their number, and what is left over may stand wherever one of them may come.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from typing_extensions import override

from troth.errors import UsageError
from troth.verify.history import FOREVER, Value
from troth.verify.models import ILLEGAL, Call, Model, Queue, Stack

Intervals: TypeAlias = dict[Value, list[tuple[int, int]]]
"""value -> (invoked, returned) of the operations that took it."""


def foreseeing(model: Model, calls: Sequence[Call | None], timeline: Sequence[int]) -> Model:
    """A model that allows exactly the same orders of these calls, and refuses hopeless ones earlier."""
    if type(model) is not Queue and type(model) is not Stack:
        return model
    returned = {code >> 1: place for place, code in enumerate(timeline) if code & 1}
    put: Counter[Value] = Counter()
    taken: Intervals = {}
    crashed: list[int] = []
    for place, code in enumerate(timeline):
        call = None if code & 1 else calls[code >> 1]
        if call is None:
            continue
        if model.total(call):
            if call.argument is None:
                # Taken, it looks like "it was empty": then nothing can be foreseen.
                return model
            put[call.argument] += 1
        elif not call.known:
            crashed.append(place)
        elif call.result is not None:
            taken.setdefault(call.result, []).append((place, returned.get(code >> 1, FOREVER)))
    if type(model) is Queue:
        return _Line(put, taken, crashed)
    return _Pile(put, taken, crashed)


class _Line(Queue):
    """State: (how many were enqueued, the elements that will be dequeued, how many others are behind them)."""

    name: ClassVar[str] = "queue"

    def __init__(self, put: Counter[Value], taken: Intervals, crashed: list[int]) -> None:
        every = [interval for intervals in taken.values() for interval in intervals]
        starts, ends = sorted(start for start, _ in every), sorted(end for _, end in every)
        self._dequeues = len(every)
        self._left_over = {value for value, count in put.items() if count > len(taken.get(value, ()))}
        self._first_crashed = bisect_left(ends, min(crashed)) if crashed else self._dequeues
        self._allowed: list[set[Value]] = [set() for _ in range(sum(put.values()) + 1)]
        for value, intervals in taken.items():
            for start, end in intervals:
                first = bisect_left(ends, start)
                last = len(every) - 1 - (len(every) - bisect_right(starts, end)) + len(crashed)
                for place in range(first, min(last + 1, len(self._allowed))):
                    self._allowed[place].add(value)
        self._takes_all = self._dequeues + len(crashed)

    @override
    def init(self) -> Value:
        """Nothing yet."""
        return (0, (), 0)

    @override
    def step(self, state: Value, call: Call) -> Value:
        """As a queue's, with the element's place looked up."""
        count, content, others = _line(state)
        if super().total(call):
            value = call.argument
            if value not in self._allowed[count] and (
                value not in self._left_over or count < min(self._first_crashed, self._dequeues)
            ):
                return ILLEGAL
            if count >= self._takes_all:
                return (count + 1, content, others + 1)
            return (count + 1, (*content, value), others)
        if not content:
            return state if not call.known or (call.result is None and not others) else ILLEGAL
        if call.known and call.result != content[0]:
            return ILLEGAL
        return (count, content[1:], others)

    @override
    def total(self, call: Call) -> bool:
        """No longer: an element may come too early or too late."""
        return False

    @override
    def shown(self, state: Value) -> Value:
        """The elements, those that nobody takes as one remark."""
        _, content, others = _line(state)
        shown: tuple[Value, ...] = (*content, f"and {others} that nobody takes") if others else content
        return shown


def _line(state: Value) -> tuple[int, tuple[Value, ...], int]:
    match state:
        case (int(count), tuple(content), int(others)):
            return count, content, others
        case _:
            raise UsageError(f"the state of a queue is (count, elements, others), found {state!r}")


class _Pile(Stack):
    """State: the elements; those that nobody takes are all alike."""

    name: ClassVar[str] = "stack"

    def __init__(self, put: Counter[Value], taken: Intervals, crashed: list[int]) -> None:
        # A crashed pop may have taken any element that no other pop is sure to take.
        self._first_crashed = min(crashed, default=FOREVER)
        self._first_pop = {value: min(start for start, _ in rows) for value, rows in taken.items()}
        self._last_pop = {
            value: max(end for _, end in rows) for value, rows in taken.items() if len(rows) >= put[value]
        }

    @override
    def step(self, state: Value, call: Call) -> Value:
        """As a stack's, but nothing is put upon what must be popped first."""
        if not isinstance(state, tuple) or not super().total(call):
            return super().step(state, call)
        value: Value = call.argument
        last_pop = self._last_pop
        popped_from = self._first_pop.get(value, FOREVER)
        if value not in last_pop:
            popped_from = min(popped_from, self._first_crashed)
        for below in state:
            if last_pop.get(below, FOREVER) < popped_from:
                return ILLEGAL
        if popped_from == FOREVER:
            value = _NOBODYS
        return (*state, value)

    @override
    def total(self, call: Call) -> bool:
        """No longer: see `step`."""
        return False


class _Nobodys:
    """An element that nobody takes."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "(never popped)"


_NOBODYS = _Nobodys()
