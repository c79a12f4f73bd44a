"""Answers have a bound, and what would pass it is refused before anything is done."""

import pytest

from troth.errors import AnswerTooLarge, Overloaded
from troth.kv.answers import KV_OVERHEAD_BYTES, coming_bytes, kvs_bytes, result_bytes
from troth.kv.requests import (
    Alarm,
    AlarmType,
    Command,
    Compact,
    Compare,
    DeleteRange,
    DeleteRangeResult,
    Failure,
    LeaseGrant,
    LeaseRevoke,
    Put,
    PutResult,
    Range,
    RangeResult,
    SortOrder,
    SortTarget,
    Txn,
    TxnResult,
)
from troth.kv.store import Store

VALUE = b"v" * 100
ONE = len(b"k0") + len(VALUE) + KV_OVERHEAD_BYTES


def filled(answer_bytes_max: int) -> Store:
    store = Store(answer_bytes_max=answer_bytes_max)
    store.apply_batch([Put(b"k%d" % number, VALUE) for number in range(10)])
    return store


@pytest.mark.parametrize(
    "command",
    [
        DeleteRange(b"k", b"l", prev_kv=True),
        Txn(success=(Range(b"k", b"l"), Put(b"z", b""))),
        Txn(success=(Put(b"z", b""), Range(b"k", b"l", revision=11))),
        Txn(success=(DeleteRange(b"k", b"l", prev_kv=True),)),
        Txn(success=(Txn(success=(Range(b"k0", b"k6"),)), Txn(success=(Range(b"k6", b"l"), Put(b"z", b""))))),
        Txn(success=(Put(b"k0", b"", prev_kv=True), Range(b"k1", b"l"))),
        Txn(success=(Put(b"m", b"v" * (10 * ONE - KV_OVERHEAD_BYTES - 1)), Range(b"m"))),  # what it puts itself
    ],
)
def test_what_would_be_answered_with_too_much_is_refused_and_not_done(command: Command) -> None:
    store = filled(10 * ONE - 1)
    refused = store.apply(command)
    assert isinstance(refused, Failure)
    assert refused.code == AnswerTooLarge.code
    assert store.revision == 11
    assert store.range(Range(b"k", b"l", count_only=True)) == RangeResult(11, [], 10)


@pytest.mark.parametrize(
    "command",
    [
        DeleteRange(b"k", b"l", prev_kv=True),
        Txn(success=(Range(b"k", b"l"),)),
        Txn(success=(Range(b"k", b"l"), Range(b"k", b"l", count_only=True), DeleteRange(b"k", b"l"))),
        Txn(success=(Range(b"k", b"l", limit=5), Range(b"k", b"l", limit=5))),
        Txn(success=(*(Put(b"k%d" % n, b"") for n in range(3)), Range(b"k3", b"l"), Range(b"k3", b"k6"))),
        Txn(success=(Put(b"k99", VALUE), Range(b"k", b"l", revision=11))),  # the past has not got what it puts
        Txn(compare=(), failure=(Range(b"k", b"l"), Range(b"k", b"l")), success=(Put(b"z", b"", prev_kv=True),)),
    ],
)
def test_what_just_fits_is_done(command: Command) -> None:
    assert not isinstance(filled(10 * ONE).apply(command), Failure)


def test_answers_of_one_batch_share_the_bound_and_the_next_batch_has_it_anew() -> None:
    store = filled(6 * ONE)
    half = Txn(success=(Range(b"k0", b"k5"),))
    first, second = store.apply_batch([half, half])
    assert isinstance(first, TxnResult)
    assert isinstance(second, Failure) and second.code == Overloaded.code
    assert isinstance(store.apply(half), TxnResult)


@pytest.mark.parametrize(
    "operations",
    [
        (Range(b"k", b"l"),),
        (Range(b"k", b"l", limit=3),),
        (Range(b"k", b"l", keys_only=True),),
        (Range(b"k3"), DeleteRange(b"k3", prev_kv=True), Range(b"k", b"l")),
        (Put(b"k3", b"new", prev_kv=True), Range(b"k3"), Put(b"k99", b"new"), Range(b"k", b"\0")),
        (DeleteRange(b"k", b"k5", prev_kv=True), DeleteRange(b"k", b"k5", prev_kv=True)),
    ],
)
def test_the_estimate_is_never_below_what_comes(operations: tuple[Range | Put | DeleteRange, ...]) -> None:
    store = filled(1 << 20)
    estimate = coming_bytes(store.space, operations, 1 << 20)
    result = store.apply(Txn(success=operations))
    assert isinstance(result, TxnResult)
    held = 0
    for response in result.responses:
        match response:
            case RangeResult():
                held += kvs_bytes(response.kvs)
            case PutResult():
                held += kvs_bytes([response.prev_kv] if response.prev_kv else [])
            case DeleteRangeResult():
                held += kvs_bytes(response.prev_kvs)
    assert 0 < held <= estimate


def test_every_kind_of_result_has_a_size() -> None:
    store = filled(1 << 20)
    commands: list[Command] = [
        Put(b"k0", b""),
        Put(b"k0", b"", prev_kv=True),
        DeleteRange(b"k0", prev_kv=True),
        Txn(success=(Range(b"k1"),)),
        LeaseGrant(1, 60),
        LeaseRevoke(1),
        Compact(5),
        Alarm(True, 0, AlarmType.CORRUPT),
        Put(b"", b""),
    ]
    sizes = [result_bytes(result) for result in store.apply_batch(commands)]
    assert all(size > 0 for size in sizes)
    assert sizes[1] > sizes[0] and sizes[3] > sizes[0]


ALL = (b"k", b"l")


@pytest.mark.parametrize(
    "txn",
    [
        Txn(success=(Range(*ALL, keys_only=True), Range(b"k0"))),
        Txn(failure=(DeleteRange(*ALL), Put(b"z", b""))),
        Txn(compare=(Compare(b"k", range_end=b"l"), Compare(b"k0"))),
        Txn(success=(Txn(success=(Range(*ALL, limit=3, min_mod_revision=1),)), DeleteRange(b"k0"))),
        Txn(success=(Range(*ALL, limit=3, sort_target=SortTarget.MOD), Range(b"k0"))),
        Txn(success=(Range(*ALL, limit=3, revision=5), Range(b"k0"))),
        Txn(success=(Range(*ALL, count_only=True, revision=5), Range(b"k0"))),
        Txn(success=(Range(*ALL, limit=6), Range(*ALL, limit=5))),
    ],
)
def test_a_transaction_that_would_look_at_too_many_keys_is_refused_and_not_done(txn: Txn) -> None:
    """It is done in one piece, and while it is nothing else happens on any server."""
    store = Store(txn_keys_max=10)
    store.apply_batch([Put(b"k%d" % number, VALUE) for number in range(10)])
    refused = store.apply(txn)
    assert isinstance(refused, Failure) and "more keys than one may" in refused.text
    assert store.revision == 11
    roomy = Store(txn_keys_max=11)
    roomy.apply_batch([Put(b"k%d" % number, VALUE) for number in range(10)])
    assert isinstance(roomy.apply(txn), TxnResult)


@pytest.mark.parametrize("freed", [False, True])
@pytest.mark.parametrize("range_end", [b"l", b"\0"])
def test_keys_that_are_dead_by_now_count_where_the_past_is_read_and_garbage_does_not(
    range_end: bytes, freed: bool
) -> None:
    """Whether garbage is freed differs between replicas, and what they answer must not."""
    store = Store(txn_keys_max=10)
    store.apply_batch([Put(b"k%d" % number, VALUE) for number in range(8)])
    pin = None if freed else store.space.pin(0)
    store.apply_batch([DeleteRange(b"k0", b"k3"), Put(b"m", b""), Compact(11), DeleteRange(b"k3")])
    while store.scavenge():
        pass
    assert (pin is None) == (store.space.order.dead_count(*ALL) == 1)
    past = Range(b"k", range_end, revision=11, keys_only=True)
    live = 4 + (range_end == b"\0")
    puts = tuple(Put(b"a%d" % number, b"") for number in range(10 - live))
    refused = store.apply(Txn(success=(*puts, past)))
    assert isinstance(refused, Failure) and "more keys than one may" in refused.text
    assert isinstance(store.apply(Txn(success=(*puts[1:], past))), TxnResult)
    assert isinstance(store.apply(Txn(success=(*puts, Range(b"k", range_end, keys_only=True)))), TxnResult)


def test_counting_and_limited_ranges_cost_a_transaction_little() -> None:
    store = Store(txn_keys_max=10)
    store.apply_batch([Put(b"k%d" % number, VALUE) for number in range(10)])
    cheap = (
        Range(*ALL, count_only=True),
        Range(*ALL, limit=4),
        Range(*ALL, limit=5, sort_order=SortOrder.DESCEND),
    )
    assert isinstance(store.apply(Txn(success=cheap)), TxnResult)


@pytest.mark.parametrize(
    ("key", "end", "found"),
    [
        (b"b", b"", b"b"),
        (b"bb", b"", b""),
        (b"b", b"d", b"bc"),
        (b"a", b"b", b""),
        (b"bb", b"d", b"c"),
        (b"c", b"\0", b"cd"),
        (b"\0", b"\0", b"bcd"),
        (b"d", b"c", b""),
    ],
)
def test_what_a_transaction_puts_counts_where_it_is_found_again(key: bytes, end: bytes, found: bytes) -> None:
    puts = [Put(bytes([each]), VALUE * 2) for each in b"bcd"]
    expected = sum(1 + len(VALUE) * 2 + KV_OVERHEAD_BYTES for _ in found)
    for request in (Range(key, end), DeleteRange(key, end, prev_kv=True)):
        assert coming_bytes(Store().space, [*puts, request], 1 << 20) == expected
        both = filled(1 << 20)  # ten keys of its own, none of which is put
        there = len(both.space.live(key, end)) * ONE
        assert coming_bytes(both.space, [*puts, request], 1 << 20) == expected + there
    for costless in (Range(key, end, count_only=True), DeleteRange(key, end), Range(key, end, revision=1)):
        assert coming_bytes(Store().space, [*puts, costless], 1 << 20) == 0


def test_a_value_that_is_kept_counts_where_it_is_found_again() -> None:
    store = Store()
    store.apply(Put(b"a", VALUE))
    # What is there is too old for the range; what the transaction makes of it is not.
    operations = [Put(b"a", b"", ignore_value=True), Range(b"a", min_mod_revision=store.revision + 1)]
    assert coming_bytes(store.space, operations, 1 << 20) == 1 + len(VALUE) + KV_OVERHEAD_BYTES


def test_putting_an_old_key_with_ignore_value_is_answered_with_what_was_counted() -> None:
    store = Store()
    store.apply(Put(b"a", VALUE))
    result = store.apply(Txn(success=(Put(b"a", b"", ignore_value=True), Range(b"a", min_mod_revision=3))))
    assert isinstance(result, TxnResult)
    assert result.responses[1].kvs[0].value == VALUE  # type: ignore[union-attr]
