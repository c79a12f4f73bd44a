"""Sets and counters."""

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from troth.errors import UsageError
from troth.verify.history import Reading, Value
from troth.verify.models.model import ILLEGAL, Call, Model, unknown


class SetObject(Model):
    """A set: add x, remove x, contains x -> bool, read -> all elements. Results of add and remove are not checked
    unless they are booleans (whether the set changed)."""

    name: ClassVar[str] = "set"
    personal: ClassVar[bool] = False

    @override
    def init(self) -> Value:
        """Empty."""
        return frozenset()

    @override
    def total(self, call: Call) -> bool:
        """Adds and removes that report nothing."""
        return call.f in ("add", "remove") and not (call.known and isinstance(call.result, bool))

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if not isinstance(state, frozenset):
            raise UsageError(f"the state of a set is a frozenset, found {state!r}")
        f, item = call.f, call.argument
        if f == "add" or f == "remove":
            changes = (item not in state) is (f == "add")
            if (
                call.known
                and isinstance(call.result, bool)
                and isinstance(item, bool) is False
                and call.result is not changes
            ):
                return ILLEGAL
            if not changes:
                return state
            return state | {item} if f == "add" else state - {item}
        if f == "contains":
            return state if not call.known or call.result is (item in state) else ILLEGAL
        if f == "read":
            return state if not call.known or _as_set(call.result) == state else ILLEGAL
        raise unknown(self, call)

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Looks; and all that concerns an element which no read shows."""
        shown: set[Value] = set()
        groups: dict[Value, list[int]] = {}
        for index, call in calls.items():
            if call.f == "read":
                seen = _as_set(call.result) if call.known else None
                shown |= seen if isinstance(seen, frozenset) else set()
            else:
                groups.setdefault(call.argument, []).append(index)
        together = [tuple(group) for element, group in groups.items() if element not in shown]
        return super().removable(calls) + together


def _as_set(value: Value) -> Value:
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, tuple | frozenset) else value


class Counter(Model):
    """A counter: add n (also increment, decrement; by 1 when no amount is given), read -> n.

    What an add reports is not checked: for some stores it is the sum, for others what was asked.
    """

    name: ClassVar[str] = "counter"
    personal: ClassVar[bool] = False

    def __init__(self, initial: int = 0) -> None:
        self.initial = initial

    @override
    def reading(self, reading: Reading) -> "Counter":
        """Starts at the reading's initial value, if that is a number."""
        initial = reading.initial
        return Counter(initial) if not self.initial and initial.__class__ is int else self

    @override
    def init(self) -> Value:
        """Zero unless said otherwise."""
        return self.initial

    @override
    def total(self, call: Call) -> bool:
        """Adds that report nothing."""
        return call.f in ("add", "increment", "inc", "decrement", "dec")

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if call.f == "read":
            return state if not call.known or call.result == state else ILLEGAL
        if not self.total(call):
            raise unknown(self, call)
        amount = 1 if call.argument is None else call.argument
        if not isinstance(amount, int) or not isinstance(state, int):
            raise UsageError(f"a counter adds integers, found {amount!r}")
        return state - amount if call.f.startswith("dec") else state + amount
