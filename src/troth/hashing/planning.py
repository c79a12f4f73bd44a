"""From two placements to the moves between them, and from moves to waves.

Ranges are compared on the common refinement of both rings' points: between two neighbouring points of either
ring nothing changes, so one look at each end decides the whole stretch, and the moves are exact rather than
sampled.

A key's copies change from the set B (before) to the set A (after), of equal size. Each node of A - B receives
the range in the place of one node of B - A, paired in preference order; nodes in both sets do nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troth.hashing.errors import NoNodes
from troth.hashing.keys import Hashes, Key, as_bytes
from troth.hashing.moves import Move, Plan, Step

LISTED_BYTES_MAX = 100_000
"""Keys that one move lists, percent-encoded and with a space each: Linux takes 128 KiB in one environment variable."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arcs:
    """Ranges of hashes with their holders.

    Attributes:
        names: the nodes.
        bits: hashes are below 2**bits.
        ends: u64[P], ascending, distinct; arc i is (ends[i - 1], ends[i]] and arc 0 wraps around zero.
        holders: i32[P, replicas], indices into `names`, the owner first.
    """

    names: tuple[str, ...]
    bits: int
    ends: Hashes
    holders: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A stretch (range or list of keys) with the pairs (source, target, leaving) of its changes."""

    first: int | None
    last: int | None
    pairs: tuple[tuple[str | None, str, str], ...]
    width: float
    key_count: int | None
    value_bytes: int | None
    keys: tuple[str, ...] = ()


def ideal_fraction(before: dict[str, float], after: dict[str, float]) -> float:
    """The least share of keys that must move when the nodes' fair shares change from *before* to *after*.

    Sum of what each node gains: 1 / (n + 1) when a node joins n others of the same weight.

    Raises:
        NoNodes: nobody holds anything before, or afterwards.
    """
    total_before, total_after = sum(before.values()), sum(after.values())
    if not (total_before and total_after):
        raise NoNodes
    return sum(
        max(0.0, weight / total_after - before.get(name, 0.0) / total_before) for name, weight in after.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What every plan carries, however its moves were found; as in `moves.Plan` and `Locator.plan`."""

    algorithm: str
    key_hash: str
    bits: int
    before: str
    after: str
    replicas: int
    moves_per_node: int
    ideal_fraction: float
    lost: frozenset[str]


def plan_arcs(
    settings: PlanSettings,
    *,
    before_arcs: Arcs,
    after_arcs: Arcs,
    hashes: Hashes | None,
    sizes_bytes: Sequence[int] | None,
) -> Plan:
    """The plan between two sets of ranges; *hashes* and *sizes_bytes* of the keys fill in counts."""
    names = tuple(sorted({*before_arcs.names, *after_arcs.names}))
    rank = {name: index for index, name in enumerate(names)}
    ends = np.union1d(before_arcs.ends, after_arcs.ends)
    old = _rows_at(before_arcs, ends, rank)
    new = _rows_at(after_arcs, ends, rank)
    # A row changes if some new holder is not among the old ones: sets compare, orders may differ.
    changed = (~(new[:, :, None] == old[:, None, :]).any(axis=2)).any(axis=1)
    top = (1 << before_arcs.bits) - 1
    counts = _census(ends, hashes, sizes_bytes)
    changes: list[_Change] = []
    widths = 0.0
    last_end = int(ends[-1])
    for index in np.flatnonzero(changed).tolist():
        pairs = _pairs([names[at] for at in old[index]], [names[at] for at in new[index]], settings.lost)
        stretches = [(int(ends[index - 1]) + 1, int(ends[index]), index)]
        if index == 0:  # the arc around zero, cut where the numbers begin again
            stretches = [(0, int(ends[0]), 0)]
            if last_end < top:
                stretches.append((last_end + 1, top, len(ends)))
        for first, last, cell in stretches:
            width = (last - first + 1) / (top + 1)
            widths += width * len(pairs)
            changes.append(
                _Change(
                    first=first,
                    last=last,
                    pairs=pairs,
                    width=width,
                    key_count=None if counts is None else int(counts[0][cell]),
                    value_bytes=None if counts is None or sizes_bytes is None else int(counts[1][cell]),
                )
            )
    return _plan(
        settings,
        changes=_merged(sorted(changes, key=lambda change: change.first or 0)),
        moved_fraction=widths / settings.replicas,
    )


def plan_keys(
    settings: PlanSettings,
    *,
    keys: Sequence[Key],
    sizes_bytes: Sequence[int] | None,
    before_rows: NDArray[np.object_],
    after_rows: NDArray[np.object_],
) -> Plan:
    """The plan for listed keys, for algorithms without ranges; keys with the same change share a move, as many as
    a move lists (`LISTED_BYTES_MAX`)."""
    groups: dict[tuple[tuple[str | None, str, str], ...], list[list[int]]] = defaultdict(list)
    moved = 0
    open_group: dict[tuple[tuple[str | None, str, str], ...], list[int]] = {}
    room: dict[tuple[tuple[str | None, str, str], ...], int] = {}
    for index in np.flatnonzero((before_rows != after_rows).any(axis=1)).tolist():
        pairs = _pairs(before_rows[index].tolist(), after_rows[index].tolist(), settings.lost)
        if pairs:
            size = 3 * len(as_bytes(keys[index])) + 1
            if room.get(pairs, 0) < size:
                open_group[pairs] = []
                groups[pairs].append(open_group[pairs])
                room[pairs] = LISTED_BYTES_MAX
            open_group[pairs].append(index)
            room[pairs] -= size
            moved += len(pairs)
    changes = [
        _Change(
            first=None,
            last=None,
            pairs=pairs,
            width=len(members) / len(keys),
            key_count=len(members),
            value_bytes=None if sizes_bytes is None else sum(sizes_bytes[index] for index in members),
            keys=tuple(as_bytes(keys[index]).hex() for index in members),
        )
        for pairs, parts in groups.items()
        for members in parts
    ]
    return _plan(settings, changes=changes, moved_fraction=moved / max(1, len(keys)) / settings.replicas)


def _rows_at(arcs: Arcs, ends: Hashes, rank: dict[str, int]) -> NDArray[np.int32]:
    """Holders of each stretch that ends at *ends*, in the common ranks; shape (len(ends), replicas)."""
    renamed = np.array([rank[name] for name in arcs.names], np.int32)
    at = np.searchsorted(arcs.ends, ends) % len(arcs.ends)
    return renamed[arcs.holders[at]]


def _census(
    ends: Hashes, hashes: Hashes | None, sizes_bytes: Sequence[int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Keys and bytes in each stretch; cell len(ends) is what lies above the last end."""
    if hashes is None:
        return None
    cells = np.searchsorted(ends, hashes)
    counts = np.bincount(cells, minlength=len(ends) + 1)
    totals = np.zeros(len(ends) + 1, np.int64)
    if sizes_bytes is not None:
        np.add.at(totals, cells, np.asarray(sizes_bytes, np.int64))
    return counts, totals


def _pairs(old: list[str], new: list[str], lost: frozenset[str]) -> tuple[tuple[str | None, str, str], ...]:
    """(source, target, leaving) for each holder that changes.

    The leaving node is the source if it can be read; else a holder that stays, else one that leaves in this
    plan too.
    """
    gaining = [name for name in new if name not in old]
    leaving = [name for name in old if name not in new]
    readable = [name for name in old if name in new and name not in lost]
    readable += [name for name in leaving if name not in lost]
    pairs = []
    for target, gone in zip(gaining, leaving, strict=True):
        source = gone if gone not in lost else next(iter(readable), None)
        pairs.append((source, target, gone))
    return tuple(pairs)


def _merged(changes: list[_Change]) -> list[_Change]:
    """*changes*, ascending, with neighbours that change in the same way made one."""
    merged: list[_Change] = []
    for change in changes:
        tail = merged[-1] if merged else None
        if tail and tail.pairs == change.pairs and tail.last is not None and tail.last + 1 == change.first:
            merged[-1] = _Change(
                first=tail.first,
                last=change.last,
                pairs=tail.pairs,
                width=tail.width + change.width,
                key_count=_sum(tail.key_count, change.key_count),
                value_bytes=_sum(tail.value_bytes, change.value_bytes),
            )
        else:
            merged.append(change)
    return merged


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _plan(settings: PlanSettings, *, changes: Iterable[_Change], moved_fraction: float) -> Plan:
    """Moves for *changes*, dealt into waves: each into the first wave where its nodes have room."""
    limit = settings.moves_per_node
    moves: list[Move] = []
    waves: list[list[int]] = []
    load: list[dict[str, int]] = []
    open_from: dict[tuple[str, ...], int] = {}
    # Big ones first, so that the small ones fill the gaps; the order is fixed by the ranges, never by a hash
    # table.
    ordered = sorted(
        changes,
        key=lambda change: (-(change.value_bytes or 0), -change.width, change.first or 0, change.pairs[0][1]),
    )
    for change in ordered:
        # A node that others still read this range from must not drop it in an earlier wave: readers go first.
        reads_until: dict[str, int] = {}
        for source, target, leaving in sorted(change.pairs, key=lambda pair: pair[0] == pair[2]):
            steps: tuple[Step, ...] = ("copy", "switch", "drop")
            if leaving in settings.lost:
                steps = ("copy", "switch") if source is not None else ("switch",)
            move = Move(
                id=len(moves),
                first=change.first,
                last=change.last,
                source=source,
                target=target,
                leaving=leaving,
                steps=steps,
                key_count=change.key_count,
                value_bytes=change.value_bytes,
                keys=change.keys,
            )
            touched = tuple(sorted(move.touches()))
            # Waves before this one were full for this very set of nodes, so the search need not start over.
            number = max(open_from.get(touched, 0), reads_until.get(leaving, 0))
            while number < len(waves) and any(load[number].get(node, 0) >= limit for node in touched):
                number += 1
            if leaving not in reads_until:
                open_from[touched] = number
            if number == len(waves):
                waves.append([])
                load.append({})
            waves[number].append(move.id)
            for node in touched:
                load[number][node] = load[number].get(node, 0) + 1
            if source is not None:
                reads_until[source] = max(reads_until.get(source, 0), number)
            moves.append(move)
    plan = Plan(
        algorithm=settings.algorithm,
        key_hash=settings.key_hash,
        bits=settings.bits,
        before=settings.before,
        after=settings.after,
        replicas=settings.replicas,
        moves_per_node=limit,
        moves=tuple(moves),
        waves=tuple(tuple(wave) for wave in waves),
        moved_fraction=moved_fraction,
        ideal_fraction=settings.ideal_fraction,
    )
    plan.check()
    return plan
