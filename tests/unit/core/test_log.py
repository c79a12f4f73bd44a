"""The log in memory: against a list that does the same with no thought for speed."""

import random

import pytest

from troth.core.interface import ORIGIN, Entry, EntryId, EntryKind
from troth.core.raft.log import Log
from troth.errors import InvariantViolation
from troth.ids import LogIndex, Term


def entry(index: int, term: int, payload: bytes = b"") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, payload)


def entry_id(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def log_of(*terms: int, after: EntryId = ORIGIN) -> Log:
    return Log(after, [entry(after.index + at, term) for at, term in enumerate(terms, start=1)])


def index(number: int) -> LogIndex:
    return LogIndex(number)


def test_an_empty_log_ends_where_it_was_compacted() -> None:
    log = Log(entry_id(3, 7), [])
    assert (log.first_index, log.last_index, log.last) == (8, 7, entry_id(3, 7))
    assert log.term_at(index(7)) == 3
    assert log.term_at(index(6)) is None
    assert log.term_at(index(8)) is None


def test_entries_are_found_by_index() -> None:
    log = log_of(1, 1, 2, after=entry_id(1, 4))
    assert (log.first_index, log.last_index, log.last) == (5, 7, entry_id(2, 7))
    assert [log.term_at(index(at)) for at in range(3, 9)] == [None, 1, 1, 1, 2, None]
    assert log.holds(entry_id(2, 7))
    assert not log.holds(entry_id(1, 7))
    assert not log.holds(entry_id(2, 8))
    assert log.id_at(index(6)) == entry_id(1, 6)
    with pytest.raises(InvariantViolation, match="not here"):
        log.id_at(index(8))


def test_a_stored_log_with_a_gap_or_falling_terms_is_refused() -> None:
    with pytest.raises(InvariantViolation, match="gap"):
        Log(ORIGIN, [entry(2, 1)])
    with pytest.raises(InvariantViolation, match="terms fall"):
        Log(ORIGIN, [entry(1, 2), entry(2, 1)])
    with pytest.raises(InvariantViolation, match="terms fall"):
        Log(entry_id(5, 1), [entry(2, 4)])


def test_slice_is_half_open_and_bounded_by_bytes_but_gives_at_least_one() -> None:
    log = Log(entry_id(1, 2), [entry(at, 1, b"x" * 76) for at in range(3, 9)])
    assert [each.index for each in log.slice(index(3), index(5), 1 << 20)] == [3, 4]
    assert [each.index for each in log.slice(index(3), index(9), 200)] == [3, 4]
    assert [each.index for each in log.slice(index(3), index(9), 299)] == [3, 4]
    assert [each.index for each in log.slice(index(3), index(9), 300)] == [3, 4, 5]
    assert [each.index for each in log.slice(index(4), index(9), 1)] == [4]
    assert log.slice(index(9), index(9), 100) == ()
    assert log.slice(index(9), index(3), 100) == ()
    with pytest.raises(InvariantViolation, match="compacted"):
        log.slice(index(2), index(4), 100)


def test_append_leaves_no_gap() -> None:
    log = log_of(1)
    log.append(entry(2, 1))
    for wrong in (2, 4):
        with pytest.raises(InvariantViolation, match="gap"):
            log.append(entry(wrong, 1))


def test_truncation_never_touches_what_is_committed_or_compacted() -> None:
    log = log_of(1, 1, 1, after=entry_id(1, 3))
    with pytest.raises(InvariantViolation, match="committed"):
        log.truncate_from(index(5), index(5))
    with pytest.raises(InvariantViolation, match="compacted"):
        log.truncate_from(index(3), index(0))
    log.truncate_from(index(5), index(4))
    assert log.last_index == 4
    log.truncate_from(index(4), index(3))
    assert log.last == entry_id(1, 3)


def test_unsaved_entries_are_given_once_and_again_after_a_truncation() -> None:
    log = log_of(1, 1)
    assert log.take_unsaved() == ()
    log.append(entry(3, 1))
    assert [each.index for each in log.take_unsaved()] == [3]
    assert log.take_unsaved() == ()
    log.truncate_from(index(2), index(1))
    log.append(entry(2, 2))
    log.append(entry(3, 2))
    assert [(each.index, each.term) for each in log.take_unsaved()] == [(2, 2), (3, 2)]


def test_a_truncation_behind_what_is_unsaved_takes_nothing_back() -> None:
    log = log_of(1)
    log.append(entry(2, 1))
    log.append(entry(3, 1))
    log.truncate_from(index(3), index(0))
    assert [each.index for each in log.take_unsaved()] == [2]


def test_last_agreeing_skips_whole_terms() -> None:
    log = log_of(1, 1, 3, 3, 3, 5)
    assert log.last_agreeing(index(6), Term(5)) == entry_id(5, 6)
    assert log.last_agreeing(index(6), Term(4)) == entry_id(3, 5)
    assert log.last_agreeing(index(4), Term(3)) == entry_id(3, 4)
    assert log.last_agreeing(index(6), Term(2)) == entry_id(1, 2)
    assert log.last_agreeing(index(99), Term(9)) == entry_id(5, 6)
    assert log.last_agreeing(index(6), Term(0)) == ORIGIN
    assert log_of(7, 8, after=entry_id(6, 9)).last_agreeing(index(11), Term(2)) == entry_id(6, 9)


def test_compaction_keeps_what_is_behind() -> None:
    log = log_of(1, 1, 2, 2)
    log.compact_to(entry_id(1, 2))
    assert (log.first_index, log.last_index) == (3, 4)
    assert log.term_at(index(2)) == 1
    assert log.term_at(index(1)) is None
    log.compact_to(entry_id(1, 1))
    assert log.compacted == entry_id(1, 2)
    with pytest.raises(InvariantViolation, match="does not hold"):
        log.compact_to(entry_id(3, 3))
    log.compact_to(entry_id(2, 4))
    assert (log.first_index, log.last) == (5, entry_id(2, 4))
    assert log.take_unsaved() == ()
    log.append(entry(5, 2))
    assert [each.index for each in log.take_unsaved()] == [5]


def test_unsaved_entries_survive_a_compaction_in_front_of_them() -> None:
    log = log_of(1, 1)
    log.append(entry(3, 1))
    log.compact_to(entry_id(1, 2))
    assert [each.index for each in log.take_unsaved()] == [3]


def test_a_compaction_into_what_is_unsaved_leaves_the_rest_unsaved() -> None:
    log = log_of(1, 1)
    for at in (3, 4, 5):
        log.append(entry(at, 1))
    log.compact_to(entry_id(1, 3))
    assert [each.index for each in log.take_unsaved()] == [4, 5]
    log.compact_to(entry_id(1, 4))
    assert log.take_unsaved() == (), "what is saved stays saved"
    log.compact_to(entry_id(7, 4))
    assert log.compacted == entry_id(1, 4)


@pytest.mark.parametrize("behind", [entry_id(4, 2), entry_id(4, 9)])
def test_after_a_reset_everything_new_is_unsaved(behind: EntryId) -> None:
    log = log_of(1, 1, 1, 1)
    log.reset_to(behind)
    for step in (1, 2, 3):
        log.append(entry(behind.index + step, 4))
    assert [each.index - behind.index for each in log.take_unsaved()] == [1, 2, 3]


def test_a_reset_keeps_nothing_and_owes_storage_nothing() -> None:
    log = log_of(1, 1)
    log.append(entry(3, 1))
    log.reset_to(entry_id(4, 9))
    assert (log.first_index, log.last) == (10, entry_id(4, 9))
    assert log.take_unsaved() == ()
    log.append(entry(10, 4))
    assert [each.index for each in log.take_unsaved()] == [10]


def test_log_equals_a_naive_twin_over_random_operations() -> None:
    rng = random.Random(4)
    for _ in range(300):
        log, twin, base, term = Log(ORIGIN, []), {0: 0}, 0, 1
        for _ in range(40):
            last = max(twin)
            match rng.randrange(4):
                case 0 | 1:
                    term += rng.random() < 0.3
                    log.append(entry(last + 1, term))
                    twin[last + 1] = term
                case 2 if last > base:
                    cut = rng.randint(base + 1, last)
                    log.truncate_from(index(cut), index(base))
                    twin = {at: there for at, there in twin.items() if at < cut}
                case _:
                    base = rng.randint(base, last)
                    log.compact_to(entry_id(twin[base], base))
                    twin = {at: there for at, there in twin.items() if at >= base}
            assert log.last == entry_id(twin[max(twin)], max(twin))
            assert [log.term_at(index(at)) for at in range(base, max(twin) + 1)] == [
                twin[at] for at in range(base, max(twin) + 1)
            ]
            probe, bound = rng.randint(base, max(twin)), rng.randint(0, term)
            expected = max((at for at in twin if at <= probe and (twin[at] <= bound or at == base)), default=base)
            assert log.last_agreeing(index(probe), Term(bound)).index == expected
