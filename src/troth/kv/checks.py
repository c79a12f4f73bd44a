"""What can be said against a request without looking at the data: shape, sizes, duplicate keys; and what it costs.

The checks hold on every server alike, so they can run before a request enters the log; `Store.apply` makes them
again (but for the size), because what is in the log must have one outcome on all replicas whoever wrote it.
"""

from collections.abc import Sequence
from typing import assert_never

from troth.kv import refusals
from troth.kv.keyspace import VERSION_OVERHEAD_BYTES, KeySpace
from troth.kv.order import TO_THE_END
from troth.kv.requests import (
    Alarm,
    Command,
    Compact,
    DeleteRange,
    Failure,
    LeaseGrant,
    LeaseRevoke,
    Operation,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)

REQUEST_BYTES_MAX = 1536 * 1024
"""etcd's default bound on one request."""

LEASE_TTL_MAX_S = 9_000_000_000

NESTING_MAX = 128
"""Levels of transactions in a command. A level uses up at least one operation of `check_txn`'s bound; decoders of
msgpack recurse, so what enters the log must stay far from the stack's end."""

NESTED_OPERATIONS_MAX = 4096
"""Operations of a transaction with all that is nested in it. etcd bounds each level only; but every put is compared
with every deletion, on all replicas and with nothing beside it, and a request has room for a hundred thousand."""

_OPERATION_OVERHEAD_BYTES = 16
_SORT_ORDERS_COUNT = len(SortOrder)
_SORT_TARGETS_COUNT = len(SortTarget)


def check_put(put: Put) -> Failure | None:
    """The static faults of a Put."""
    if not put.key:
        return refusals.EMPTY_KEY
    if put.ignore_value and put.value:
        return refusals.VALUE_PROVIDED
    if put.ignore_lease and put.lease:
        return refusals.LEASE_PROVIDED
    return None


def check_range(request: Range) -> Failure | None:
    """The static faults of a Range."""
    if not request.key:
        return refusals.EMPTY_KEY
    # A struct made by hand is not type-checked, and an unknown number must not become an exception later.
    if not (0 <= request.sort_order < _SORT_ORDERS_COUNT and 0 <= request.sort_target < _SORT_TARGETS_COUNT):
        return refusals.INVALID_SORT_OPTION
    return None


def check_txn(txn: Txn, ops_max: int) -> Failure | None:
    """The static faults of a Txn: first those of its parts, then keys written twice in one branch."""
    failure = _check_parts(txn, ops_max)
    if failure is not None:
        return failure
    if _operations_count(txn) > max(NESTED_OPERATIONS_MAX, 2 * ops_max):
        return refusals.TOO_MANY_OPS
    for branch in (txn.success, txn.failure):
        alone = len(branch) == 1 and not isinstance(branch[0], Txn)
        if not alone and _written_keys(branch) is None:
            return refusals.DUPLICATE_KEY
    return None


def _operations_count(txn: Txn) -> int:
    """The operations of *txn* and of all that is nested in it, whose depth is checked."""
    operations = (*txn.success, *txn.failure)
    return len(operations) + sum([_operations_count(each) for each in operations if isinstance(each, Txn)])


def nests_too_deep(txn: Txn) -> bool:
    """Whether transactions stand within *txn* more than `NESTING_MAX` deep. Does not recurse."""
    level = [txn]
    for _ in range(NESTING_MAX):
        level = [
            operation
            for each in level
            for operation in (*each.success, *each.failure)
            if isinstance(operation, Txn)
        ]
        if not level:
            return False
    return True


def check_command(command: Command, ops_max: int) -> Failure | None:
    """The static faults of any command, its size left aside."""
    match command:
        case Put():
            return check_put(command)
        case DeleteRange():
            return refusals.EMPTY_KEY if not command.key else None
        case Txn():
            return check_txn(command, ops_max)
        case LeaseGrant():
            return refusals.LEASE_TTL_TOO_LARGE if command.ttl_s > LEASE_TTL_MAX_S else None
        case LeaseRevoke() | Compact() | Alarm():
            return None
        case _:
            assert_never(command)


def put_value(space: KeySpace, put: Put) -> bytes:
    """What *put* writes: the value that is there, if it is to be kept."""
    kept = space.get(put.key) if put.ignore_value else None
    return put.value if kept is None else kept.value


def put_cost_bytes(space: KeySpace, put: Put) -> int:
    """What *put* adds to the size of the store."""
    return len(put.key) + len(put_value(space, put)) + VERSION_OVERHEAD_BYTES


def txn_cost_bytes(space: KeySpace, txn: Txn) -> int:
    """What the dearer branch of *txn* adds at most; 0 if neither puts anything.

    Deletions are free, or a full store could not be emptied.
    """
    return max(_branch_cost_bytes(space, txn.success), _branch_cost_bytes(space, txn.failure))


def _branch_cost_bytes(space: KeySpace, branch: Sequence[Operation]) -> int:
    cost_bytes = 0
    for operation in branch:
        if isinstance(operation, Put):
            cost_bytes += put_cost_bytes(space, operation)
        elif isinstance(operation, Txn):
            cost_bytes += txn_cost_bytes(space, operation)
    return cost_bytes


def payload_bytes(command: Command) -> int:
    """About how large *command* is when serialised: its byte strings and a little for each operation."""
    match command:
        case Put():
            return _OPERATION_OVERHEAD_BYTES + len(command.key) + len(command.value)
        case DeleteRange():
            return _OPERATION_OVERHEAD_BYTES + len(command.key) + len(command.range_end)
        case Txn():
            size = _OPERATION_OVERHEAD_BYTES
            for compare in command.compare:
                size += _OPERATION_OVERHEAD_BYTES + len(compare.key) + len(compare.range_end) + len(compare.value)
            for operation in (*command.success, *command.failure):
                if isinstance(operation, Range):
                    size += _OPERATION_OVERHEAD_BYTES + len(operation.key) + len(operation.range_end)
                else:
                    size += payload_bytes(operation)
            return size
        case LeaseGrant() | LeaseRevoke() | Compact() | Alarm():
            return _OPERATION_OVERHEAD_BYTES
        case _:
            assert_never(command)


def _check_parts(txn: Txn, ops_max: int) -> Failure | None:
    ops_count = max(len(txn.compare), len(txn.success), len(txn.failure))
    if ops_count > ops_max:
        return refusals.TOO_MANY_OPS
    for compare in txn.compare:
        if not compare.key:
            return refusals.EMPTY_KEY
    for operation in (*txn.success, *txn.failure):
        # What a level uses up is missing below it: this bounds the depth as well.
        failure = _check_operation(operation, ops_max - ops_count)
        if failure is not None:
            return failure
    return None


def _check_operation(operation: Operation, ops_max: int) -> Failure | None:
    match operation:
        case Put():
            return check_put(operation)
        case Range():
            return check_range(operation)
        case DeleteRange():
            return refusals.EMPTY_KEY if not operation.key else None
        case Txn():
            return _check_parts(operation, ops_max)
        case _:
            assert_never(operation)


_Interval = tuple[bytes, bytes | None]
"""A deleted range, half-open; None is "no upper bound"."""


def _interval(request: DeleteRange) -> _Interval:
    if not request.range_end:
        return request.key, request.key + b"\0"
    return request.key, None if request.range_end == TO_THE_END else request.range_end


def _covered(key: bytes, deleted: list[_Interval]) -> bool:
    return any(lo <= key and (hi is None or key < hi) for lo, hi in deleted)


def _written_keys(branch: Sequence[Operation]) -> tuple[set[bytes], list[_Interval]] | None:
    """The keys put and the ranges deleted by *branch* and what is nested in it; None if they clash.

    etcd's rule (its ``checkIntervals``): at one level all deletions count, wherever they stand; a nested
    transaction may not put what this level, or a nested one before it, writes; but its two branches may put the
    same key, since only one of them runs.
    """
    deleted = [_interval(operation) for operation in branch if isinstance(operation, DeleteRange)]
    put: set[bytes] = set()
    for operation in branch:
        if not isinstance(operation, Txn):
            continue
        success = _written_keys(operation.success)
        failure = _written_keys(operation.failure)
        if success is None or failure is None:
            return None
        nested = success[0] | failure[0]
        if not put.isdisjoint(nested) or any(_covered(key, deleted) for key in nested):
            return None
        put |= nested
        deleted += success[1]
        deleted += failure[1]
    for operation in branch:
        if isinstance(operation, Put):
            if operation.key in put or _covered(operation.key, deleted):
                return None
            put.add(operation.key)
    return put, deleted
