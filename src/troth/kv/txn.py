"""The deciding half of a transaction: its comparisons, and which branches they choose.

All comparisons, those of nested transactions as well, are made before anything is written, as etcd does it
(its ``compareToPath``): the path through the tree is known before the first write.
"""

from collections.abc import Callable
from operator import attrgetter, eq, gt, lt, ne
from typing import assert_never

from troth.kv.keyspace import KeySpace
from troth.kv.ranges import keys_charged
from troth.kv.requests import Compare, CompareTarget, DeleteRange, KeyValue, Operation, Put, Range, Txn

_VALUE = CompareTarget.VALUE

# By CompareResult and by CompareTarget.
_STANDS: tuple[Callable[..., bool], ...] = (eq, gt, lt, ne)
_NUMBERS: tuple[Callable[[KeyValue], int], ...] = (
    attrgetter("version"),
    attrgetter("create_revision"),
    attrgetter("mod_revision"),
    attrgetter("value"),
    attrgetter("lease"),
)


def decide(space: KeySpace, txn: Txn, path: list[bool], chosen: list[Operation]) -> None:
    """Evaluate *txn* and the transactions nested in its chosen branch, depth first.

    Appends the outcome of each to *path*, and the operations that will be done to *chosen*.
    """
    succeeded = all(holds(space, compare) for compare in txn.compare)
    path.append(succeeded)
    for operation in txn.success if succeeded else txn.failure:
        if isinstance(operation, Txn):
            decide(space, operation, path, chosen)
        else:
            chosen.append(operation)


def keys_touched(space: KeySpace, txn: Txn, enough: int) -> int:
    """How many keys the comparisons and the operations of *txn* look at, both branches taken together. Counting, which
    may look at as many itself, ends once *enough* is reached."""
    count = 0
    for compare in txn.compare:
        count += space.live_count(compare.key, compare.range_end) if compare.range_end else 1
    for operation in (*txn.success, *txn.failure):
        if count >= enough:
            break
        match operation:
            case Put():
                count += 1
            case Range():
                count += keys_charged(space, operation, enough - count)
            case DeleteRange():
                count += space.live_count(operation.key, operation.range_end) if operation.range_end else 1
            case Txn():
                count += keys_touched(space, operation, enough - count)
            case _:
                assert_never(operation)
    return count


def holds(space: KeySpace, compare: Compare) -> bool:
    """Whether *compare* is true now: for every key of its range, or for an absent key if there is none."""
    if not compare.range_end:
        return _holds_for(compare, space.get(compare.key))
    found = space.live(compare.key, compare.range_end)
    if not found:
        return _holds_for(compare, None)
    return all(_holds_for(compare, version) for version in found)


def _holds_for(compare: Compare, version: KeyValue | None) -> bool:
    stands = _STANDS[compare.result]
    if compare.target == _VALUE:
        # An absent key has no value, not an empty one: nothing is true of it, not even "differs".
        return version is not None and stands(version.value, compare.value)
    return stands(0 if version is None else _NUMBERS[compare.target](version), compare.number)
