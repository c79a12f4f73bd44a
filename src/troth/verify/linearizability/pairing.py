"""Queues in which elements repeat: which dequeue took which enqueue.

The p-th element enqueued is the p-th dequeued. So elements are put in order one after the other: each time an enqueue
that no enqueue still to come precedes, with a dequeue of the same element that no dequeue still to come precedes, and
that the enqueue does not follow. The most urgent pair goes first; where that comes to nothing, another (depth first,
states remembered). A crashed dequeue may take any element; one that found nothing stands, as soon as it can, where all
before it can have been invoked before anything after it returned.

With every pair told apart, `queues` decides: a pairing that it finds no fault with proves a legal history. Where
every way was tried in vain there is no legal order: it would be such a pairing. Left out are only ways that could be
turned into one that is tried: of crashed dequeues, which never return, the first to be invoked can stand for any, and
of equal elements one can change places with another (`_Pairing._apart`). How many ways there are depends on how many
operations overlap, not on how long the history is; past a bound nothing is proved.
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Final, TypeAlias

from msgspec import Struct, structs

from troth.verify.history import FOREVER, Value
from troth.verify.linearizability.outcome import UNBOUNDED, Budget
from troth.verify.models import Call

_STEPS_MAX: Final = 300_000
_ASK_CLOCK_EVERY: Final = 256

Row: TypeAlias = tuple[int, int, Value, int]
"""(invoked, returned, element, index) of an operation."""
Choice: TypeAlias = tuple[int, int, Row]
"""Numbers of an enqueue and of the dequeue that takes it (-1: a crashed one), and that dequeue; an enqueue of -1 is
none: the dequeue finds nothing."""


class Paired(Struct, frozen=True):
    """What was found. `calls`: the same with a mark on every element that says which enqueue and dequeue are of one.

    None if no pairing was found; then `certain` says that there is none.
    """

    calls: Sequence[Call | None] | None = None
    certain: bool = False


def told_apart(calls: Sequence[Call | None], timeline: Sequence[int], budget: Budget = UNBOUNDED) -> Paired:
    """Look for a pairing, within the *budget*. A crashed dequeue takes what it is given or never happened."""
    returned = {code >> 1: place for place, code in enumerate(timeline) if code & 1}
    enqueues: list[Row] = []
    dequeues: list[Row] = []
    for place, code in enumerate(timeline):
        call = None if code & 1 else calls[code >> 1]
        if call is not None:
            is_put = call.f in ("enqueue", "push")
            if is_put and call.argument is None:
                # Taken, it looks like "it was empty".
                return Paired()
            row = (place, returned.get(code >> 1, FOREVER), call.argument if is_put else call.result, code >> 1)
            (enqueues if is_put else dequeues).append(row)
    enqueues.sort(key=_crashed_last)
    search = _Pairing(enqueues, dequeues)
    pairs = search.found(budget)
    if pairs is None:
        return Paired(certain=search.exhausted)
    marked = list(calls)
    for row in dequeues:
        if row[1] == FOREVER:
            marked[row[3]] = None
    for number, (_, _, value, index) in enumerate(enqueues):
        marked[index] = _with(calls[index], argument=(value, number))
    for number, _, (_, _, _, index) in pairs:
        if number >= 0:
            marked[index] = _with(calls[index], result=(enqueues[number][2], number), known=True)
    return Paired(marked)


def _with(call: Call | None, **changes: Value) -> Call | None:
    return None if call is None else structs.replace(call, **changes)


def _crashed_last(row: Row) -> tuple[bool, int]:
    return row[1] == FOREVER, row[0]


class _Pairing:
    """One search. Operations go by number, in order of invocation, crashed enqueues last."""

    def __init__(self, enqueues: Sequence[Row], dequeues: Sequence[Row]) -> None:
        self.enqueues = enqueues
        self.live = sum(1 for row in enqueues if row[1] < FOREVER)
        self.takes = [row for row in dequeues if row[1] < FOREVER and row[2] is not None]
        self.empties = [row for row in dequeues if row[1] < FOREVER and row[2] is None]
        self.crashed = [row for row in dequeues if row[1] == FOREVER]
        self.exhausted = False
        """Nothing was left untried."""

    def found(self, budget: Budget) -> list[Choice] | None:
        """What comes after what, until no dequeue is left; None when nothing was found."""
        every = ((1 << len(self.takes)) - 1, (1 << len(self.empties)) - 1)
        path: list[Choice] = []
        # Masks of what is placed: enqueues, dequeues, dequeues that found nothing; the latest invocation among them.
        start = (0, 0, 0, -1)
        seen = {start}
        stack = [(start, self._choices(*start, 0))]
        expired = budget.expired
        for step in range(min(_STEPS_MAX + 20 * len(self.takes), budget.configurations_max)):
            if expired is not None and not (step + 1) % _ASK_CLOCK_EVERY and expired():
                return None
            if not stack:
                self.exhausted = True
                return None
            (put, taken, idle, latest), choices = stack[-1]
            if (taken, idle) == every:
                return path
            choice = next(choices, None)
            if choice is None:
                stack.pop()
                if path:
                    path.pop()
                continue
            number, by, row = choice
            latest = max(latest, row[0])
            if number < 0:
                idle |= 1 << by
            else:
                put |= 1 << number
                latest = max(latest, self.enqueues[number][0])
                if by >= 0:
                    taken |= 1 << by
            state = (put, taken, idle, latest)
            if state not in seen:
                seen.add(state)
                path.append(choice)
                lost = put.bit_count() - taken.bit_count()
                stack.append((state, self._choices(*state, lost)))
        return None

    def _choices(self, put: int, taken: int, idle: int, latest: int, lost: int) -> Iterator[Choice]:
        """What may come next, the most urgent first; *lost* is how many elements crashed dequeues took."""
        enqueues = self.enqueues
        first, filled = _next(enqueues, put, self.live)
        last, until = _next(self.takes, taken, len(self.takes))
        waiting, emptied = _next(self.empties, idle, len(self.empties))
        for number in waiting:
            row = self.empties[number]
            if max(latest, row[0]) < min(filled, until, row[1]):
                yield -1, number, row
        crashed = range(self.live, len(enqueues))
        sources = self._apart(first, until, latest, emptied)
        sources += [at for at in crashed if not put >> at & 1 and enqueues[at][0] < filled]
        found: list[tuple[bool, int, Choice]] = []
        tried: set[Value] = set()
        for at in sources:
            start, end, value, _ = enqueues[at]
            if start >= emptied:
                continue
            for number in last:
                row = self.takes[number]
                if value == row[2] and start < row[1] and row[0] <= emptied:
                    found.append((value in tried, min(end, row[1]), (at, number, row)))
                    tried.add(value)
                    if emptied == FOREVER or row[0] <= latest:
                        # Another of the same element, which returns later, can as well come later.
                        break
        found.sort(key=itemgetter(0, 1))
        yield from (choice for _, _, choice in found)
        if lost < len(self.crashed) and self.crashed[lost][0] < min(until, emptied):
            for at in first:
                if enqueues[at][0] < emptied:
                    yield at, -1, self.crashed[lost]

    def _apart(self, first: Sequence[int], until: int, latest: int, emptied: int) -> list[int]:
        """*first* without what may change places with another of the same element.

        The one that returns first may come first, if any take still to come may take either, and if it is not to come
        after a dequeue that found nothing.
        """
        kept: list[int] = []
        leading: set[Value] = set()
        for at in first:
            start, _, value, _ = self.enqueues[at]
            if start < until and value in leading:
                continue
            kept.append(at)
            if start < until and (emptied == FOREVER or start <= latest):
                leading.add(value)
        return kept


def _next(rows: Sequence[Row], done: int, live: int) -> tuple[list[int], int]:
    """Numbers of what no other that is not done precedes, the first to return first; and the earliest return."""
    at = (~done & (done + 1)).bit_length() - 1
    until = FOREVER
    found: list[int] = []
    while at < live and rows[at][0] < until:
        if not done >> at & 1:
            found.append(at)
            until = min(until, rows[at][1])
        at += 1
    found.sort(key=lambda number: rows[number][1])
    return found, until
