"""The smallest part of an illegal history that is illegal by itself: what a person has to look at.

Leaving out just anything would not do: a read of 3 is illegal, too, when the write of 3 has been left out. Only what
can be taken out of every *legal* order and leave it legal may go, so that an illegal rest still proves that the whole
is illegal:

* everything that is invoked after the failing operation returned (a beginning of a legal history is legal);
* operations that look and change nothing;
* updates of which nothing that is left could see the state they make (`unseen`), and whatever else the object says
  can go together (`Model.removable`): all operations on one element of a queue or set, all of one holder of a lock.

Delta debugging over those (Zeller & Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2),
2002), large pieces first, earliest operations first, within a bound on the work.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from troth.verify.history import Value
from troth.verify.models import Call, Model
from troth.verify.primitives import APPEND, CAS, NOT, READ, Primitive

Group: TypeAlias = tuple[int, ...]
"""Indexes of operations that go together."""

EVENTS_MAX: Final = 2_000_000
"""Events that all tries together may look at; what is found by then is shown."""

_COMPARISONS_MAX: Final = 1_000_000


def shrink(
    timeline: Sequence[int],
    removable: Callable[[Sequence[int]], Sequence[Group]],
    illegal: Callable[[Sequence[int]], bool],
    *,
    events_max: int = EVENTS_MAX,
) -> list[int]:
    """The indexes of the operations in a small illegal part of *timeline*, ascending.

    Args:
        timeline: up to and including the return that failed.
        removable: of the operations left, those that may be left out, each alone or any of them together.
        illegal: whether a timeline is certainly illegal.
        events_max: bound on the events put to *illegal*.
    """
    kept = list(timeline)
    spent = 0
    shrinking = True
    while shrinking:
        shrinking = False
        left = sorted({code >> 1 for code in kept})
        groups = sorted(removable(left))
        size = len(groups)
        while size and spent < events_max:
            at = 0
            while at < len(groups) and spent < events_max:
                gone = {index for group in groups[at : at + size] for index in group}
                fewer = [code for code in kept if code >> 1 not in gone]
                spent += len(fewer) + 1
                if fewer and illegal(fewer):
                    kept, shrinking = fewer, True
                    del groups[at : at + size]
                else:
                    at += size
            size //= 2
    return sorted({code >> 1 for code in kept})


def unseen(primitives: Sequence[Primitive | None], left: Sequence[int]) -> list[Group]:
    """What a register can do without: looks, and updates whose state nothing left would see.

    In a legal order nothing looks between such an update and the next overwrite, so nothing misses it. A NOT sees every
    state but one; while any other is left, no update may go.
    """
    looks: list[Group] = []
    updates: list[tuple[int, Primitive]] = []
    seen: list[Value] = []
    forbidden: set[Value] = set()
    appends = False
    for index in left:
        primitive = primitives[index]
        if primitive is None:
            looks.append((index,))
            continue
        kind, value = primitive[0], primitive[1]
        if kind in (READ, NOT):
            looks.append((index,))
        else:
            updates.append((index, primitive))
        if kind in (READ, CAS):
            seen.append(value)
        elif kind == NOT:
            forbidden.add(value)
        appends = appends or kind == APPEND
    if appends and len(updates) * len(seen) > _COMPARISONS_MAX:
        # Too many texts to look through; fewer will be left once most looks are gone.
        return looks
    exact = set(seen)
    texts = [value for value in seen if isinstance(value, str)]
    lists = [value for value in seen if isinstance(value, tuple)]

    def is_seen(kind: int, made: Value) -> bool:
        if forbidden and (appends or forbidden != {made}):
            return True
        if not appends:
            return made in exact
        if made is None or made in exact:
            return True
        if isinstance(made, str):
            return any(made in text for text in texts) if kind == APPEND else any(map(_starts(made), texts))
        if isinstance(made, tuple):
            return any(set(made) <= set(item) for item in lists)
        return False

    return looks + [
        (index,)
        for index, primitive in updates
        if not is_seen(primitive[0], primitive[2] if primitive[0] == CAS else primitive[1])
    ]


def _starts(made: str) -> Callable[[str], bool]:
    return lambda text: text.startswith(made)


def cut(primitives: Sequence[Primitive | None], timeline: Sequence[int]) -> list[Primitive | None]:
    """The primitives as they stand where *timeline* ends: what has not returned by then has crashed."""
    returned = {code >> 1 for code in timeline if code & 1}
    shown: list[Primitive | None] = list(primitives)
    for code in timeline:
        primitive = shown[code >> 1]
        if primitive is not None and not code & 1 and code >> 1 not in returned and not primitive[3]:
            shown[code >> 1] = None if primitive[0] in (READ, NOT) else (*primitive[:3], True)
    return shown


def removable_calls(model: Model, calls: Sequence[Call | None]) -> Callable[[Sequence[int]], Sequence[Group]]:
    """The same question, put to any other object."""

    def removable(left: Sequence[int]) -> Sequence[Group]:
        spoken = {index: call for index in left if (call := calls[index]) is not None}
        silent: list[Group] = [(index,) for index in left if index not in spoken]
        return silent + model.removable(spoken)

    return removable
