"""From the trail of a surviving configuration to a whole legal order.

A trail lists what the search placed for real, each at the return (place t in the timeline) that forced it: an instant
just before t. Between two such placements lies a *gap* with one state. Everything that is not in the trail finds room
in a gap within its own interval: operations that leave the state alone in a gap whose state allows them; covered ones
directly before a WRITE, or where nothing looks at the state any more. Crashed operations that were not placed never
happened. Instants (2 t before the event at place t, 2 t + 1 after it) let the orders of several keys be merged.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from troth.errors import invariant
from troth.verify.history import FOREVER, Value
from troth.verify.linearizability.observers import DEAD
from troth.verify.linearizability.outcome import Trail
from troth.verify.models import ILLEGAL, Call, Model, Several
from troth.verify.primitives import APPEND, CAS, NOT, READ, WRITE, Primitive, joined


def unroll(trail: Trail) -> list[tuple[int, int, Value]]:
    """The trail in order: (operation index, place, state reached). An index of -1 marks a state given up as DEAD."""
    rows: list[tuple[int, int, Value]] = []
    while trail is not None:
        trail, index, place, state = trail
        rows.append((index, place, state))
    rows.reverse()
    return rows


def order_of_calls(
    model: Model, calls: Sequence[Call | None], timeline: Sequence[int], trail: Trail
) -> list[tuple[int, int]]:
    """The same for the operations of any `Model`, from a trail of `generic.search`."""
    gaps = _Gaps(timeline, trail, model.init())

    def rests(index: int, state: Value, _: int) -> bool:
        call = calls[index]
        after = ILLEGAL if call is None else model.step(state, call)
        return state in after.states if isinstance(after, Several) else bool(after == state)

    def hides(index: int) -> bool:
        call = calls[index]
        return call is not None and model.overwrites(call)

    def hidden(index: int) -> bool:
        call = calls[index]
        return call is not None and (model.total(call) or model.overwrites(call))

    speaking = [index for index in gaps.invoked if calls[index] is not None and index in gaps.returned]
    return gaps.fill(speaking, rests, hides, hidden)


def order(
    primitives: Sequence[Primitive | None], timeline: Sequence[int], initial: Value, trail: Trail
) -> list[tuple[int, int]]:
    """A legal order as (instant, operation index), instants ascending.

    Args:
        primitives, timeline: what was searched.
        initial: the state before everything.
        trail: of a configuration that survived to the end of *timeline*. Operations that do not return in it are
            left out unless the trail places them.
    """
    gaps = _Gaps(timeline, trail, initial)
    values = [initial]
    for placed, _, _ in gaps.placed:
        values.append(_made(primitives[placed] if placed >= 0 else None, values[-1]))

    def rests(index: int, state: Value, gap: int) -> bool:
        primitive = primitives[index]
        if primitive is None:
            return False
        # A WRITE of the very value that is given up as DEAD was settled when that value was made.
        return _rests(primitive, state) or (
            state is DEAD and primitive[0] == WRITE and values[gap] == primitive[1]
        )

    def hides(index: int) -> bool:
        primitive = primitives[index]
        return primitive is not None and primitive[0] == WRITE

    def hidden(index: int) -> bool:
        primitive = primitives[index]
        return primitive is not None and primitive[0] in (WRITE, APPEND)

    speaking = [index for index in gaps.invoked if primitives[index] is not None and index in gaps.returned]
    return gaps.fill(speaking, rests, hides, hidden)


class _Gaps:
    """The states between the placements of a trail, and when each held."""

    def __init__(self, timeline: Sequence[int], trail: Trail, initial: Value) -> None:
        self.placed = unroll(trail)
        self.initial = initial
        self.invoked: dict[int, int] = {}
        self.returned: dict[int, int] = {}
        for place, code in enumerate(timeline):
            (self.returned if code & 1 else self.invoked)[code >> 1] = place

    def fill(
        self,
        speaking: Sequence[int],
        rests: Callable[[int, Value, int], bool],
        hides: Callable[[int], bool],
        hidden: Callable[[int], bool],
    ) -> list[tuple[int, int]]:
        """Find room for every operation of *speaking* that the trail does not place.

        Args:
            rests: whether an operation can sit in a state, that of a gap, without changing it.
            hides: whether an operation overwrites all that was before it.
            hidden: whether an operation can sit unseen before one that overwrites.
        """
        placed = self.placed
        ends = [place for _, place, _ in placed]
        in_trail = {index for index, _, _ in placed}
        # (gap, order within it, instant, operation)
        rows = [(2 * gap + 1, 0, 2 * place, index) for gap, (index, place, _) in enumerate(placed) if index >= 0]
        for index in speaking:
            if index in in_trail:
                continue
            start, until = self.invoked[index], self.returned.get(index, FOREVER)
            gap = bisect_right(ends, start)
            while True:
                invariant(gap <= len(placed), "no room for an operation of a legal history", operation=index)
                state, opens = (placed[gap - 1][2], placed[gap - 1][1]) if gap else (self.initial, -1)
                invariant(opens <= until, "no room for an operation of a legal history", operation=index)
                if rests(index, state, gap):
                    rows.append((2 * gap, start, max(2 * start + 1, 2 * opens), index))
                    break
                closes = placed[gap] if gap < len(placed) else (-1, FOREVER, None)
                if closes[0] >= 0 and closes[1] <= until and hidden(index) and hides(closes[0]):
                    # After everything that looks at this gap's state, before the write that hides it.
                    rows.append((2 * gap, FOREVER + start, 2 * closes[1], index))
                    break
                gap += 1
        rows.sort()
        return [(instant, index) for _, _, instant, index in rows]


def _made(primitive: Primitive | None, value: Value) -> Value:
    """What *value* becomes by an operation that is placed for real."""
    if primitive is None:
        return value
    if primitive[0] == APPEND:
        return joined(value, primitive[1])
    return primitive[2] if primitive[0] == CAS else primitive[1]


def _rests(primitive: Primitive, state: Value) -> bool:
    kind, value = primitive[0], primitive[1]
    if kind in (READ, WRITE):
        return bool(state == value)
    if kind == NOT:
        return bool(state != value)
    return kind == APPEND and state is DEAD
