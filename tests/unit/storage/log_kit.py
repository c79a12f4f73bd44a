"""Small makers for the tests of the log."""

import random

from troth.core.interface import Entry, EntryId, EntryKind, HardState, Membership, Persist, SnapshotMeta
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.disk import SimulatedDisk
from troth.storage import record
from troth.storage.record import Body, Kind

FIRST = record.segment_name(1)


def entries(first: int, count: int, term: int = 1, size_bytes: int = 24) -> tuple[Entry, ...]:
    return tuple(
        Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, b"%d/%d " % (term, index) + b"x" * size_bytes)
        for index in range(first, first + count)
    )


def batch(first: int, count: int = 1, term: int = 1, size_bytes: int = 24) -> Persist:
    return Persist(entries=entries(first, count, term, size_bytes))


def vote(term: int, for_node: int) -> Persist:
    return Persist(hard_state=HardState(Term(term), NodeId(for_node)))


def entry_id(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def snapshot(term: int, index: int) -> SnapshotMeta:
    return SnapshotMeta(entry_id(term, index), Membership(voters=(NodeId(1), NodeId(2), NodeId(3))))


def disk(seed: int = 1) -> SimulatedDisk:
    return SimulatedDisk(random.Random(seed))


def write_segment(files: SimulatedDisk, number: int, records: list[tuple[Kind, int, int, Body]]) -> None:
    """A segment with these (kind, sequence, unsynced, body): for logs that the log itself never writes."""
    parts = [record.encode_segment_head(number, NodeId(0))]
    for kind, sequence, unsynced, body in records:
        data = record.encode_body(body)
        seed = record.segment_seed(number, NodeId(0))
        parts += [
            record.encode_record_head(kind=kind, body=data, sequence=sequence, unsynced=unsynced, seed=seed),
            data,
            record.padding(len(data)),
        ]
    file = files.create(record.segment_name(number))
    file.write_at(0, b"".join(parts) + bytes(512))
    file.sync()
    files.sync_directory()
