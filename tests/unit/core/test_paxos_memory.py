"""What a Paxos acceptor holds, and what a leader knows of one: slot by slot, at the edges."""

import pytest

from troth.core.interface import CHOSEN, Ballot, Entry, EntryId, EntryKind, Slot
from troth.core.paxos.progress import AcceptorProgress
from troth.core.paxos.slots import Slots
from troth.errors import InvariantViolation
from troth.ids import LogIndex, NodeId, Term


def slot(index: int, round_: int = 1, payload: bytes = b"v") -> Slot:
    return Slot(Ballot(Term(round_), NodeId(1)), Entry(LogIndex(index), Term(round_), EntryKind.COMMANDS, payload))


def at(index: int) -> EntryId:
    return EntryId(Term(1), LogIndex(index))


def test_a_slot_is_overwritten_at_a_higher_ballot_and_by_nothing_else() -> None:
    slots = Slots(at(0), [slot(1, 5)])
    for lower in (slot(1, 4), slot(1, 5, b"other")):
        with pytest.raises(InvariantViolation, match="falls"):
            slots.put(lower)
    slots.put(slot(1, 6))
    slots.put(Slot(CHOSEN, slot(1, 6).entry))
    with pytest.raises(InvariantViolation, match="falls"):
        slots.put(slot(1, 99))
    with pytest.raises(InvariantViolation, match="compacted"):
        Slots(at(3), []).put(slot(3))


def test_compaction_drops_what_it_covers_and_nothing_behind_also_of_what_waits_for_the_disk() -> None:
    slots = Slots(at(0), [])
    for index in (1, 2, 3, 5):
        slots.put(slot(index))
    slots.compact_to(at(2))
    assert slots.take_unsaved() == (slot(3), slot(5))
    assert slots.take_unsaved() == ()
    assert [each.entry.index for each in slots.above(LogIndex(0))] == [3, 5]
    assert (slots.get(LogIndex(2)), slots.last_index) == (None, 5)
    slots.compact_to(at(9))
    assert (slots.last_index, list(slots.above(LogIndex(0)))) == (9, [])


def test_a_page_says_up_to_where_it_is_everything() -> None:
    slots = Slots(at(0), [slot(2), slot(4), slot(7)])
    size = slot(2).entry.size_bytes
    assert slots.page(LogIndex(1), 2 * size) == ((slot(2), slot(4)), 4)
    assert slots.page(LogIndex(2), 1) == ((slot(2),), 2), "at least one"
    assert slots.page(LogIndex(5), 100 * size) == ((slot(7),), 7)
    assert slots.page(LogIndex(7), 100 * size) == ((slot(7),), 7)
    assert slots.page(LogIndex(8), 100 * size) == ((), 7)


@pytest.mark.parametrize(("ballot", "settled"), [(4, False), (5, True), (6, False)])
def test_a_slot_is_settled_at_its_own_ballot_or_when_it_is_chosen(ballot: int, settled: bool) -> None:
    asked = Ballot(Term(ballot), NodeId(1))
    slots = Slots(at(0), [slot(1, 5), Slot(CHOSEN, slot(2).entry)])
    assert slots.is_settled(LogIndex(1), asked) is settled
    assert slots.is_settled(LogIndex(2), asked)
    assert not slots.is_settled(LogIndex(3), asked)


def test_a_gap_that_is_filled_joins_what_was_acknowledged_behind_it() -> None:
    progress = AcceptorProgress(LogIndex(1))
    progress.on_acknowledged(LogIndex(0), LogIndex(2), LogIndex(3))
    assert (progress.match, progress.holds(LogIndex(1)), progress.holds(LogIndex(3))) == (0, False, True)
    progress.on_acknowledged(LogIndex(0), LogIndex(5), LogIndex(5))
    progress.on_acknowledged(LogIndex(1), LogIndex(0), LogIndex(0))
    assert (progress.match, progress.beyond, progress.next) == (3, {5}, 4)
    progress.on_acknowledged(LogIndex(0), LogIndex(4), LogIndex(4))
    assert (progress.match, progress.beyond) == (5, set())
    progress.on_acknowledged(LogIndex(2), LogIndex(1), LogIndex(2))
    assert progress.match == 5, "it never falls"
    progress.on_acknowledged(LogIndex(0), LogIndex(7), LogIndex(7))
    progress.on_acknowledged(LogIndex(8), LogIndex(0), LogIndex(0))
    assert (progress.match, progress.beyond) == (8, set()), "what the run covers is not kept"


def test_who_is_sent_to_again_is_sent_nothing_that_it_has_acknowledged() -> None:
    """An answer to a heartbeat may be older than an acknowledgement; and what was to be found out is void."""
    progress = AcceptorProgress(LogIndex(1))
    progress.become_replicate(LogIndex(0))
    progress.fly(LogIndex(5), 100)
    progress.on_acknowledged(LogIndex(3), LogIndex(0), LogIndex(0))
    progress.check = (7, LogIndex(5))
    progress.become_replicate(LogIndex(1))
    assert (progress.next, progress.check, progress.bytes_in_flight) == (4, None, 0)


def test_a_page_behind_everything_says_that_there_is_nothing() -> None:
    slots = Slots(at(0), [slot(1), slot(2)])
    assert slots.page(LogIndex(9), 100) == ((), LogIndex(8))
