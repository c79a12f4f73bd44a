"""When a value can have been in the register at all: what refutes a READ or CAS without any search.

A value is there only after something that makes it was invoked. It is gone for certain when, for everything that made
it, there is a WRITE of another value that was invoked after that had returned, and that had itself returned when the
value was asked for. Both are questions about a beginning of the history, answered from tables made once.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from troth.verify.history import FOREVER, Value, show
from troth.verify.primitives import APPEND, CAS, WRITE, Primitive

_NOTHING: Final = object()
_NEVER: Final = (-1, _NOTHING)


class Presence:
    """Answers for one timeline; without appends only."""

    def __init__(self, primitives: Sequence[Primitive | None], timeline: Sequence[int]) -> None:
        self.invoked: dict[int, int] = {}
        returned: dict[int, int] = {}
        for place, code in enumerate(timeline):
            (returned if code & 1 else self.invoked)[code >> 1] = place
        self._appended_from = FOREVER
        makers: dict[Value, list[tuple[int, int]]] = {}
        writes: list[tuple[int, int, Value]] = []
        for index, start in self.invoked.items():
            primitive = primitives[index]
            if primitive is None:
                continue
            kind, a, b, _ = primitive
            end = returned.get(index, FOREVER)
            if kind == APPEND:
                self._appended_from = min(self._appended_from, start)
            elif kind == WRITE:
                makers.setdefault(a, []).append((start, end))
                if end < FOREVER:
                    writes.append((end, start, a))
            elif kind == CAS and a != b:
                makers.setdefault(b, []).append((start, end))
        # By invocation: the latest return so far of what makes the value.
        self._makers = {
            value: ([start for start, _ in rows], list(accumulate((end for _, end in rows), max)))
            for value, rows in makers.items()
        }
        writes.sort()
        self._write_ends = [end for end, _, _ in writes]
        self._latest: list[tuple[tuple[int, Value], tuple[int, Value]]] = []
        """By return: the WRITE invoked latest so far, and the latest of another value than that."""
        first = second = _NEVER
        for _, start, value in writes:
            if value == first[1]:
                first = max(first, (start, value), key=_start)
            elif start > first[0]:
                first, second = (start, value), first
            elif start > second[0]:
                second = (start, value)
            self._latest.append((first, second))

    def refutes(self, value: Value, index: int, place: int, initial: Value) -> str:
        """Why *value* cannot be what operation *index*, which returns at *place*, saw; "" where that is not certain."""
        if self._appended_from < place:
            return ""
        made = -1 if value == initial else -2
        starts, ends = self._makers.get(value, ((), ()))
        until = bisect_left(starts, place)
        if until:
            made = max(made, ends[until - 1])
        if made == -2:
            return f"{show(value)} had not been written when it returned"
        before = bisect_left(self._write_ends, self.invoked[index])
        if not before:
            return ""
        first, second = self._latest[before - 1]
        overwritten = second[0] if first[1] == value else first[0]
        return f"{show(value)} had been overwritten when it was invoked" if made < overwritten else ""


def _start(write: tuple[int, Value]) -> int:
    return write[0]
