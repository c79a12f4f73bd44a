"""Lock safety: one holder at a time, tokens that grow, and stale holders fenced off.

Operations: ``acquire`` (result: a fencing token, or ``[token, lease_ns]``, or nothing; false: it was not granted),
``release``, and ``write`` with a value ``[token, ...]`` on the resource that the lock protects. The lock is the
operation's key, the holder the process.

================  =====================================================================================
mutual-exclusion  between two processes' certain holds there is no overlap. A hold is certain from the return
                  of acquire to the invocation of release, or until its lease runs out, counted from the
                  *invocation* of acquire (all that a careful client may rely on); without release or lease,
                  to the end of the history. A lease in a history without times is never certain
token-order       a later acquisition (invoked after another returned) gets a larger token; none is given twice
stale-write       no write with a smaller token is accepted after one with a larger token has been
================  =====================================================================================

Sources: Gray & Cheriton, "Leases", SOSP 1989; Burrows, "The Chubby lock service", OSDI 2006, section 2.4
(sequencers).
"""

from collections.abc import Iterable

from msgspec import Struct

from troth.verify.history import FOREVER, EventType, History, Operation, Process, Value, show
from troth.verify.verdict import Counterexample, Part, Status, Verdict, combine


class _Hold(Struct, frozen=True):
    """From when to when a process certainly held the lock, in events and (if leased) in time."""

    acquire: Operation
    start: int
    end: int
    end_ns: int | float | None


def check_lock(history: History) -> Verdict:
    """Check every lock of the history."""
    locks: dict[Value, list[Operation]] = {}
    for op in history.operations:
        if op.f in ("acquire", "release", "write"):
            locks.setdefault(op.key, []).append(op)
    parts: list[Part] = []
    first: Counterexample | None = None
    anomalies: list[str] = []
    for key, operations in locks.items():
        anomaly, example = "", None
        for name, found in (
            ("mutual-exclusion", _exclusion(operations)),
            ("token-order", _tokens(operations)),
            ("stale-write", _fencing(operations)),
        ):
            if found is not None:
                anomalies.append(name)
                if example is None:
                    anomaly, example = name, found
        first = first or example
        parts.append(
            Part(
                key=key,
                status=Status.OK if example is None else Status.ILLEGAL,
                algorithm="sweep",
                cost="O(n log n)",
                events_done=len(operations),
                events=len(operations),
                reason="" if example is None else f"lock {show(key)}: {anomaly}: {example.reason}",
            )
        )
    return Verdict(
        combine([part.status for part in parts]),
        history=history,
        model="lock-safety",
        object="lock",
        reason=next((part.reason for part in parts if part.reason), ""),
        parts=parts,
        counterexample=first,
        anomalies=tuple(dict.fromkeys(anomalies)),
    )


def _acquired(operations: Iterable[Operation]) -> list[Operation]:
    return [op for op in operations if _is_grant(op)]


def _is_grant(op: Operation) -> bool:
    return op.f == "acquire" and op.outcome is EventType.OK and op.result is not False


def _token(op: Operation) -> int | None:
    value = op.result[0] if isinstance(op.result, tuple) and op.result else op.result
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _lease(op: Operation) -> int | float | None:
    lease = op.result[1] if isinstance(op.result, tuple) and len(op.result) == 2 else None
    return lease if isinstance(lease, int | float) else None


def _exclusion(operations: list[Operation]) -> Counterexample | None:
    holds: list[_Hold] = []
    released: dict[Process, int] = {}
    for op in reversed(operations):
        if op.f == "release" and op.outcome is not EventType.FAIL:
            released[op.process] = op.invoked
        if not _is_grant(op):
            continue
        lease = _lease(op)
        if lease is None:
            holds.append(_Hold(op, op.completed, released.get(op.process, FOREVER), None))
        elif op.start_ns is not None:
            holds.append(_Hold(op, op.completed, released.get(op.process, FOREVER), op.start_ns + lease))
        # A lease of which nobody knows when it began is never certain.
    holds.sort(key=lambda hold: hold.start)
    running: list[_Hold] = []
    for hold in holds:
        now = hold.acquire.end_ns
        running = [
            other
            for other in running
            if other.end > hold.start
            and not (other.end_ns is not None and now is not None and other.end_ns <= now)
        ]
        own = hold.end_ns is not None and now is not None and hold.end_ns <= now
        for other in running:
            if now is None and (other.end_ns is not None or hold.end_ns is not None):
                continue
            if other.acquire.process != hold.acquire.process and not own:
                reason = f"process {other.acquire.process} still held the lock when it was granted again"
                return Counterexample(
                    operation=hold.acquire.index,
                    reason=reason,
                    involved=(other.acquire.index, hold.acquire.index),
                )
        running.append(hold)
    return None


def _tokens(operations: list[Operation]) -> Counterexample | None:
    acquired = [(op, token) for op in _acquired(operations) if (token := _token(op)) is not None]
    given: dict[int, Operation] = {}
    for op, token in acquired:
        before = given.setdefault(token, op)
        if before is not op:
            return _about(op, before, f"token {token} had been given before")
    # Largest token among acquisitions that had returned, swept by invocation.
    by_return = sorted(acquired, key=lambda row: row[0].completed)
    at, largest = 0, None
    for op, token in acquired:
        while at < len(by_return) and by_return[at][0].completed < op.invoked:
            if largest is None or by_return[at][1] > largest[1]:
                largest = by_return[at]
            at += 1
        if largest is not None and token < largest[1]:
            return _about(op, largest[0], f"token {token} came after token {largest[1]}")
    return None


def _fencing(operations: list[Operation]) -> Counterexample | None:
    writes = [
        (op, op.argument[0])
        for op in operations
        if op.f == "write"
        and op.outcome is EventType.OK
        and isinstance(op.argument, tuple)
        and op.argument
        and isinstance(op.argument[0], int)
    ]
    by_return = sorted(writes, key=lambda row: row[0].completed)
    at, largest = 0, None
    for op, token in writes:
        while at < len(by_return) and by_return[at][0].completed < op.invoked:
            if largest is None or by_return[at][1] > largest[1]:
                largest = by_return[at]
            at += 1
        if largest is not None and token < largest[1]:
            return _about(op, largest[0], f"a write with token {token} was accepted after one with {largest[1]}")
    return None


def _about(op: Operation, other: Operation, reason: str) -> Counterexample:
    return Counterexample(operation=op.index, reason=reason, involved=tuple(sorted((op.index, other.index))))
