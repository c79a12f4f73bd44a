"""The log when the disk behaves: append, sync, roll, compact, close, and who may open it."""

import pytest
from log_kit import FIRST, batch, disk, entries, entry_id, snapshot, vote

from troth.core.interface import HardState, Persist
from troth.errors import IdentityLost, InvariantViolation, StorageError, SyncFailed
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.disk import SimulatedDisk
from troth.storage import log as log_module
from troth.storage import record
from troth.storage.log import WriteAheadLog


def reopen(files: SimulatedDisk, **options: object) -> log_module.Recovered:
    files.crash()
    return WriteAheadLog.open(files, **options)[1]  # type: ignore[arg-type]


def test_a_new_log_is_empty() -> None:
    _, recovered = WriteAheadLog.open(disk())
    assert recovered.is_empty
    assert recovered.entries == ()
    assert recovered.damaged is None
    assert recovered.torn_bytes == 0


def test_what_was_synced_survives_power_loss() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([vote(2, 5), batch(1, 3, term=2)])
    log.sync()
    files.power_loss()
    recovered = reopen(files)
    assert recovered.hard_state == HardState(Term(2), NodeId(5))
    assert recovered.entries == entries(1, 3, term=2)
    assert recovered.last == entry_id(2, 3)
    assert not recovered.is_empty


def test_term_vote_and_entries_of_one_persist_are_one_record() -> None:
    """They are there together or not at all."""
    persist = Persist(hard_state=HardState(Term(2), NodeId(5)), entries=entries(1, 40, size_bytes=100))
    for seed in range(60):
        files = disk(seed)
        log, _ = WriteAheadLog.open(files)
        log.append([persist])
        files.power_loss()
        recovered = reopen(files)
        both = (recovered.hard_state, recovered.entries)
        assert both in ((HardState(), ()), (persist.hard_state, persist.entries))


def test_several_persists_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    writes: list[int] = []
    inner = log._open_file.write_at
    monkeypatch.setattr(
        log._open_file, "write_at", lambda offset, data: (writes.append(offset), inner(offset, data))
    )
    log.append([vote(1, 1), batch(1, 30), batch(31, 1, size_bytes=30_000)])
    assert len(writes) == 1


def test_sync_without_appends_does_not_touch_the_disk() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    files.fail_next_sync()
    log.sync()
    log.append([batch(1)])
    with pytest.raises(SyncFailed):
        log.sync()


def test_entries_overwrite_what_is_stored_at_and_after_the_first() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 10), batch(5, 2, term=2)])
    log.append([batch(1, 1, term=3)])
    assert log.last == entry_id(3, 1)
    log.append([batch(2, 1, term=3)])
    recovered = reopen(files)
    assert recovered.entries == entries(1, 2, term=3)


@pytest.mark.parametrize("persist", [batch(12), batch(0), Persist(entries=entries(11, 1) + entries(13, 1))])
def test_entries_that_do_not_join_the_log_are_our_bug(persist: Persist) -> None:
    log, _ = WriteAheadLog.open(disk())
    log.append([batch(1, 10)])
    with pytest.raises(InvariantViolation):
        log.append([persist])


def test_segments_roll_and_are_read_back_in_order() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=2048)
    for index in range(1, 60):
        log.append([batch(index, size_bytes=300)])
    assert len(files.names()) > 5
    assert reopen(files, segment_bytes=2048).entries == entries(1, 59, size_bytes=300)


def test_a_batch_larger_than_a_segment_gets_one_of_its_own() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([batch(1, 1, size_bytes=50_000)])
    assert len(files.names()) == 1, "an empty segment takes anything"
    log.append([batch(2, 1, size_bytes=600_000)])
    log.append([batch(3)])
    assert len(files.names()) == 3
    assert [len(entry.payload) for entry in reopen(files).entries] == [50_004, 600_004, 28]


def test_compaction_drops_whole_segments_and_keeps_the_hard_state() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=2048)
    log.append([vote(7, 3)])
    for index in range(1, 30):
        log.append([batch(index, term=7, size_bytes=300)])
    before = len(files.names())
    log.compact(LogIndex(20))
    assert len(files.names()) < before
    files.power_loss()
    recovered = reopen(files, snapshot=snapshot(7, 19))
    assert recovered.hard_state == HardState(Term(7), NodeId(3))
    assert recovered.entries[0].index <= 20
    assert recovered.last == entry_id(7, 29), "compaction makes durable what it relies on"


def test_compaction_keeps_a_segment_for_the_last_entry_of_a_write() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([batch(1, 3, size_bytes=300)])
    log.append([batch(4, 3, size_bytes=300)])
    log.compact(LogIndex(3))
    assert len(files.names()) == 2
    assert reopen(files, snapshot=snapshot(1, 2)).entries[0].index <= 3


def test_zeros_stand_ahead_of_the_last_record_so_that_a_sync_writes_no_metadata() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=4 << 20)
    log.append([batch(1, size_bytes=256 << 10)])
    size = log._open_file.size()
    for index in range(2, 50):
        log.append([batch(index)])
    assert log._open_file.size() == size


def test_compaction_never_drops_the_newest_segment() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 5)])
    log.compact(LogIndex(6))
    assert files.names() == [FIRST]
    assert reopen(files, snapshot=snapshot(1, 5)).last == entry_id(1, 5)


def test_compaction_after_a_crash_that_left_an_empty_newest_segment() -> None:
    """The hard state is carried over before the only segment that has it goes."""
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([vote(4, 2), batch(1, 3, size_bytes=300)])
    log.sync()
    file = files.create(record.segment_name(2))
    file.write_at(0, bytes(4096))
    files.sync_directory()
    files.crash()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.compact(LogIndex(4))
    assert files.names() == [record.segment_name(2)]
    files.power_loss()
    recovered = reopen(files, snapshot=snapshot(1, 3))
    assert recovered.hard_state == HardState(Term(4), NodeId(2))
    assert recovered.last == entry_id(1, 3)


def test_overwritten_entries_do_not_keep_a_segment() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([batch(1, 20, size_bytes=60)])
    log.append([batch(5, 20, term=2, size_bytes=60)])
    log.append([batch(25, 5, term=2, size_bytes=60)])
    assert len(files.names()) == 3
    log.compact(LogIndex(5))
    assert files.names()[0] == record.segment_name(2)
    recovered = reopen(files, snapshot=snapshot(1, 4))
    assert recovered.entries == entries(5, 25, term=2, size_bytes=60)


def test_the_same_holds_after_reading_the_segments_back() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([batch(1, 20, size_bytes=60)])
    log.append([batch(5, 20, term=2, size_bytes=60)])
    log.append([batch(25, 5, term=2, size_bytes=60)])
    files.crash()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.compact(LogIndex(5))
    assert files.names()[0] == record.segment_name(2)


def test_a_log_begun_anew_is_compacted_like_any_other() -> None:
    """Its old segments are gone: nobody tries to remove them once more."""
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([batch(1, 5, term=1, size_bytes=300)])
    log.sync()
    files.crash()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024, snapshot=snapshot(2, 9))
    for index in range(10, 20):
        log.append([batch(index, term=2, size_bytes=300)])
    log.sync()
    before = len(files.names())
    log.compact(LogIndex(19))
    assert len(files.names()) < before
    assert reopen(files, snapshot=snapshot(2, 18)).last == entry_id(2, 19)


def test_a_snapshot_ahead_of_the_log_begins_it_anew() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 5), Persist(snapshot=snapshot(3, 9))])
    assert log.last == entry_id(3, 9)
    log.append([batch(10, 2, term=3)])
    recovered = reopen(files, snapshot=snapshot(3, 9))
    assert recovered.entries == entries(10, 2, term=3)


def test_a_snapshot_inside_the_log_keeps_what_follows() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 9), Persist(snapshot=snapshot(1, 5))])
    assert log.last == entry_id(1, 9)
    assert reopen(files, snapshot=snapshot(1, 5)).entries == entries(1, 9)


@pytest.mark.parametrize("index", [5, 9])
def test_a_snapshot_that_disagrees_with_the_log_drops_the_suffix(index: int) -> None:
    """A divergent tail must not outlive the snapshot that contradicts it."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 9), Persist(snapshot=snapshot(2, index))])
    assert log.last == entry_id(2, index)
    assert reopen(files, snapshot=snapshot(2, index)).entries == ()


@pytest.mark.parametrize(("term", "index"), [(2, 5), (2, 9), (1, 12)])
def test_a_snapshot_that_the_log_never_heard_of_counts(term: int, index: int) -> None:
    """The snapshot was durable, then came the crash: the log is void from there on, durably."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([vote(3, 1), batch(1, 9)])
    log.close()
    log, recovered = WriteAheadLog.open(files, snapshot=snapshot(term, index))
    assert recovered.entries == ()
    assert recovered.last == entry_id(term, index)
    assert recovered.damaged is None
    log.append([batch(index + 1, 1, term=3)])
    log.close()
    recovered = reopen(files, snapshot=snapshot(term, index))
    assert recovered.entries == entries(index + 1, 1, term=3)
    assert recovered.hard_state == HardState(Term(3), NodeId(1))


def test_a_local_snapshot_leaves_the_log_alone() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 9)])
    log.close()
    assert reopen(files, snapshot=snapshot(1, 9)).entries == entries(1, 9)
    assert reopen(files, snapshot=snapshot(1, 4)).entries == entries(1, 9)


def test_terms_are_told_apart_within_the_log() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([Persist(entries=entries(1, 3, term=1) + entries(4, 3, term=2))])
    files.crash()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(7, 1, term=4)])
    log.append([Persist(snapshot=snapshot(2, 5))])
    assert log.last == entry_id(4, 7), "the log holds 2/5"
    log.append([Persist(snapshot=snapshot(2, 3))])
    assert log.last == entry_id(2, 3), "entry 3 has term 1"


def test_terms_of_overwritten_entries_are_forgotten() -> None:
    log, _ = WriteAheadLog.open(disk())
    log.append([Persist(entries=entries(1, 3, term=1) + entries(4, 3, term=2))])
    log.append([batch(3, 6, term=3)])
    log.append([Persist(snapshot=snapshot(3, 3)), Persist(snapshot=snapshot(3, 5))])
    assert log.last == entry_id(3, 8), "the log holds 3/3 and 3/5"
    log.append([Persist(snapshot=snapshot(2, 5))])
    assert log.last == entry_id(2, 5), "it does not hold 2/5 any more"


def test_close_makes_everything_durable_and_vouches_for_it() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 2)])
    log.close()
    log.close()
    files.power_loss()
    assert reopen(files).last == entry_id(1, 2)


def test_a_closed_log_refuses_everything() -> None:
    log, _ = WriteAheadLog.open(disk())
    log.close()
    with pytest.raises(StorageError, match="closed"):
        log.append([batch(1)])


def test_another_servers_log_is_refused() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, owner=NodeId(7))
    log.append([batch(1)])
    log.close()
    with pytest.raises(IdentityLost, match=r"server 7.*server 8"):
        WriteAheadLog.open(files, owner=NodeId(8))


def test_a_log_that_was_never_written_to_can_be_taken_over() -> None:
    files = disk()
    WriteAheadLog.open(files, owner=NodeId(7))
    assert reopen(files, owner=NodeId(8)).is_empty
    assert reopen(files, owner=NodeId(8), must_exist=True).is_empty


def test_a_log_that_is_gone_is_noticed() -> None:
    with pytest.raises(IdentityLost, match="gone"):
        WriteAheadLog.open(disk(), must_exist=True)


def test_names_that_begin_like_ours_and_are_not_are_refused() -> None:
    files = disk()
    WriteAheadLog.open(files)
    files.create("wal-0000000000000001.log.bak")
    with pytest.raises(StorageError, match=r"log\.bak .*move it elsewhere"):
        reopen(files)


def test_other_files_are_none_of_our_business() -> None:
    files = disk()
    files.create("README")
    assert reopen(files).is_empty


def test_a_newer_format_is_refused_with_advice() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1)])
    log.close()
    file = files.open(FIRST)
    file.write_at(0, record.encode_segment_head(1, NodeId(0), 3))
    with pytest.raises(StorageError, match=r"format version 3.*start the newer version"):
        reopen(files)


@pytest.mark.parametrize("segment_bytes", [1 << 20, 600])
def test_what_an_overwriting_entry_cuts_off_does_not_come_back(segment_bytes: int) -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=segment_bytes)
    for index in range(1, 7):
        log.append([batch(index, 1, term=1, size_bytes=200)])
    log.append([batch(3, 2, term=2, size_bytes=200)])
    log.sync()
    recovered = reopen(files, segment_bytes=segment_bytes)
    assert recovered.entries == (*entries(1, 2, 1, 200), *entries(3, 2, 2, 200))
    assert recovered.last == entry_id(2, 4)
