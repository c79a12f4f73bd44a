"""Eventual convergence: once writing has stopped, everybody reads the same, and nothing acknowledged is lost.

Vogels, "Eventually consistent", CACM 2009. A finite history shows this only in its *quiet* reads: those invoked after
every update has returned, and, where a quiet time is given, that long after the last one (the store must have had
time, and faults must have healed). Crashed updates may take effect at any time, so they are allowed for but never
required; where quiet reads differ by nothing else than what those may have changed, the verdict is unknown.

==========  ============================================================================================
register    quiet reads of a key agree, on a value somebody wrote; not on the initial one if a write succeeded
set         quiet reads agree, hold every element whose add succeeded, and nothing that nobody added
counter     quiet reads agree, on the sum of the adds that succeeded plus some of the crashed ones
==========  ============================================================================================

For every object, no read, quiet or not, may return what nobody wrote ("weak"). That removals and deletions win is not
asked: a store that is only eventually consistent may order one before what it was meant to remove, whenever they
returned.
"""

from collections.abc import Mapping, Sequence

from troth.errors import UsageError
from troth.verify.history import FOREVER, EventType, History, Operation, Value, show
from troth.verify.models import Counter, Model, Register, SetObject
from troth.verify.verdict import Counterexample, Part, Status, Verdict, combine

_READS = frozenset({"read", "get"})
_SUBSETS_MAX = 100_000


def check_convergence(history: History, object: Model, *, quiet_ns: int = 0) -> Verdict:
    """Check convergence after the last update of each key.

    Args:
        history: what happened.
        object: a register, a set or a counter.
        quiet_ns: how long after the last update reads must agree; needs times when above 0.

    Raises:
        UsageError: another object, or a quiet time on a history without times.
    """
    model = object.reading(history.reading)
    if not isinstance(model, Register | SetObject | Counter):
        raise UsageError(f"convergence is defined for registers, sets and counters, not for a {model.name}")
    parts = []
    examples: list[Counterexample] = []
    by_key: dict[Value, list[Operation]] = {}
    for op in history.operations:
        by_key.setdefault(op.key, []).append(op)
    for key, operations in by_key.items():
        status, example, reason = _key(
            operations, model, quiet_ns, nil_unknown=history.reading.nil_read == "unknown"
        )
        parts.append(
            Part(
                key=key,
                status=status,
                algorithm="quiet-reads",
                cost="linear",
                events_done=len(operations),
                events=len(operations),
                reason=reason,
            )
        )
        if example is not None:
            examples.append(example)
    status = combine([part.status for part in parts])
    return Verdict(
        status,
        history=history,
        model="eventual",
        object=model.name,
        reason=next((part.reason for part in parts if part.status is status), ""),
        parts=parts,
        counterexample=examples[0] if examples else None,
    )


def _key(
    operations: Sequence[Operation], model: Model, quiet_ns: int, *, nil_unknown: bool
) -> tuple[Status, Counterexample | None, str]:
    updates = [
        op
        for op in operations
        if op.f not in model.pure
        and op.outcome is not EventType.FAIL
        and not (op.f == "cas" and op.outcome is EventType.OK and op.result is False)
    ]
    reads = [op for op in operations if op.f in _READS and op.outcome is EventType.OK]
    if nil_unknown:
        reads = [op for op in reads if op.result is not None]
    made: dict[Value, int] = {}
    pieces: list[Operation] = []
    for update in updates:
        if update.f == "append" and isinstance(model, Register):
            pieces.append(update)
        elif update.f == "add" or not isinstance(model, SetObject):
            made.setdefault(_to(update), update.invoked)
    for op in reads:
        why = _impossible(op, made, pieces, model)
        if why:
            return Status.ILLEGAL, Counterexample(operation=op.index, reason=why, involved=(op.index,)), why
    last = max((op.completed for op in updates if op.outcome is EventType.OK), default=-1)
    quiet = [op for op in reads if op.invoked > last and _waited(op, updates, quiet_ns)]
    if not quiet:
        return Status.UNKNOWN, None, "nothing was read after the last update, so nothing shows convergence"
    first = quiet[0]
    differ = any(_seen(op, model) != _seen(first, model) for op in quiet)
    settling = differ and _settling(quiet, updates, model)
    for op in quiet[1:]:
        if not settling and _seen(op, model) != _seen(first, model):
            why = (
                f"it returned {show(op.result)}, but [{first.index}] {show(first.result)}, with no update between"
            )
            return (
                Status.ILLEGAL,
                Counterexample(operation=op.index, reason=why, involved=(first.index, op.index)),
                f"[{op.index}] {why}",
            )
    for op in quiet if settling else quiet[:1]:
        why = _lost(op, updates, model)
        if why:
            return (
                Status.ILLEGAL,
                Counterexample(operation=op.index, reason=why, involved=(op.index,)),
                f"[{op.index}] {why}",
            )
    if settling:
        return Status.UNKNOWN, None, "the last reads differ by what a crashed update may have changed between them"
    return Status.OK, None, ""


def _settling(quiet: Sequence[Operation], updates: Sequence[Operation], model: Model) -> bool:
    """Whether crashed updates that took effect late may be all by which quiet reads differ."""
    crashed = [update for update in updates if update.outcome is EventType.INFO]
    if not crashed or isinstance(model, Counter) or any(update.f in ("append", "delete") for update in crashed):
        return bool(crashed)
    seen = [_seen(op, model) for op in quiet]
    if isinstance(model, SetObject):
        loose = {update.argument for update in crashed}
        return len({elements - loose for elements in seen if isinstance(elements, frozenset)}) == 1
    return len(set(seen) - {_to(update) for update in crashed}) <= 1


def _waited(op: Operation, updates: Sequence[Operation], quiet_ns: int) -> bool:
    if quiet_ns <= 0:
        return True
    ends = [update.end_ns for update in updates if update.outcome is EventType.OK]
    times = [end for end in ends if end is not None]
    if op.start_ns is None or len(times) < len(ends):
        raise UsageError("a quiet time needs a time on every event")
    return not times or op.start_ns >= max(times) + quiet_ns


def _seen(op: Operation, model: Model) -> Value:
    if isinstance(model, SetObject):
        return frozenset(op.result) if isinstance(op.result, tuple | frozenset) else frozenset()
    return op.result


def _impossible(op: Operation, made: Mapping[Value, int], appends: Sequence[Operation], model: Model) -> str:
    """Why nothing that was ever written explains what *op* returned; "" if something does.

    Args:
        made: what updates make, and when the first of them was invoked.
        appends: those that add to whatever is there.
    """
    if isinstance(model, SetObject):
        seen = _seen(op, model)
        elements = seen if isinstance(seen, frozenset) else ()
        strange = [element for element in elements if made.get(element, FOREVER) > op.completed]
        return f"it shows {show(min(strange, key=repr))}, which nobody had added" if strange else ""
    if isinstance(model, Counter) or op.result == model.init() or made.get(op.result, FOREVER) < op.completed:
        return ""
    result = op.result
    for update in appends:
        piece = update.argument
        if update.invoked < op.completed and (
            (isinstance(piece, str) and isinstance(result, str) and result.endswith(piece))
            or (isinstance(piece, tuple) and isinstance(result, tuple))
        ):
            return ""
    return f"it returned {show(result)}, which nobody had written"


def _lost(op: Operation, updates: Sequence[Operation], model: Model) -> str:
    """What the settled state lacks; "" if nothing."""
    certain = [update for update in updates if update.outcome is EventType.OK]
    if isinstance(model, SetObject):
        removed = {update.argument for update in updates if update.f == "remove"}
        kept = {update.argument for update in certain if update.f == "add"} - removed
        seen = _seen(op, model)
        missing = sorted(kept - seen, key=repr) if isinstance(seen, frozenset) else []
        return f"it lacks {show(missing[0])}, whose add succeeded" if missing else ""
    if isinstance(model, Counter):
        return _miscounted(op, updates, model)
    deletes = any(update.f == "delete" for update in updates)
    if certain and not deletes and op.result == model.init():
        values = [_to(update) for update in updates]
        if op.result not in values:
            return f"it returned the initial value, but [{certain[0].index}] {certain[0].f} succeeded"
    return ""


def _to(update: Operation) -> Value:
    if update.f == "cas" and isinstance(update.argument, tuple) and len(update.argument) == 2:
        return update.argument[1]
    return update.argument


def _miscounted(op: Operation, updates: Sequence[Operation], model: Counter) -> str:
    base = model.initial
    reachable = {0}
    for update in updates:
        amount = 1 if update.argument is None else update.argument
        if not isinstance(amount, int):
            raise UsageError(f"a counter adds integers, found {amount!r}")
        amount = -amount if update.f.startswith("dec") else amount
        if update.outcome is EventType.OK:
            base += amount
        elif len(reachable) < _SUBSETS_MAX:
            reachable |= {known + amount for known in reachable}
        else:
            return ""
    if isinstance(op.result, int) and op.result - base in reachable:
        return ""
    return (
        f"it returned {show(op.result)}; the adds that succeeded make {base}, and crashed ones do not explain it"
    )
