"""The log of a Paxos acceptor: its bytes, and what is refused."""

from pathlib import Path

import pytest
from log_kit import FIRST, disk, snapshot

from troth.core.interface import CHOSEN, Ballot, Entry, EntryKind, HardState, Membership, Persist, Slot
from troth.errors import StorageError, WrongEngine
from troth.ids import ClusterId, LogIndex, NodeId, Term
from troth.runtime.genesis import cluster_id_of
from troth.server.config import ServerConfig
from troth.simulate.disk import SimulatedDisk
from troth.storage import identity, record
from troth.storage.directory import open_directory
from troth.storage.identity import Identity
from troth.storage.log import WriteAheadLog
from troth.storage.opening import Recovered
from troth.storage.record import Kind, SlotsBody
from troth.storage.replay import LogDamaged

GOLDEN = Path(__file__).parent / "golden"
BALLOT = Ballot(Term(3), NodeId(0x1122334455667788))
GENESIS = Membership(voters=(NodeId(7),))


def slot(index: int, payload: bytes = b"put k v", ballot: Ballot = BALLOT) -> Slot:
    return Slot(ballot, Entry(LogIndex(index), Term(2), EntryKind.COMMANDS, payload))


PERSISTS = [
    Persist(hard_state=HardState(BALLOT.round, BALLOT.node)),
    Persist(slots=(slot(2), slot(5, b"", CHOSEN)), chosen=LogIndex(1)),
    Persist(snapshot=snapshot(2, 70_000), chosen=LogIndex(70_000)),
]


def open_slots(
    files: SimulatedDisk, index: int = 0, *, segment_bytes: int = 1 << 20
) -> tuple[WriteAheadLog, Recovered]:
    base = snapshot(2, index) if index else None
    return WriteAheadLog.open(files, owner=NodeId(7), holds_slots=True, snapshot=base, segment_bytes=segment_bytes)


def test_golden_segment_of_slots_is_what_is_written() -> None:
    files = disk()
    log, _ = open_slots(files)
    log.append(PERSISTS)
    log.sync()
    golden = bytes.fromhex((GOLDEN / "slots-v2-taken-at.hex").read_text())
    written = files.content(FIRST)
    assert written[: len(golden)] == golden
    assert not any(written[len(golden) :]), "only zeros follow"


@pytest.mark.parametrize("name", ["slots-v2.hex", "slots-v2-taken-at.hex"])
def test_golden_segment_of_slots_is_read(name: str) -> None:
    """That of a version which did not know what was promised where a snapshot was taken, too."""
    files = disk()
    files.create(FIRST).write_at(0, bytes.fromhex((GOLDEN / name).read_text()))
    _, recovered = open_slots(files, 70_000)
    assert recovered.hard_state == HardState(BALLOT.round, BALLOT.node)
    assert recovered.slots == (slot(2), slot(5, b"", CHOSEN))
    assert recovered.chosen == 70_000
    assert recovered.damaged is None


def test_golden_identity_of_version_2_names_the_engine() -> None:
    files = disk()
    known = Identity(ClusterId(1 << 62), NodeId(7), "a", GENESIS, "paxos")
    identity.store(files, known)
    assert files.content("identity") == bytes.fromhex((GOLDEN / "identity-v2.hex").read_text())
    assert identity.load(files) == known


@pytest.mark.parametrize(("made", "started"), [("raft", "paxos"), ("paxos", "raft")])
def test_a_directory_of_the_other_engine_is_refused_and_says_which(made: str, started: str) -> None:
    files = disk()
    open_directory(files, Identity(ClusterId(1), NodeId(7), "a", GENESIS, made)).close()
    with pytest.raises(WrongEngine, match=f"made with consensus {made}.*--consensus {made}"):
        open_directory(files, Identity(ClusterId(1), NodeId(7), "a", GENESIS, started))


def test_quorums_of_other_sizes_are_another_engine() -> None:
    """They need not meet those that have decided so far."""
    files = disk()
    made = ServerConfig(name="a", data_dir="d", consensus="paxos", phase1_size=3, phase2_size=2).consensus_identity
    open_directory(files, Identity(ClusterId(1), NodeId(7), "a", GENESIS, made)).close()
    with pytest.raises(WrongEngine, match="--consensus paxos --phase1-size 3 --phase2-size 2"):
        open_directory(files, Identity(ClusterId(1), NodeId(7), "a", GENESIS, "paxos"))
    open_directory(files, Identity(ClusterId(1), NodeId(7), "a", GENESIS, made)).close()
    assert cluster_id_of(GENESIS, made) != cluster_id_of(GENESIS, "paxos") != cluster_id_of(GENESIS)


@pytest.mark.parametrize("holds_slots", [False, True])
def test_a_log_of_the_other_kind_is_refused_before_it_is_read(holds_slots: bool) -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, owner=NodeId(7), holds_slots=holds_slots)
    log.append([Persist(hard_state=HardState(Term(1), NodeId(1)))])
    log.close()
    with pytest.raises(StorageError, match="written by another consensus engine"):
        WriteAheadLog.open(files, owner=NodeId(7), holds_slots=not holds_slots)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_segment_stays_for_the_highest_slot_in_it_whatever_came_last(restarts: bool) -> None:
    files = disk()
    log, _ = open_slots(files, segment_bytes=600)
    for index in (5, 2, 6):
        log.append([Persist(slots=(slot(index, b"x" * 200),))])
        log.sync()
    log.append([Persist(slots=(slot(7, b"x" * 400),))])
    if restarts:
        log.close()
        log, _ = open_slots(files, 3, segment_bytes=600)
    log.compact(LogIndex(4))
    log.close()
    _, recovered = open_slots(files, 3)
    assert [each.entry.index for each in recovered.slots if each.entry.index > 3] == [5, 6, 7]


def test_a_segment_that_is_lost_is_told_from_one_that_was_dropped() -> None:
    files = disk()
    log, _ = open_slots(files, segment_bytes=600)
    for index in range(1, 8):
        log.append([Persist(slots=(slot(index, b"x" * 400),), chosen=LogIndex(index - 1))])
        log.sync()
    log.compact(LogIndex(4))
    log.close()
    names = sorted(name for name in files.names() if name.startswith("wal"))
    assert names[0] != FIRST, "the oldest segments were dropped"
    _, recovered = open_slots(files, 3)
    assert [each.entry.index for each in recovered.slots if each.entry.index > 3] == [4, 5, 6, 7]
    files.remove(names[0])
    with pytest.raises(LogDamaged, match="the file is missing"):
        open_slots(files, 3)


def test_slots_that_were_dropped_for_a_snapshot_are_missed_when_that_is_lost() -> None:
    files = disk()
    log, _ = open_slots(files, segment_bytes=600)
    for index in range(1, 8):
        log.append([Persist(slots=(slot(index, b"x" * 400),), chosen=LogIndex(index - 1))])
        log.sync()
    log.compact(LogIndex(4))
    log.close()
    for older in (0, 2):
        with pytest.raises(LogDamaged, match="slots up to 3 are in no snapshot"):
            open_slots(files, older)


def test_slots_that_only_a_lost_snapshot_had_are_missed() -> None:
    files = disk()
    log, _ = open_slots(files)
    log.append(PERSISTS)
    log.close()
    with pytest.raises(LogDamaged, match="in no snapshot that can be loaded"):
        open_slots(files, 60_000)


def test_what_was_accepted_in_front_of_a_lost_snapshot_is_not_taken_for_chosen() -> None:
    """The snapshot was installed over values that nobody chose. It is gone, they are still here, and the log says that
    everything up to its end is chosen: salvage must not hand them out as that."""
    files = disk()
    log, _ = open_slots(files)
    log.append(
        [
            Persist(hard_state=HardState(BALLOT.round, BALLOT.node), slots=(slot(1), slot(2)), chosen=LogIndex(1)),
            Persist(slots=(slot(3, b"accepted by one"),)),
            Persist(snapshot=snapshot(4, 9), slots=(slot(10),), chosen=LogIndex(9)),
        ]
    )
    log.close()
    for base in (0, 1):
        saved = snapshot(2, base) if base else None
        log, recovered = WriteAheadLog.open(files, owner=NodeId(7), holds_slots=True, snapshot=saved, salvage=True)
        assert recovered.amnesia is not None
        assert [each.entry.index for each in recovered.slots] == [1, 2, 3, 10]
        assert recovered.chosen == 0
        log.close()


def test_a_snapshot_that_the_log_had_not_heard_of_is_missed_when_it_is_lost() -> None:
    """It was durable, and power failed before the record of its installation was. What is accepted in front of its end
    is not what was chosen there, though the log soon says that everything up to there is chosen."""
    files = disk()
    log, _ = open_slots(files)
    log.append([Persist(slots=(slot(1), slot(2), slot(3, b"accepted by one")), chosen=LogIndex(1))])
    log.close()
    log, recovered = open_slots(files, 9)
    assert recovered.damaged is None
    log.append([Persist(slots=(slot(10),), chosen=LogIndex(9))])
    log.close()
    with pytest.raises(LogDamaged, match="slots up to 9 are in no snapshot that can be loaded"):
        open_slots(files, 1)


def test_a_snapshot_is_not_missed_while_the_log_still_has_what_was_chosen_in_front_of_it() -> None:
    files = disk()
    log, _ = open_slots(files)
    log.append([Persist(slots=(slot(1), slot(2), slot(3)), chosen=LogIndex(3))])
    log.close()
    open_slots(files, 2)[0].close()
    _, recovered = open_slots(files)
    assert recovered.damaged is None
    assert recovered.chosen == 3


def test_entries_are_no_slots() -> None:
    """An engine's Persist that the log can not hold is our bug, and nothing is written of it."""
    log, _ = open_slots(disk())
    entry = slot(1).entry
    with pytest.raises(AssertionError, match="entries are given to a log of slots"):
        log.append([Persist(entries=(entry,))])


def test_records_of_slots_are_drawn() -> None:
    """The module that owns the bytes draws them: both kinds, and the version that a segment of them has."""
    text = record.__doc__ or ""
    assert "3 SLOTS" in text and "4 SLOTS_ANEW" in text and "2: the slots of a Paxos acceptor" in text


def write_slots(files: SimulatedDisk, sequences: list[int], kinds: list[Kind] | None = None) -> None:
    """A segment whose records have these sequences; each holds a slot of its own."""
    parts = [record.encode_segment_head(1, NodeId(7), record.SLOTS_VERSION)]
    for place, sequence in enumerate(sequences):
        body = SlotsBody(HardState(), LogIndex(sequence), LogIndex(0), 1, (slot(sequence + 1),))
        data = record.encode_body(body)
        head = record.encode_record_head(
            kind=kinds[place] if kinds else Kind.SLOTS,
            body=data,
            sequence=sequence,
            unsynced=0,
            seed=record.segment_seed(1, NodeId(7)),
        )
        parts += [head, data, record.padding(len(data))]
    file = files.create(FIRST)
    file.write_at(0, b"".join(parts) + bytes(512))
    file.sync()
    files.sync_directory()


def test_a_record_of_slots_that_is_missing_between_two_intact_ones_is_damage() -> None:
    """Nothing else tells: slots say nothing about each other."""
    files = disk()
    write_slots(files, [0, 1, 2])
    assert len(open_slots(files)[1].slots) == 3
    files = disk()
    write_slots(files, [0, 1, 3])
    with pytest.raises(LogDamaged, match="records 2 to 2 are missing before this one"):
        open_slots(files)
    log, recovered = WriteAheadLog.open(files, owner=NodeId(7), holds_slots=True, salvage=True)
    assert [each.entry.index for each in recovered.slots] == [1, 2], "only what stands in front is vouched for"
    assert recovered.chosen == 1
    log.close()


def test_the_first_record_of_slots_that_is_missing_is_damage() -> None:
    files = disk()
    write_slots(files, [1, 2])
    with pytest.raises(LogDamaged):
        open_slots(files)


def test_a_log_of_slots_begun_anew_no_longer_cares_about_what_is_missing_before_it() -> None:
    files = disk()
    write_slots(files, [0, 3, 4], [Kind.SLOTS, Kind.SLOTS_ANEW, Kind.SLOTS])
    _, recovered = open_slots(files)
    assert recovered.damaged is None
    assert [each.entry.index for each in recovered.slots] == [4, 5]


def test_of_two_values_of_a_slot_the_later_one_counts() -> None:
    files = disk()
    log, _ = open_slots(files)
    log.append([Persist(slots=(slot(1, b"old"), slot(2))), Persist(slots=(slot(1, b"new"),))])
    log.close()
    assert open_slots(files)[1].slots == (slot(1, b"new"), slot(2))


def test_chosen_never_falls_though_a_record_says_less() -> None:
    files = disk()
    log, _ = open_slots(files)
    log.append([Persist(slots=(slot(1), slot(2)), chosen=LogIndex(2)), Persist(slots=(slot(3),))])
    log.close()
    assert open_slots(files)[1].chosen == 2


def test_a_compaction_whose_record_begins_a_segment_leaves_what_that_record_calls_needed() -> None:
    """At some fill its record does not fit into the newest segment, which is no longer the newest then."""
    began_one = 0
    for fill_bytes in range(0, 600, 8):
        files = disk()
        log, _ = open_slots(files, segment_bytes=600)
        for index, size_bytes in enumerate((500, 500, fill_bytes), 1):
            log.append([Persist(slots=(slot(index, b"x" * size_bytes),), chosen=LogIndex(index))])
            log.sync()
        before = max(files.names())
        log.compact(LogIndex(4))
        began_one += max(files.names()) > before
        _, recovered = open_slots(files, 3, segment_bytes=600)
        assert (recovered.chosen, recovered.amnesia) == (3, None)
    assert 0 < began_one < 75
