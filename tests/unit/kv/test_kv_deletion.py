"""Deletions of many keys that are made ready in steps: the same outcome, and nothing to be seen before."""

import random
from collections.abc import Sequence

import pytest

from troth.kv import order, preparing
from troth.kv.deletion import Deletion, Index
from troth.kv.requests import (
    Command,
    Compact,
    DeleteRange,
    DeleteRangeResult,
    KeyValue,
    LeaseGrant,
    LeaseRevoke,
    LeaseRevokeResult,
    Put,
    Range,
    Txn,
)
from troth.kv.store import Store

ALL = DeleteRange(b"k", b"l")


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SLICE_KEYS", 4)
    monkeypatch.setattr(order, "_TOGETHER_MIN", 3)


def filled() -> Store:
    """Keys with one version, with several, deleted ones, and some on a lease."""
    store = Store()
    store.apply(LeaseGrant(7, 60))
    store.apply_batch([Put(b"k%02d" % number, b"v", lease=7 if number % 5 == 0 else 0) for number in range(30)])
    store.apply_batch([Put(b"k%02d" % number, b"w") for number in range(0, 30, 3)])
    store.apply(DeleteRange(b"k07"))
    return store


def prepare(store: Store, commands: Sequence[Command]) -> int:
    steps = store.prepare(commands)
    return 0 if steps is None else len(list(steps))


def stream(store: Store) -> bytes:
    return b"".join(store.snapshot())


@pytest.mark.parametrize(
    "commands",
    [
        [ALL],
        [DeleteRange(b"k", b"l", prev_kv=True)],
        [DeleteRange(b"k", b"\0")],
        [Put(b"z", b""), Put(b"y", b""), ALL],
        [Put(b"k03", b"late"), ALL],  # within the range: what was made ready does not hold
        [DeleteRange(b"nothing"), ALL],  # makes no revision, so the guess about the revision is wrong
        [ALL, Put(b"k03", b"again"), ALL],
        [ALL, Compact(45)],
        [Compact(40), ALL],
        [Txn(success=(Put(b"k03", b"t"),)), ALL],
    ],
)
def test_a_deletion_made_ready_has_the_outcome_of_one_that_was_not(commands: list[Command]) -> None:
    plain, ready = filled(), filled()
    expected = plain.apply_batch(commands)
    assert prepare(ready, commands) >= 7
    assert ready.prepare(commands) is None, "what is made ready is not made ready again"
    assert ready.apply_batch(commands) == expected
    assert stream(ready) == stream(plain)
    assert ready.db_size_bytes == plain.db_size_bytes
    assert ready.lease(7) == plain.lease(7)
    for store in (plain, ready):
        store.apply(Compact(store.revision))
        while store.scavenge():
            pass
    assert stream(ready) == stream(plain)
    assert ready.db_size_bytes == plain.db_size_bytes


@pytest.mark.parametrize(
    "commands",
    [
        [LeaseRevoke(7)],
        [Put(b"z", b""), LeaseRevoke(7)],
        [LeaseRevoke(99), LeaseGrant(99, 5), LeaseRevoke(7), LeaseRevoke(99)],
        [Put(b"k05", b"has left"), LeaseRevoke(7)],  # what was made ready does not hold
        [Put(b"k01", b"has come", lease=7), LeaseRevoke(7)],
        [Put(b"k05", b"has left"), Put(b"k01", b"has come", lease=7), LeaseRevoke(7)],
        [Put(b"k05", b"again", lease=7), LeaseRevoke(7)],
        [DeleteRange(b"k05"), LeaseRevoke(7)],
        [LeaseRevoke(7), LeaseGrant(7, 5), Put(b"k05", b"", lease=7), LeaseRevoke(7)],
        [LeaseRevoke(7), ALL],
        [ALL, LeaseRevoke(7)],
    ],
)
def test_the_end_of_a_lease_made_ready_has_the_outcome_of_one_that_was_not(
    commands: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SLICE_KEYS", 3)
    plain, ready = filled(), filled()
    expected = plain.apply_batch(commands)
    assert prepare(ready, commands) >= 4
    assert ready.apply_batch(commands) == expected
    assert stream(ready) == stream(plain)
    assert ready.db_size_bytes == plain.db_size_bytes
    assert ready.leases() == plain.leases()
    for store in (plain, ready):
        store.apply_batch([LeaseGrant(7, 60), *[Put(b"k%02d" % number, b"", lease=7) for number in range(30)]])
    assert ready.lease(7) == plain.lease(7)


def test_what_was_made_ready_for_a_lease_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SLICE_KEYS", 3)
    store = filled()
    assert prepare(store, [LeaseRevoke(7)]) >= 4
    monkeypatch.setattr(Deletion, "add", None)
    assert store.apply(LeaseRevoke(7)) == LeaseRevokeResult(43)
    assert not [kv for kv in store.space.live(b"k", b"l") if kv.lease]


def test_nothing_is_seen_of_a_deletion_before_it_is_applied() -> None:
    store = filled()
    before, everything = stream(store), store.range(Range(b"k", b"l"))
    steps = store.prepare([ALL])
    assert steps is not None
    for _ in steps:
        assert store.range(Range(b"k", b"l")) == everything
        assert stream(store) == before


def test_garbage_may_be_freed_while_a_deletion_is_made_ready() -> None:
    plain, ready = filled(), filled()
    for store in (plain, ready):
        store.apply(Compact(store.revision))
    steps = ready.prepare([ALL])
    assert steps is not None
    for _ in steps:
        ready.scavenge(5)
    while ready.scavenge():
        pass
    assert ready.apply(ALL) == plain.apply(ALL)
    assert stream(ready) == stream(plain)


def test_a_deletion_made_ready_for_another_request_is_not_used() -> None:
    plain, ready = filled(), filled()
    assert prepare(ready, [DeleteRange(b"k", b"k2")]) > 1
    assert ready.apply(ALL) == plain.apply(ALL)
    assert stream(ready) == stream(plain)


def test_what_was_made_ready_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else everything would be right, and nothing any faster."""
    store = filled()
    commands = [Put(b"z", b""), ALL]
    assert prepare(store, commands) > 1

    def add(self: Deletion, index: Index, live: Sequence[KeyValue]) -> None:
        raise AssertionError("looked up again")

    monkeypatch.setattr(Deletion, "add", add)
    assert store.apply_batch(commands)[1] == DeleteRangeResult(44, 29)


def test_what_does_not_hold_any_more_is_made_ready_anew() -> None:
    store = filled()
    assert prepare(store, [ALL]) >= 7
    store.apply(Put(b"k03", b"in between"))
    assert prepare(store, [ALL]) >= 7
    assert store.prepare([ALL]) is None


def test_a_deletion_that_is_half_ready_is_not_used() -> None:
    plain, ready = filled(), filled()
    steps = ready.prepare([ALL])
    assert steps is not None
    next(steps)
    assert ready.apply(ALL) == plain.apply(ALL)
    assert stream(ready) == stream(plain)


def test_small_deletions_are_not_made_ready() -> None:
    store = filled()
    assert store.prepare([DeleteRange(b"k01", b"k05"), Put(b"k", b""), DeleteRange(b"k01")]) is None


def test_random_batches_have_one_outcome_made_ready_or_not() -> None:
    chance = random.Random(5)

    def command() -> Command:
        key = b"k%02d" % chance.randrange(40)
        kind = chance.random()
        if kind < 0.7:
            return Put(key, b"v", lease=7 * (chance.random() < 0.4), prev_kv=chance.random() < 0.1)
        if kind < 0.75:
            return LeaseRevoke(7) if kind < 0.72 else LeaseGrant(7, 60)
        return DeleteRange(key, b"l" if kind < 0.9 else b"", prev_kv=chance.random() < 0.3)

    plain, ready = filled(), filled()
    for _ in range(300):
        batch = [command() for _ in range(chance.randrange(1, 12))]
        prepare(ready, batch)
        assert ready.apply_batch(batch) == plain.apply_batch(batch)
    assert stream(ready) == stream(plain)
    assert ready.db_size_bytes == plain.db_size_bytes
