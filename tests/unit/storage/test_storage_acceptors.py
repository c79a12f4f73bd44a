"""What an acceptor keeps: whole groups of records or none; damage is refused, growth is bounded."""

import errno
from pathlib import Path

import pytest
from log_kit import disk

from troth.core.interface import Persist
from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import decode_records, encode_records
from troth.core.register.messages import (
    Accept,
    AcceptedRecord,
    Ballot,
    CollectedRecord,
    Configure,
    ConfiguredRecord,
    Full,
    Mark,
    Prepare,
    PromisedRecord,
    RecordMessage,
    RequestMessage,
    Seat,
    State,
    founding,
    group_of,
)
from troth.errors import IdentityLost, StorageError, SyncFailed
from troth.ids import LogIndex, NodeId
from troth.simulate.disk import SimulatedDisk
from troth.storage import acceptors, record
from troth.storage.acceptors import AcceptorStore, open_acceptor
from troth.storage.log import WriteAheadLog

ME = NodeId(7)
CONFIG = founding(group_of((Seat(ME, "h1:7001"), Seat(NodeId(8), "h2:7001"), Seat(NodeId(9), "h3:7001"))))
BALLOT = Ballot(5, 1 << 62)
STATE = State(b"value", 2, Ballot(1, 3), Ballot(), (Mark(Ballot(1, 3), 1), Mark(BALLOT, 2)))
EVERY_RECORD: list[RecordMessage] = [
    ConfiguredRecord(CONFIG, True),
    PromisedRecord(b"k", BALLOT),
    AcceptedRecord(b"k", BALLOT, STATE, Ballot(6, 1 << 62)),
    CollectedRecord(b"gone", Ballot(4, 9)),
]
GOLDEN = Path(__file__).parent / "golden" / "acceptor-records-v1.hex"


def opened(
    files: SimulatedDisk, newborn: NodeId = ME, segment_bytes: int = 1 << 20
) -> tuple[AcceptorStore, Acceptor]:
    return open_acceptor(files, newborn, bytes_max=1 << 30, segment_bytes=segment_bytes)


def ask(acceptor: Acceptor, *requests: RequestMessage) -> list[RecordMessage]:
    records = [acceptor.on_request(request)[1] for request in requests]
    return [record for record in records if record is not None]


def write(store: AcceptorStore, records: list[RecordMessage]) -> None:
    store.append([store.persist(records)])
    store.sync()


def prepare(number: int, key: bytes = b"k") -> Prepare:
    return Prepare(CONFIG.id, key, Ballot(number, 1))


def test_golden_records() -> None:
    """Records that the first release wrote are read for ever."""
    written = bytes.fromhex(GOLDEN.read_text())
    assert decode_records(written) == EVERY_RECORD
    assert encode_records(EVERY_RECORD) == written


def test_a_newer_format_is_refused_and_not_guessed_at() -> None:
    with pytest.raises(StorageError, match="start the newer version"):
        decode_records(bytes((2,)) + encode_records(EVERY_RECORD)[1:])
    with pytest.raises(StorageError, match="no sense"):
        decode_records(b"\x01\x91\x00")
    with pytest.raises(StorageError):
        decode_records(b"")


def test_what_was_synced_is_there_after_power_loss() -> None:
    for seed in range(30):
        files = disk(seed)
        store, acceptor = opened(files)
        write(store, ask(acceptor, Configure(CONFIG), prepare(1)))
        write(store, ask(acceptor, Accept(CONFIG.id, b"k", Ballot(1, 1), STATE, Ballot(2, 1))))
        store.append([store.persist(ask(acceptor, prepare(9)))])
        files.power_loss()
        _, again = opened(files)
        assert again.config == CONFIG
        assert again.slots[b"k"].state == STATE
        assert again.promised(b"k") in (Ballot(2, 1), Ballot(9, 1))


def test_an_acceptor_whose_directory_was_emptied_has_another_id() -> None:
    files = disk()
    store, _ = opened(files)
    store.close()
    assert opened(files, NodeId(99))[1].id == ME
    assert opened(disk(), NodeId(99))[1].id == NodeId(99)


def test_a_lost_log_is_not_taken_for_an_empty_one() -> None:
    files = disk()
    store, acceptor = opened(files)
    write(store, ask(acceptor, Configure(CONFIG)))
    store.close()
    for name in files.names():
        if name.startswith("wal-"):
            files.remove(name)
    with pytest.raises(IdentityLost):
        opened(files)


def test_a_damaged_record_is_refused() -> None:
    refused = 0
    for seed in range(20):
        files = disk(seed)
        store, acceptor = opened(files)
        for number in range(1, 20):
            write(store, ask(acceptor, Configure(CONFIG), prepare(number)))
        said = acceptor.promised(b"k")
        store.close()
        assert files.rot_somewhere() is not None
        try:
            _, again = opened(files)
        except StorageError:
            refused += 1
        else:
            assert again.promised(b"k") == said
    assert refused > 5


def test_a_failed_sync_ends_it_for_good() -> None:
    """The second sync would succeed and prove nothing."""
    files = disk()
    store, acceptor = opened(files)
    write(store, ask(acceptor, Configure(CONFIG)))
    files.fail_next_sync()
    with pytest.raises(SyncFailed):
        write(store, ask(acceptor, prepare(1)))
    with pytest.raises(StorageError):
        write(store, ask(acceptor, prepare(2)))


def test_a_full_disk_ends_it_and_loses_nothing_that_was_answered() -> None:
    files = disk()
    store, acceptor = opened(files)
    write(store, ask(acceptor, Configure(CONFIG), prepare(1)))
    files.capacity_bytes = files.used_bytes()
    with pytest.raises(StorageError) as raised:
        for number in range(2, 5000):
            write(store, ask(acceptor, prepare(number, b"key %d" % number)))
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC
    files.capacity_bytes = None
    files.crash()
    assert opened(files)[1].promised(b"k") == Ballot(1, 1)


def test_a_snapshot_bounds_the_files_and_holds_everything() -> None:
    files = disk()
    store, acceptor = opened(files, segment_bytes=1 << 14)
    write(store, ask(acceptor, Configure(CONFIG)))
    sizes = []
    for number in range(1, 400):
        key = b"key %d" % (number % 10)
        write(store, ask(acceptor, Accept(CONFIG.id, key, Ballot(number, 1), STATE, Ballot(number + 1, 1))))
        if number % 100 == 0:
            acceptor.forget_promises()
            store.save(store.index, list(acceptor.snapshot()))
            store.drop_before(store.index)
            sizes.append(files.used_bytes())
    assert max(sizes[1:]) <= 2 * sizes[1]
    files.power_loss()
    _, again = opened(files, segment_bytes=1 << 14)
    assert list(again.snapshot()) == list(acceptor.snapshot())


def test_a_snapshot_larger_than_a_chunk_is_read_back() -> None:
    files = disk()
    store, acceptor = opened(files)
    write(store, ask(acceptor, Configure(CONFIG)))
    big = State(bytes(200_000), 1, BALLOT, Ballot())
    for number in range(12):
        write(store, ask(acceptor, Accept(CONFIG.id, b"key %d" % number, Ballot(number + 1, 1), big)))
    store.save(store.index, list(acceptor.snapshot()))
    store.close()
    assert list(opened(files)[1].snapshot()) == list(acceptor.snapshot())


def test_the_log_behind_a_snapshot_stays() -> None:
    files = disk()
    store, acceptor = opened(files, segment_bytes=1)  # a segment for each entry
    write(store, ask(acceptor, Configure(CONFIG)))
    covered, index = list(acceptor.snapshot()), store.index
    for number in (1, 2):
        write(store, ask(acceptor, prepare(number)))
    store.save(index, covered)
    store.drop_before(index)
    store.close()
    assert opened(files)[1].promised(b"k") == Ballot(2, 1)


def test_what_the_newest_snapshot_covers_does_not_count_as_log() -> None:
    files = disk()
    store, acceptor = opened(files)
    write(store, ask(acceptor, Configure(CONFIG), prepare(1)))
    store.save(store.index, list(acceptor.snapshot()))
    store.close()
    store, acceptor = opened(files)
    assert store.log_bytes == 0
    write(store, ask(acceptor, prepare(2)))
    store.close()
    assert opened(files)[0].log_bytes > 0


def test_a_crash_at_any_sync_leaves_a_state_that_was_true() -> None:
    """Snapshot, prune and dropped segments included: whatever was answered before the power failed is there."""
    for skip in range(40):
        files = disk(skip)
        said = Ballot()
        try:
            store, acceptor = opened(files, segment_bytes=1 << 13)
            write(store, ask(acceptor, Configure(CONFIG)))
            files.fail_next_sync(skip=skip)
            for number in range(1, 40):
                write(store, ask(acceptor, prepare(number)))
                said = Ballot(number, 1)
                if number % 10 == 0:
                    store.save(LogIndex(store.index), list(acceptor.snapshot()))
                    store.drop_before(store.index)
        except StorageError:
            pass
        files.heal()
        files.power_loss()
        _, again = opened(files, segment_bytes=1 << 13)
        assert again.promised(b"k") >= said


def test_records_are_one_write() -> None:
    files = disk()
    store, acceptor = opened(files)
    persist = store.persist(ask(acceptor, Configure(CONFIG), prepare(1)))
    assert isinstance(persist, Persist)
    assert len(persist.entries) == 1


def test_an_acceptor_that_has_lost_records_is_refused_though_its_log_was_salvaged() -> None:
    """Nobody can tell what it had promised; a server's log may go on under a mark, an acceptor may not."""
    files = disk()
    store, acceptor = opened(files)
    write(store, ask(acceptor, Configure(CONFIG), prepare(1)))
    store.close()
    name = next(name for name in files.names() if name.startswith("wal-"))
    content = bytearray(files.content(name))
    content[record.SEGMENT_HEAD_BYTES + record.RECORD_HEAD_BYTES + 3] ^= 1
    file = files.open(name)
    file.write_at(0, bytes(content))
    file.sync()
    file.close()
    with pytest.raises(StorageError):
        opened(files)
    WriteAheadLog.open(files, owner=ME, salvage=True)[0].close()
    with pytest.raises(IdentityLost, match="lost durable records"):
        opened(files)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_snapshot_that_ends_in_the_middle_of_a_record_is_refused(cut: int) -> None:
    pieces = b"".join(acceptors._pieces(EVERY_RECORD))
    assert list(acceptors._records_in([pieces[:3], pieces[3:]])) == EVERY_RECORD
    with pytest.raises(StorageError, match="ends in the middle"):
        list(acceptors._records_in([pieces[:-cut]]))


def test_only_what_a_snapshot_holds_is_dropped_from_the_log_and_nothing_behind_it() -> None:
    """One entry a segment, so that each can go alone; writes went on while the snapshot was saved."""
    files = disk()
    store, acceptor = opened(files, segment_bytes=256)
    write(store, ask(acceptor, Configure(CONFIG)))
    for number in range(1, 6):
        write(store, ask(acceptor, prepare(number, b"key %d" % number)))
    index, records = store.index, list(acceptor.snapshot())
    for number in range(6, 11):
        write(store, ask(acceptor, prepare(number, b"key %d" % number)))
    before = len(files.names())
    store.save(index, records)
    store.drop_before(index)
    assert len(files.names()) < before
    files.power_loss()
    _, again = opened(files, segment_bytes=256)
    assert [again.promised(b"key %d" % number) for number in range(1, 11)] == [Ballot(n, 1) for n in range(1, 11)]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_last_piece_of_a_snapshot_may_hold_any_number_of_records(
    more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptors, "_PIECE_RECORDS", 4)
    files = disk()
    store, acceptor = opened(files)
    prepares = [prepare(1, b"key %d" % number) for number in range(7 + more)]
    write(store, ask(acceptor, Configure(CONFIG), *prepares))
    held = list(acceptor.snapshot())
    assert len(held) == 8 + more
    store.save(store.index, held)
    store.close()
    assert list(opened(files)[1].snapshot()) == held


def test_snapshots_that_newer_ones_have_replaced_are_removed() -> None:
    files = disk()
    store, acceptor = opened(files)
    for number in range(1, 6):
        write(store, ask(acceptor, Configure(CONFIG), prepare(number)))
        store.save(store.index, list(acceptor.snapshot()))
    assert sum(name.endswith(".snap") for name in files.names()) == 2


def test_the_quota_given_is_the_acceptors() -> None:
    store, acceptor = open_acceptor(disk(), ME, bytes_max=1)
    ask(acceptor, Configure(CONFIG))
    reply, _ = acceptor.on_request(prepare(1))
    assert isinstance(reply, Full)
    store.close()
