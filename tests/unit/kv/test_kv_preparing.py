"""What is prepared for which commands, and what is made of pages: the pieces that the store puts together."""

import pytest

from troth.kv import order, preparing, ranges
from troth.kv.leases import LeaseTable
from troth.kv.preparing import Preparations
from troth.kv.ranges import keys_charged, keys_looked_at
from troth.kv.requests import (
    Command,
    Compact,
    Compare,
    DeleteRange,
    Failure,
    KeyValue,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    RangeResult,
    Txn,
)
from troth.kv.store import Store
from troth.kv.telling import page_of


def filled(count: int = 20, lease: int = 0) -> Store:
    store = Store()
    store.apply_batch([LeaseGrant(7, 60)])
    store.apply_batch([Put(b"%02d" % number, b"v", lease) for number in range(count)])
    return store


def of(store: Store) -> Preparations:
    return Preparations(store.space, store.lease_table)


# ---- the order of keys ----

POINT, RANGE = Range(b"a"), Range(b"a", b"b")


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        (DeleteRange(b"a", b"b"), True),
        (Txn(compare=(Compare(b"a", range_end=b"b"),)), True),
        (Txn(success=(RANGE,)), True),
        (Txn(failure=(RANGE,)), True),
        (Txn(failure=(Txn(failure=(DeleteRange(b"a", b"b"),)),)), True),
        (DeleteRange(b"a"), False),
        (Put(b"a", b""), False),
        (LeaseRevoke(7), False),
        (Txn(compare=(Compare(b"a"),), success=(POINT, Put(b"a", b"")), failure=(DeleteRange(b"a"),)), False),
    ],
)
def test_the_order_is_made_first_for_who_asks_for_a_range(
    command: Command, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "STEP_KEYS", 4)
    store = filled()
    assert store.space.order.is_behind
    steps = of(store).begin(iter([Put(b"x", b""), command]))
    assert (steps is not None) == asks
    for _ in steps or ():
        pass
    assert store.space.order.is_behind != asks


def test_what_needs_no_order_is_prepared_though_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "STEP_KEYS", 4)
    monkeypatch.setattr(preparing, "SLICE_KEYS", 4)
    store = filled(lease=7)
    prepared, revoke = of(store), LeaseRevoke(7)
    steps = prepared.begin(iter([revoke]))
    assert steps is not None and store.space.order.is_behind
    assert len(list(steps)) >= 5
    deletion = prepared.take(revoke)
    assert deletion is not None and len(deletion.live) == 20


# ---- deletions ----


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SLICE_KEYS", 8)


@pytest.mark.usefixtures("slices")
def test_a_deletion_of_more_than_a_slice_is_prepared_in_slices() -> None:
    store = filled(20)
    prepared = of(store)
    assert prepared.begin([DeleteRange(b"00", b"08")]) is None
    steps = prepared.begin([DeleteRange(b"00", b"09")])
    assert steps is not None and len(list(steps)) == 2


@pytest.mark.usefixtures("slices")
def test_what_stands_in_front_of_a_deletion_takes_one_revision_each() -> None:
    store = filled(20)
    prepared, large = of(store), DeleteRange(b"05", b"99")
    before: list[Command] = [DeleteRange(b"00", b"05"), Put(b"00", b""), DeleteRange(b"x", b"y"), Compact(3)]
    steps = prepared.begin([*before, large])
    assert steps is not None
    for _ in steps:
        pass
    store.apply_batch(before[:2])
    deletion = prepared.take(large)
    assert deletion is not None and len(deletion.live) == 15


@pytest.mark.usefixtures("slices")
def test_what_is_ready_is_not_made_again_and_another_deletion_leaves_it() -> None:
    store = filled(20)
    prepared, large = of(store), DeleteRange(b"00", b"\0")
    assert len(list(prepared.begin([large]) or ())) > 1
    assert prepared.begin([large]) is None
    assert prepared.take(DeleteRange(b"00", b"99")) is None
    assert prepared.take(large) is not None
    assert prepared.take(large) is None, "it is applied now"
    assert len(list(prepared.begin([large]) or ())) > 1
    prepared.drop()
    assert prepared.take(large) is None


def test_a_lease_without_keys_is_no_long_work() -> None:
    assert Preparations(Store().space, LeaseTable()).begin([LeaseRevoke(1), Put(b"a", b"")]) is None


# ---- what ranges cost ----


def test_a_range_of_the_past_costs_the_keys_that_have_died_since() -> None:
    store = filled(10)
    revision = store.revision
    store.apply_batch([DeleteRange(b"00", b"05"), DeleteRange(b"07")])
    past, present = Range(b"0", b"\0", revision=revision), Range(b"0", b"\0")
    assert (keys_looked_at(store.space, past), keys_looked_at(store.space, present)) == (10, 4)
    assert (keys_charged(store.space, past, 100), keys_charged(store.space, present, 100)) == (10, 4)
    assert keys_charged(store.space, past, 6) == 6
    store.apply(Compact(store.revision))
    assert keys_charged(store.space, Range(b"0", b"\0", revision=store.revision), 100) == 5, "07 died just there"


def test_a_limit_below_nothing_is_none() -> None:
    result = filled(5).range(Range(b"0", b"\0", limit=-1))
    assert isinstance(result, RangeResult)
    assert (len(result.kvs), result.more) == (5, False)


def test_keys_without_values_name_their_leases_and_follow_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "STEP_KEYS", 2)
    store = filled(1, lease=7)
    names = [b"a", b"a\0", b"a\0\0", b"a\0\1", b"a\1", b"b"]
    store.apply_batch([Put(name, b"v", 7) for name in names])
    steps = store.range_steps(Range(b"a", b"c", keys_only=True))
    assert not isinstance(steps, Failure)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            kvs = done.value.kvs
            break
    assert [kv.key for kv in kvs] == names
    assert {(kv.lease, kv.value) for kv in kvs} == {(7, b"")}


# ---- pages of history ----


def version(revision: int, key: bytes = b"k", value: bytes = b"") -> KeyValue:
    return KeyValue(key, 1, revision, 1, value, 0)


def test_a_page_of_history_is_bounded_by_versions_and_by_the_bytes_of_keys_and_values() -> None:
    history = [version(revision, b"k" * 10, b"v" * 20) for revision in range(2, 12)]
    assert len(page_of(history, 0, 99, versions_max=4, bytes_max=1 << 20)) == 4
    assert len(page_of(history, 3, 99, versions_max=4, bytes_max=1 << 20)) == 4
    assert len(page_of(history, 0, 99, versions_max=99, bytes_max=90)) == 3
    assert len(page_of(history, 0, 99, versions_max=99, bytes_max=91)) == 4
    assert [each.mod_revision for each in page_of(history, 2, 6, versions_max=99, bytes_max=1 << 20)] == [4, 5, 6]
    assert page_of(history, 10, 99, versions_max=9, bytes_max=9) == []
    of_one = [version(2), version(3), version(3), version(3), version(4)]
    assert len(page_of(of_one, 0, 99, versions_max=2, bytes_max=99)) == 4
