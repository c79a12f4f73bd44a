"""What a check says: ok, illegal or unknown, why, and how it was found out.

Three answers, as in Porcupine. *illegal* carries a `Counterexample` that can be checked by hand; *ok* carries a
witness; *unknown* says how far the check got before its time or memory ran out. A verdict is never a guess.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct
from typing_extensions import override

from troth.verify.history import FOREVER, History, Operation, Reading, Value, counted, show

_CONFIGURATIONS_SHOWN: Final = 8


class Status(Enum):
    """The three answers."""

    OK = "ok"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"


class ConfigurationView(Struct, frozen=True, kw_only=True):
    """One way things could have gone when the search got stuck.

    state: of the object. placed: operations still open that have their place already. waiting: those that have none.
    """

    state: Value
    placed: tuple[int, ...]
    waiting: tuple[int, ...]


class Counterexample(Struct, frozen=True, kw_only=True):
    """Why a history is illegal.

    operation: index of the operation that cannot be placed, None when it is not about one operation.
    reason: one sentence.
    configurations: everything that was possible when it returned; in none of them it fits.
    prefix: the longest legal order of what came before, as operation indexes.
    involved: indexes of the operations that together make the contradiction, in order of invocation or, where
        `cycle` is set, in the order of the cycle.
    minimal: the smallest part found that is illegal by itself and thereby proves the whole illegal, by index; empty
        when nothing smaller was looked for.
    cycle: one sentence an edge, when the contradiction is a cycle.
    """

    operation: int | None
    reason: str
    configurations: tuple[ConfigurationView, ...] = ()
    prefix: tuple[int, ...] = ()
    involved: tuple[int, ...] = ()
    minimal: tuple[int, ...] = ()
    cycle: tuple[str, ...] = ()


class Part(Struct, frozen=True, kw_only=True):
    """The verdict on one independent part, usually one key.

    algorithm: what decided it ("jit", "zones", ...); cost: its complexity in words.
    steps: placements tried.
    events_done, events: how far it got.
    """

    key: Value
    status: Status
    algorithm: str
    cost: str
    steps: int = 0
    events_done: int = 0
    events: int = 0
    reason: str = ""


class Verdict:
    """The answer of `check`. True in a boolean context exactly when it is ok.

    Attributes:
        status: ok, illegal or unknown.
        model: the consistency model that was asked for.
        object: the name of the object.
        reading: how ambiguous lines were understood; another reading may give another verdict.
        reason: one sentence.
        parts: the independent parts that were looked at. Checking stops at the first illegal one.
        counterexample: set when illegal.
        anomalies: names of what was violated, for models that are made of several promises.
    """

    __slots__ = (
        "_counterexample", "_witness", "anomalies", "history", "model", "object", "parts", "reading", "reason",
        "status",
    )  # fmt: skip

    def __init__(
        self,
        status: Status,
        *,
        history: History,
        model: str,
        object: str,
        reason: str = "",
        parts: Sequence[Part] = (),
        counterexample: Counterexample | Callable[[], Counterexample] | None = None,
        witness: Callable[[], Sequence[int]] | None = None,
        anomalies: Sequence[str] = (),
    ) -> None:
        self.status = status
        self.history = history
        self.model = model
        self.object = object
        self.reading: Reading = history.reading
        self.reason = reason
        self.parts = tuple(parts)
        self.anomalies = tuple(anomalies)
        self._counterexample = counterexample
        self._witness = witness

    def __bool__(self) -> bool:
        return self.status is Status.OK

    @override
    def __repr__(self) -> str:
        size = counted(len(self.history), "operation")
        return f"Verdict({self.status.value}, {self.model} {self.object}, {size}: {self.reason})"

    @property
    def counterexample(self) -> Counterexample | None:
        """Why it is illegal; worked out when first asked for."""
        if callable(self._counterexample):
            self._counterexample = self._counterexample()
        return self._counterexample

    @property
    def witness(self) -> tuple[int, ...] | None:
        """A legal order of the operations, as indexes, when ok and the model is one about a single order.

        Operations that say nothing (failed ones, crashed ones that need not have happened) are left out.
        """
        return None if self._witness is None else tuple(self._witness())

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What decided, each once."""
        return tuple(dict.fromkeys(part.algorithm for part in self.parts))

    def operation(self, index: int) -> Operation:
        """The operation of that index."""
        return self.history.operations[index]

    def text(self, *, lines_max: int = 20) -> str:
        """The verdict for a terminal or a CI log, at most *lines_max* lines."""
        head = f"{self.status.value.upper()}: {counted(len(self.history), 'operation')}"
        if len(self.parts) > 1:
            head += f" in {len(self.parts)} parts"
        head += f", {self.model}, object {self.object}"
        rows = [head]
        if self.reason:
            rows.append(f"  {self.reason}")
        rows.append(f"  read as: {self.reading.sentence()}")
        if self.parts:
            costs = dict.fromkeys(f"{part.algorithm} ({part.cost})" for part in self.parts)
            rows.append(f"  decided by: {', '.join(costs)}")
        if self.anomalies:
            rows.append(f"  violated: {', '.join(self.anomalies)}")
        found = self.counterexample
        if found is not None:
            if found.operation is not None:
                rows.append(
                    f"  cannot be placed: [{found.operation}] {self.operation(found.operation).describe()}"
                )
            if found.reason and not found.configurations and found.reason not in self.reason:
                rows.append(f"    {found.reason}")
            rows.extend(f"    {step}" for step in found.cycle)
            for view in found.configurations[:_CONFIGURATIONS_SHOWN]:
                waiting = ", ".join(f"[{index}] {self.operation(index).f}" for index in view.waiting[:6])
                rows.append(f"    state {show(view.state)}" + (f"; not placed yet: {waiting}" if waiting else ""))
            hidden = len(found.configurations) - _CONFIGURATIONS_SHOWN
            if hidden > 0:
                rows.append(f"    and {counted(hidden, 'more state')}")
            if found.minimal:
                size = counted(len(self.history), "operation")
                rows.append(f"  the smallest illegal part, {len(found.minimal)} of {size}, time to the right:")
                rows.extend(f"    {line}" for line in drawn([self.operation(at) for at in found.minimal]))
            elif not found.cycle and found.involved:
                about = sorted({*found.involved, *(() if found.operation is None else (found.operation,))})
                rows.append("  what it is about, time to the right:")
                rows.extend(f"    {line}" for line in drawn([self.operation(index) for index in about]))
        if len(rows) > lines_max:
            left = len(rows) - lines_max + 1
            rows[lines_max - 1 :] = [f"  ({left} more lines in the HTML page)"]
        return "\n".join(rows) + "\n"


def drawn(operations: Sequence[Operation]) -> list[str]:
    """A line an operation: when it was open, beside the others (``|==|``; ``|==>``: it never returned), and what it
    said. Places are dealt anew, so that a few operations of a long history still fit a terminal."""
    ends = {op.invoked for op in operations} | {op.returned for op in operations}
    at = {place: column for column, place in enumerate(sorted(ends))}
    step = 2 if len(at) <= 24 else 1
    if len(at) > 48:
        return [f"[{op.index}] {op.describe()}" for op in operations]
    width = step * (len(at) - 1) + 1
    label = max((len(str(op.index)) for op in operations), default=1)
    rows = []
    for op in sorted(operations, key=lambda op: op.invoked):
        start, end = step * at[op.invoked], step * at[op.returned]
        bar = "|" + "=" * (end - start - 1) + (">" if op.returned == FOREVER else "|")
        shown = bar if end > start else "|"
        rows.append(f"[{op.index:>{label}}] {' ' * start}{shown:{width - start}}  {op.describe()}")
    return rows


def combine(statuses: Sequence[Status]) -> Status:
    """Illegal if anything is illegal, else unknown if anything is unknown, else ok."""
    if Status.ILLEGAL in statuses:
        return Status.ILLEGAL
    return Status.UNKNOWN if Status.UNKNOWN in statuses else Status.OK
