"""Which term each index has, whatever way its entries came."""

from log_kit import entry_id

from troth.core.interface import Entry, EntryKind
from troth.ids import LogIndex, Term
from troth.storage.terms import Terms


def of(index: int, term: int) -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, b"")


def test_a_batch_that_begins_in_the_present_term_and_ends_in_another_has_both() -> None:
    terms = Terms(entry_id(0, 0), ())
    terms.append([of(1, 1)])
    terms.append([of(2, 1), of(3, 2), of(4, 2)])
    assert [terms.holds(entry_id(term, index)) for index, term in ((2, 1), (3, 2), (4, 2))] == [True] * 3
    assert [terms.holds(entry_id(term, index)) for index, term in ((2, 2), (3, 1), (4, 1), (5, 2))] == [False] * 4


def test_what_is_overwritten_has_its_new_term_alone() -> None:
    terms = Terms(entry_id(1, 3), [of(1, 1), of(2, 1), of(3, 1)])
    terms.append([of(2, 3), of(3, 3)])
    assert [terms.holds(entry_id(term, index)) for index, term in ((1, 1), (2, 3), (3, 3))] == [True] * 3
    assert not terms.holds(entry_id(1, 2))
