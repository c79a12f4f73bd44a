"""What is said against a request by itself, at the bound and behind it, and what a request weighs and costs."""

import pytest

from troth.kv import refusals
from troth.kv.checks import (
    NESTED_OPERATIONS_MAX,
    NESTING_MAX,
    check_command,
    check_range,
    check_txn,
    nests_too_deep,
    payload_bytes,
    put_cost_bytes,
    txn_cost_bytes,
)
from troth.kv.keyspace import VERSION_OVERHEAD_BYTES
from troth.kv.requests import Compare, DeleteRange, Operation, Put, Range, SortOrder, SortTarget, Txn
from troth.kv.store import Store

OPS_MAX = 128
A = Range(b"a")


@pytest.mark.parametrize("number", [-1, 5])
def test_a_sort_that_no_decoder_has_looked_at_is_refused_when_it_is_unknown(number: int) -> None:
    by_hand: list[Range] = [Range(b"a", sort_order=number), Range(b"a", sort_target=number)]  # type: ignore[arg-type]
    assert [check_range(request) for request in by_hand] == [refusals.INVALID_SORT_OPTION] * 2
    for order in SortOrder:
        for target in SortTarget:
            assert check_range(Range(b"a", sort_order=order, sort_target=target)) is None


def test_a_deletion_needs_its_key() -> None:
    assert check_command(DeleteRange(b""), OPS_MAX) is refusals.EMPTY_KEY
    assert check_command(DeleteRange(b"", b"z"), OPS_MAX) is refusals.EMPTY_KEY
    assert check_command(DeleteRange(b"a"), OPS_MAX) is None


# ---- how many operations, how deep ----


def spread(count: int, *, failure: bool) -> Txn:
    """*count* operations in all, in transactions that stand beside each other in one branch, half of each level."""
    parts: list[Operation] = []
    left = count
    while left:
        size = min(left - 1, OPS_MAX // 2)
        branch = (A,) * size
        parts.append(Txn(failure=branch) if failure else Txn(success=branch))
        left -= size + 1
    return Txn(failure=tuple(parts)) if failure else Txn(success=tuple(parts))


@pytest.mark.parametrize("failure", [False, True])
def test_so_many_operations_may_stand_in_a_transaction_with_all_that_is_nested(failure: bool) -> None:
    assert check_txn(spread(NESTED_OPERATIONS_MAX, failure=failure), OPS_MAX) is None
    assert check_txn(spread(NESTED_OPERATIONS_MAX + 1, failure=failure), OPS_MAX) is refusals.TOO_MANY_OPS


def test_a_server_that_allows_long_transactions_allows_what_both_branches_hold() -> None:
    ops_max = NESTED_OPERATIONS_MAX
    assert check_txn(Txn(success=(A,) * ops_max, failure=(A,) * ops_max), ops_max) is None
    assert check_txn(Txn(success=(A,) * (ops_max + 1)), ops_max) is refusals.TOO_MANY_OPS


@pytest.mark.parametrize("failure", [False, True])
def test_transactions_nest_so_deep_and_no_deeper(failure: bool) -> None:
    txn = Txn(success=(A,))
    for _ in range(NESTING_MAX - 1):
        txn = Txn(failure=(txn,)) if failure else Txn(success=(A, txn))
    assert not nests_too_deep(txn)
    assert nests_too_deep(Txn(failure=(A, txn)) if failure else Txn(success=(txn,)))


# ---- sizes ----


def test_a_put_costs_its_key_its_value_and_what_a_version_takes() -> None:
    space = Store().space
    assert put_cost_bytes(space, Put(b"key", b"value")) == 3 + 5 + VERSION_OVERHEAD_BYTES


def test_a_transaction_costs_all_puts_of_its_dearer_branch() -> None:
    space = Store().space
    one, two = Put(b"k", b"v"), Put(b"long key", b"long value")
    cheap, dear = put_cost_bytes(space, one), put_cost_bytes(space, two)
    assert txn_cost_bytes(space, Txn(success=(one, two), failure=(two,))) == cheap + dear
    assert txn_cost_bytes(space, Txn(success=(one,), failure=(two, Txn(success=(one,)), one))) == 2 * cheap + dear
    assert txn_cost_bytes(space, Txn(success=(DeleteRange(b"k"), A))) == 0


def test_every_byte_string_of_a_command_weighs() -> None:
    empty = payload_bytes(Put(b"", b""))
    assert payload_bytes(Put(b"kk", b"vvv")) == empty + 5
    assert payload_bytes(DeleteRange(b"kk", b"eee")) == empty + 5
    assert payload_bytes(Txn()) == empty
    assert payload_bytes(Txn(compare=(Compare(b"kk", range_end=b"eee", value=b"vvvv"),))) == 2 * empty + 9
    for operation in (Put(b"kk", b"vvv"), DeleteRange(b"kk", b"eee"), Range(b"kk", b"eee")):
        assert payload_bytes(Txn(success=(operation,))) == 2 * empty + 5
        assert payload_bytes(Txn(failure=(operation,))) == 2 * empty + 5
        assert payload_bytes(Txn(failure=(Txn(success=(operation, operation)),))) == 4 * empty + 10
