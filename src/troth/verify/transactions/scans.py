"""Cheap scans of the workloads that Jepsen's tests made common: one pass, one kind of mistake each.

==========  ==========================================================================================================
bank        every read of all accounts has the same sum, and no balance is negative
long-fork   of two reads of the same keys, one sees everything that the other sees (each key is written once)
set         what was added and acknowledged is in the last read, and nothing else than what was tried
set-full    an element that was acknowledged, or read once, is in every read that is invoked later, and in none twice
counter     every read lies between what must have been added and what may have been
unique-ids  no id was handed out twice
==========  ==========================================================================================================

Each is a necessary condition of what its workload is about, and most real mistakes break it. "ok" says that the scan
found nothing; a set is ok only if it was read at the end. Failed operations did not happen; crashed ones may have.
Source: the workloads of the same names in Jepsen (jepsen.checker, jepsen.tests.bank, jepsen.tests.long-fork).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from troth.errors import UsageError
from troth.verify.formats.edn import Record
from troth.verify.history import EventType, History, Operation, Value, show
from troth.verify.verdict import Counterexample, Part, Status, Verdict

_FEW: Final = 8


def check_bank(history: History, *, total: int | None = None, negative: bool = False) -> Verdict:
    """Transfers conserve the sum of all balances.

    Args:
        total: what the balances sum up to; the sum of the first read when None.
        negative: whether balances may be negative.
    """
    for op in _oks(history, "read"):
        balances = _balances(op)
        bad = [account for account, balance in balances.items() if not isinstance(balance, int)]
        if bad:
            return _illegal(history, "bank", "wrong-balance", op, f"account {show(bad[0])} has no balance")
        amounts = [balance for balance in balances.values() if isinstance(balance, int)]
        if total is None:
            total = sum(amounts)
        if sum(amounts) != total:
            return _illegal(history, "bank", "wrong-total", op, f"it sums up to {sum(amounts)}, not to {total}")
        if not negative and amounts and min(amounts) < 0:
            account = next(name for name, balance in balances.items() if balance == min(amounts))
            return _illegal(history, "bank", "negative-value", op, f"account {show(account)} has {min(amounts)}")
    return _ok(history, "bank")


def _balances(op: Operation) -> dict[Value, Value]:
    if isinstance(op.result, Record):
        return dict(op.result)
    if isinstance(op.result, tuple) and all(isinstance(item, tuple) and len(item) == 2 for item in op.result):
        return {item[0]: item[1] for item in op.result if isinstance(item, tuple)}
    raise UsageError(f"a read of a bank returns {{account: balance}}, found {show(op.result)[:60]}")


def check_long_fork(history: History) -> Verdict:
    """Parallel snapshot isolation lets two readers see two writes in opposite orders; snapshot isolation does not.

    Reads of one group of keys must form a chain: sorted by how much they see, each holds the one before.

    Raises:
        UsageError: a key is written twice, so that values would have to be ordered.
    """
    written: dict[Value, int] = {}
    groups: dict[frozenset[Value], list[tuple[frozenset[Value], Operation]]] = {}
    for op in history.operations:
        if op.f == "write":
            if op.outcome is not EventType.FAIL:
                _write_once(written, op.key if op.key is not None else op.argument, op)
            continue
        value = op.result if op.outcome is EventType.OK else op.argument
        micros = value if isinstance(value, tuple) else ()
        if any(not isinstance(item, tuple) or len(item) != 3 for item in micros):
            raise UsageError(
                f"[{op.index}] of a long-fork history has [[f, key, value], ...], found {show(value)[:60]}"
            )
        reads = [(item[1], item[2]) for item in micros if isinstance(item, tuple) and item[0] in ("r", "read")]
        for item in micros:
            if isinstance(item, tuple) and item[0] in ("w", "write") and op.outcome is not EventType.FAIL:
                _write_once(written, item[1], op)
        if reads and op.outcome is EventType.OK:
            keys = frozenset(key for key, _ in reads)
            seen = frozenset(key for key, value in reads if value is not None)
            groups.setdefault(keys, []).append((seen, op))
    for group in groups.values():
        group.sort(key=lambda pair: (len(pair[0]), pair[1].index))
        for (less, first), (more, second) in pairwise(group):
            if not less <= more:
                mine, theirs = min(less - more, key=show), min(more - less, key=show)
                reason = (
                    f"it sees {show(theirs)} but not {show(mine)}, while [{first.index}] sees {show(mine)} but not "
                    f"{show(theirs)}"
                )
                return _illegal(history, "long-fork", "long-fork", second, reason, (first.index,))
    return _ok(history, "long-fork")


def _write_once(written: dict[Value, int], key: Value, op: Operation) -> None:
    if written.setdefault(key, op.index) != op.index:
        raise UsageError(f"a long-fork history writes each key once; {show(key)} is written again by [{op.index}]")


def check_set(history: History) -> Verdict:
    """What was acknowledged is in the last complete read; nothing is in it that nobody tried to add."""
    reads = list(_oks(history, "read"))
    if not reads:
        return _unknown(history, "set", "the set was never read")
    final = max(reads, key=lambda op: op.invoked)
    seen = _elements(final)
    adds = [op for op in history.operations if op.f == "add" and op.outcome is not EventType.FAIL]
    tried = {op.argument for op in adds}
    for op in adds:
        # An add that was under way when the set was read may or may not be seen.
        if op.outcome is EventType.OK and op.completed < final.invoked and op.argument not in seen:
            reason = f"{show(op.argument)} was added by [{op.index}] and is not in the last read"
            return _illegal(history, "set", "lost", final, reason, (op.index,))
    strange = [element for element in seen if element not in tried]
    if strange:
        return _illegal(history, "set", "unexpected", final, f"nobody added {show(min(strange, key=show))}")
    return _ok(history, "set")


def check_set_full(history: History, *, linearizable: bool = False) -> Verdict:
    """Elements stay once they are known to be in: after their add was acknowledged, or after a read returned them.

    Args:
        linearizable: also refuse that a known element is missing for a while and then there (stale). Else only
            elements that are missing from then on are lost.
    """
    reads = sorted(_oks(history, "read"), key=lambda op: op.invoked)
    if not reads:
        return _unknown(history, "set-full", "the set was never read")
    tried: dict[Value, None] = {}
    events: list[tuple[int, tuple[Value, ...], int]] = []
    for op in history.operations:
        if op.f == "add" and op.outcome is not EventType.FAIL:
            tried[op.argument] = None
            if op.outcome is EventType.OK:
                events.append((op.completed, (op.argument,), op.index))
    last_seen: dict[Value, int] = {}
    contents = []
    for at, op in enumerate(reads):
        seen = _elements(op)
        contents.append(seen)
        if isinstance(op.result, tuple) and len(seen) < len(op.result):
            twice = next(element for element, times in Counter(op.result).items() if times > 1)
            return _illegal(history, "set-full", "duplicated", op, f"{show(twice)} is in it more than once")
        for element in seen:
            if element not in tried:
                return _illegal(history, "set-full", "unexpected", op, f"nobody added {show(element)}")
            last_seen[element] = at
        events.append((op.completed, tuple(seen), op.index))
    events.sort(key=lambda event: (event[0], event[2]))
    known: dict[Value, int] = {}
    next_event = 0
    for at, op in enumerate(reads):
        while next_event < len(events) and events[next_event][0] < op.invoked:
            for element in events[next_event][1]:
                known.setdefault(element, events[next_event][2])
            next_event += 1
        seen = contents[at]
        missing = [element for element in known if element not in seen] if len(known) else []
        for element in missing:
            if last_seen.get(element, -1) < at:
                reason = f"{show(element)}, known since [{known[element]}], is not in it nor in any later read"
                return _illegal(history, "set-full", "lost", op, reason, (known[element],))
            if linearizable:
                reason = f"{show(element)}, known since [{known[element]}], is not in it"
                return _illegal(history, "set-full", "stale", op, reason, (known[element],))
    return _ok(history, "set-full")


def _elements(op: Operation) -> frozenset[Value]:
    if op.result is None:
        return frozenset()
    if isinstance(op.result, tuple | frozenset):
        return frozenset(op.result)
    raise UsageError(f"a read of a set returns its elements, found {show(op.result)[:60]}")


def check_counter(history: History) -> Verdict:
    """Every read lies between the least and the most that can have been added when it was made.

    What was acknowledged before the read began must be in it (increments for the least, decrements for the most); what
    was begun before the read ended may be.
    """
    sure: list[tuple[int, int]] = []
    maybe: list[tuple[int, int]] = []
    for op in history.operations:
        if op.f in ("add", "increment", "inc", "decrement", "dec") and op.outcome is not EventType.FAIL:
            amount = 1 if op.argument is None else op.argument
            if isinstance(amount, bool) or not isinstance(amount, int):
                raise UsageError(f"a counter adds integers, found {show(amount)[:60]}")
            if op.f.startswith("dec"):
                amount = -amount
            maybe.append((op.invoked, amount))
            if op.outcome is EventType.OK:
                sure.append((op.completed, amount))
    sure_up, maybe_up = _sums(sure, lambda amount: amount > 0), _sums(maybe, lambda amount: amount > 0)
    sure_down, maybe_down = _sums(sure, lambda amount: amount < 0), _sums(maybe, lambda amount: amount < 0)
    initial = history.reading.initial if isinstance(history.reading.initial, int) else 0
    for op in _oks(history, "read"):
        least = initial + sure_up(op.invoked) + maybe_down(op.completed)
        most = initial + maybe_up(op.completed) + sure_down(op.invoked)
        if not isinstance(op.result, int) or not least <= op.result <= most:
            reason = f"{show(op.result)} is not between {least} and {most}"
            return _illegal(history, "counter", "counter-bounds", op, reason)
    return _ok(history, "counter")


def _sums(events: Iterable[tuple[int, int]], keep: Callable[[int], bool]) -> Callable[[int], int]:
    """A function of a position: the sum of what came before it."""
    ordered = sorted(event for event in events if keep(event[1]))
    places = [place for place, _ in ordered]
    sums = [0, *accumulate(amount for _, amount in ordered)]
    return lambda position: sums[bisect_left(places, position)]


def check_unique_ids(history: History, *, f: str = "generate") -> Verdict:
    """No two operations *f* returned the same id."""
    first: dict[Value, int] = {}
    for op in _oks(history, f):
        before = first.setdefault(op.result, op.index)
        if before != op.index:
            reason = f"{show(op.result)} was handed out before, by [{before}]"
            return _illegal(history, "unique-ids", "duplicate-id", op, reason, (before,))
    return _ok(history, "unique-ids")


def _oks(history: History, f: str) -> Iterable[Operation]:
    return (op for op in history.operations if op.f == f and op.outcome is EventType.OK)


def _part(history: History, status: Status) -> Part:
    size = len(history)
    return Part(key=None, status=status, algorithm="scan", cost="one pass", events_done=size, events=size)


def _ok(history: History, scan: str) -> Verdict:
    parts = (_part(history, Status.OK),)
    return Verdict(Status.OK, history=history, model=scan, object=scan, parts=parts)


def _unknown(history: History, scan: str, reason: str) -> Verdict:
    parts = (_part(history, Status.UNKNOWN),)
    return Verdict(Status.UNKNOWN, history=history, model=scan, object=scan, reason=reason, parts=parts)


def _illegal(
    history: History, scan: str, anomaly: str, op: Operation, reason: str, others: Sequence[int] = ()
) -> Verdict:
    return Verdict(
        Status.ILLEGAL,
        history=history,
        model=scan,
        object=scan,
        reason=f"{anomaly}: [{op.index}] {reason}",
        parts=(_part(history, Status.ILLEGAL),),
        counterexample=Counterexample(
            operation=op.index, reason=reason, involved=tuple(sorted({op.index, *others}))[:_FEW]
        ),
        anomalies=(anomaly,),
    )


SCANS: Final[dict[str, Callable[[History], Verdict]]] = {
    "bank": check_bank,
    "long-fork": check_long_fork,
    "set": check_set,
    "set-full": check_set_full,
    "counter": check_counter,
    "unique-ids": check_unique_ids,
}
"""Scans by name, with their default settings."""
