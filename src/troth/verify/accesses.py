"""Reads and writes of a history, and which write every read saw: the common ground of the weak models.

The models below linearizability speak of *which write a read returned*. With every value written once to its key
that is plain; a value that was written twice leaves it open. Reads of such values are left out here: fewer reads can
only hide a violation, never invent one, so "illegal" stays certain and "ok" turns into "unknown"
(`Accesses.doubtful`).

A cas that succeeded is a read of its old value and then a write of its new one. A crashed write that nobody read never
happened; one that was read may have happened after what its process did next, should it have gone on all the same: then
it is a session of its own, which again can only hide a violation (`Accesses.detached`).
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct, structs

from troth.errors import UsageError
from troth.verify.history import EventType, History, Operation, Process, Value, counted, show
from troth.verify.models import Model, Register
from troth.verify.verdict import Counterexample, Status, Verdict

_READS: Final = frozenset({"read", "get"})
_WRITES: Final = frozenset({"write", "put", "set"})


class Access(Struct, frozen=True):
    """One read or write. `write` numbers the write that it is, or that it saw; -1 is the initial value."""

    is_write: bool
    key: Value
    write: int
    op: int


class Accesses(Struct, frozen=True, kw_only=True):
    """A history as reads and writes.

    sessions: each process's accesses in its own order.
    writes: (session number, operation index, key, value) by write number.
    thin_air: an operation that read what nobody wrote, and the value.
    doubtful: reads left out because their value was written more than once.
    detached: crashed writes that are in no order with their process, since it went on.
    """

    sessions: tuple[tuple[Access, ...], ...]
    processes: tuple[Process, ...]
    writes: tuple[tuple[int, int, Value, Value], ...]
    thin_air: tuple[int, Value] | None
    doubtful: int
    detached: int = 0


def starting_as(history: History, object: Model) -> History:
    """*history*, read as starting with the value that *object* starts with, should that be a register."""
    initial = object.reading(history.reading).init() if isinstance(object, Register) else history.reading.initial
    if initial == history.reading.initial:
        return history
    return history.with_reading(structs.replace(history.reading, initial=initial))


def accesses_of(history: History, model: str) -> Accesses:
    """Take a history apart.

    Raises:
        UsageError: it has other operations than reads, writes and cas.
    """
    ok, info = EventType.OK, EventType.INFO
    initial, nil_unknown = history.reading.initial, history.reading.nil_read == "unknown"
    written: dict[tuple[Value, Value], list[int]] = {}
    writes: list[tuple[int, int, Value, Value]] = []
    number_of: dict[Process, int] = {}
    write_of: dict[int, int] = {}
    seen_of: dict[int, Value] = {}
    last_of: dict[Process, int] = {}
    for op in history.operations:
        last_of[op.process] = op.index
        if op.outcome is ok and (op.f in _READS or (op.f == "cas" and op.result is not False)):
            seen_of[op.index] = op.result if op.f in _READS else _from(op)
    read = {(history.operations[index].key, seen) for index, seen in seen_of.items()}
    detached = 0
    for op in history.operations:
        session = number_of.setdefault(op.process, len(number_of))
        value: Value
        if op.f in _WRITES:
            value = op.argument
        elif op.f == "cas":
            value = _to(op)
        elif op.f in _READS:
            continue
        else:
            raise UsageError(f"{model} is about reads and writes; this history has {op.f!r}")
        if op.outcome not in (ok, info) or (op.f == "cas" and op.result is False):
            continue
        if op.outcome is info:
            if (op.key, value) not in read:
                continue
            if last_of[op.process] != op.index:
                detached += 1
                session = number_of[f"{op.process}, operation {op.index}"] = len(number_of)
        write_of[op.index] = len(writes)
        written.setdefault((op.key, value), []).append(len(writes))
        writes.append((session, op.index, op.key, value))
    sessions: list[list[Access]] = [[] for _ in number_of]
    thin_air: tuple[int, Value] | None = None
    doubtful = 0
    for op in history.operations:
        accesses = sessions[number_of[op.process]]
        if op.index in seen_of:
            seen = seen_of[op.index]
            candidates = written.get((op.key, seen), [])
            if op.f in _READS and seen is None and nil_unknown:
                pass
            elif len(candidates) + (seen == initial) > 1:
                doubtful += 1
            elif candidates:
                accesses.append(Access(False, op.key, candidates[0], op.index))
            elif seen == initial:
                accesses.append(Access(False, op.key, -1, op.index))
            elif thin_air is None:
                thin_air = (op.index, seen)
        if op.index in write_of:
            write = write_of[op.index]
            sessions[writes[write][0]].append(Access(True, op.key, write, op.index))
    return Accesses(
        sessions=tuple(tuple(session) for session in sessions),
        processes=tuple(number_of),
        writes=tuple(writes),
        thin_air=thin_air,
        doubtful=doubtful,
        detached=detached,
    )


def _pair(op: Operation) -> tuple[Value, Value]:
    if isinstance(op.argument, tuple) and len(op.argument) == 2:
        return op.argument[0], op.argument[1]
    raise UsageError(f"cas takes [from, to], found {op.argument!r}")


def _from(op: Operation) -> Value:
    return _pair(op)[0]


def _to(op: Operation) -> Value:
    return _pair(op)[1]


class Violation(Struct, frozen=True, kw_only=True):
    """What is wrong, in the terms of the history."""

    anomaly: str
    operation: int
    reason: str
    involved: tuple[int, ...] = ()
    cycle: tuple[str, ...] = ()


def verdict_of(
    history: History, model: str, accesses: Accesses, violations: Sequence[Violation], *, gave_up: str = ""
) -> Verdict:
    """The verdict on reads and writes: thin air first, then the violations, then doubt."""
    found = list(violations)
    if accesses.thin_air is not None:
        index, value = accesses.thin_air
        found.insert(
            0,
            Violation(
                anomaly="thin-air-read",
                operation=index,
                reason=f"it returned {show(value)}, which nobody wrote",
                involved=(index,),
            ),
        )
    if found:
        first = found[0]
        return Verdict(
            Status.ILLEGAL,
            history=history,
            model=model,
            object="register",
            reason=f"{first.anomaly}: [{first.operation}] {first.reason}",
            counterexample=Counterexample(
                operation=first.operation,
                reason=first.reason,
                involved=tuple(dict.fromkeys(first.involved)),
                cycle=first.cycle,
            ),
            anomalies=tuple(dict.fromkeys(violation.anomaly for violation in found)),
        )
    if gave_up:
        return Verdict(Status.UNKNOWN, history=history, model=model, object="register", reason=gave_up)
    if accesses.doubtful:
        reason = (
            f"{counted(accesses.doubtful, 'read')} returned what was written more than once; the rest is in order"
        )
        return Verdict(Status.UNKNOWN, history=history, model=model, object="register", reason=reason)
    if accesses.detached:
        writes = counted(accesses.detached, "write")
        reason = f"{writes} crashed and seen all the same, by a process that went on; the rest is in order"
        return Verdict(Status.UNKNOWN, history=history, model=model, object="register", reason=reason)
    return Verdict(Status.OK, history=history, model=model, object="register")
