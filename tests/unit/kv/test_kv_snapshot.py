"""The state as bytes: the same everywhere, whole or refused, readable for ever."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from troth.errors import DecodeError
from troth.kv import snapshot
from troth.kv.leases import LeaseTable
from troth.kv.requests import (
    Alarm,
    AlarmMember,
    AlarmType,
    Compact,
    DeleteRange,
    KeyValue,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    RangeResult,
    Txn,
)
from troth.kv.snapshot import FRAME_BYTES_MAX, AlarmPage, BasePage, End, Header, LeasePage, LeaseRecord, LogPage
from troth.kv.store import Store

GOLDEN = Path(__file__).parent / "golden"


def example() -> Store:
    """A store with something of everything."""
    store = Store()
    store.apply_batch([LeaseGrant(0, 60)], 41)
    store.apply_batch(
        [
            LeaseGrant(-5, 10),
            LeaseGrant(6, 10),
            Put(b"old", b"1"),
            Put(b"kept", b"1", -5),
            Put(b"gone", b"1"),
            DeleteRange(b"gone"),
            Put(b"old", b"2"),
            Compact(5),
            Txn(success=(Put(b"new", b"x", -5), DeleteRange(b"old"))),
            Put(b"old", b"3"),
            LeaseRevoke(6),
            Alarm(True, 3, AlarmType.CORRUPT),
        ]
    )
    return store


def stream_of(store: Store) -> bytes:
    with store.snapshot() as view:
        return b"".join(view)


def frames(*parts: object) -> bytes:
    payloads = [msgspec.msgpack.encode(part) for part in parts]
    return b"".join(len(payload).to_bytes(4, "little") + payload for payload in payloads)


HEADER = Header("troth-kv", 1, 2, 0, 0)
VERSION = KeyValue(b"a", 2, 2, 1, b"")
END = End(0, 0, 1)


def test_the_golden_file_is_what_is_written_today() -> None:
    assert stream_of(example()) == (GOLDEN / "snapshot-2.bin").read_bytes()


@pytest.mark.parametrize("version", [1, 2])
def test_the_golden_files_can_be_read(version: int) -> None:
    store = Store.restore([(GOLDEN / f"snapshot-{version}.bin").read_bytes()])
    original = example()
    assert store.hash() == original.hash()
    assert (store.revision, store.compact_revision) == (original.revision, original.compact_revision)
    assert store.db_size_bytes == original.db_size_bytes
    assert store.granted_ttls_s() == original.granted_ttls_s()
    assert store.lease(-5) == original.lease(-5)
    assert store.lease_table.grants == original.lease_table.grants or version == 1
    assert store.alarms == [AlarmMember(3, AlarmType.CORRUPT)]
    assert store.range(Range(b"old", revision=6)) == original.range(Range(b"old", revision=6))
    for each in (store, original):
        each.apply_batch([LeaseGrant(0, 5), Put(b"kept", b""), Compact(8)])
    if version > 1:
        assert stream_of(store) == stream_of(original)
    assert store.hash() == original.hash()


def test_an_empty_store_survives() -> None:
    store = Store.restore([stream_of(Store())])
    assert (store.revision, store.compact_revision, store.hash()) == (1, 0, Store().hash())
    store = Store()
    store.apply(Compact(1))
    assert Store.restore([stream_of(store)]).compact_revision == 1


def test_a_revision_that_was_moved_on_survives_and_all_before_is_compacted() -> None:
    """Nothing was written at it, so the stream has nothing but its header to tell of it."""
    store, newest = example(), example().revision
    store.bump_revision(5000)
    restored = Store.restore([stream_of(store)])
    for each in (store, restored):
        assert (each.revision, each.compact_revision) == (newest + 5000, newest + 5000)
    assert stream_of(restored) == stream_of(store)
    assert restored.db_size_bytes == store.db_size_bytes == store_of_the_live(store).db_size_bytes
    for each in (store, restored):
        each.apply_batch([Put(b"a", b"new"), DeleteRange(b"kept"), Compact(newest + 5001)])
    assert (restored.hash(), restored.db_size_bytes) == (store.hash(), store.db_size_bytes)
    assert stream_of(Store.restore([stream_of(restored)])) == stream_of(store)


def store_of_the_live(store: Store) -> Store:
    """A new store in which what lives in *store* was written, with its leases."""
    fresh = Store()
    fresh.apply_batch([LeaseGrant(lease, 60) for lease in store.leases()])
    found = store.range(Range(b"\0", b"\0"))
    assert isinstance(found, RangeResult)
    fresh.apply_batch([Put(each.key, each.value, each.lease) for each in found.kvs])
    return fresh


def test_it_may_be_cut_into_chunks_anywhere() -> None:
    stream = stream_of(example())
    for size in (1, 3, 100):
        chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert Store.restore(chunks).hash() == example().hash()


def test_large_states_come_in_frames() -> None:
    store = Store()
    store.apply_batch([Put(b"%04d" % number, b"x" * 100) for number in range(1000)])
    store.apply_batch([LeaseGrant(number, 60) for number in range(1, 5000)])
    store.apply(Compact(500))
    with store.snapshot() as view:
        chunks = list(view.chunks(10_000))
        assert 10 < len(chunks) < 30
        assert max(map(len, chunks)) < 45_000
        assert Store.restore(chunks).hash() == store.hash()


def test_writes_and_compactions_go_on_while_it_is_read() -> None:
    store = Store()
    store.apply_batch([Put(b"%04d" % (number % 700), b"x") for number in range(2000)])
    store.apply(Compact(300))
    expected, hash_then = stream_of(store), store.hash()
    view = store.snapshot()

    def disturbed() -> Iterator[bytes]:
        for chunk in view.chunks(2000):
            yield chunk
            store.apply_batch([Put(b"%04d" % (number % 900), b"y") for number in range(100)])
            store.apply_batch([DeleteRange(b"0001", b"0100"), Compact(store.revision)])
            store.scavenge(10_000)

    restored = Store.restore(disturbed())
    assert restored.hash() == hash_then
    assert stream_of(restored) == expected
    assert b"".join(view) == expected
    view.close()
    view.close()
    while store.scavenge():
        pass
    assert len(store.space.log) - store.space.log_head < 200


def test_reading_a_closed_view_ends_in_an_error() -> None:
    view = example().snapshot()
    chunks = view.chunks()
    next(chunks)
    view.close()
    with pytest.raises(ValueError, match="closed"):
        list(chunks)
    with pytest.raises(ValueError, match="closed"):
        list(view)


def test_every_shorter_stream_is_refused() -> None:
    stream = stream_of(example())
    for length in range(len(stream)):
        with pytest.raises(DecodeError):
            Store.restore([stream[:length]])


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"", "too early"),
        (b"garbage!", "a frame of"),
        (frames(["?"]), "not a snapshot"),
        (frames(Header("other", 1, 2, 0, 0)), "'other'"),
        (frames(Header("troth-kv", 9, 2, 0, 0)), "format 9"),
        (frames(LogPage([VERSION]), HEADER), "out of order"),
        (frames(HEADER, HEADER), "out of order"),
        (frames(HEADER, LogPage([VERSION]), BasePage([])), "out of order"),
        (frames(HEADER, LogPage([VERSION]), END, END), "out of order"),
        (frames(HEADER, LogPage([KeyValue(b"a", 3, 3, 1, b"")]), END), "revision 3"),
        (frames(HEADER, BasePage([VERSION])), "of the log"),
        (frames(Header("troth-kv", 1, 9, 9, 0), BasePage([KeyValue(b"a", 0, 2, 0, b"")])), "of the log"),
        (frames(HEADER, LogPage([VERSION]), End(0, 0, 2)), "not whole"),
        (frames(HEADER, LogPage([]), End(0, 0, 0)), "not whole"),
        (frames(HEADER, LogPage([KeyValue(b"a", 2, 2, 1, b"", 7)]), END), "lease 7"),
        (frames(HEADER, LeasePage([LeaseRecord(7, 5)]), LogPage([VERSION]), END), "not whole"),
        (frames(HEADER, AlarmPage([]), LogPage([VERSION])), "too early"),
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "little"), "a frame of"),
    ],
)
def test_what_is_not_a_snapshot_is_refused(stream: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        Store.restore([stream])


def test_equal_data_have_equal_hashes_and_any_difference_shows() -> None:
    histories = [
        [Put(b"a", b"1"), Put(b"b", b"1")],
        [Put(b"a", b"1"), Put(b"b", b"2")],
        [Put(b"a", b"1"), Put(b"c", b"1")],
        [Put(b"b", b"1"), Put(b"a", b"1")],
        [Put(b"a", b"1"), Put(b"b", b"1"), Compact(2)],
        [LeaseGrant(1, 9), Put(b"a", b"1"), Put(b"b", b"1", 1)],
        [Put(b"a", b"1"), Put(b"a", b"1"), DeleteRange(b"a")],
    ]
    hashes = []
    for history in histories:
        stores = [Store(), Store()]
        for store in stores:
            store.apply_batch(history)
        assert stores[0].hash() == stores[1].hash()
        hashes.append(stores[0].hash())
    assert len(set(hashes)) == len(histories)
    assert all(0 <= each < 1 << 64 for each in hashes)


def test_an_old_revision_has_the_hash_it_had() -> None:
    store = Store()
    seen = {}
    for number in range(10):
        store.apply(Put(b"%d" % (number % 3), b""))
        seen[store.revision] = store.hash()
    assert {revision: store.hash(revision) for revision in seen} == seen
    assert all(one != other for one, other in pairwise(seen.values()))
    store.apply(Compact(5))
    for revision in (4, 12):
        with pytest.raises(ValueError, match="required revision"):
            store.hash(revision)


def test_a_restored_store_chooses_the_lease_ids_that_the_others_choose() -> None:
    store = Store()
    store.apply_batch([LeaseGrant(0, 60), LeaseGrant(0, 60)])
    store.apply(LeaseRevoke(store.leases()[0]))
    again = Store.restore([stream_of(store)])
    assert store.apply(LeaseGrant(0, 60)) == again.apply(LeaseGrant(0, 60))


def test_fingerprints_differ_where_what_can_be_read_differs() -> None:
    """Also in what was written before the last compaction and is visible at it."""
    stores = []
    for old, new in ((b"1", b"x"), (b"2", b"x"), (b"1", b"y")):
        store = Store()
        store.apply_batch([Put(b"old", old), Put(b"k", b""), Compact(3), Put(b"k", new)])
        stores.append(store)
    assert len({store.hash() for store in stores}) == 3
    assert stores[0].hash(3) == stores[2].hash(3) != stores[1].hash(3)
    later = Store()
    later.apply_batch([Put(b"old", b"1"), Put(b"k", b""), Put(b"k", b"x"), Compact(4)])
    assert later.hash() != stores[0].hash(), "compacted elsewhere, other revisions can be read"


def test_which_lease_holds_which_key_is_found_in_short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats go on between two steps, so the last one must not go through all keys."""
    store = Store()
    store.apply(LeaseGrant(7, 60))
    store.apply_batch([Put(b"%05d" % number, b"", 7) for number in range(10_000)])
    attach, counts = LeaseTable.attach, [0]

    def counted(table: LeaseTable, lease: int, key: bytes) -> None:
        counts[-1] += 1
        attach(table, lease, key)

    chunks = [stream_of(store)]
    monkeypatch.setattr(LeaseTable, "attach", counted)
    loaded = Store()
    for _ in loaded.load(chunks):
        counts.append(0)
    assert sum(counts) == 10_000 and max(counts) <= 4096
    assert loaded.lease(7) == store.lease(7)


def test_a_hash_made_in_steps_is_that_of_its_beginning_whatever_is_compacted_meanwhile() -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"1"), Put(b"a", b"2"), Put(b"b", b"")])
    expected, steps = store.hash(), store.hash_steps()
    store.apply_batch([DeleteRange(b"a"), Put(b"b", b"x"), Compact(6)])
    while store.scavenge():
        pass
    with pytest.raises(StopIteration) as done:
        while True:
            next(steps)
    assert done.value.value == expected != store.hash()


def test_leases_that_come_and_go_while_it_is_read_are_not_in_it() -> None:
    store = example()
    expected = stream_of(store)
    with store.snapshot() as view:
        chunks = iter(view)
        parts = [next(chunks)]
        store.apply_batch([LeaseGrant(77, 10), LeaseRevoke(-5)], 99)
        store.apply_batch([LeaseGrant(-5, 20)], 100)
        parts += chunks
    assert b"".join(parts) == expected


def test_whatever_follows_the_end_is_refused() -> None:
    whole = stream_of(example())
    for behind in (b"\0", b"\1\0\0\0", frames(END)):
        with pytest.raises(DecodeError):
            Store.restore([whole, behind])


def test_a_frame_of_just_the_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = frames(HEADER, LogPage([VERSION]), END)
    largest = max(len(msgspec.msgpack.encode(part)) for part in (HEADER, LogPage([VERSION]), END))
    monkeypatch.setattr(snapshot, "FRAME_BYTES_MAX", largest)
    assert Store.restore([stream]).revision == 2
    monkeypatch.setattr(snapshot, "FRAME_BYTES_MAX", largest - 1)
    with pytest.raises(DecodeError, match="a frame of"):
        Store.restore([stream])


LATER = KeyValue(b"b", 3, 3, 1, b"")


@pytest.mark.parametrize(
    ("revision", "compacted", "page"),
    [
        (3, 0, LogPage([LATER, VERSION])),
        (2, 0, LogPage([VERSION, LATER])),
        (4, 3, LogPage([VERSION, LATER])),
    ],
)
def test_revisions_of_the_log_rise_from_the_compacted_one_to_that_of_the_header(
    revision: int, compacted: int, page: LogPage
) -> None:
    with pytest.raises(DecodeError, match=r"has revision \d out of order"):
        Store.restore([frames(Header("troth-kv", 1, revision, compacted, 0), page, End(0, 0, 2))])


def test_a_version_of_the_compacted_revision_is_one_of_the_log() -> None:
    header = Header("troth-kv", 1, 3, 2, 0)
    with pytest.raises(DecodeError, match="of the log among the older ones"):
        Store.restore([frames(header, BasePage([VERSION]), LogPage([LATER]), End(0, 1, 1))])
    assert Store.restore([frames(header, LogPage([VERSION, LATER]), End(0, 0, 2))]).revision == 3


@pytest.mark.parametrize(("first", "then"), [(7, 0), (0, 7), (7, 8)])
def test_a_key_is_held_by_the_lease_of_its_newest_version(first: int, then: int) -> None:
    store = Store()
    store.apply_batch([LeaseGrant(7, 60), LeaseGrant(8, 60), Put(b"a", b"", first), Put(b"a", b"", then)])
    restored = Store.restore([stream_of(store)])
    for lease in (7, 8):
        held = [b"a"] if lease == then else []
        assert list(restored.lease_table.unsorted_keys(lease)) == held


def test_what_the_compacted_revision_itself_deleted_counts_as_freed_in_a_restored_store_too() -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"value"), Put(b"b", b""), DeleteRange(b"a"), Compact(4)])
    restored = Store.restore([stream_of(store)])
    assert restored.db_size_bytes == store.db_size_bytes
    for each in (store, restored):
        each.apply_batch([Put(b"b", b"2"), Compact(5)])
    assert restored.db_size_bytes == store.db_size_bytes
