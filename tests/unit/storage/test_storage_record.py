"""The bytes of the log: they are drawn at the top of `storage.record`, and these files keep old ones readable."""

from pathlib import Path

import pytest
from log_kit import FIRST, disk, entry_id, snapshot

from troth.core.interface import Entry, EntryKind, HardState, Persist
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId, Term
from troth.storage import record
from troth.storage.log import WriteAheadLog
from troth.storage.record import Amnesia, Body, Kind

GOLDEN = Path(__file__).parent / "golden"

PERSISTS = [
    Persist(hard_state=HardState(Term(3), NodeId(0x1122334455667788))),
    Persist(
        entries=(
            Entry(LogIndex(1), Term(3), EntryKind.NOOP, b""),
            Entry(LogIndex(2), Term(3), EntryKind.COMMANDS, b"put k v"),
            Entry(LogIndex(3), Term(3), EntryKind.MEMBERSHIP, b"\x91\x01"),
        )
    ),
    Persist(snapshot=snapshot(4, 70_000)),
]


def golden_bytes(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / name).read_text())


def test_golden_segment_is_what_is_written() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, owner=NodeId(7))
    log.append(PERSISTS)
    log.sync()
    log.append([Persist()])
    written = files.content(FIRST)
    golden = golden_bytes("segment-v1-taken-at.hex")
    assert written[: len(golden)] == golden
    assert not any(written[len(golden) :]), "only zeros follow"


@pytest.mark.parametrize("name", ["segment-v1.hex", "segment-v1-taken-at.hex"])
def test_golden_segment_is_read(name: str) -> None:
    """That of a version which did not know in which term a snapshot was taken, too."""
    files = disk()
    file = files.create(FIRST)
    file.write_at(0, golden_bytes(name))
    _, recovered = WriteAheadLog.open(files, owner=NodeId(7), snapshot=snapshot(4, 70_000))
    assert recovered.hard_state == HardState(Term(3), NodeId(0x1122334455667788))
    assert recovered.last == entry_id(4, 70_000)
    assert recovered.entries == ()


def test_golden_amnesia_record() -> None:
    body = Body(HardState(Term(9), NodeId(1)), entry_id(9, 12), (), None, Amnesia(entry_id(9, 14), True))
    data = record.encode_body(body)
    head = record.encode_record_head(
        kind=Kind.ANEW, body=data, sequence=5, unsynced=2, seed=record.segment_seed(3, NodeId(7))
    )
    golden = golden_bytes("record-anew-amnesia-v1.hex")
    assert head + data + record.padding(len(data)) == golden
    found = record.decode_record_head(golden, record.segment_seed(3, NodeId(7)))
    assert found is not None
    assert (found.kind, found.sequence, found.durable_before) == (Kind.ANEW, 5, 3)
    assert record.decode_body(golden[record.RECORD_HEAD_BYTES :][: found.length]) == body


@pytest.mark.parametrize("length", range(20))
def test_padding_is_never_empty_and_aligns(length: int) -> None:
    pad = record.padding(length)
    assert 1 <= len(pad) <= 8
    assert (length + len(pad)) % 8 == 0
    assert length + len(pad) == record.padded_bytes(length)
    assert all(pad), "a sector that holds only padding must not look like one that was lost"


def test_a_record_of_another_segment_or_server_is_not_one() -> None:
    head = record.encode_record_head(
        kind=Kind.CHANGE, body=b"x", sequence=1, unsynced=0, seed=record.segment_seed(1, NodeId(7))
    )
    assert record.decode_record_head(head, record.segment_seed(1, NodeId(7))) is not None
    assert record.decode_record_head(head, record.segment_seed(2, NodeId(7))) is None
    assert record.decode_record_head(head, record.segment_seed(1, NodeId(8))) is None
    assert record.decode_record_head(head[:-1], record.segment_seed(1, NodeId(7))) is None


def test_a_body_too_large_for_its_length_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "BODY_BYTES_MAX", 10)
    with pytest.raises(InvariantViolation, match="too large"):
        record.encode_record_head(kind=Kind.CHANGE, body=b"x" * 11, sequence=0, unsynced=0, seed=0)
