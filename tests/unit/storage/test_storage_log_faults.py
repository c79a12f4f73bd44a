"""The log when the disk does not behave: failed syncs, full disks, unreadable files."""

from collections.abc import Callable

import pytest
from log_kit import FIRST, batch, disk, entries, entry_id, vote

from troth.core.interface import Persist
from troth.errors import StorageError, SyncFailed
from troth.ids import LogIndex, NodeId
from troth.storage import record
from troth.storage.log import WriteAheadLog


def test_a_failed_sync_poisons_the_log_for_ever() -> None:
    """The next fsync would succeed, and prove nothing."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1)])
    files.fail_next_sync()
    with pytest.raises(SyncFailed, match="fsync failed"):
        log.sync()
    actions: list[Callable[[], None]] = [
        log.sync,
        lambda: log.append([batch(2)]),
        lambda: log.compact(LogIndex(1)),
    ]
    for action in actions:
        with pytest.raises(SyncFailed):
            action()
    log.close()


def test_what_a_failed_sync_dropped_is_written_again_before_it_counts() -> None:
    """After the process restarts it reads bytes that only the page cache has; power loss must not take them back."""
    for seed in range(40):
        files = disk(seed)
        log, _ = WriteAheadLog.open(files)
        log.append([batch(1)])
        log.sync()
        log.append([batch(2, 3, size_bytes=400)])
        files.fail_next_sync()
        with pytest.raises(SyncFailed):
            log.sync()
        files.crash()
        _, recovered = WriteAheadLog.open(files)
        assert recovered.last == entry_id(1, 4), "the page cache still shows it"
        files.power_loss()
        _, again = WriteAheadLog.open(files)
        assert again.entries == recovered.entries


def test_what_was_cut_never_comes_back() -> None:
    """Behind a torn record stood an intact one; a new record of the torn one's length must not bring it back."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1)])
    log.sync()
    torn = log._offset
    log.append([batch(2)])
    log.append([batch(3)])
    files.crash()
    files.open(FIRST).write_at(torn, bytes(record.RECORD_HEAD_BYTES))
    log, recovered = WriteAheadLog.open(files)
    assert recovered.last == entry_id(1, 1)
    assert recovered.torn_bytes > 0
    log.append([batch(2)])
    files.crash()
    assert WriteAheadLog.open(files)[1].last == entry_id(1, 2)


def test_a_failed_sync_of_a_new_segment_loses_nothing() -> None:
    for seed in range(20):
        files = disk(seed)
        log, _ = WriteAheadLog.open(files, segment_bytes=1024)
        log.append([batch(1, 1, size_bytes=900)])
        log.sync()
        files.fail_next_sync()
        with pytest.raises(SyncFailed):
            log.append([batch(2, 1, size_bytes=900)])
        files.crash()
        log, recovered = WriteAheadLog.open(files, segment_bytes=1024)
        assert recovered.entries == entries(1, 1, size_bytes=900)
        log.append([batch(2)])
        log.sync()
        files.power_loss()
        _, recovered = WriteAheadLog.open(files, segment_bytes=1024)
        assert recovered.last == entry_id(1, 2)


def test_a_full_disk_stops_the_log_and_loses_nothing() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([vote(1, 1), batch(1, 4)])
    log.sync()
    files.capacity_bytes = files.used_bytes() + 1000
    with pytest.raises(StorageError, match=r"No space left.*Make room"):
        for index in range(5, 500):
            log.append([batch(index, size_bytes=10_000)])
            log.sync()
    with pytest.raises(StorageError):
        log.sync()
    reached = log.last.index - 1
    files.crash()
    files.capacity_bytes = None
    _, recovered = WriteAheadLog.open(files)
    assert recovered.last.index == reached
    assert recovered.damaged is None


def test_no_room_for_a_new_segment() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([batch(1, 1, size_bytes=900)])
    files.capacity_bytes = files.used_bytes() + 10
    with pytest.raises(StorageError, match="No space left"):
        log.append([batch(2, 1, size_bytes=900)])
    files.crash()
    files.capacity_bytes = None
    log, recovered = WriteAheadLog.open(files, segment_bytes=1024)
    assert recovered.last == entry_id(1, 1)
    log.append([batch(2)])


def test_a_read_error_is_no_empty_log() -> None:
    """What can not be read is an error, never fewer entries."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1)])
    log.close()
    files.fail_next_read(FIRST)
    with pytest.raises(StorageError, match=f"{FIRST} can not be read"):
        WriteAheadLog.open(files)


def test_a_read_error_while_the_tail_is_made_durable() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1)])
    files.crash()
    files.fail_next_read(FIRST, skip=1)
    with pytest.raises(StorageError, match="can not be read"):
        WriteAheadLog.open(files)


def test_a_failing_directory_is_typed() -> None:
    files = disk()
    files.fail_next_sync()
    with pytest.raises(SyncFailed):
        WriteAheadLog.open(files)
    files.fail_next_sync(skip=1)
    with pytest.raises(StorageError, match="the log can not be opened"):
        WriteAheadLog.open(files)


def test_a_crash_during_the_creation_of_a_segment() -> None:
    """An empty file, zeros or a header with nothing behind it: the segment is made again."""
    for content in (b"", bytes(700), record.encode_segment_head(2, NodeId(0))):
        files = disk()
        log, _ = WriteAheadLog.open(files, segment_bytes=1024)
        log.append([batch(1, 2)])
        log.close()
        file = files.create(record.segment_name(2))
        file.write_at(0, content)
        file.sync()
        files.sync_directory()
        log, recovered = WriteAheadLog.open(files, segment_bytes=1024)
        assert recovered.last == entry_id(1, 2)
        log.append([batch(3)])
        log.close()
        assert WriteAheadLog.open(files, segment_bytes=1024)[1].last == entry_id(1, 3)
        assert len(files.names()) == 2


def test_close_of_a_log_whose_sync_fails() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([Persist()])
    files.fail_next_sync()
    with pytest.raises(SyncFailed):
        log.close()
    log.close()
