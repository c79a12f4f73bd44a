"""What a later state says of an earlier attempt: an error is exact only if every one of these answers is."""

import pytest
from caspaxos import ballot

from troth.core.register.messages import MARKS_KEPT, ZERO, Ballot, Mark, Promise, State
from troth.core.register.states import Attempt, Fate, Write, fate, highest_accepted, next_state
from troth.ids import NodeId

ME, OTHER = 7, 3
MINE = ballot(10, ME)
BORN = ballot(2, OTHER)
BASE = State(b"base", 4, BORN, ZERO, (Mark(ballot(5, OTHER), 4),))
ATTEMPT = Attempt(MINE, BASE, next_state(BASE, Write(value=b"mine"), MINE, ZERO))
FIRST = Attempt(MINE, None, next_state(None, Write(value=b"mine"), MINE, ZERO))
"""An attempt to make the register out of nothing."""


def seen(*marks: Mark, born: Ballot = BORN, version: int = 9, floor: Ballot = ZERO, forgotten: int = 0) -> State:
    return State(b"seen", version, born, floor, marks, forgotten)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (seen(Mark(MINE, 5)), Fate.APPLIED),
        (seen(Mark(MINE, 5), Mark(ballot(20, OTHER), 9), forgotten=4), Fate.APPLIED),
        (seen(Mark(ballot(20, OTHER), 9)), Fate.NOT_APPLIED),
        # The mark of an earlier change of ours would have been replaced by the attempt's.
        (seen(Mark(ballot(9, ME), 3), Mark(ballot(20, OTHER), 9)), Fate.NOT_APPLIED),
        (seen(Mark(ballot(9, ME), 8), forgotten=7), Fate.NOT_APPLIED),
        # A later change of ours has replaced it, if it was there.
        (seen(Mark(ballot(11, ME), 9)), Fate.UNKNOWN),
        # Marks may be missing of changes up to `forgotten`; the attempt would have been the change to version 5.
        (seen(Mark(ballot(20, OTHER), 9), forgotten=4), Fate.NOT_APPLIED),
        (seen(Mark(ballot(20, OTHER), 9), forgotten=5), Fate.UNKNOWN),
        # In the same life the fence that its creator met says nothing.
        (seen(Mark(ballot(20, OTHER), 9), floor=ballot(30)), Fate.NOT_APPLIED),
        # Another life: between the two lies a deletion, whose tombstone's ballot is no higher than `floor`.
        (seen(born=ballot(20, OTHER), floor=ballot(9, ME)), Fate.NOT_APPLIED),
        (seen(born=ballot(20, OTHER), floor=MINE), Fate.UNKNOWN),
        (seen(born=ballot(20, OTHER), floor=ballot(11)), Fate.UNKNOWN),
        # In another life any forgotten mark may have been the attempt's, whatever the version before it was.
        (seen(born=ballot(20, OTHER), forgotten=1), Fate.UNKNOWN),
        (None, Fate.NOT_APPLIED),
    ],
)
def test_a_state_tells_of_a_change_in_doubt(state: State | None, said: Fate) -> None:
    assert fate(ATTEMPT, state, ZERO) is said


def test_where_nothing_is_held_the_fence_tells() -> None:
    assert fate(ATTEMPT, None, ballot(9, ME)) is Fate.NOT_APPLIED
    assert fate(ATTEMPT, None, MINE) is Fate.UNKNOWN
    assert fate(ATTEMPT, None, ballot(11)) is Fate.UNKNOWN


def test_where_a_state_is_held_only_its_own_floor_tells_and_not_the_fence_of_now() -> None:
    assert fate(ATTEMPT, seen(born=ballot(20, OTHER)), ballot(99)) is Fate.NOT_APPLIED


def test_a_register_born_by_the_attempt_proves_it_also_when_its_mark_is_forgotten() -> None:
    later = seen(*(Mark(ballot(20 + n, 100 + n), 3 + n) for n in range(MARKS_KEPT)), born=MINE, forgotten=2)
    assert fate(FIRST, later, ZERO) is Fate.APPLIED


def test_a_register_born_by_another_tells_of_an_attempt_to_bear_it() -> None:
    assert (
        fate(FIRST, seen(Mark(ballot(20, OTHER), 1), born=ballot(20, OTHER), version=1), ZERO) is Fate.NOT_APPLIED
    )
    assert fate(FIRST, seen(born=ballot(20, OTHER), forgotten=1), ZERO) is Fate.UNKNOWN


def test_a_new_register_is_born_at_its_ballot_above_the_fence_that_was_met() -> None:
    made = next_state(None, Write(value=b"v", decide=True), MINE, ballot(8))
    assert made == State(b"v", 1, MINE, ballot(8), (Mark(MINE, 1),), 0, True)


def test_a_change_keeps_birth_and_floor_and_replaces_the_mark_of_its_proposer() -> None:
    before = seen(Mark(ballot(5, ME), 2), Mark(ballot(6, OTHER), 9), floor=ballot(1), forgotten=1)
    after = next_state(before, Write(value=None), MINE, ballot(99))
    assert after == State(None, 10, BORN, ballot(1), (Mark(ballot(6, OTHER), 9), Mark(MINE, 10)), 1, False)


def test_what_is_held_already_may_be_decided() -> None:
    assert next_state(BASE, Write(value=b"v", decide=True), MINE, ZERO).decided


def test_of_too_many_proposers_the_oldest_mark_goes_and_its_version_is_forgotten() -> None:
    full = seen(*(Mark(ballot(20 + n, 100 + n), 2 + n) for n in range(MARKS_KEPT)), version=30)
    after = next_state(full, Write(value=b"v"), ballot(90, ME), ZERO)
    assert len(after.marks) == MARKS_KEPT
    assert after.forgotten == 2
    assert after.marks[0] == Mark(ballot(21, 101), 3)
    assert after.marks[-1] == Mark(ballot(90, ME), 31)
    own = next_state(full, Write(value=b"v"), ballot(90, 104), ZERO)
    assert own.forgotten == 0, "its own mark made room"
    assert len(own.marks) == MARKS_KEPT


def test_without_anything_accepted_nothing_is_adopted() -> None:
    nothing = {NodeId(n): Promise(ZERO, None, ballot(n)) for n in (1, 2)}
    assert highest_accepted(nothing) == (ZERO, None)


def test_versions_count_the_changes() -> None:
    now: State | None = None
    for version in range(1, 12):
        now = next_state(now, Write(value=None if version == 6 else b"v"), ballot(version), ZERO)
        assert (now.version, now.born) == (version, ballot(1)), "a tombstone does not end a register's life"
