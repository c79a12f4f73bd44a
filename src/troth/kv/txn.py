"""The deciding half of a transaction: its comparisons, and which branches they choose.

All comparisons, those of nested transactions as well, are made before anything is written, as etcd does it
(its ``compareToPath``): the path through the tree is known before the first write.
"""

from typing import TypeVar, assert_never

from troth.kv.keyspace import KeySpace
from troth.kv.requests import Compare, CompareResult, CompareTarget, KeyValue, Operation, Txn

_Operand = TypeVar("_Operand", int, bytes)


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


def holds(space: KeySpace, compare: Compare) -> bool:
    """Whether *compare* is true now: for every key of its range, or for an absent key if there is none."""
    if not compare.range_end:
        return _holds_for(compare, space.get(compare.key))
    found = space.live(compare.key, compare.range_end)
    if not found:
        return _holds_for(compare, None)
    return all(_holds_for(compare, version) for version in found)


def _holds_for(compare: Compare, version: KeyValue | None) -> bool:
    target = compare.target
    if target == CompareTarget.VALUE:
        # An absent key has no value, not an empty one: nothing is true of it, not even "differs".
        return version is not None and _stands(version.value, compare.result, compare.value)
    if version is None:
        return _stands(0, compare.result, compare.number)
    match target:
        case CompareTarget.VERSION:
            number = version.version
        case CompareTarget.CREATE:
            number = version.create_revision
        case CompareTarget.MOD:
            number = version.mod_revision
        case CompareTarget.LEASE:
            number = version.lease
        case _:
            assert_never(target)
    return _stands(number, compare.result, compare.number)


def _stands(left: _Operand, result: CompareResult, right: _Operand) -> bool:
    match result:
        case CompareResult.EQUAL:
            return left == right
        case CompareResult.GREATER:
            return left > right
        case CompareResult.LESS:
            return left < right
        case CompareResult.NOT_EQUAL:
            return left != right
        case _:
            assert_never(result)
