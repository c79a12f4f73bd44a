"""The versions in memory: order, freeing, sizes at the scale where the shortcuts begin."""

import random

import pytest

from troth.errors import InvariantViolation
from troth.kv import order
from troth.kv.deletion import Deletion
from troth.kv.keyspace import MARK_INTERVAL, KeySpace
from troth.kv.requests import Compact, DeleteRange, Put, Range
from troth.kv.store import Store


def key_of(number: int) -> bytes:
    return b"%06d" % number


def keys_in(store: Store, revision: int = 0) -> list[bytes]:
    return [kv.key for kv in store.range(Range(b"\0", b"\0", revision=revision)).kvs]


def scavenge_all(store: Store) -> None:
    while store.scavenge(100):
        pass


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_order_holds_whether_few_or_many_keys_move_between_two_reads(
    seed: int, in_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "STEP_KEYS", 7)
    chance = random.Random(seed)
    store = Store()
    live: set[bytes] = set()
    past: dict[int, list[bytes]] = {}
    for _ in range(60):
        for _ in range(chance.choice([1, 3, 300])):
            key = key_of(chance.randrange(2000))
            if chance.random() < 0.3:
                store.apply(DeleteRange(key))
                live.discard(key)
            else:
                store.apply(Put(key, b""))
                live.add(key)
        for step, _ in enumerate(store.space.order.settle_steps() if in_steps else ()):
            key = key_of(chance.randrange(2000))
            if step % 3:
                store.apply(Put(key, b"") if step % 2 else DeleteRange(key))
                (live.add if step % 2 else live.discard)(key)
            else:
                store.scavenge(chance.randrange(1, 50))
        assert keys_in(store) == sorted(live)
        past[store.revision] = sorted(live)
        revision = chance.choice(list(past))
        assert keys_in(store, revision) == past[revision]
        if chance.random() < 0.2:
            store.apply(Compact(revision)) if revision > store.compact_revision else None
            past = {later: keys for later, keys in past.items() if later >= revision}
            store.scavenge(chance.randrange(1, 500))


def test_a_span_of_dead_keys_is_seen_in_the_past_only() -> None:
    store = Store()
    store.apply_batch([Put(key_of(number), b"") for number in range(100)])
    store.apply(DeleteRange(key_of(10), key_of(20)))
    assert len(keys_in(store)) == 90
    assert len(keys_in(store, revision=101)) == 100
    span = Range(key_of(15), key_of(25), revision=101)
    assert [kv.key for kv in store.range(span).kvs] == [key_of(number) for number in range(15, 25)]
    assert store.range(Range(key_of(25), key_of(15), revision=101)).kvs == []
    # A single birth among many keys is sorted in alone, and so is a rebirth.
    store.apply_batch([Put(key_of(12), b""), DeleteRange(key_of(50))])
    assert len(keys_in(store)) == 90
    assert store.range(Range(key_of(10), key_of(20), count_only=True)).count == 1


def test_sizes_agree_with_a_fresh_count_over_many_revisions() -> None:
    """Restoring counts from nothing; applying counts along the way, with marks far apart."""
    chance = random.Random(7)
    store = Store()
    for _ in range(4 * MARK_INTERVAL):
        key = key_of(chance.randrange(50))
        store.apply(DeleteRange(key) if chance.random() < 0.2 else Put(key, b"x" * chance.randrange(40)))
        if chance.random() < 0.003:
            store.apply(Compact(chance.randrange(store.compact_revision + 1, store.revision + 1)))
            with store.snapshot() as view:
                restored = Store.restore(view)
            assert restored.db_size_bytes == store.db_size_bytes
            assert restored.hash() == store.hash()
            # And go on counting alike.
            target = store.revision
            for each in (store, restored):
                each.apply(Compact(target))
            assert restored.db_size_bytes == store.db_size_bytes


def test_compacting_everything_leaves_the_live_keys() -> None:
    store = Store()
    store.apply_batch([Put(key_of(number % 10), b"x") for number in range(3000)])
    store.apply(DeleteRange(key_of(0), key_of(5)))
    store.apply(Put(b"last", b""))
    store.apply(Compact(store.revision))
    scavenge_all(store)
    space = store.space
    assert sorted(space.index) == [*map(key_of, range(5, 10)), b"last"]
    assert len(space.log) - space.log_head == 1
    assert keys_in(store) == [*map(key_of, range(5, 10)), b"last"]


def test_the_log_is_cut_without_waiting_for_the_end() -> None:
    store = Store()
    store.apply_batch([Put(b"k", b"x")] * 50_000)
    store.apply(Compact(50_001))
    lengths = [len(store.space.log)]
    while store.scavenge(5000):
        lengths.append(len(store.space.log))
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 5
    assert len(store.space.log) - store.space.log_head == 1


def test_a_small_compaction_of_a_long_log_does_not_move_it() -> None:
    store = Store()
    store.apply_batch([Put(b"k", b"x")] * 5000)
    store.apply(Compact(50))
    scavenge_all(store)
    assert store.space.log_head == 48
    assert store.range(Range(b"k", revision=50)).count == 1
    store.apply(Compact(5001))
    scavenge_all(store)
    assert len(store.space.log) == 1


def test_applying_frees_along_the_way() -> None:
    store = Store()
    store.apply_batch([Put(b"k", b"x")] * 3000)
    store.apply(Compact(3001))
    for _ in range(3000):
        store.apply(Put(b"other", b""))
    assert store.space.versions(b"k")[0].mod_revision == 3001
    assert len(store.space.versions(b"k")) == 1


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    store = Store()
    for number in range(4000):
        store.apply_batch([Put(key_of(number), b""), DeleteRange(key_of(number))])
        if number % 100 == 99:
            store.apply(Compact(store.revision))
            scavenge_all(store)
    space = store.space
    assert (len(space.index), len(space.log)) == (1, 1)
    assert len(space.moved) < 1200


def test_a_pin_holds_back_what_it_names_and_lets_go_once() -> None:
    space = KeySpace()
    for revision in range(2, 12):
        space.put(b"k", b"x", 0, revision)
        space.commit(revision)
    pin, other = space.pin(4), space.pin(6)
    space.compact(10)
    assert not space.scavenge(1000)
    assert space.versions(b"k")[0].mod_revision == 4
    space.unpin(pin)
    space.unpin(pin)
    space.scavenge(1000)
    assert space.versions(b"k")[0].mod_revision == 6
    other.revision = 8
    space.scavenge(1000)
    assert space.versions(b"k")[0].mod_revision == 8
    space.unpin(other)
    space.scavenge(1000)
    assert [version.mod_revision for version in space.versions(b"k")] == [10, 11]
    with pytest.raises(InvariantViolation):
        space.pin(9)


def test_what_was_there_before_a_version() -> None:
    space = KeySpace()
    first = space.put(b"k", b"1", 0, 2)
    space.commit(2)
    second = space.put(b"k", b"2", 0, 3)
    space.commit(3)
    assert space.get_at(b"k", 2) is first
    deletion = Deletion(4)
    deletion.add(space.index, [second])
    space.delete_all(deletion)
    space.commit(4)
    assert space.get_at(b"k", 3) is second
    space.put(b"k", b"3", 0, 5)
    assert space.versions(b"none") == []
    assert space.get_at(b"k", 1) is None
    assert space.get_at(b"k", 4) is None
