"""Names of files, and windows over them."""

import pytest
from log_kit import disk

from troth.core.interface import EntryId
from troth.errors import StorageError
from troth.ids import LogIndex, Term
from troth.storage import names, record, scan


def test_names_sort_as_numbers_do() -> None:
    numbers = [1, 9, 10, 255, 256, 1 << 40]
    listed = sorted(record.segment_name(number) for number in numbers)
    assert names.segment_numbers(listed) == numbers


@pytest.mark.parametrize("name", ["wal-1.log", "wal-", "wal-000000000000000G.log", "wal-0000000000000001.log.1"])
def test_a_name_like_a_segments_is_refused(name: str) -> None:
    with pytest.raises(StorageError, match="move it elsewhere"):
        names.segment_numbers([name])


def test_snapshots_are_listed_oldest_first_whatever_their_terms() -> None:
    ids = [EntryId(Term(9), LogIndex(10)), EntryId(Term(2), LogIndex(20))]
    listed = sorted([*(names.snapshot_name(last) for last in ids), names.part_name(ids[0]), "identity", "lock"])
    assert names.snapshots(listed) == ids
    assert names.parts(listed) == [names.part_name(ids[0])]


def test_a_reader_gives_any_range_through_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "WINDOW_BYTES", 64)
    content = bytes(range(1, 251))
    files = disk()
    file = files.create("f")
    file.write_at(0, content)
    reader = scan.Reader(file, "f")
    for offset, size in [
        (0, 10),
        (10, 54),
        (60, 10),
        (5, 200),
        (240, 100),
        (249, 1),
        (250, 5),
        (900, 5),
        (0, 250),
    ]:
        assert bytes(reader.at(offset, size)) == content[offset : offset + size]
    assert not reader.is_zero_from(0)
    assert reader.is_zero_from(250)


def test_a_lost_header_is_found_behind_more_than_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "WINDOW_BYTES", 64)
    seed = record.segment_seed(1, 0)  # type: ignore[arg-type]
    head = record.encode_record_head(kind=record.Kind.CHANGE, body=b"x", sequence=4, unsynced=0, seed=seed)
    files = disk()
    file = files.create("f")
    file.write_at(0, b"TWL" * 100 + bytes(20) + head + b"x" + record.padding(1))
    reader = scan.Reader(file, "f")
    assert scan._next_head(reader, 8, seed, floor=3) == 320
    assert scan._next_head(reader, 8, seed, floor=4) is None
