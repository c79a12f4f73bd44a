"""Snapshot files: whole or not there, checked to the last byte, and streamed with resumption."""

import random
from pathlib import Path

import msgspec
import pytest
from log_kit import disk, snapshot

from troth.core.interface import Ballot, SnapshotMeta
from troth.errors import Corrupt, StorageError, SyncFailed
from troth.ids import NodeId, Term
from troth.simulate.disk import SimulatedDisk
from troth.storage import block, names, snapshot_file
from troth.storage.snapshots import SnapshotGone, SnapshotStore

GOLDEN = Path(__file__).parent / "golden"
META = snapshot(3, 70_000)
NAME = names.snapshot_name(META.last)
PART = names.part_name(META.last)
TAKEN_AT = Ballot(Term(4), NodeId(0x1122334455667788))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "CHUNK_BYTES", 100)
    monkeypatch.setattr(snapshot_file, "SYNC_EVERY_BYTES", 1000)


def data_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def store_with(meta: SnapshotMeta = META, size: int = 1234, files: SimulatedDisk | None = None) -> SnapshotStore:
    store = SnapshotStore.open(files or disk())
    store.write(meta, [data_of(size)])
    return store


def stream(source: SnapshotStore, target: SnapshotStore, meta: SnapshotMeta, upto: int | None = None) -> int:
    """Copy as a leader does, from where the target is; returns how many bytes went over."""
    size = source.size(meta) if upto is None else upto
    offset = begin = target.received(meta)
    while offset < size:
        part = source.read(meta, offset, min(130, size - offset))
        assert part
        offset = target.receive(meta, offset, part)
    return offset - begin


def test_golden_snapshot() -> None:
    files = disk()
    store = SnapshotStore.open(files)
    store.write(msgspec.structs.replace(META, taken_at=TAKEN_AT), [b"a" * 100, b"b" * 20])
    assert files.content(NAME) == bytes.fromhex((GOLDEN / "snapshot-v1-taken-at.hex").read_text())


@pytest.mark.parametrize(("name", "taken_at"), [("", Ballot(Term(0), NodeId(0))), ("-taken-at", TAKEN_AT)])
def test_golden_snapshot_is_read(name: str, taken_at: Ballot) -> None:
    """And sent on; that of a version which did not say in which term it was taken, too."""
    files = disk()
    data = bytes.fromhex((GOLDEN / f"snapshot-v1{name}.hex").read_text())
    files.create(NAME).write_at(0, data)
    store = SnapshotStore.open(files)
    meta = store.newest()
    assert meta == msgspec.structs.replace(META, taken_at=taken_at)
    assert b"".join(store.load(meta)) == b"a" * 100 + b"b" * 20
    other = SnapshotStore.open(disk())
    stream(store, other, meta)
    other.finish(meta)
    assert other.newest() == meta


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1234])
@pytest.mark.parametrize("piece", [1, 7, 100, 5000])
def test_what_is_written_is_loaded(size: int, piece: int) -> None:
    files = disk()
    store = SnapshotStore.open(files)
    data = data_of(size)
    writer = store.begin(META)
    for offset in range(0, size, piece):
        writer.write(data[offset : offset + piece])
    assert writer.finish() == META
    assert store.newest() == META
    files.power_loss()
    store = SnapshotStore.open(files)
    assert store.newest() == META
    parts = list(store.load(META))
    assert b"".join(parts) == data
    assert all(0 < len(part) <= 100 for part in parts)


def test_the_newest_is_the_one_that_ends_last_whichever_was_written_last() -> None:
    store = store_with(snapshot(1, 9))
    store.write(snapshot(1, 4), [b"older"])
    assert store.newest() == snapshot(1, 9)


def test_what_stood_behind_a_damaged_chunk_is_not_taken_for_the_rest() -> None:
    source, files = store_with(), disk()
    target = SnapshotStore.open(files)
    stream(source, target, META, upto=500)
    target.close()
    files.open(PART).write_at(300, data_of(5000))
    target = SnapshotStore.open(files)
    stream(source, target, META)
    target.finish(META)
    assert target.newest() == META


def test_there_is_none_in_the_beginning() -> None:
    store = SnapshotStore.open(disk())
    assert store.newest() is None
    assert store.damaged == {}
    store.prune()
    with pytest.raises(SnapshotGone):
        next(store.load(META))
    with pytest.raises(SnapshotGone):
        store.read(META, 0, 10)


def test_power_loss_while_it_is_written_leaves_the_one_before() -> None:
    older = snapshot(3, 60_000)
    seen = set()
    for seed in range(80):
        files = disk(seed)
        store = store_with(older, files=files)
        files.fail_next_sync(skip=seed % 8)
        try:
            store.write(META, [data_of(3000)])
            stored = True
        except StorageError:
            stored = False
        files.heal()
        files.power_loss()
        store = SnapshotStore.open(files)
        assert not store.damaged
        newest = store.newest()
        assert newest in (older, META)
        assert newest == META or not stored
        assert b"".join(store.load(newest or META)) in (data_of(1234), data_of(3000))
        assert not any(name.endswith(names.NEW) for name in files.names())
        seen.add((stored, newest == META))
    assert (True, True) in seen
    assert (False, False) in seen


def test_every_rotted_byte_is_noticed_and_the_older_one_serves() -> None:
    pristine = disk()
    older = snapshot(3, 60_000)
    store_with(older, 100, pristine)
    store_with(META, 250, pristine)
    for offset in range(len(pristine.content(NAME))):
        files = pristine.fork(random.Random(1))
        files.rot(NAME, offset, offset % 8)
        store = SnapshotStore.open(files)
        assert store.newest() == older
        assert list(store.damaged) == [NAME]
        store.prune()
        assert files.names() == [names.snapshot_name(older.last)]
        assert store.damaged == {}


def test_a_cut_or_lengthened_file_is_noticed() -> None:
    for change in (-1, -20, +1):
        files = disk()
        store = store_with(files=files)
        files.open(NAME).truncate(len(files.content(NAME)) + change)
        assert store.check(META.last) is None
        assert store.newest() is None
        with pytest.raises(Corrupt):
            for _ in store.load(META):
                pass


def test_loading_stops_at_the_first_bad_chunk() -> None:
    files = disk()
    store = store_with(files=files)
    files.rot(NAME, len(files.content(NAME)) // 2)
    with pytest.raises(Corrupt, match=f"{NAME}, byte .*not what was written"):
        for _ in store.load(META):
            pass


@pytest.mark.parametrize(
    ("body", "complaint"),
    [(b"\x91\x01", "does not make sense"), (msgspec.msgpack.encode(snapshot(3, 5)), "another entry")],
)
def test_a_head_that_is_not_ours(body: bytes, complaint: str) -> None:
    files = disk()
    store = store_with(files=files)
    head = block.seal(snapshot_file.MAGIC, 1, body)
    rest = files.content(NAME)[len(block.seal(snapshot_file.MAGIC, 1, msgspec.msgpack.encode(META))) :]
    files.create(NAME).write_at(0, head + rest)
    assert store.check(META.last) is None
    assert complaint in store.damaged[NAME]
    store.write(META, [b"anew"])
    assert store.damaged == {}


@pytest.mark.parametrize(
    ("chunk", "complaint"),
    [
        (snapshot_file._CHUNK.pack(10, 5, 0), "out of place"),
        (snapshot_file._CHUNK.pack(snapshot_file.CHUNK_BYTES_MAX + 1, 0, 0), "length makes no sense"),
        (snapshot_file._CHUNK.pack(10, 0, 0) + b"short", "not what was written"),
        (snapshot_file._CHUNK.pack(snapshot_file._END, 0, 1), "do not belong together"),
        (b"", "ends too early"),
    ],
)
def test_chunks_that_do_not_add_up(chunk: bytes, complaint: str) -> None:
    files = disk()
    files.create(NAME).write_at(0, block.seal(snapshot_file.MAGIC, 1, msgspec.msgpack.encode(META)) + chunk)
    store = SnapshotStore.open(files)
    assert complaint in store.damaged[NAME]


def test_a_head_of_absurd_length_is_not_read() -> None:
    files = disk()
    head = bytearray(block.seal(snapshot_file.MAGIC, 1, b""))
    head[12:16] = b"\xff\xff\xff\xff"
    files.create(NAME).write_at(0, bytes(head))
    assert NAME in SnapshotStore.open(files).damaged


def test_prune_keeps_the_newest() -> None:
    files = disk()
    store = SnapshotStore.open(files)
    for index in (10, 20, 30, 40):
        store.write(snapshot(1, index), [b"x"])
    store.prune(keep=2)
    store.prune(keep=2)
    assert names.snapshots(files.names()) == [snapshot(1, 30).last, snapshot(1, 40).last]
    assert store.newest() == snapshot(1, 40)
    assert [store.holds(snapshot(1, index)) for index in (10, 20, 30, 40)] == [False, False, True, True]
    files.power_loss()
    assert SnapshotStore.open(files).newest() == snapshot(1, 40)


def test_prune_keeps_the_one_that_the_log_leans_on() -> None:
    files = disk()
    store = SnapshotStore.open(files)
    for index in (10, 20, 30, 40):  # the last two were received, say, and not taken
        store.write(snapshot(1, index), [b"x"])
    store.prune(needed=snapshot(1, 20))
    assert [last.index for last in names.snapshots(files.names())] == [20, 30, 40]
    assert b"".join(store.load(snapshot(1, 20))) == b"x"


def test_prune_never_removes_the_newest_intact_one() -> None:
    files = disk()
    store = SnapshotStore.open(files)
    for index in (10, 20, 30):
        store.write(snapshot(1, index), [data_of(300)])
    files.rot(names.snapshot_name(snapshot(1, 30).last), 150)
    store = SnapshotStore.open(files)
    store.prune(keep=1)
    assert names.snapshots(files.names()) == [snapshot(1, 20).last]


def test_a_snapshot_travels_byte_for_byte() -> None:
    source_files, target_files = disk(1), disk(2)
    source = store_with(files=source_files)
    target = SnapshotStore.open(target_files)
    stream(source, target, META)
    assert target.newest() is None, "not before it is finished"
    target.finish(META)
    assert target.newest() == META
    assert target_files.content(NAME) == source_files.content(NAME)
    target_files.power_loss()
    target = SnapshotStore.open(target_files)
    assert b"".join(target.load(META)) == data_of(1234)
    assert target.newest() == META


def test_pieces_may_come_twice_and_gaps_are_refused() -> None:
    source = store_with()
    target = SnapshotStore.open(disk())
    whole = source.read(META, 0, 10_000)
    assert target.receive(META, 0, whole[:300]) == 300
    assert target.receive(META, 0, whole[:200]) == 300
    assert target.receive(META, 250, whole[250:400]) == 400
    assert target.receive(META, 500, whole[500:600]) == 400
    assert target.receive(META, 400, whole[400:]) == len(whole)
    target.finish(META)


def test_a_transfer_goes_on_after_a_restart() -> None:
    source = store_with(size=5000)
    files = disk()
    target = SnapshotStore.open(files)
    stream(source, target, META, upto=3300)
    files.crash()
    target = SnapshotStore.open(files)
    assert 3100 < target.received(META) <= 3300, "whole chunks count"
    stream(source, target, META)
    target.finish(META)
    assert b"".join(target.load(META)) == data_of(5000)


def test_a_transfer_that_was_all_but_finished_goes_on_after_a_restart() -> None:
    source = store_with()
    files = disk()
    stream(source, SnapshotStore.open(files), META)
    files.crash()
    target = SnapshotStore.open(files)
    assert 0 < stream(source, target, META) < 20, "the end is read again, it may not be the last chunk"
    target.finish(META)


def test_a_newer_format_is_refused_with_advice() -> None:
    files = disk()
    files.create(NAME).write_at(0, block.seal(snapshot_file.MAGIC, 2, b"x"))
    with pytest.raises(StorageError, match=r"format version 2.*newer version"):
        SnapshotStore.open(files)


def test_a_transfer_goes_on_after_power_loss_with_what_was_synced() -> None:
    source = store_with(size=5000)
    gone_on_from = set()
    for seed in range(40):
        files = disk(seed)
        target = SnapshotStore.open(files)
        stream(source, target, META, upto=3300)
        files.power_loss()
        target = SnapshotStore.open(files)
        gone_on_from.add(target.received(META))
        stream(source, target, META)
        target.finish(META)
        assert b"".join(target.load(META)) == data_of(5000)
    assert min(gone_on_from) > 2500
    assert len(gone_on_from) > 1


def test_a_newer_snapshot_takes_the_place_of_an_unfinished_one() -> None:
    source_files = disk()
    source = store_with(files=source_files)
    newer = snapshot(4, 80_000)
    store_with(newer, files=source_files)
    target_files = disk()
    target = SnapshotStore.open(target_files)
    stream(source, target, META, upto=700)
    stream(source, target, newer)
    assert PART not in target_files.names()
    target.finish(newer)
    assert target.newest() == newer


def test_the_same_name_with_another_head_begins_anew() -> None:
    source = store_with()
    files = disk()
    target = SnapshotStore.open(files)
    stream(source, target, META, upto=700)
    other = SnapshotMeta(META.last, snapshot(1, 1).membership)
    changed = msgspec.structs.replace(other, membership=msgspec.structs.replace(other.membership, voters=(1, 2)))
    assert target.received(changed) == 0


def test_mixed_files_of_two_leaders_are_refused() -> None:
    """Each chunk is right by itself; together they are the state of no server."""
    first, second = SnapshotStore.open(disk()), SnapshotStore.open(disk())
    first.write(META, [data_of(1200, seed=1)])
    second.write(META, [data_of(1200, seed=2)])
    files = disk()
    target = SnapshotStore.open(files)
    stream(first, target, META, upto=500)
    files.crash()
    target = SnapshotStore.open(files)
    stream(second, target, META)
    with pytest.raises(Corrupt, match="do not belong together"):
        target.finish(META)
    assert files.names() == []
    assert target.received(META) == 0
    stream(second, target, META)
    target.finish(META)


def test_a_snapshot_other_than_announced_is_refused() -> None:
    source = store_with(snapshot(9, 9))
    target = SnapshotStore.open(disk())
    target.receive(META, 0, source.read(snapshot(9, 9), 0, 10_000))
    with pytest.raises(Corrupt, match="not the snapshot that was announced"):
        target.finish(META)


def test_a_pruned_snapshot_can_be_streamed_to_its_end() -> None:
    files = disk()
    store = store_with(files=files)
    begun = store.read(META, 0, 100)
    store.write(snapshot(4, 80_000), [b"new"])
    store.prune(keep=1)
    assert len(begun + store.read(META, 100, 10_000)) > 1234
    assert store.read(snapshot(4, 80_000), 0, 8) == b"TROTHSNP"
    with pytest.raises(SnapshotGone, match="newest"):
        store.read(META, 0, 10)
    store.close()
    store.close()


def test_a_snapshot_written_again_is_streamed_anew() -> None:
    store = store_with()
    before = store.read(META, 0, 10_000)
    store.write(META, [b"other"])
    assert store.read(META, 0, 10_000) != before


def test_prune_spares_the_transfer_that_is_under_way() -> None:
    files = disk()
    store = store_with(snapshot(1, 5), files=files)
    source = store_with()
    stream(source, store, META, upto=700)
    store.prune()
    assert PART in files.names()
    store.close()
    store = SnapshotStore.open(files)
    store.prune()
    assert PART not in files.names()


def test_an_interrupted_or_failed_write_leaves_nothing() -> None:
    files = disk()
    store = SnapshotStore.open(files)

    def parts() -> list[bytes]:
        raise ValueError("the state can not be read")

    with pytest.raises(ValueError, match="can not be read"):
        store.write(META, (part for part in parts()))
    assert files.names() == []
    files.capacity_bytes = 700
    with pytest.raises(StorageError, match="No space left"):
        store.write(META, [data_of(2000)])
    assert files.names() == []
    files.capacity_bytes = 20
    with pytest.raises(StorageError, match="No space left"):
        store.begin(META)
    assert files.names() == []


def test_leftovers_are_removed_and_strangers_refused() -> None:
    files = disk()
    files.create(NAME + names.NEW)
    SnapshotStore.open(files)
    assert files.names() == []
    files.create("snapshot-old.snap")
    with pytest.raises(StorageError, match="move it elsewhere"):
        SnapshotStore.open(files)


def test_a_disk_that_can_not_be_read_is_no_missing_snapshot() -> None:
    files = disk()
    store = store_with(files=files)
    files.fail_next_read(NAME)
    with pytest.raises(StorageError, match="can not be read"):
        SnapshotStore.open(files)
    store.read(META, 0, 10)
    files.crash()
    with pytest.raises(StorageError, match="Bad file descriptor"):
        store.size(META)


def test_failing_syncs_are_typed() -> None:
    files = disk()
    store = SnapshotStore.open(files)
    files.fail_next_sync()
    with pytest.raises(SyncFailed, match="fsync failed"):
        store.write(META, [b"x"])
    source = store_with(size=3000)
    target_files = disk()
    target = SnapshotStore.open(target_files)
    target_files.fail_next_sync(skip=1)
    with pytest.raises(SyncFailed):
        stream(source, target, META)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("syncs", [1, 3])
def test_what_a_failed_sync_has_lost_is_not_taken_for_received(seed: int, syncs: int) -> None:
    """The page cache still shows it to the next process, whose own sync writes none of it."""
    source = store_with(size=3000)
    files = SimulatedDisk(random.Random(seed))
    target = SnapshotStore.open(files)
    files.fail_next_sync(skip=syncs)
    with pytest.raises(SyncFailed):
        stream(source, target, META)
        target.finish(META)
    files.crash()
    again = SnapshotStore.open(files)
    stream(source, again, META)
    again.finish(META)
    files.power_loss()
    kept = SnapshotStore.open(files)
    assert kept.newest() == META
    assert not kept.damaged


def test_a_failed_sync_of_the_directory_is_one_of_a_snapshot() -> None:
    """It must end the process; a snapshot that could just not be written is tried again."""
    files = disk()
    writer = SnapshotStore.open(files).begin(META)
    writer.write(b"x")
    files.fail_next_sync(skip=1)
    with pytest.raises(SyncFailed, match="directory"):
        writer.finish()


@pytest.mark.parametrize("lacking_bytes", [1, 16, 17, 40])
def test_a_disk_that_is_full_at_the_last_chunk_keeps_nothing_of_a_snapshot(lacking_bytes: int) -> None:
    files = disk()
    store_with(files=files)
    full = SimulatedDisk(random.Random(1), capacity_bytes=len(files.content(NAME)) - lacking_bytes)
    with pytest.raises(StorageError, match="No space"):
        SnapshotStore.open(full).write(META, [data_of(1234)])
    assert full.names() == []


def test_an_open_file_that_can_not_be_opened_again() -> None:
    class Failing(SimulatedDisk):
        broken = False

        def open(self, name: str):  # type: ignore[no-untyped-def]
            if self.broken:
                raise PermissionError(13, "Permission denied", name)
            return super().open(name)

    files = Failing(random.Random(1))
    store = store_with(files=files)
    files.broken = True
    with pytest.raises(StorageError, match="Permission denied"):
        next(store.load(META))


def test_a_transfer_that_is_given_up_leaves_its_room_to_others() -> None:
    source, files = store_with(), disk()
    target = SnapshotStore.open(files)
    stream(source, target, META, upto=500)
    target.discard(META)
    assert files.names() == []
    target.discard(META)
    stream(source, target, META)
    target.finish(META)
    assert target.newest() == META


def test_prune_keeps_what_is_being_sent() -> None:
    store = SnapshotStore.open(disk())
    metas = [snapshot(1, index) for index in (10, 20, 30, 40)]
    for meta in metas:
        store.write(meta, [b"x"])
    store.prune(sending={metas[0].last})
    assert store.read(metas[0], 0, 8) == snapshot_file.MAGIC
    with pytest.raises(SnapshotGone):
        store.size(metas[1])
    assert store.newest() == metas[3]
