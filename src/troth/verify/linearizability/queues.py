"""Queues in which everything enqueued is told apart: linearizability in O(n log n).

Write e(x) and d(x) for the enqueue and the dequeue of x, and a < b when a returned before b was invoked. A history is
linearizable as a first-in-first-out queue exactly when

* everything dequeued was enqueued, not d(x) < e(x), and nothing was dequeued twice,
* there are no x, y with e(x) < e(y) where y was dequeued and x was not, or d(y) < d(x), and
* every dequeue that found nothing has an instant at which the queue may have been empty: one that lies in no
  interval from the return of an e(x) to the invocation of d(x).

Source: Henzinger, Sezgin, Vafeiadis, "Aspect-oriented linearizability proofs", CONCUR 2013, theorem 3. A crashed
enqueue that nobody dequeued never happened; one whose value was dequeued did, and never returned. Crashed dequeues
take what must be gone (`_taken_by_crashed`). A history with values enqueued twice, or in which a crashed dequeue may
have emptied the queue for one that found nothing, is paired first (`pairing`) or goes to the search (`foresight`).
"""

from bisect import bisect_right
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


class Queued(Struct, frozen=True):
    """What there is to put in order. `empties`: (place right after which, operation) of dequeues that found nothing."""

    spans: list[Span]
    empties: list[tuple[int, int]]
    ordered: bool = True


_NOTHING = Queued([], [])


def examine(
    calls: Sequence[Call | None], timeline: Sequence[int], *, ordered: bool = True
) -> tuple[int | None, str, Queued] | None:
    """(the operation that cannot be placed or None, why, the rest); None when this way of checking does not apply.

    Without *ordered*, values may leave in any order: the second condition falls away.
    """
    invoked: dict[int, int] = {}
    returned: dict[int, int] = {}
    enqueues: dict[Value, int] = {}
    dequeues: dict[Value, int] = {}
    empties: list[int] = []
    crashed: list[tuple[int, int]] = []
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
            if call.argument in enqueues or call.argument is None:
                # An element that looks like "it was empty" tells nothing.
                return None
            enqueues[call.argument] = index
        elif call.f not in ("dequeue", "pop"):
            return None
        elif not call.known:
            crashed.append((place, index))
        elif call.result is None:
            empties.append(index)
        elif call.result in dequeues:
            twice = index
        else:
            dequeues[call.result] = index
    if twice is not None:
        return twice, "what it returned had been dequeued before", _NOTHING
    spans: list[Span] = []
    for value, index in dequeues.items():
        source = enqueues.get(value)
        if source is None or returned.get(index, FOREVER) < invoked[source]:
            return index, f"{show(value)} had not been enqueued", _NOTHING
    for value, index in enqueues.items():
        taken = dequeues.get(value)
        if taken is None and index not in returned:
            continue
        spans.append(
            Span(
                value,
                (invoked[index], returned.get(index, FOREVER)),
                (FOREVER, FOREVER) if taken is None else (invoked[taken], returned.get(taken, FOREVER)),
                (index, -1 if taken is None else taken),
            )
        )
    if ordered:
        spans = _taken_by_crashed(spans, crashed)
        failed, why = _overtaken(spans)
        if failed is not None:
            return failed, why, _NOTHING
    placed: list[tuple[int, int]] = []
    filled = _filled(spans)
    for index in empties:
        instant = _empty_from(filled, invoked[index])
        if instant >= returned.get(index, FOREVER):
            if crashed:
                # One of them may have emptied it.
                return None
            return index, "something was in the queue all the while", _NOTHING
        placed.append((instant, index))
    return None, "", Queued(spans, sorted(placed), ordered)


def _taken_by_crashed(spans: list[Span], crashed: list[tuple[int, int]]) -> list[Span]:
    """Let crashed dequeues (place, operation) take what must be gone, the most urgent first.

    x must be gone before d(y) returns if e(x) < e(y); a crashed dequeue that was invoked by then may have taken it.
    None of them returned, so it matters for nothing else which one took what.
    """
    if not crashed:
        return spans
    # The latest enqueues first: the deadline is the earliest return of a dequeue among those that began later.
    known = sorted((span.enqueue[0], span.dequeue[1]) for span in spans if span.operations[1] >= 0)
    urgent: list[tuple[int, int]] = []
    deadline = FOREVER
    for number, span in sorted(enumerate(spans), key=lambda row: -row[1].enqueue[1]):
        while known and known[-1][0] > span.enqueue[1]:
            deadline = min(deadline, known.pop()[1])
        if span.operations[1] < 0 and deadline < FOREVER:
            urgent.append((deadline, number))
    changed = list(spans)
    for (_, number), (place, index) in zip(sorted(urgent), crashed, strict=False):
        span = spans[number]
        changed[number] = Span(span.value, span.enqueue, (place, FOREVER), (span.operations[0], index))
    return changed


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


def _filled(spans: list[Span]) -> list[tuple[int, int]]:
    """When something is certainly in the queue: disjoint [from, to) of places, right after which it is."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((span.enqueue[1], span.dequeue[0]) for span in spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _empty_from(filled: list[tuple[int, int]], place: int) -> int:
    """The first place from *place* on right after which the queue may be empty."""
    at = bisect_right(filled, (place, FOREVER)) - 1
    return max(place, filled[at][1]) if at >= 0 and filled[at][1] > place else place


def order(queued: Queued) -> list[tuple[int, int]]:
    """A legal order as (instant, operation index), for what `examine` found no fault with.

    Whenever the queue is found empty, a value is wholly before that if anything about it had returned, else wholly
    after. In between, values are put in an order that respects e(x) < e(y), d(x) < d(y) and d(x) < e(y); then every
    operation takes the earliest instant that this order leaves it.
    """
    instants = [place for place, _ in queued.empties]
    epochs: list[list[Span]] = [[] for _ in range(len(instants) + 1)]
    for span in queued.spans:
        first_return = min(span.enqueue[1], span.dequeue[1])
        epochs[sum_before(instants, first_return)].append(span)
    rows: list[tuple[int, int]] = []
    clock = taken = 0
    for number, epoch in enumerate(epochs):
        opened = clock
        for span in _ordered(epoch) if queued.ordered else epoch:
            if not queued.ordered:
                clock = taken = opened
            clock = max(clock, 2 * span.enqueue[0] + 1)
            rows.append((clock, span.operations[0]))
            if span.operations[1] >= 0:
                taken = max(taken, clock, 2 * span.dequeue[0] + 1)
                rows.append((taken, span.operations[1]))
        if number < len(instants):
            clock = taken = 2 * instants[number] + 1
            rows.append((clock, queued.empties[number][1]))
    # At one instant what was appended first comes first: an enqueue before its own dequeue.
    rows.sort(key=itemgetter(0))
    return rows


def sum_before(instants: list[int], place: int) -> int:
    """How many of *instants* (each right after its place) lie before *place*."""
    return bisect_right(instants, place - 1)


def _ordered(spans: list[Span]) -> list[Span]:
    waiting = sorted(spans, key=lambda span: (span.dequeue[0], span.enqueue[0]))
    # By return, those put in order already still among them; they are dropped once they come first.
    enqueued = sorted((span.enqueue[1], number) for number, span in enumerate(waiting))
    dequeued = sorted((span.dequeue[1], number) for number, span in enumerate(waiting))
    gone = bytearray(len(waiting))
    head = 0
    enqueued.reverse()
    dequeued.reverse()
    ordered: list[Span] = []
    while len(ordered) < len(waiting):
        while gone[head]:
            head += 1
        for returns in (enqueued, dequeued):
            while gone[returns[-1][1]]:
                returns.pop()
        alone = len(ordered) == len(waiting) - 1
        for number in range(head, len(waiting)):
            if gone[number]:
                continue
            span = waiting[number]
            enqueue, dequeue = _least_other(enqueued, gone, number), _least_other(dequeued, gone, number)
            if alone or (
                span.enqueue[0] <= enqueue
                and span.enqueue[0] <= dequeue
                and (span.dequeue[0] <= dequeue or dequeue == FOREVER)
            ):
                ordered.append(span)
                gone[number] = 1
                break
        else:
            invariant(False, "values of a legal queue can be put in order", left=len(waiting) - len(ordered))
    return ordered


def _least_other(returns: list[tuple[int, int]], gone: bytearray, number: int) -> int:
    """The least return among what is left but for *number*; *returns* descend."""
    at = len(returns) - 1
    while at >= 0 and (gone[returns[at][1]] or returns[at][1] == number):
        at -= 1
    return returns[at][0] if at >= 0 else FOREVER
