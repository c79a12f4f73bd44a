"""Transactions that may have gone one of two ways: their answer was lost, and with it which branch ran.

What such a transaction may have done stands in its request as ``["either", [micro, ...], [micro, ...]]`` among the
other micro-operations; branches may hold further ones. The plain micro-operations of one choice for each are one *way*.
"""

from collections.abc import Iterator
from typing import Final

from troth.verify.history import EventType, Operation, Value

EITHER: Final = "either"
WAYS_MAX: Final = 256
"""Of a transaction that may have gone more ways it is not known what it wrote."""


def branches(value: Value) -> bool:
    """Whether the micro-operations *value* leave open which of them ran."""
    return any(_is_either(item) for item in _items(value))


def flat(value: Value) -> Iterator[tuple[Value, Value, Value]]:
    """Every micro-operation (f, key, value) that may have run."""
    for item in _items(value):
        match item:
            case (str(f), one, other) if f == EITHER:
                yield from flat(one)
                yield from flat(other)
            case (f, key, wanted):
                yield f, key, wanted
            case _:
                pass


def ways(value: Value) -> list[tuple[Value, ...]] | None:
    """Every way that the micro-operations *value* may have gone; None if there are more than `WAYS_MAX`."""
    found: list[tuple[Value, ...]] = [()]
    for item in _items(value):
        if not (isinstance(item, tuple) and _is_either(item)):
            found = [(*way, item) for way in found]
            continue
        one, other = ways(item[1]), ways(item[2])
        if one is None or other is None or len(found) * (len(one) + len(other)) > WAYS_MAX:
            return None
        onward = dict.fromkeys((*one, *other))
        found = list(dict.fromkeys((*way, *then) for way in found for then in onward))
    return found


def is_unsaid(op: Operation) -> bool:
    """Whether *op* is a transaction of which nobody knows whether it happened, nor what it would have written."""
    if op.f != "txn" or op.outcome is not EventType.INFO:
        return False
    asked = op.result if op.argument is None else op.argument
    return not isinstance(asked, tuple | list) or (branches(asked) and ways(asked) is None)


def _is_either(item: Value) -> bool:
    return isinstance(item, tuple) and len(item) == 3 and item[0] == EITHER


def _items(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else ()
