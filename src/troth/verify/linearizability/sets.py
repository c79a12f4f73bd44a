"""Sets that only grow and are read as a whole: linearizability in linear time.

The results of all reads must form a chain under inclusion, so their order is known, and with it between which two
reads every element was added. Instants are then dealt greedily, the earliest possible first: a group of equal reads
starts when the elements it is the first to show have been invoked, an element cannot be added before the reads that
lack it, and whoever misses its own return is the operation that cannot be placed. An element added twice enters with
one of its adds; the others may come later, but none may have returned before a read that lacks it.
"""

from collections.abc import Sequence

from troth.verify.history import FOREVER, Value
from troth.verify.models import Call


def applies(calls: Sequence[Call | None], timeline: Sequence[int]) -> bool:
    """Whether there are only adds that report nothing and whole reads of hashable elements, at least one of them."""
    reads = False
    for code in timeline:
        call = None if code & 1 else calls[code >> 1]
        if call is None:
            continue
        if call.f == "read":
            if not isinstance(call.result, tuple | frozenset) and call.result is not None:
                return False
            reads = True
        elif call.f != "add" or (call.known and isinstance(call.result, bool)):
            return False
    return reads


def examine(
    calls: Sequence[Call | None], timeline: Sequence[int]
) -> tuple[int | None, str, list[tuple[int, int]]]:
    """(the operation that cannot be placed or None, why, a legal order as (instant, index) when None)."""
    invoked: dict[int, int] = {}
    returned: dict[int, int] = {}
    for place, code in enumerate(timeline):
        (returned if code & 1 else invoked)[code >> 1] = place
    adds: dict[Value, list[int]] = {}
    groups: dict[frozenset[Value], list[int]] = {}
    for index in invoked:
        call = calls[index]
        if call is None:
            continue
        if call.f == "add":
            adds.setdefault(call.argument, []).append(index)
        else:
            result = call.result
            seen = frozenset(result) if isinstance(result, tuple | frozenset) else frozenset()
            groups.setdefault(seen, []).append(index)
    chain = sorted(groups, key=len)
    order: list[tuple[int, int]] = []
    # Instants are 2 * place + 1 just after the event at that place, 2 * place just before it.
    clock = 0
    before: frozenset[Value] = frozenset()
    done: set[int] = set()
    for seen in chain:
        if not before <= seen:
            missing = next(iter(sorted(before - seen, key=repr)))
            return groups[seen][0], f"it lacks {missing!r}, which another read that lacks something of it has", []
        for element in seen - before:
            if element not in adds:
                return groups[seen][0], f"it shows {element!r}, which nobody added", []
        start = clock
        for element in seen - before:
            start = max(start, 2 * min(invoked[index] for index in adds[element]) + 1)
        for element in seen - before:
            first = min(adds[element], key=lambda index: invoked[index])
            for index in adds[element]:
                instant = max(clock, 2 * invoked[index] + 1)
                if instant > 2 * returned.get(index, FOREVER):
                    return index, f"it returned before a read that lacks {element!r}", []
                if index == first:
                    order.append((instant, index))
                    done.add(index)
        reads = sorted(groups[seen], key=lambda index: invoked[index])
        for index in reads:
            instant = max(start, 2 * invoked[index] + 1)
            if instant > 2 * returned.get(index, FOREVER):
                return index, "by then the set held more than it shows, or what it shows was not yet added", []
            order.append((instant, index))
            clock = max(clock, instant)
        clock = max(clock, start)
        before = seen
    for element, indexes in adds.items():
        for index in indexes:
            until = 2 * returned.get(index, FOREVER)
            if element not in before:
                instant = max(clock, 2 * invoked[index] + 1)
                if instant > until:
                    return index, f"it returned before a read that lacks {element!r}", []
                if until < 2 * FOREVER:
                    order.append((instant, index))
            elif index not in done and until < 2 * FOREVER:
                order.append((until, index))
    position = {index: at for at, (_, index) in enumerate(order)}
    order.sort(key=lambda row: (row[0], position[row[1]]))
    return None, "", order
