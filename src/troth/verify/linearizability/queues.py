"""Queues in which everything enqueued is told apart: linearizability in O(n log n).

Write e(x) and d(x) for the enqueue and the dequeue of x, and a < b when a returned before b was invoked. A history
without empty dequeues is linearizable as a first-in-first-out queue exactly when

* everything dequeued was enqueued, not d(x) < e(x), and nothing was dequeued twice, and
* there are no x, y with e(x) < e(y) where y was dequeued and x was not, or d(y) < d(x).

Source: Henzinger, Sezgin, Vafeiadis, "Aspect-oriented linearizability proofs", CONCUR 2013, theorem 3 (their fourth
aspect is about empty dequeues; a history with those, or with crashed dequeues, goes to the search). A crashed
enqueue that nobody dequeued never happened; one whose value was dequeued did, and never returned.
"""

from collections.abc import Sequence
from operator import itemgetter

from msgspec import Struct

from troth.errors import invariant
from troth.verify.history import FOREVER, Value, show
from troth.verify.models import Call


class Span(Struct, frozen=True):
    """One value: places of its enqueue and dequeue in the timeline, FOREVER where there is none; operation indexes."""

    value: Value
    enqueue: tuple[int, int]
    dequeue: tuple[int, int]
    operations: tuple[int, int]


def examine(calls: Sequence[Call | None], timeline: Sequence[int]) -> tuple[int | None, str, list[Span]] | None:
    """(the operation that cannot be placed or None, why, all values); None when this way of checking does not apply."""
    invoked: dict[int, int] = {}
    returned: dict[int, int] = {}
    enqueues: dict[Value, int] = {}
    dequeues: dict[Value, int] = {}
    twice: int | None = None
    for place, code in enumerate(timeline):
        index = code >> 1
        if code & 1:
            returned[index] = place
            continue
        invoked[index] = place
        call = calls[index]
        if call is None:
            continue
        if call.f in ("enqueue", "push"):
            if call.argument in enqueues:
                return None
            enqueues[call.argument] = index
        elif call.f not in ("dequeue", "pop") or not call.known or call.result is None:
            return None
        elif call.result in dequeues:
            twice = index
        else:
            dequeues[call.result] = index
    if twice is not None:
        return twice, "what it returned had been dequeued before", []
    spans: list[Span] = []
    for value, index in dequeues.items():
        source = enqueues.get(value)
        if source is None or returned[index] < invoked[source]:
            return index, f"{show(value)} had not been enqueued", []
    for value, index in enqueues.items():
        taken = dequeues.get(value)
        if taken is None and index not in returned:
            continue
        spans.append(
            Span(
                value,
                (invoked[index], returned.get(index, FOREVER)),
                (FOREVER, FOREVER) if taken is None else (invoked[taken], returned[taken]),
                (index, -1 if taken is None else taken),
            )
        )
    return (*_overtaken(spans), spans)


def _overtaken(spans: list[Span]) -> tuple[int | None, str]:
    # In order of invocation of y's enqueue, keep the latest dequeue among all x enqueued wholly before it.
    by_return = sorted(
        ((span.enqueue[1], span.dequeue[0], at) for at, span in enumerate(spans)), key=itemgetter(0)
    )
    at, latest, who = 0, -1, -1
    for span in sorted(spans, key=lambda span: span.enqueue[0]):
        while at < len(by_return) and by_return[at][0] < span.enqueue[0]:
            if by_return[at][1] > latest:
                latest, who = by_return[at][1], by_return[at][2]
            at += 1
        if latest > span.dequeue[1]:
            other = show(spans[who].value)
            return span.operations[1], f"{other} was enqueued before it, and still not dequeued when this returned"
    return None, ""


def order(spans: list[Span]) -> list[tuple[int, int]]:
    """A legal order as (instant, operation index), for spans without a violation.

    Values are put in an order that respects e(x) < e(y), d(x) < d(y) and d(x) < e(y); then every operation takes the
    earliest instant that this order leaves it.
    """
    waiting = sorted(spans, key=lambda span: (span.dequeue[0], span.enqueue[0]))
    ordered: list[Span] = []
    while waiting:
        least_enqueue = sorted(span.enqueue[1] for span in waiting)[:2]
        least_dequeue = sorted(span.dequeue[1] for span in waiting)[:2]
        for at, span in enumerate(waiting):
            # The least return among the others.
            enqueued = least_enqueue[-1] if span.enqueue[1] == least_enqueue[0] else least_enqueue[0]
            dequeued = least_dequeue[-1] if span.dequeue[1] == least_dequeue[0] else least_dequeue[0]
            alone = len(waiting) == 1
            if alone or (
                span.enqueue[0] <= enqueued
                and span.enqueue[0] <= dequeued
                and (span.dequeue[0] <= dequeued or dequeued == FOREVER)
            ):
                ordered.append(waiting.pop(at))
                break
        else:
            invariant(False, "values of a legal queue can be put in order", left=len(waiting))
    rows: list[tuple[int, int, int]] = []
    clock = taken = 0
    for number, span in enumerate(ordered):
        clock = max(clock, 2 * span.enqueue[0] + 1)
        rows.append((clock, number, span.operations[0]))
        if span.operations[1] >= 0:
            taken = max(taken, clock, 2 * span.dequeue[0] + 1)
            rows.append((taken, number, span.operations[1]))
    # At one instant an enqueue comes before its own dequeue, which was appended after it.
    rows.sort(key=itemgetter(0))
    return [(instant, index) for instant, _, index in rows]
