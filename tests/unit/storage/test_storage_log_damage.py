"""Bit rot and lost files: never fewer entries without a word, never a refusal where nothing is missing."""

import pytest
from log_kit import FIRST, batch, disk, entries, entry_id, snapshot, vote, write_segment

from troth.core.interface import ORIGIN, Entry, EntryKind, HardState, Persist
from troth.errors import StorageError
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.disk import SimulatedDisk
from troth.storage import record
from troth.storage.log import WriteAheadLog
from troth.storage.record import Amnesia, Body, Kind
from troth.storage.replay import LogDamaged

SECOND = record.segment_name(2)


def log_of_eight(files: SimulatedDisk, *, close: bool = True) -> list[int]:
    """Vote, then entries 1 to 8, each in a synced record of its own, all in one segment. Returns where they begin."""
    log, _ = WriteAheadLog.open(files)
    offsets = []
    for persist in [vote(2, 5), *(batch(index, term=2, size_bytes=200) for index in range(1, 9))]:
        offsets.append(log._offset)
        log.append([persist])
        log.sync()
    offsets.append(log._offset)
    if close:
        log.close()
    files.crash()
    return offsets


def three_segments(files: SimulatedDisk) -> None:
    """Entries 1 to 9, three in each segment, and a vote in the first."""
    log, _ = WriteAheadLog.open(files, segment_bytes=1024)
    log.append([vote(2, 5)])
    for index in range(1, 10):
        log.append([batch(index, term=2, size_bytes=200)])
        log.sync()
    log.close()
    files.crash()
    assert len(files.names()) == 3


@pytest.mark.slow
def test_bit_rot_in_any_byte_is_never_silent() -> None:
    """Whatever bit of the log flips, opening refuses, or nothing is missing."""
    pristine = disk()
    offsets = log_of_eight(pristine)
    end = offsets[-1]
    silent = []
    for offset in range(end):
        files = pristine.fork(pristine._rng)
        files.rot(FIRST, offset, offset % 8)
        try:
            _, recovered = WriteAheadLog.open(files)
        except LogDamaged:
            continue
        if recovered.entries != entries(1, 8, term=2, size_bytes=200):
            silent.append(offset)
    assert silent == []


def test_bit_rot_in_the_last_synced_record_is_told_from_a_torn_write() -> None:
    """Nothing stands behind it that vouches for it, but every sector of it was written."""
    pristine = disk()
    offsets = log_of_eight(pristine, close=False)
    missed = []
    for offset in range(offsets[-2], offsets[-1]):
        files = pristine.fork(pristine._rng)
        files.rot(FIRST, offset, 7)
        try:
            _, recovered = WriteAheadLog.open(files)
            # The padding is the only part of a record that says nothing.
            missed += [offset] if recovered.last != entry_id(2, 8) else []
        except LogDamaged as error:
            assert not error.damage.hard_state_trustworthy
            assert error.damage.intact == entry_id(2, 7)
    assert missed == []


def test_a_sector_that_was_durable_and_reads_as_zeros_is_no_torn_write() -> None:
    """It looks like one; but a later record says that this one was on the disk before it."""
    files = disk()
    offsets = log_of_eight(files, close=False)
    file = files.open(FIRST)
    file.write_at(1024, bytes(512))
    with pytest.raises(LogDamaged) as caught:
        WriteAheadLog.open(files)
    assert caught.value.damage.offset == max(offset for offset in offsets if offset < 1024)
    assert caught.value.damage.hard_state_trustworthy


@pytest.mark.parametrize("which", range(1, 9))
def test_refusal_says_file_offset_entries_and_what_to_do(which: int) -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[which] + 60)
    with pytest.raises(LogDamaged) as caught:
        WriteAheadLog.open(files)
    damage = caught.value.damage
    assert caught.value.path == FIRST
    assert (damage.file, damage.offset) == (FIRST, offsets[which])
    assert damage.missing == which
    assert damage.intact == (entry_id(2, which - 1) if which > 1 else ORIGIN)
    assert damage.highest == entry_id(2, 8)
    assert damage.hard_state_trustworthy
    assert not damage.repaired
    text = str(caught.value)
    assert f"{FIRST}, byte {offsets[which]}" in text
    assert f"Entries from {which} to 8 or later" in text
    assert "salvage" in text


def test_refusal_changes_nothing() -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[3] + 60)
    before = files.content(FIRST)
    for _ in range(2):
        with pytest.raises(LogDamaged):
            WriteAheadLog.open(files)
    assert files.names() == [FIRST]
    assert files.content(FIRST) == before


def test_salvage_keeps_the_intact_prefix_in_a_new_term_under_a_mark() -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[3] + 60)
    log, recovered = WriteAheadLog.open(files, salvage=True)
    assert recovered.entries == entries(1, 2, term=2, size_bytes=200)
    assert recovered.hard_state == HardState(Term(3), NodeId(0)), "what was acknowledged in term 2 is void"
    assert recovered.amnesia == Amnesia(entry_id(2, 8), False)
    assert recovered.damaged is not None
    assert log.last == entry_id(2, 2)
    assert files.names() == [SECOND]
    log.append([batch(3, term=4)])
    log.sync()
    files.power_loss()
    log, recovered = WriteAheadLog.open(files)
    assert recovered.amnesia == Amnesia(entry_id(2, 8), False), "the mark survives"
    assert recovered.damaged is None
    assert recovered.last == entry_id(4, 3)
    assert log.amnesia == recovered.amnesia
    log.clear_amnesia()
    files.power_loss()
    log, recovered = WriteAheadLog.open(files)
    assert recovered.amnesia is None
    log.clear_amnesia()


def test_salvage_survives_a_crash_at_any_time() -> None:
    for seed in range(60):
        files = disk(seed)
        offsets = log_of_eight(files)
        files.rot(FIRST, offsets[3] + 60)
        files.fail_next_sync(skip=seed % 5)
        try:
            WriteAheadLog.open(files, salvage=True)
        except StorageError:
            pass
        files.heal()
        files.power_loss()
        _, recovered = WriteAheadLog.open(files, salvage=True)
        assert recovered.entries == entries(1, 2, term=2, size_bytes=200)
        assert recovered.amnesia == Amnesia(entry_id(2, 8), False)
        assert recovered.hard_state == HardState(Term(3), NodeId(0))


def test_salvage_of_a_tail_whose_vote_may_be_lost_says_so() -> None:
    files = disk()
    offsets = log_of_eight(files, close=False)
    files.rot(FIRST, offsets[8] + 60)
    with pytest.raises(LogDamaged, match="last term and vote may be lost") as caught:
        WriteAheadLog.open(files)
    assert "Entries from 8 on are affected" in str(caught.value)
    assert "Remove this server" in str(caught.value)
    _, recovered = WriteAheadLog.open(files, salvage=True)
    assert recovered.amnesia == Amnesia(entry_id(2, 7), True)
    assert recovered.last == entry_id(2, 7)


def test_salvage_keeps_nothing_that_does_not_join_the_snapshot() -> None:
    """A server could not start from a log with a gap."""
    files = disk()
    three_segments(files)
    log, _ = WriteAheadLog.open(files, snapshot=snapshot(2, 3), segment_bytes=1024)
    log.compact(LogIndex(4))
    log.close()
    files.crash()
    files.rot(record.segment_name(3), 200)
    _, recovered = WriteAheadLog.open(files.fork(files._rng), snapshot=snapshot(2, 3), salvage=True)
    assert recovered.entries[:3] == entries(4, 3, term=2, size_bytes=200), "this one it joins"
    _, recovered = WriteAheadLog.open(files, snapshot=snapshot(2, 1), salvage=True)
    assert (recovered.entries, recovered.last) == ((), entry_id(2, 1))


def test_a_second_salvage_keeps_what_the_first_had_seen() -> None:
    files = disk()
    offsets = log_of_eight(files, close=False)
    files.rot(FIRST, offsets[8] + 60)
    log, _ = WriteAheadLog.open(files, salvage=True)
    begin = log._offset
    log.append([batch(8, term=2)])
    log.close()
    files.crash()
    files.rot(SECOND, begin + 40)
    _, recovered = WriteAheadLog.open(files, salvage=True)
    assert recovered.amnesia == Amnesia(entry_id(2, 8), True), (
        "the lost vote is not forgotten, the mark only grows"
    )


def test_a_second_salvage_forgets_nothing_that_the_first_has_lost() -> None:
    """Though what was written since reaches less far."""
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[3] + 60)
    log, first = WriteAheadLog.open(files, salvage=True)
    assert first.last == entry_id(2, 2)
    begin = log._offset
    log.append([batch(3, term=2)])
    log.close()
    files.crash()
    files.rot(SECOND, begin + 40)
    _, recovered = WriteAheadLog.open(files, salvage=True)
    assert recovered.amnesia == Amnesia(entry_id(2, 8), False)


def test_what_was_overwritten_may_have_been_acknowledged_too() -> None:
    """A leader of term 5 puts an entry of term 3 in the place of one of term 4."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([vote(5, 1)])
    first = log._offset
    for persist in (batch(1, term=2), batch(2, term=4), batch(2, term=3), batch(3, term=3)):
        log.append([persist])
        log.sync()
    log.close()
    files.crash()
    files.rot(FIRST, first + 60)
    with pytest.raises(LogDamaged) as caught:
        WriteAheadLog.open(files)
    assert caught.value.damage.highest == entry_id(4, 2)


def test_a_bad_record_that_the_next_one_calls_durable_is_no_torn_write() -> None:
    """Its zeros may be its content: what tells is the record behind."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([vote(2, 5)])
    log.sync()
    begin = log._offset
    entry = Entry(LogIndex(1), Term(2), EntryKind.COMMANDS, bytes(2000))
    log.append([Persist(entries=(entry,))])
    log.sync()
    log.append([batch(2, term=2)])
    log.sync()
    files.crash()
    files.rot(FIRST, begin + 600)
    with pytest.raises(LogDamaged):
        WriteAheadLog.open(files)


def test_the_record_right_behind_a_bad_header_is_found() -> None:
    """It proves the term and the vote, however short the bad one is."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([vote(2, 5)])
    log.sync()
    begin = log._offset
    for index in (1, 2):
        log.append([batch(index, term=2)])
        log.sync()
    files.crash()
    files.rot(FIRST, begin + 8)
    with pytest.raises(LogDamaged) as caught:
        WriteAheadLog.open(files)
    assert caught.value.damage.hard_state_trustworthy
    assert caught.value.damage.highest == entry_id(2, 2)


def test_damage_that_a_snapshot_covers_is_repaired_without_a_word() -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[3] + 60)
    log, recovered = WriteAheadLog.open(files, snapshot=snapshot(2, 3))
    assert recovered.entries == entries(4, 5, term=2, size_bytes=200)
    assert recovered.hard_state == HardState(Term(2), NodeId(5))
    assert recovered.amnesia is None
    assert recovered.damaged is not None
    assert recovered.damaged.repaired
    assert "nothing that is needed was lost" in recovered.damaged.text
    log.append([batch(9, term=2)])
    log.close()
    files.power_loss()
    _, again = WriteAheadLog.open(files, snapshot=snapshot(2, 3))
    assert again.damaged is None
    assert again.last == entry_id(2, 9)


def test_a_snapshot_one_entry_short_does_not_cover_it() -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[3] + 60)
    with pytest.raises(LogDamaged, match="Entries from 3 to 8 or later"):
        WriteAheadLog.open(files, snapshot=snapshot(2, 2))


@pytest.mark.parametrize("covered", [7, 8])
def test_damage_at_the_tail_is_never_covered(covered: int) -> None:
    """The lost record may have said more than the snapshot knows, and a vote may have been in it."""
    files = disk()
    offsets = log_of_eight(files, close=False)
    files.rot(FIRST, offsets[8] + 60)
    with pytest.raises(LogDamaged) as caught:
        WriteAheadLog.open(files, snapshot=snapshot(2, covered))
    assert caught.value.damage.intact == entry_id(2, covered)


def test_a_snapshot_as_long_as_the_log_covers_all_but_hard_state_records() -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[8] + 60)
    _, recovered = WriteAheadLog.open(files, snapshot=snapshot(2, 8))
    assert recovered.entries == ()
    assert recovered.last == entry_id(2, 8)
    with pytest.raises(LogDamaged):
        log_of_eight(files := disk())
        files.rot(FIRST, offsets[8] + 60)
        WriteAheadLog.open(files, snapshot=snapshot(2, 7))


def test_a_bad_header_before_the_very_first_record_costs_nothing() -> None:
    files = disk()
    three_segments(files)
    files.rot(FIRST, 20)
    _, recovered = WriteAheadLog.open(files, segment_bytes=1024)
    assert recovered.entries == entries(1, 9, term=2, size_bytes=200)
    assert recovered.damaged is not None
    assert WriteAheadLog.open(files, segment_bytes=1024)[1].damaged is None


@pytest.mark.parametrize("number", [2, 3])
def test_a_bad_segment_header_is_damage(number: int) -> None:
    files = disk()
    three_segments(files)
    files.rot(record.segment_name(number), 20)
    with pytest.raises(LogDamaged, match="header is not intact") as caught:
        WriteAheadLog.open(files, segment_bytes=1024)
    assert caught.value.damage.missing == 3 * number - 2
    assert caught.value.damage.hard_state_trustworthy


def test_a_bad_record_at_the_end_of_an_older_segment_is_damage() -> None:
    """A segment is synced before the next is made, so nothing in it can be torn; zeros there are as bad."""
    files = disk()
    three_segments(files)
    content = files.content(FIRST)
    begin = content.rindex(record.RECORD_MAGIC)
    file = files.open(FIRST)
    file.write_at(begin, bytes(len(content) - begin))
    with pytest.raises(LogDamaged, match="records 3 to 3 are missing") as caught:
        WriteAheadLog.open(files, segment_bytes=1024)
    assert caught.value.path == SECOND
    file.write_at(begin, content[begin : begin + 100])
    with pytest.raises(LogDamaged, match="content is not what was written") as caught:
        WriteAheadLog.open(files, segment_bytes=1024)
    assert caught.value.path == FIRST


def test_a_missing_segment_is_damage() -> None:
    files = disk()
    three_segments(files)
    files.remove(SECOND)
    with pytest.raises(LogDamaged, match="the file is missing") as caught:
        WriteAheadLog.open(files, segment_bytes=1024)
    assert caught.value.path == SECOND
    assert caught.value.damage.intact == entry_id(2, 3)
    _, recovered = WriteAheadLog.open(files, segment_bytes=1024, snapshot=snapshot(2, 6))
    assert recovered.entries == entries(7, 3, term=2, size_bytes=200)


def test_an_emptied_segment_in_the_middle_is_damage() -> None:
    files = disk()
    three_segments(files)
    files.create(SECOND)
    with pytest.raises(LogDamaged, match="the file is empty"):
        WriteAheadLog.open(files, segment_bytes=1024)


def test_missing_oldest_segments_need_a_snapshot() -> None:
    files = disk()
    three_segments(files)
    files.remove(FIRST)
    with pytest.raises(LogDamaged, match="begins at entry 4, the newest snapshot ends at 0") as caught:
        WriteAheadLog.open(files, segment_bytes=1024)
    assert caught.value.damage.hard_state_trustworthy
    assert (
        WriteAheadLog.open(files.fork(files._rng), segment_bytes=1024, snapshot=snapshot(2, 3))[1].damaged is None
    )
    _, recovered = WriteAheadLog.open(files, segment_bytes=1024, snapshot=snapshot(2, 1), salvage=True)
    assert recovered.entries == ()
    assert recovered.last == entry_id(2, 1)
    assert recovered.amnesia == Amnesia(entry_id(2, 9), False)


def test_a_lone_later_segment_without_records_is_damage() -> None:
    files = disk()
    write_segment(files, 4, [])
    with pytest.raises(LogDamaged, match="older files are gone"):
        WriteAheadLog.open(files, snapshot=snapshot(2, 3))


def test_a_first_record_that_is_bad_is_damage_unless_the_log_is_new() -> None:
    body = Body(HardState(Term(1), NodeId(1)), entry_id(1, 2), entries(1, 2))
    for number, damaged in ((1, False), (4, True)):
        files = disk()
        write_segment(files, number, [(Kind.CHANGE, 0, 0, body)])
        file = files.open(record.segment_name(number))
        file.write_at(60, bytes(200))
        if damaged:
            with pytest.raises(LogDamaged):
                WriteAheadLog.open(files)
        else:
            _, recovered = WriteAheadLog.open(files)
            assert recovered.is_empty
            assert recovered.torn_bytes > 0


def test_a_file_that_is_no_segment_at_all() -> None:
    files = disk()
    files.create(FIRST).write_at(0, b"hello")
    with pytest.raises(LogDamaged, match=f"{FIRST}, byte 0: the segment's header is not intact"):
        WriteAheadLog.open(files)


def test_records_that_leave_out_entries_are_damage() -> None:
    files = disk()
    state = HardState(Term(1), NodeId(1))
    write_segment(
        files,
        1,
        [
            (Kind.CHANGE, 0, 0, Body(state, entry_id(1, 2), entries(1, 2))),
            (Kind.CHANGE, 1, 0, Body(state, entry_id(1, 6), entries(5, 2))),
        ],
    )
    with pytest.raises(LogDamaged, match="entries 3 to 4 are missing"):
        WriteAheadLog.open(files)
    _, recovered = WriteAheadLog.open(files, snapshot=snapshot(1, 4))
    assert recovered.entries == entries(5, 2)


def test_an_intact_record_that_makes_no_sense_is_damage() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    begin = log._offset
    log.append([batch(1)])
    log.close()
    data = b"\x93\x01\x02\x03"
    head = record.encode_record_head(
        kind=Kind.CHANGE, body=data, sequence=0, unsynced=0, seed=record.segment_seed(1, NodeId(0))
    )
    file = files.open(FIRST)
    file.write_at(begin, head + data + record.padding(len(data)))
    with pytest.raises(LogDamaged, match="does not make sense"):
        WriteAheadLog.open(files)


def test_a_stale_copy_of_a_record_is_not_taken_for_a_later_one() -> None:
    """Payloads may hold anything, records of this very segment included."""
    files = disk()
    log, _ = WriteAheadLog.open(files)
    begin = log._offset
    log.append([batch(1)])
    log.sync()
    copy = files.content(FIRST)[begin : log._offset]
    payload = b"\0" * (-(log._offset + 60) % 8) + copy * 3
    second = log._offset
    grown = Persist(entries=(type(entries(2, 1)[0])(LogIndex(2), Term(1), entries(2, 1)[0].kind, payload),))
    log.append([grown])
    log.sync()
    files.crash()
    file = files.open(FIRST)
    file.write_at(second, bytes(record.RECORD_HEAD_BYTES))
    _, recovered = WriteAheadLog.open(files)
    assert recovered.last == entry_id(1, 1), (
        "a lost header is a torn write; what is inside its payload is no record"
    )


def test_several_damages_count_from_the_first_and_trust_what_follows_the_last() -> None:
    files = disk()
    offsets = log_of_eight(files)
    files.rot(FIRST, offsets[3] + 60)
    files.rot(FIRST, offsets[5] + 8)
    files.rot(FIRST, offsets[6] + 8)
    with pytest.raises(LogDamaged) as caught:
        WriteAheadLog.open(files, snapshot=snapshot(2, 5))
    assert caught.value.damage.offset == offsets[3]
    assert caught.value.damage.intact == entry_id(2, 5)
    _, recovered = WriteAheadLog.open(files, snapshot=snapshot(2, 6))
    assert recovered.entries == entries(7, 2, term=2, size_bytes=200)


def test_a_log_begun_anew_no_longer_cares_about_older_damage() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    begin = log._offset
    log.append([batch(1, 3)])
    log.append([Persist(snapshot=snapshot(3, 9))])
    log.append([batch(10, 1, term=3)])
    log.close()
    files.crash()
    files.rot(FIRST, begin + 50)
    _, recovered = WriteAheadLog.open(files, snapshot=snapshot(3, 9))
    assert recovered.damaged is None
    assert recovered.entries == entries(10, 1, term=3)


def test_a_snapshot_that_the_log_leans_on_and_that_is_gone_is_damage() -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files)
    log.append([batch(1, 3), Persist(snapshot=snapshot(3, 9)), batch(10, 1, term=3)])
    log.close()
    files.crash()
    with pytest.raises(LogDamaged, match="begins at entry 10, the newest snapshot ends at 0"):
        WriteAheadLog.open(files)
