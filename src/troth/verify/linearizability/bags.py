"""Unordered queues in which elements repeat: which dequeue took which of the equal elements.

As long as no dequeue found nothing, elements of one value have nothing to do with those of another, and a crashed
dequeue may as well not have happened. Then a history is linearizable exactly when, of every value, no more dequeues
have returned at any time than enqueues were invoked: an enqueue may happen at once, a dequeue at the last moment.

A dequeue that found nothing needs an instant at which nothing is in the queue for certain. Of one value something is,
when more enqueues have returned than dequeues were invoked; crashed dequeues may have taken one each. If that leaves no
instant, the history is illegal. Otherwise equal elements are told apart, as in a run in which a dequeue takes its
element as late as it can, of those that are there the one that returned first, and what is to be found empty is emptied
as soon as that can be, or else at the last moment: by dequeues that are open, if need be by crashed ones. `queues`
decides what comes of that; what it finds no fault with is proof of a legal history, whoever told elements apart.
Otherwise the search decides.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from operator import itemgetter
from typing import TypeAlias

from msgspec import structs

from troth.verify.history import FOREVER, Value, show
from troth.verify.linearizability import queues
from troth.verify.models import Call

Row: TypeAlias = tuple[int, int, int]
"""(invoked, returned, index) of an operation."""
Pairs: TypeAlias = list[tuple[int, int]]
"""Indexes of enqueues, and of the dequeues that take them."""


def examine(calls: Sequence[Call | None], timeline: Sequence[int]) -> tuple[int | None, str, queues.Queued] | None:
    """As `queues.examine`; None where only a search can tell."""
    bag = _Bag(calls, timeline)
    if bag.holds_nil:
        return None
    wrong = bag.refuted()
    if wrong is not None:
        return *wrong, queues.Queued([], [])
    for eager in (True, False):
        pairs = _Run(bag, eager=eager).pairs(timeline)
        found = None if pairs is None else queues.examine(bag.told_apart(pairs), timeline, ordered=False)
        if found is not None and found[0] is None:
            return found
    return None


class _Bag:
    """Who enqueued and dequeued what. `holds_nil`: an element looks like "it was empty"."""

    def __init__(self, calls: Sequence[Call | None], timeline: Sequence[int]) -> None:
        self.calls = calls
        self.put: dict[Value, list[Row]] = {}
        self.taken: dict[Value, list[Row]] = {}
        self.empties: list[Row] = []
        self.crashed: list[Row] = []
        self.holds_nil = False
        returned = {code >> 1: place for place, code in enumerate(timeline) if code & 1}
        for place, code in enumerate(timeline):
            call = None if code & 1 else calls[code >> 1]
            if call is None:
                continue
            row = (place, returned.get(code >> 1, FOREVER), code >> 1)
            if call.f in ("enqueue", "push"):
                self.put.setdefault(call.argument, []).append(row)
                self.holds_nil = self.holds_nil or call.argument is None
            elif not call.known or row[1] == FOREVER:
                # In a part of a history, what is open at the end has crashed.
                self.crashed.append(row)
            elif call.result is None:
                self.empties.append(row)
            else:
                self.taken.setdefault(call.result, []).append(row)

    def refuted(self) -> tuple[int, str] | None:
        """An operation that no order has room for, and why; None when none is found."""
        for value, rows in self.taken.items():
            invoked = [row[0] for row in self.put.get(value, ())]
            for count, (_, end, index) in enumerate(sorted(rows, key=itemgetter(1))):
                if count >= bisect_left(invoked, end):
                    return index, f"{show(value)} had been dequeued as often as it can have been enqueued"
        if not self.empties:
            return None
        filled = list(self._filled())
        starts = [start for start, _ in filled]
        for start, end, index in self.empties:
            at = bisect_left(starts, start + 1) - 1
            if at >= 0 and filled[at][1] >= end:
                return index, "something was in the queue all the while"
        return None

    def _filled(self) -> Iterator[tuple[int, int]]:
        """When something is certainly in the queue: disjoint [from, to) of places, right after which it is."""
        changes: list[tuple[int, Value, int]] = []
        for sign, rows, at in ((1, self.put, 1), (-1, self.taken, 0)):
            changes += [
                (row[at], value, sign) for value, mine in rows.items() for row in mine if row[at] < FOREVER
            ]
        changes += [(row[0], None, 0) for row in self.crashed]
        changes.sort(key=itemgetter(0))
        held: Counter[Value] = Counter()
        certain = spared = 0
        since: int | None = None
        for place, value, sign in changes:
            if sign:
                certain -= max(0, held[value])
                held[value] += sign
                certain += max(0, held[value])
            else:
                spared += 1
            if certain > spared:
                since = place if since is None else since
            elif since is not None:
                yield since, place
                since = None
        if since is not None:
            yield since, FOREVER

    def told_apart(self, pairs: Pairs) -> Sequence[Call | None]:
        """The calls with a mark on every element; without what crashed and need not have happened."""
        took = dict(pairs)
        marked = list(self.calls)
        for _, _, index in self.crashed:
            marked[index] = None
        for rows in self.put.values():
            for _, end, index in rows:
                by = took.get(index)
                marked[index] = None if by is None and end == FOREVER else _with(self.calls[index], argument=index)
                if by is not None:
                    marked[by] = _with(self.calls[by], result=index, known=True)
        return marked


class _Run:
    """The run that tells elements apart."""

    def __init__(self, bag: _Bag, *, eager: bool) -> None:
        self._is_eager = eager
        self._puts = {row[2]: (value, row[1]) for value, rows in bag.put.items() for row in rows}
        self._takes = {row[2]: (value, row[1]) for value, rows in bag.taken.items() for row in rows}
        self._empties = {row[2] for row in bag.empties}
        self._crashed = {row[2] for row in bag.crashed}
        self._there: dict[Value, list[tuple[int, int]]] = {value: [] for value in (*bag.put, *bag.taken)}
        """By value: (return, index) of enqueues that nobody has taken yet, a heap."""
        self._open: dict[Value, list[tuple[int, int]]] = {value: [] for value in self._there}
        """By value: (return, index) of dequeues, a heap; those that have taken something stay in it."""
        self._spare: list[int] = []
        """Crashed dequeues that have taken nothing."""
        self._certain: Counter[Value] = Counter()
        """By value: how many of what is there have returned."""
        self._free: Counter[Value] = Counter()
        """By value: how many dequeues are open that have taken nothing."""
        self._lacking = 0
        """How many elements would be left if all open dequeues took what is there for certain."""
        self._held = 0
        """How many are there for certain."""
        self._by: dict[int, int] = {}
        self._busy: set[int] = set()

    def pairs(self, timeline: Sequence[int]) -> Pairs | None:
        """Who took what; None if that came to nothing."""
        waiting: set[int] = set()
        for place, code in enumerate(timeline):
            index, returns = code >> 1, code & 1
            if index in self._puts:
                value, end = self._puts[index]
                if not returns:
                    heappush(self._there[value], (end, index))
                elif index not in self._by:
                    self._change(value, certain=1)
            elif index in self._takes:
                value, end = self._takes[index]
                if not returns:
                    heappush(self._open[value], (end, index))
                    self._change(value, free=1)
                elif index not in self._busy:
                    if not self._there[value]:
                        # A crashed dequeue has taken what this one needed.
                        return None
                    self._take(value, index, place)
            elif index in self._crashed:
                self._spare.append(index)
            elif returns and index in waiting:
                if self._lacking > len(self._spare):
                    return None
                self._empty(place)
                waiting.clear()
            elif index in self._empties and not returns:
                waiting.add(index)
            if waiting and not (self._lacking if self._is_eager else self._held):
                self._empty(place)
                waiting.clear()
        return list(self._by.items())

    def _take(self, value: Value, index: int, place: int) -> None:
        """A dequeue takes what returns first of what is there."""
        end, source = heappop(self._there[value])
        self._by[source] = index
        self._busy.add(index)
        self._change(value, certain=-(end < place), free=-1)

    def _empty(self, place: int) -> None:
        """Take all that has returned by then."""
        for value in [value for value, count in self._certain.items() if count]:
            there, takers = self._there[value], self._open[value]
            while there and there[0][0] <= place:
                while takers and takers[0][1] in self._busy:
                    heappop(takers)
                if takers:
                    self._take(value, takers[0][1], place + 1)
                else:
                    self._by[heappop(there)[1]] = self._spare.pop(0)
                    self._change(value, certain=-1)

    def _change(self, value: Value, *, certain: int = 0, free: int = 0) -> None:
        self._lacking -= max(0, self._certain[value] - self._free[value])
        self._held += certain
        self._certain[value] += certain
        self._free[value] += free
        self._lacking += max(0, self._certain[value] - self._free[value])


def _with(call: Call | None, **changes: Value) -> Call | None:
    return None if call is None else structs.replace(call, **changes)
