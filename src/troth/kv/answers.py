"""How many bytes an answer holds: of one that exists, and, before a write is done, of the one that it would get.

A write whose answer nobody could carry must be refused before it changes anything. The bound is part of the state
machine (all replicas refuse alike), so what is counted depends on nothing but the request and the state.
"""

from collections.abc import Sequence
from typing import assert_never

from troth.kv.checks import put_value
from troth.kv.keyspace import KeySpace, covers
from troth.kv.ranges import read_range
from troth.kv.requests import (
    AlarmResult,
    CompactResult,
    DeleteRange,
    DeleteRangeResult,
    Failure,
    KeyValue,
    LeaseGrantResult,
    LeaseRevokeResult,
    Operation,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    Txn,
    TxnResult,
)

ANSWER_BYTES_MAX = 64 << 20
"""What the answers to one batch of commands may hold together."""

KV_OVERHEAD_BYTES = 40
"""Numbers and framing of one key in an answer, at most about."""

RESULT_OVERHEAD_BYTES = 64
"""A result without its keys and values, in memory."""


def kvs_bytes(kvs: Sequence[KeyValue]) -> int:
    """What *kvs* take in an answer."""
    if len(kvs) == 1:
        return len(kvs[0].key) + len(kvs[0].value) + KV_OVERHEAD_BYTES
    return sum([len(kv.key) + len(kv.value) + KV_OVERHEAD_BYTES for kv in kvs])


def result_bytes(result: Result) -> int:
    """What *result* holds."""
    if type(result) is PutResult and result.prev_kv is None:
        return RESULT_OVERHEAD_BYTES
    match result:
        case PutResult():
            held = kvs_bytes([result.prev_kv]) if result.prev_kv is not None else 0
        case RangeResult():
            held = kvs_bytes(result.kvs)
        case DeleteRangeResult():
            held = kvs_bytes(result.prev_kvs)
        case TxnResult():
            held = results_bytes(result.responses)
        case LeaseGrantResult() | LeaseRevokeResult() | CompactResult():
            held = 0
        case AlarmResult():
            held = RESULT_OVERHEAD_BYTES * len(result.alarms)
        case Failure():
            held = len(result.text)
        case _:
            assert_never(result)
    return RESULT_OVERHEAD_BYTES + held


def results_bytes(results: Sequence[Result]) -> int:
    """What *results* hold together. Nearly all results are plain puts, so these cost next to nothing."""
    if len(results) == 1:
        return result_bytes(results[0])
    return sum(
        [
            RESULT_OVERHEAD_BYTES if type(result) is PutResult and result.prev_kv is None else result_bytes(result)
            for result in results
        ]
    )


def coming_bytes(space: KeySpace, operations: Sequence[Operation], enough: int) -> int:
    """At least what the answers to *operations* would hold, done in this order and at once; nothing is changed.

    They read the state as it is now, and what they put themselves. Counting ends once *enough* is passed.
    """
    puts = [operation for operation in operations if isinstance(operation, Put)]
    total = 0
    for operation in operations:
        match operation:
            case Put():
                previous = space.get(operation.key) if operation.prev_kv else None
                total += 0 if previous is None else kvs_bytes([previous])
            case Range() if operation.count_only:
                pass
            case Range():
                past = operation.revision if operation.revision > 0 else None
                total += kvs_bytes(read_range(space, operation, past)[0])
                if past is None:
                    total += _own_bytes(space, puts, operation)
            case DeleteRange() if operation.prev_kv:
                total += kvs_bytes(space.live(operation.key, operation.range_end))
                total += _own_bytes(space, puts, operation)
            case DeleteRange() | Txn():
                pass  # the operations of a nested transaction stand among the others
            case _:
                assert_never(operation)
        if total > enough:
            break
    return total


def _own_bytes(space: KeySpace, puts: Sequence[Put], request: Range | DeleteRange) -> int:
    """What the transaction may put into the range itself before it looks."""
    key, end = request.key, request.range_end
    own = [put for put in puts if covers(key, end, put.key)]
    return sum([len(put.key) + len(put_value(space, put)) + KV_OVERHEAD_BYTES for put in own])
