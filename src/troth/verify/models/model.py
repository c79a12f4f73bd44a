"""What every object is: a step of a deterministic state machine; and how an operation of a history becomes a call."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

from msgspec import Struct
from typing_extensions import override

from troth.errors import UsageError
from troth.verify.history import EventType, History, Operation, Reading, Value


class _Illegal:
    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "ILLEGAL"


ILLEGAL: Final = _Illegal()
"""What `Model.step` returns when the call cannot have had this result in this state."""


class Several(Struct, frozen=True):
    """More than one state may follow; the checker tries them all."""

    states: tuple[Value, ...]


class Call(Struct, frozen=True, kw_only=True):
    """One operation as an object sees it. `result` means something only when `known`; a crashed call is not."""

    f: str
    argument: Value = None
    result: Value = None
    known: bool = True
    process: int | str = 0
    key: Value = None


class Model(ABC):
    """An object. Subclasses set `name` and define `init` and `step`."""

    name: ClassVar[str] = "object"
    keyed: ClassVar[bool] = True
    """Whether operations on different keys are independent."""
    personal: ClassVar[bool] = True
    """Whether it matters which process calls; if not, crashed calls of different processes are tried as one."""
    pure: ClassVar[frozenset[str]] = frozenset({"read", "get", "contains"})
    """Operations that never change the state: a crashed one says nothing and is left out."""

    @abstractmethod
    def init(self) -> Value:
        """The state before everything."""

    @abstractmethod
    def step(self, state: Value, call: Call) -> Value:
        """The next state, `Several` of them, or `ILLEGAL`."""

    def total(self, call: Call) -> bool:
        """Whether *call* is legal in every state."""
        return False

    def overwrites(self, call: Call) -> bool:
        """Whether the state after *call* is the same from every state (implies `total`)."""
        return False

    def reading(self, reading: Reading) -> "Model":
        """This model, adjusted to how the history is read (for example its initial value)."""
        return self

    def calls(self, history: History) -> list[Call | None]:
        """`call` of every operation. A model may leave out crashed calls here that could only do harm."""
        reading = history.reading
        return [self.call(op, reading) for op in history.operations]

    def unsaid(self, op: Operation) -> bool:
        """Whether *op*, which has no call, may have changed the state all the same. Then no verdict may rest on that it
        did not."""
        return False

    def shown(self, state: Value) -> Value:
        """A state as people should see it."""
        return state

    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Groups of *calls* of which any may be left out without making a legal order of them illegal.

        Serves to shrink counter-examples; by default those that never change the state.
        """
        return [(index,) for index, call in calls.items() if call.f in self.pure]

    def call(self, op: Operation, reading: Reading) -> Call | None:
        """What *op* says about the object; None when it says nothing."""
        outcome = op.outcome
        if outcome is EventType.OK:
            result: Value = True if op.f == "cas" and op.result is not False else op.result
            if result is None and reading.nil_read == "unknown" and op.f in self.pure:
                return None
            return Call(f=op.f, argument=op.argument, result=result, process=op.process, key=op.key)
        if outcome is EventType.INFO:
            if op.f in self.pure:
                return None
            return Call(f=op.f, argument=op.argument, known=False, process=op.process, key=op.key)
        if reading.failed == "observed" and op.f == "cas" and op.error is None:
            return Call(f=op.f, argument=op.argument, result=False, process=op.process, key=op.key)
        return None


def unknown(model: Model, call: Call) -> UsageError:
    return UsageError(f"a {model.name} has no operation {call.f!r}; is this history of another object?")


def pair_of(value: Value, what: str) -> tuple[Value, Value]:
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[1]
    raise UsageError(f"{what} takes [from, to], found {value!r}")
