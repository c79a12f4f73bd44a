"""Histories: what clients asked for, what they were told, and in which order.

A history is a list of *events*. A client (a *process*) invokes an operation, and later at most one completion
follows:

======  ==================================================================================================
invoke  the request was sent
ok      it succeeded; the value of the event is what the client was told
fail    it has not happened and never will (a definite refusal), unless the history is read otherwise (`Reading`)
info    nobody knows: it may have happened, may happen later, or never. The process is not used again.
======  ==================================================================================================

The order of events is the order of the list. Times, where known, are nanoseconds and serve the checks that speak of
time (staleness, leases) and the pictures; they never reorder events.

Our own file format, JSON lines (UTF-8, one object a line, blank lines ignored)::

    {"troth_history": 1, "failed": "absent", "nil_read": "value"}          header, optional
    {"process": 0, "type": "invoke", "f": "put", "key": "x", "value": "1", "time": 1200}
    {"process": 0, "type": "ok", "f": "put", "key": "x", "value": "1", "time": 3400}
    {"process": "nemesis", "type": "info", "f": "partition", "value": ["n1", "n2"], "time": 3500}

========  ===========================================================================================
process   integer or string; a string that begins with "nemesis", or a string or number below 0 that only ever
          emits info, marks a fault
type      "invoke", "ok", "fail" or "info"
f         name of the operation, as its object calls it (read, write, cas, get, put, append, add, ...)
key       the object acted upon, left out when there is one only
value     argument at invoke, result at ok: ``[from, to]`` for cas, ``[["r", k, v], ...]`` for txn (and, should its
          answer be lost, what it may have done: `branches.py`)
time      nanoseconds from any origin, optional
error     text, optional, on fail and info
revision  at ok, what the store calls the state that an update made; optional (`watches.py`)
level     at invoke, what a read asked for where that is less than linearizable; optional
========  ===========================================================================================

JSON arrays become tuples, so that every value can be hashed and compared.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, Literal, TypeAlias

from msgspec import Struct, structs
from typing_extensions import override

from troth.errors import UsageError

Value: TypeAlias = object
"""Anything hashable: None, bool, int, float, str, bytes, tuple, frozenset."""

Process: TypeAlias = int | str

FOREVER: Final = 1 << 62
"""The position of a return that never came."""


class EventType(Enum):
    """What an event says about its operation."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Event(Struct, frozen=True, kw_only=True):
    """One line of a history. `line` is where it was read from (1-based), 0 when it was not read from text."""

    type: EventType
    process: Process
    f: str
    value: Value = None
    key: Value = None
    time: int | None = None
    error: str | None = None
    line: int = 0
    revision: int | None = None
    level: str | None = None


class Operation(Struct, frozen=True, kw_only=True, gc=False):
    """An invocation and what became of it.

    `invoked` and `completed` are positions in the history's order of events; `completed` is FOREVER when no
    completion was recorded. `outcome` is OK, FAIL or INFO (INFO also when there was no completion at all).
    `result` means something only when the outcome is OK (or FAIL, where it is what the refusal reported).
    """

    index: int
    process: Process
    f: str
    key: Value
    argument: Value
    result: Value
    outcome: EventType
    invoked: int
    completed: int
    start_ns: int | None = None
    end_ns: int | None = None
    error: str | None = None
    line: int = 0
    revision: int | None = None
    level: str | None = None
    """What a read asked for, where that is less than linearizable."""

    @property
    def returned(self) -> int:
        """Position after which the operation can no longer take effect; FOREVER when its outcome is unknown."""
        return FOREVER if self.outcome is EventType.INFO else self.completed

    def describe(self) -> str:
        """One line for people, for example ``process 3: cas [1, 2] -> failed``."""
        key = "" if self.key is None else f" {show(self.key)}"
        argument = "" if self.argument is None else f" {show(self.argument)}"
        if self.outcome is EventType.OK:
            same = self.result == self.argument and self.result is not None
            outcome = "ok" if same else show(self.result)
        else:
            outcome = "failed" if self.outcome is EventType.FAIL else "?"
        return f"process {self.process}: {self.f}{key}{argument} -> {outcome}"


def show(value: Value) -> str:
    """A value as people write it: nil, true, [1, 2], "text". What ends a line or moves a cursor is written out."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, frozenset) and value.__class__ is not frozenset:
        # A map that can be hashed: `formats.edn.Record`.
        items = [item for item in value if isinstance(item, tuple)]
        return "{" + ", ".join(sorted(f"{show(item[0])}: {show(item[1])}" for item in items)) + "}"
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(show(item) for item in value)) + "}"
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:28] + "..." + value[-28:]
        if not text.isprintable():
            text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
        return f'"{text}"'
    return repr(value)


def counted(number: int, name: str) -> str:
    """So many of what *name* calls one of: 1 operation, 2 operations."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


class Fault(Struct, frozen=True, kw_only=True):
    """Something done to the system under test, or said about it, at one position of the history."""

    position: int
    process: Process
    f: str
    value: Value
    time: int | None = None


FailedReading: TypeAlias = Literal["absent", "observed"]
NilReading: TypeAlias = Literal["value", "unknown"]


class Reading(Struct, frozen=True, kw_only=True):
    """How the ambiguous lines of a history are understood. Part of every verdict, since it can decide one.

    failed: "absent": a failed operation never happened (Jepsen, Knossos, troth). "observed": a failed cas saw
        another value than it expected and must be placed in the order (Porcupine's etcd logs); other failed
        operations are absent all the same.
    nil_read: "value": a read that returned nil saw the initial value. "unknown": what it saw was not recorded, so
        it is legal anywhere (Knossos).
    initial: the value of an object before its first write.
    """

    failed: FailedReading = "absent"
    nil_read: NilReading = "value"
    initial: Value = None

    def sentence(self) -> str:
        """The reading in words."""
        failed = (
            "a failed cas is an observation and has a place in the order"
            if self.failed == "observed"
            else "a failed operation never happened"
        )
        nil = "a read of nil saw the initial value" if self.nil_read == "value" else "a read of nil is unknown"
        return f"{failed}; {nil}; objects start as {show(self.initial)}"


class History:
    """Operations in the order of their invocation, plus the order of all events.

    `timeline` holds one integer an event of a client: ``2 * index`` for the invocation of operation `index` and
    ``2 * index + 1`` for its ok or fail. Info events are not in it: an operation with an unknown outcome stays open.
    """

    __slots__ = ("faults", "format", "length", "operations", "pieces", "reading", "remarks", "timeline")

    def __init__(
        self,
        operations: Sequence[Operation],
        *,
        timeline: list[int],
        faults: Sequence[Fault] = (),
        reading: Reading | None = None,
        format: str = "events",
        length: int | None = None,
    ) -> None:
        self.operations = operations
        self.timeline = timeline
        self.faults = tuple(faults)
        self.reading = Reading() if reading is None else reading
        self.format = format
        self.remarks: tuple[str, ...] = ()
        """What a reader of the file should know, such as lines that were passed over."""
        self.pieces: dict[Process, Process] = {}
        """Operations that were taken apart: the process that each piece was given, and the one that it is of."""
        self.length = len(timeline) if length is None else length

    def __len__(self) -> int:
        return len(self.operations)

    @override
    def __repr__(self) -> str:
        return f"History({counted(len(self.operations), 'operation')}, format {self.format!r})"

    def all_keys(self) -> tuple[Value, ...]:
        """The keys that occur, in order of first use."""
        return tuple(dict.fromkeys(op.key for op in self.operations))

    def with_reading(self, reading: Reading) -> "History":
        """The same events, understood differently."""
        history = History(
            self.operations,
            timeline=self.timeline,
            faults=self.faults,
            reading=reading,
            format=self.format,
            length=self.length,
        )
        history.remarks, history.pieces = self.remarks, self.pieces
        return history

    def in_sessions(self) -> "History":
        """The history in which the pieces of every operation come one after the other in the process that they are of.

        Operations keep their indexes. What overlapped may no longer do so: only the order within each process is told.
        """
        pieces = self.pieces
        operations = [
            structs.replace(
                op,
                process=pieces.get(op.process, op.process),
                invoked=2 * op.invoked,
                completed=2 * op.invoked + 1 if op.process in pieces else min(2 * op.completed, FOREVER),
            )
            for op in self.operations
        ]
        return History.of(operations, reading=self.reading, format=self.format)

    def where(self, keep: Iterable[int]) -> "History":
        """The history of the operations whose indexes are in *keep*; positions are kept, indexes are dealt anew."""
        chosen = sorted(set(keep))
        renamed = {old: new for new, old in enumerate(chosen)}
        operations = [structs.replace(self.operations[old], index=new) for old, new in renamed.items()]
        timeline = [2 * renamed[code >> 1] + (code & 1) for code in self.timeline if code >> 1 in renamed]
        return History(
            operations,
            timeline=timeline,
            faults=self.faults,
            reading=self.reading,
            format=self.format,
            length=self.length,
        )

    def events(self) -> Iterator[Event]:
        """All events, faults included, in order. The inverse of `pair`, up to line numbers."""
        slots: list[tuple[int, Event]] = []
        for op in self.operations:
            invoke = Event(
                type=EventType.INVOKE,
                process=op.process,
                f=op.f,
                key=op.key,
                value=op.argument,
                time=op.start_ns,
                level=op.level,
            )
            slots.append((op.invoked, invoke))
            if op.completed != FOREVER:
                done = Event(
                    type=op.outcome,
                    process=op.process,
                    f=op.f,
                    key=op.key,
                    value=op.result,
                    time=op.end_ns,
                    error=op.error,
                    revision=op.revision,
                )
                slots.append((op.completed, done))
        for fault in self.faults:
            event = Event(
                type=EventType.INFO, process=fault.process, f=fault.f, value=fault.value, time=fault.time
            )
            slots.append((fault.position, event))
        slots.sort(key=lambda slot: slot[0])
        return (event for _, event in slots)

    @staticmethod
    def of(
        operations: Iterable[Operation],
        *,
        faults: Sequence[Fault] = (),
        reading: Reading | None = None,
        format: str = "events",
    ) -> "History":
        """Build a history from operations that carry their own positions (or times); positions are dealt anew.

        Raises:
            UsageError: two operations of one process overlap, or one completes before it is invoked.
        """
        ordered = sorted(operations, key=lambda op: op.invoked)
        # On a tie the invocation comes first: touching intervals count as concurrent, which never forges a violation.
        marks = [(fault.position, -1, number) for number, fault in enumerate(faults)]
        last: dict[Process, Operation] = {}
        for index, op in enumerate(ordered):
            before = last.get(op.process)
            if before is not None and before.completed > op.invoked:
                raise UsageError(
                    f"process {op.process} invokes {op.f} at {op.invoked} while its {before.f} is open"
                )
            if op.completed < op.invoked:
                raise UsageError(
                    f"{op.f} of process {op.process} completes at {op.completed}, before {op.invoked}"
                )
            last[op.process] = op
            marks.append((op.invoked, 0, index))
            if op.completed != FOREVER:
                marks.append((op.completed, 1, index))
        marks.sort()
        invoked = [0] * len(ordered)
        completed = [FOREVER] * len(ordered)
        timeline: list[int] = []
        moved: list[Fault] = []
        for position, (_, is_end, index) in enumerate(marks):
            if is_end < 0:
                moved.append(structs.replace(faults[index], position=position))
                continue
            (completed if is_end else invoked)[index] = position
            if not is_end or ordered[index].outcome is not EventType.INFO:
                timeline.append(2 * index + is_end)
        placed = [
            structs.replace(op, index=index, invoked=invoked[index], completed=completed[index])
            for index, op in enumerate(ordered)
        ]
        return History(placed, timeline=timeline, faults=moved, reading=reading, format=format, length=len(marks))
