"""What the store holds of the file system: open files, bytes written ahead, names that are durable."""

import random

import pytest
import xxhash
from log_kit import batch, disk, entries, entry_id, snapshot
from typing_extensions import override

from troth.core.interface import Ballot, Persist, Slot
from troth.errors import IdentityLost, StorageError
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.disk import SimulatedDisk, SimulatedFile
from troth.storage import names, record
from troth.storage.log import AHEAD_BYTES, WriteAheadLog
from troth.storage.record import SEGMENT_HEAD_BYTES
from troth.storage.replay import LogDamaged
from troth.storage.snapshots import SnapshotStore

SEGMENT_BYTES = 2048
BALLOT = Ballot(Term(1), NodeId(1))


class WatchedDisk(SimulatedDisk):
    """Knows which files are open."""

    def __init__(self) -> None:
        super().__init__(random.Random(1))
        self.files: list[SimulatedFile] = []

    @override
    def open(self, name: str) -> SimulatedFile:
        self.files.append(super().open(name))
        return self.files[-1]

    @override
    def create(self, name: str, reserve: int = 0) -> SimulatedFile:
        self.files.append(super().create(name, reserve))
        return self.files[-1]

    @property
    def open_count(self) -> int:
        return sum(file._open for file in self.files)


def long_log(files: SimulatedDisk, *, holds_slots: bool = False) -> WriteAheadLog:
    """A log of several segments."""
    log, _ = WriteAheadLog.open(files, segment_bytes=SEGMENT_BYTES, holds_slots=holds_slots)
    for index in range(1, 30):
        made = batch(index, size_bytes=300)
        log.append([Persist(slots=tuple(Slot(BALLOT, entry) for entry in made.entries)) if holds_slots else made])
    assert len(files.names()) > 3
    return log


# ---- open files ----


@pytest.mark.parametrize("holds_slots", [False, True])
def test_a_log_holds_one_file_open_and_a_closed_one_none(holds_slots: bool) -> None:
    files = WatchedDisk()
    log = long_log(files, holds_slots=holds_slots)
    assert files.open_count == 1
    log.close()
    assert files.open_count == 0
    log, _ = WriteAheadLog.open(files, segment_bytes=SEGMENT_BYTES, holds_slots=holds_slots)
    assert files.open_count == 1
    log.close()
    assert files.open_count == 0


def test_a_log_that_is_refused_holds_no_file_open() -> None:
    files = WatchedDisk()
    long_log(files).close()
    with pytest.raises(IdentityLost):
        WriteAheadLog.open(files, owner=NodeId(77))
    first = record.segment_name(1)
    files.rot(first, SEGMENT_HEAD_BYTES + 40)
    with pytest.raises(LogDamaged):
        WriteAheadLog.open(files)
    files.fail_next_read(record.segment_name(3))
    with pytest.raises(StorageError):
        WriteAheadLog.open(files)
    assert files.open_count == 0


def test_snapshots_hold_one_file_open_for_whoever_is_sent_one_and_one_for_what_is_received() -> None:
    files, source = WatchedDisk(), SnapshotStore.open(disk())
    older, newer, received = snapshot(1, 5), snapshot(1, 9), snapshot(1, 20)
    source.write(received, [b"x" * 1000])
    store = SnapshotStore.open(files)
    for meta in (older, newer):
        store.write(meta, [b"data"])
    store = SnapshotStore.open(files)
    assert b"".join(store.load(older)) == b"data"
    assert files.open_count == 0
    for meta in (older, newer, older):
        store.read(meta, 0, 10)
        assert files.open_count == 1
    data = source.read(received, 0, source.size(received))
    store.receive(received, 0, data[:100])
    assert files.open_count == 2
    store.receive(snapshot(1, 30), 0, data[:100])
    assert files.open_count == 2
    store.receive(received, 0, data)
    store.finish(received)
    assert files.open_count == 1
    store.close()
    assert files.open_count == 0


# ---- bytes ----


def test_zeros_are_written_ahead_once_and_not_with_each_record(monkeypatch: pytest.MonkeyPatch) -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    written: list[int] = []
    inner = log._open_file.write_at
    monkeypatch.setattr(
        log._open_file, "write_at", lambda offset, data: (written.append(len(data)), inner(offset, data))
    )
    for index in range(1, 20):
        log.append([batch(index)])
    assert sum(written) < AHEAD_BYTES // 10


def test_a_segment_is_filled_to_its_last_byte() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, size_bytes=300)])
    record_bytes = log._offset - SEGMENT_HEAD_BYTES
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=SEGMENT_HEAD_BYTES + 3 * record_bytes)
    for index in range(1, 4):
        log.append([batch(index, size_bytes=300)])
    assert len(files.names()) == 1
    log.append([batch(4, size_bytes=300)])
    assert len(files.names()) == 2


# ---- names ----


def test_segments_with_nothing_but_void_entries_go_with_the_next_compaction() -> None:
    """A snapshot that contradicts them has begun the log anew, with lower indexes than they hold."""
    files = disk()
    log = long_log(files)
    log.append([Persist(snapshot=snapshot(5, 10))])
    for index in range(11, 16):
        log.append([batch(index, term=5, size_bytes=300)])
    log.compact(LogIndex(11))
    first, *_ = names.segment_numbers(files.names())
    files.crash()
    _, recovered = WriteAheadLog.open(files, snapshot=snapshot(5, 10))
    assert recovered.entries == entries(11, 5, term=5, size_bytes=300)
    assert first >= log._segments[0].number > 4


def test_snapshots_that_were_pruned_are_gone_for_good() -> None:
    for seed in range(10):
        files = disk(seed)
        store = SnapshotStore.open(files)
        for index in (3, 5, 9):
            store.write(snapshot(1, index), [b"data"])
        store.prune(1)
        files.power_loss()
        assert names.snapshots(files.names()) == [entry_id(1, 9)]


def test_a_strangers_unfinished_file_is_not_ours_to_remove() -> None:
    files = disk()
    files.create("theirs" + names.NEW)
    SnapshotStore.open(files)
    assert files.names() == ["theirs" + names.NEW]


def test_a_snapshot_is_here_when_it_is_the_very_one() -> None:
    store = SnapshotStore.open(disk())
    store.write(snapshot(1, 5), [b"data"])
    assert store.holds(snapshot(1, 5))
    assert not store.holds(snapshot(1, 6))
    other = snapshot(1, 5)
    other = type(other)(other.last, type(other.membership)(voters=(NodeId(9),)))
    assert not store.holds(other)


def test_a_snapshot_that_is_found_sound_again_is_damaged_no_more() -> None:
    files = disk()
    store = SnapshotStore.open(files)
    store.write(snapshot(1, 5), [b"data" * 100])
    name = names.snapshot_name(entry_id(1, 5))
    files.rot(name, 200)
    assert store.check(entry_id(1, 5)) is None and name in store.damaged
    files.rot(name, 200)
    assert store.check(entry_id(1, 5)) == snapshot(1, 5)
    assert not store.damaged


# ---- heads ----


def test_a_segment_head_is_one_of_this_very_segment_and_program() -> None:
    head = record.encode_segment_head(3, NodeId(7))
    assert record.decode_segment_head(head, 3) == (record.VERSION, 7)
    assert record.decode_segment_head(head, 4) == (None, None)
    stranger = b"STRANGER" + head[8 : record.SEGMENT_HEAD.size]
    stranger += xxhash.xxh3_64_intdigest(stranger).to_bytes(8, "little")
    assert record.decode_segment_head(stranger, 3) == (None, None)


def test_a_record_head_is_one_of_this_very_format_and_owner() -> None:
    def seeded(owner: int) -> int:
        return record.segment_seed(1, NodeId(owner))

    head = record.encode_record_head(kind=record.Kind.CHANGE, body=b"", sequence=1, unsynced=0, seed=seeded(5))
    assert record.decode_record_head(head, seeded(5)) is not None
    assert record.decode_record_head(head, seeded(5 + (1 << 40))) is None
    other = b"XYZ" + head[3 : record.RECORD_HEAD.size]
    other += xxhash.xxh32_intdigest(other, seeded(5)).to_bytes(4, "little")
    assert record.decode_record_head(other, seeded(5)) is None


def test_a_log_with_slots_and_no_hard_state_is_not_empty() -> None:
    files = disk()
    log, recovered = WriteAheadLog.open(files, holds_slots=True)
    assert recovered.is_empty
    log.append([Persist(slots=(Slot(BALLOT, entries(1, 1)[0]),))])
    log.close()
    _, recovered = WriteAheadLog.open(files, holds_slots=True)
    assert not recovered.is_empty


# ---- what a crash in the middle leaves ----


def test_segments_go_one_by_one_and_for_good() -> None:
    """Two removals that are not durable may survive in any order, and a hole reads as a lost file."""

    class Strict(SimulatedDisk):
        @override
        def remove(self, name: str) -> None:
            assert not self._name_changes
            super().remove(name)

    files = Strict(random.Random(1))
    log = long_log(files)
    log.compact(LogIndex(25))
    assert len(files.names()) < 4


@pytest.mark.parametrize("seed", range(5))
def test_an_acceptors_log_knows_after_a_crash_which_segments_it_had_dropped(seed: int) -> None:
    files = disk(seed)
    log = long_log(files, holds_slots=True)
    log.compact(LogIndex(20))
    files.power_loss()
    _, recovered = WriteAheadLog.open(files, holds_slots=True, snapshot=snapshot(1, 19))
    assert recovered.damaged is None
    assert recovered.slots[-1].entry.index == 29


def test_an_acceptors_log_misses_the_segment_that_was_the_newest_when_all_others_were_dropped() -> None:
    files = disk()
    log = long_log(files, holds_slots=True)
    log.compact(LogIndex(100))
    (newest,) = files.names()
    for index in range(30, 50):
        log.append([Persist(slots=(Slot(BALLOT, entries(index, 1, size_bytes=300)[0]),))])
    log.close()
    files.remove(newest)
    with pytest.raises(LogDamaged):
        WriteAheadLog.open(files, holds_slots=True, snapshot=snapshot(1, 29))


@pytest.mark.parametrize("holds_slots", [False, True])
def test_a_log_that_was_begun_anew_is_sound_though_its_old_segments_could_not_be_removed(
    holds_slots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise OSError(f"{name} can not be removed")

    files = disk()
    long_log(files, holds_slots=holds_slots).close()
    files.rot(record.segment_name(2), SEGMENT_HEAD_BYTES + 40)
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(files, "remove", fails)
        WriteAheadLog.open(files, holds_slots=holds_slots, salvage=True)
    files.remove(record.segment_name(1))
    files.crash()
    _, recovered = WriteAheadLog.open(files, holds_slots=holds_slots)
    assert recovered.damaged is None and recovered.amnesia is not None
