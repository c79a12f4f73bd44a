"""Queues, ordered or not, and stacks."""

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from troth.errors import UsageError
from troth.verify.history import History, Value
from troth.verify.models.model import ILLEGAL, Call, Model, Several, unknown

_TAKING = ("dequeue", "pop")


class Queue(Model):
    """First in, first out: enqueue x, dequeue -> x, or nil when it was empty."""

    name: ClassVar[str] = "queue"
    personal: ClassVar[bool] = False

    @override
    def init(self) -> Value:
        """Empty."""
        return ()

    @override
    def total(self, call: Call) -> bool:
        """Enqueues."""
        return call.f in ("enqueue", "push")

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if not isinstance(state, tuple):
            raise UsageError(f"the state of a {self.name} is a tuple, found {state!r}")
        if self.total(call):
            return (*state, call.argument)
        if call.f not in _TAKING:
            raise unknown(self, call)
        return self._take(state, call)

    @override
    def calls(self, history: History) -> list[Call | None]:
        """Without crashed enqueues of what nobody dequeued: had they happened, they would only be in the way."""
        calls = super().calls(history)
        for call in calls:  # here, since the checks without search take no steps
            if call is not None and call.f not in _TAKING and not self.total(call):
                raise unknown(self, call)
        taken = {call.result for call in calls if call is not None and call.known and not self.total(call)}
        return [
            None
            if call is not None and not call.known and self.total(call) and call.argument not in taken
            else call
            for call in calls
        ]

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Everything about one element, and dequeues that found nothing."""
        groups: dict[Value, list[int]] = {}
        found: list[tuple[int, ...]] = []
        # Where nil was enqueued, a dequeue of nil may have taken that.
        nothing = any(call.argument is None for call in calls.values() if self.total(call))
        for index, call in calls.items():
            if self.total(call):
                groups.setdefault(call.argument, []).append(index)
            elif call.known and (nothing or call.result is not None):
                groups.setdefault(call.result, []).append(index)
            elif call.known:
                found.append((index,))
        return found + [tuple(group) for group in groups.values()]

    def _take(self, state: tuple[Value, ...], call: Call) -> Value:
        if not state:
            return state if not call.known or call.result is None else ILLEGAL
        return state[1:] if not call.known or call.result == state[0] else ILLEGAL


class Stack(Queue):
    """Last in, first out: push x, pop -> x, or nil when it was empty."""

    name: ClassVar[str] = "stack"

    @override
    def _take(self, state: tuple[Value, ...], call: Call) -> Value:
        if not state:
            return state if not call.known or call.result is None else ILLEGAL
        return state[:-1] if not call.known or call.result == state[-1] else ILLEGAL


class UnorderedQueue(Queue):
    """A bag: enqueue x, dequeue -> any x that is in it, or nil when it was empty."""

    name: ClassVar[str] = "unordered-queue"

    @override
    def _take(self, state: tuple[Value, ...], call: Call) -> Value:
        ordered = tuple(sorted(state, key=repr))
        if not state:
            return state if not call.known or call.result is None else ILLEGAL
        if call.known:
            if call.result not in ordered:
                return ILLEGAL
            at = ordered.index(call.result)
            return ordered[:at] + ordered[at + 1 :]
        return Several(tuple(dict.fromkeys(ordered[:at] + ordered[at + 1 :] for at in range(len(ordered)))))

    @override
    def step(self, state: Value, call: Call) -> Value:
        """The state is kept sorted, so that bags with the same elements are the same state."""
        after = super().step(state, call)
        return tuple(sorted(after, key=repr)) if isinstance(after, tuple) else after
