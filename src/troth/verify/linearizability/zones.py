"""Registers in which every value is written once: linearizability in O(n log n) by zones.

All operations of one value form a *cluster*: its write and the reads that returned it. Let f be the earliest return
and s the latest invocation in the cluster. If f < s the register must hold the value throughout [f, s] (a forward
zone); otherwise all of the cluster overlaps in [s, f] and can sit at one instant in there (a backward zone). The
history is linearizable exactly when

(a) no read returns before the write of its value is invoked,
(b) no two forward zones overlap,
(c) no backward zone lies inside a forward zone.

The initial value counts as written before everything. A crashed write that nobody read drops out; one that was read
never returned. Source: Gibbons & Korach, "Testing shared memories", SIAM J. Comput. 26(4), 1997, section 4.2.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from troth.verify.history import FOREVER, Value
from troth.verify.linearizability.register import READ, WRITE, Primitive


class Zones(Struct, frozen=True, kw_only=True):
    """What was found. `conflict`: the values whose clusters cannot both be placed (or one that never was written)."""

    conflict: tuple[Value, ...]
    reason: str
    clusters: dict[Value, tuple[int, int, int]]
    """value -> (f, s, index of its write or -1)"""


def applies(primitives: Sequence[Primitive | None], timeline: Sequence[int], initial: Value) -> bool:
    """Whether there are only reads and writes, and no value is written twice (nor the initial one at all)."""
    seen = {initial}
    add = seen.add
    for code in timeline:
        primitive = None if code & 1 else primitives[code >> 1]
        if primitive is None:
            continue
        kind = primitive[0]
        if kind == WRITE:
            if primitive[1] in seen:
                return False
            add(primitive[1])
        elif kind != READ:
            return False
    return True


def examine(primitives: Sequence[Primitive | None], timeline: Sequence[int], initial: Value) -> Zones:
    """Look for a conflict; `Zones.conflict` is empty when the history is linearizable."""
    writes: dict[Value, int] = {}
    first_return: dict[Value, int] = {initial: -1}
    last_invoke: dict[Value, int] = {initial: -1}
    conflict: tuple[Value, ...] = ()
    reason = ""
    for place, code in enumerate(timeline):
        index = code >> 1
        primitive = primitives[index]
        if primitive is None:
            continue
        value = primitive[1]
        if not code & 1:
            if primitive[0] == WRITE:
                writes[value] = index
            # Invocations come in order, so the last one to speak is the latest.
            last_invoke[value] = place
        elif value not in first_return:
            if value not in writes:
                return Zones(conflict=(value,), reason="it was read before its write was invoked", clusters={})
            first_return[value] = place
    for value in first_return:
        if value != initial and value not in writes:
            return Zones(conflict=(value,), reason="it was read but never written", clusters={})
    clusters: dict[Value, tuple[int, int, int]] = {}
    forward: list[tuple[int, int, Value]] = []
    backward: list[tuple[int, int, Value]] = []
    for value, index in (*writes.items(), (initial, -1)):
        f = first_return.get(value, FOREVER)
        if f == FOREVER:
            # A crashed write that nobody read.
            continue
        s = last_invoke[value]
        clusters[value] = (f, s, index)
        if f < s:
            forward.append((f, s, value))
        elif index >= 0:
            backward.append((s, f, value))
    forward.sort(key=_start)
    for (_, end, first), (start, _, second) in pairwise(forward):
        if start < end:
            conflict, reason = (first, second), "each must be the register's value while the other must be, too"
            break
    if not conflict:
        starts = [zone[0] for zone in forward]
        for s, f, value in backward:
            at = bisect_right(starts, s) - 1
            if at >= 0 and f < forward[at][1]:
                conflict = (forward[at][2], value)
                reason = "the second was written and read while the register must have held the first"
                break
    return Zones(conflict=conflict, reason=reason, clusters=clusters)


def _start(zone: tuple[int, int, Value]) -> int:
    return zone[0]


def order(
    primitives: Sequence[Primitive | None], timeline: Sequence[int], initial: Value, zones: Zones
) -> list[tuple[int, int]]:
    """A legal order, as (instant, operation index); instants as in `witness.order`. Only for a history without
    conflict."""
    forward = sorted((f, s) for f, s, _ in zones.clusters.values() if f < s)
    starts = [f for f, _ in forward]
    # Where a cluster that fits into one instant goes: (instant, rank).
    instants: dict[Value, tuple[int, int]] = {}
    for value, (f, s, _) in zones.clusters.items():
        if f >= s:
            at = bisect_right(starts, s) - 1
            inside = at >= 0 and s < forward[at][1]
            instants[value] = (2 * forward[at][1] + 1, 1) if inside else (2 * s + 1, 0)
    invoked = {code >> 1: place for place, code in enumerate(timeline) if not code & 1}
    rows: list[tuple[int, int, int, int, int]] = []
    for index in invoked:
        primitive = primitives[index]
        if primitive is None or primitive[1] not in zones.clusters:
            continue
        value, is_read = primitive[1], int(primitive[0] == READ)
        f, s, write = zones.clusters[value]
        if f < s:
            instant, rank = (2 * f, 0) if not is_read else (max(2 * f, 2 * invoked[index] + 1), 0)
        else:
            instant, rank = instants[value]
        rows.append((instant, rank, write, is_read, index))
    rows.sort()
    return [(instant, index) for instant, _, _, _, index in rows]
