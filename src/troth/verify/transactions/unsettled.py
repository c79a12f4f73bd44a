"""Transactions of which it is not known which branch ran (`verify.branches`), settled one way or another.

A crashed one whose writes nobody read counts as if it never happened, whichever way it went: leaving it out of a legal
execution leaves that legal. Of the others every way is tried; what is legal one way is legal.
"""

import itertools
import math
from typing import Final

from msgspec import structs

from troth.verify.branches import branches, flat, ways
from troth.verify.history import EventType, History, Operation, Value
from troth.verify.transactions.micro import READS

_HISTORIES_MAX: Final = 64


def settled(history: History) -> list[History]:
    """*history* in every way that its transactions may have gone, the likeliest first; empty if those are too many."""
    open_ones = [op for op in history.operations if _is_open(op)]
    read: set[tuple[Value, Value]] = set()
    for op in history.operations if open_ones else ():
        if op.outcome is EventType.OK:
            for f, key, value in flat(op.result):
                if f in READS:
                    read.add((key, value))
                    read.update((key, item) for item in (value if isinstance(value, tuple) else ()))
    choices: list[list[Operation]] = []
    for op in open_ones:
        if op.outcome is EventType.INFO and not any((key, value) in read for _, key, value in flat(op.argument)):
            choices.append([structs.replace(op, argument=())])
            continue
        chosen = ways(op.argument)
        if chosen is None:
            return []
        chosen.sort(key=lambda way: -sum((key, value) in read for _, key, value in flat(way)))
        choices.append([structs.replace(op, argument=way) for way in chosen])
    if math.prod(len(each) for each in choices) > _HISTORIES_MAX:
        return []
    return [_with(history, chosen) for chosen in itertools.product(*choices)]


def _is_open(op: Operation) -> bool:
    told = op.outcome is EventType.OK and op.result is not None
    return op.outcome is not EventType.FAIL and not told and branches(op.argument)


def _with(history: History, chosen: tuple[Operation, ...]) -> History:
    if not chosen:
        return history
    instead = {op.index: op for op in chosen}
    changed = History(
        [instead.get(op.index, op) for op in history.operations],
        timeline=history.timeline,
        faults=history.faults,
        reading=history.reading,
        format=history.format,
        length=history.length,
    )
    changed.remarks = history.remarks
    return changed
