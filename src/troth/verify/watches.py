"""Watches: whoever follows a span of keys is shown every change of it once, in order, and none is missing between.

What a watch was handed is a remark of a process of its own, ``f`` "watch", which every other check passes over; its
value is [start, end, from, upto, events]: everything that happened to the span (end "": the one key; "\\0": all from
start on) at revisions from <= r <= upto, as [[revision, key, value or nil for a deletion], ...]. A watch that goes on
behind what was compacted away is another one, with a process of its own. Updates say at which revision they took effect
(`Operation.revision`). The promises, by the name that a verdict gives to what breaks them:

==================  =========================================================================================
watch-goes-back     revisions never fall, and what came up to one revision is not shown again later
watch-repeats       an event is shown once
watch-strays        it is of the span, and of the revisions that the delivery speaks of
watch-misses        everything acknowledged that changed the span at those revisions is shown; so is what changed it
                    between what one delivery speaks of and the next
watch-lies          and is shown as it was asked for; two watches are shown the same
watch-foresees      nothing is shown before it was asked for
revision-goes-back  what is asked for after an answer, or after a delivery, takes effect at a later revision
==================  =========================================================================================

These are what etcd calls ordered, unique, atomic, reliable and resumable (its API guarantees for watches). Deletions
inside transactions may have found nothing, so they need not be shown.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, TypeAlias

from msgspec import Struct

from troth.errors import UsageError
from troth.verify.formats.spans import lies_in
from troth.verify.history import EventType, Fault, History, Operation, Process, Value, show
from troth.verify.verdict import Counterexample, Part, Status, Verdict, combine

WATCH: Final = "watch"
_Event: TypeAlias = tuple[int, Value, Value]
"""(revision, key, value; None: deleted)"""
_WRITES: Final = frozenset({"put", "write", "set"})


class _Broken(Struct, frozen=True):
    """A promise that was broken."""

    anomaly: str
    reason: str
    operation: int | None = None


class _Delivery(Struct, frozen=True, kw_only=True):
    """What a watch was handed at once."""

    position: int
    watch: Process
    start: str
    end: str
    first: int
    upto: int
    events: tuple[_Event, ...]

    def told(self, event: _Event) -> str:
        revision, key, value = event
        return f"{self.watch} is shown {show(key)} = {show(value)} at revision {revision}"

    def holds(self, key: Value) -> bool:
        return key == self.start if self.end == "" else lies_in(key, self.start, self.end)


def check_watches(history: History) -> Verdict:
    """Check every watch of *history* by itself, and against the updates and the other watches.

    Raises:
        UsageError: a remark called "watch" is not a delivery.
    """
    watches: dict[Process, list[_Delivery]] = {}
    for fault in history.faults:
        if fault.f == WATCH:
            watches.setdefault(fault.process, []).append(_delivery(fault))
    checker = _Checker(history)
    deliveries = [delivery for watched in watches.values() for delivery in watched]
    broken = list(checker.revisions(deliveries))
    parts: list[Part] = []
    for name, watched in watches.items():
        found = list(checker.watch(watched))
        broken += found
        parts.append(
            Part(
                key=name,
                status=Status.ILLEGAL if found else Status.OK,
                algorithm="watch",
                cost="linear",
                events=sum(len(delivery.events) for delivery in watched),
                reason=found[0].reason if found else "",
            )
        )
    if not parts:
        return Verdict(Status.UNKNOWN, history=history, model=WATCH, object="kv", reason="no watch was recorded")
    if not broken:
        return Verdict(
            combine([part.status for part in parts]), history=history, model=WATCH, object="kv", parts=parts
        )
    first = broken[0]
    return Verdict(
        Status.ILLEGAL,
        history=history,
        model=WATCH,
        object="kv",
        reason=f"{first.anomaly}: {first.reason}",
        parts=parts,
        counterexample=Counterexample(
            operation=None, reason=first.reason, involved=() if first.operation is None else (first.operation,)
        ),
        anomalies=tuple(dict.fromkeys(each.anomaly for each in broken)),
    )


class _Checker:
    """The updates of a history by revision, and what watches have shown so far."""

    def __init__(self, history: History) -> None:
        self.updates: dict[int, Operation] = {}
        self.twice: list[tuple[Operation, Operation]] = []
        self.shown: dict[tuple[int, Value], Value] = {}
        for op in history.operations:
            if op.revision is not None and op.outcome is EventType.OK:
                other = self.updates.setdefault(op.revision, op)
                if other is not op:
                    self.twice.append((other, op))
        self.ordered = sorted(self.updates)

    def revisions(self, deliveries: list[_Delivery]) -> Iterator[_Broken]:
        """Whether revisions grow with time."""
        for one, other in self.twice:
            both = f"[{one.index}] {one.describe()} and [{other.index}] {other.describe()}"
            yield _Broken("revision-goes-back", f"{both} both have revision {one.revision}", other.index)
        known = [(op.completed, revision) for revision, op in self.updates.items()]
        known += [(delivery.position, delivery.upto) for delivery in deliveries]
        known.sort()
        places = [place for place, _ in known]
        newest: list[int] = []
        for _, revision in known:
            newest.append(max(revision, newest[-1] if newest else revision))
        for revision, op in self.updates.items():
            before = bisect_left(places, op.invoked)
            if before and newest[before - 1] >= revision:
                yield _Broken(
                    "revision-goes-back",
                    f"[{op.index}] {op.describe()} was asked for after revision {newest[before - 1]} was known, but "
                    f"took effect at {revision}",
                    op.index,
                )

    def watch(self, deliveries: list[_Delivery]) -> Iterator[_Broken]:
        """What is wrong with one watch."""
        seen: set[tuple[int, Value]] = set()
        upto = last = -1
        for delivery in deliveries:
            for event in delivery.events:
                revision, key, _ = event
                if (revision, key) in seen:
                    yield _Broken("watch-repeats", f"{delivery.told(event)} twice")
                elif revision < last or revision <= upto:
                    yield _Broken("watch-goes-back", f"{delivery.told(event)} after {max(last, upto)}")
                if not delivery.first <= revision <= delivery.upto or not delivery.holds(key):
                    yield _Broken(
                        "watch-strays",
                        f"{delivery.told(event)}, but asked for revisions {delivery.first} to {delivery.upto} of "
                        f"[{show(delivery.start)}, {show(delivery.end)}]",
                    )
                yield from self._agrees(delivery, event)
                seen.add((revision, key))
                last = revision
            first = delivery.first if upto < 0 else min(delivery.first, upto + 1)
            yield from self._missing(delivery, first, seen)
            upto = max(upto, delivery.upto)

    def _agrees(self, delivery: _Delivery, event: _Event) -> Iterator[_Broken]:
        """What is wrong with an event beside updates and other watches."""
        revision, key, value = event
        known = self.shown.setdefault((revision, key), value)
        if known != value:
            yield _Broken("watch-lies", f"{delivery.told(event)}, and another time it is {show(known)}")
        op = self.updates.get(revision)
        if op is None:
            return
        writes = _writes(op)
        # A transaction may also have deleted a span, of which its result says nothing.
        if writes is not None and (writes[key] != value if key in writes else op.f != "txn"):
            yield _Broken(
                "watch-lies", f"{delivery.told(event)}, which was [{op.index}] {op.describe()}", op.index
            )
        if op.invoked > delivery.position:
            why = f"{delivery.told(event)} before [{op.index}] {op.describe()} was asked for"
            yield _Broken("watch-foresees", why, op.index)

    def _missing(self, delivery: _Delivery, first: int, seen: set[tuple[int, Value]]) -> Iterator[_Broken]:
        low, high = bisect_left(self.ordered, first), bisect_right(self.ordered, delivery.upto)
        for revision in self.ordered[low:high]:
            op = self.updates[revision]
            for key, value in (_writes(op) or {}).items():
                if (revision, key) not in seen and delivery.holds(key) and (value is not None or op.f != "txn"):
                    yield _Broken(
                        "watch-misses",
                        f"{delivery.watch} is at revision {delivery.upto} and was not shown [{op.index}] "
                        f"{op.describe()} of revision {revision}",
                        op.index,
                    )


def _writes(op: Operation) -> dict[Value, Value] | None:
    """By key, what an update that took effect left there, None where it deleted; None if that cannot be said."""
    if op.f in _WRITES:
        return {op.key: op.argument}
    if op.f == "delete":
        return {op.key: None}
    if op.f == "cas" and isinstance(op.argument, tuple) and len(op.argument) == 2:
        return {op.key: op.argument[1]}
    if op.f == "txn" and isinstance(op.result, tuple):
        items = [item for item in op.result if isinstance(item, tuple) and len(item) == 3]
        return {key: value for f, key, value in items if f in ("w", "write")}
    return None


def _delivery(fault: Fault) -> _Delivery:
    match fault.value:
        case (str(start), str(end), int(first), int(upto), tuple(events)):
            return _Delivery(
                position=fault.position,
                watch=fault.process,
                start=start,
                end=end,
                first=first,
                upto=upto,
                events=tuple(_shown(event) for event in events),
            )
        case other:
            raise UsageError(f"a watch is handed [start, end, from, upto, events], found {show(other)}")


def _shown(event: Value) -> _Event:
    match event:
        case (int(revision), key, value):
            return revision, key, value
        case other:
            raise UsageError(f"a watch is shown [revision, key, value], found {show(other)}")
