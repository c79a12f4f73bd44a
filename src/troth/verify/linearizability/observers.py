"""Who will still look at a state: reduction 6 of `register.py`.

A state that nobody looks at any more is the same as any other such state. READ, NOT and CAS look at the value they
name; where there are appends, a state is also looked at by whoever names something that it is the beginning of. Sorted,
those stand side by side, so the last of them is a range maximum.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from troth.verify.history import FOREVER, Value
from troth.verify.primitives import APPEND, NOT, WRITE, Primitive

_HIGHEST: Final = "\U0010ffff"


class _Dead:
    """The state that nobody will look at."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "(a value that nobody read later)"


DEAD: Final = _Dead()


class Observers:
    """Until when a state will be looked at: the last return of a READ, NOT or CAS that names it (or extends it)."""

    def __init__(self, primitives: Sequence[Primitive | None], timeline: Sequence[int]) -> None:
        last: dict[Value, int] = {}
        prefixes = False
        self.last_not = -1
        for place, code in enumerate(timeline):
            primitive = primitives[code >> 1]
            if primitive is None:
                continue
            kind = primitive[0]
            if kind == APPEND:
                prefixes = True
            elif kind != WRITE:
                if code & 1:
                    # A crashed CAS may still look at any time.
                    last[primitive[1]] = max(place, last.get(primitive[1], -1))
                    if kind == NOT:
                        self.last_not = place
                elif primitive[3]:
                    last[primitive[1]] = FOREVER
        self._last = last
        if prefixes:
            self._sorted: list[str] = sorted(value for value in last if isinstance(value, str))
            # The bisection below takes this for a character above all others.
            self._exact = not any(_HIGHEST in value for value in self._sorted)
            self._lists: list[tuple[Value, ...]] = sorted(
                (value for value in last if isinstance(value, tuple)), key=_list_order
            )
            self._list_keys = [_list_order(value) for value in self._lists]
            self._text_max = _RangeMax([last[value] for value in self._sorted])
            self._list_max = _RangeMax([last[value] for value in self._lists])
            self._memo: dict[Value, int] = {}
        self._prefixes = prefixes

    def until(self, state: Value) -> int:
        """Place in the timeline of the last return that can see *state*; -1 if there is none."""
        if not self._prefixes:
            return self._last.get(state, -1)
        if state is None or state == "" or state == ():
            # Whatever is read later may have begun here.
            return FOREVER
        if not isinstance(state, str | tuple):
            return self._last.get(state, -1)
        known = self._memo.get(state)
        if known is None:
            if not self._exact:
                known = FOREVER
            elif isinstance(state, str):
                low = bisect_left(self._sorted, state)
                high = bisect_left(self._sorted, state + _HIGHEST, low)
                known = self._text_max.within(low, high)
            else:
                key = _list_order(state)
                low = bisect_left(self._list_keys, key)
                high = bisect_left(self._list_keys, (*key, _HIGHEST), low)
                known = self._list_max.within(low, high)
            self._memo[state] = known
        return known


def _list_order(value: tuple[Value, ...]) -> tuple[str, ...]:
    # Any total order in which extensions of a list stand right behind it will do; elements may be of any type.
    return tuple([f"{item.__class__.__name__}{item!r}" for item in value])


class _RangeMax:
    """Largest value in a range, by a table of powers of two; built when first asked."""

    def __init__(self, values: list[int]) -> None:
        self._levels = [values]

    def within(self, low: int, high: int) -> int:
        """Maximum of ``values[low:high]``, -1 when that is empty."""
        if low >= high:
            return -1
        level = (high - low).bit_length() - 1
        while len(self._levels) <= level:
            below, half = self._levels[-1], 1 << (len(self._levels) - 1)
            self._levels.append([max(pair) for pair in zip(below, below[half:], strict=False)])
        row = self._levels[level]
        return max(row[low], row[high - (1 << level)])
