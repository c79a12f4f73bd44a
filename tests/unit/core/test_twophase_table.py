"""The tables of two-phase commit: every pair is there, and the rows that matter say what they must."""

import itertools

import pytest

from troth.core.twophase.table import (
    MOVES,
    TABLE,
    Action,
    Case,
    Event,
    Finding,
    Move,
    Refused,
    State,
    Step,
    Transition,
    move,
    step,
)
from troth.errors import InvariantViolation

FINAL = (State.COMMITTED, State.ABORTED)


def test_every_pair_is_present_or_refused_with_a_reason() -> None:
    assert set(TABLE) == set(itertools.product(State, Event))
    assert set(MOVES) == set(itertools.product(Case, Finding))
    for row in (*TABLE.values(), *MOVES.values()):
        assert not isinstance(row, Refused) or row.why


def test_a_refused_pair_is_our_bug() -> None:
    with pytest.raises(InvariantViolation, match="75601"):
        step(State.DECIDING, Event.ABORT_ASKED)
    with pytest.raises(InvariantViolation, match="AC2"):
        move(Case.COMMITTING, Finding.CELL_ABORT)


def test_what_is_over_stays_over() -> None:
    for state, event in itertools.product(FINAL, Event):
        assert isinstance(TABLE[state, event], Refused)


def test_every_state_is_reached_and_every_event_and_action_is_used() -> None:
    allowed = {pair: row for pair, row in TABLE.items() if isinstance(row, Transition)}
    assert {row.state for row in allowed.values()} | {State.ACTIVE} == set(State)
    assert {event for _, event in allowed} == set(Event)
    assert {row.action for row in allowed.values()} == set(Action)
    moves = {pair: row for pair, row in MOVES.items() if isinstance(row, Move)}
    assert {row.case for row in moves.values()} | {Case.FOUND, Case.EXPECTED} == set(Case)
    assert {finding for _, finding in moves} == set(Finding)
    assert {row.step for row in moves.values()} == set(Step)


def test_only_the_cell_leads_to_a_commit_of_prepared_branches() -> None:
    """Pitfall: commit without a decision. A log's cell, or the last resource's marker, and nothing else."""
    leads = {
        event for (_, event), row in TABLE.items() if isinstance(row, Transition) and row.state is State.COMMITTING
    }
    assert leads == {Event.CELL_COMMIT, Event.RESOURCE_COMMITTED, Event.BRANCH_LOST}
    assert step(State.COMMITTING, Event.BRANCH_LOST) == Transition(State.COMMITTING, Action.LEAVE)
    told = {finding for (_, finding), row in MOVES.items() if isinstance(row, Move) and row.step is Step.COMMIT}
    assert told == {Finding.CELL_COMMIT}


def test_after_the_decision_was_handed_over_nobody_rolls_back_unread() -> None:
    """cockroachdb/cockroach#75601."""
    for state in (State.DECIDING, State.DELEGATED, State.IN_DOUBT, State.ONE_PHASE):
        assert isinstance(TABLE[state, Event.ABORT_ASKED], Refused)
    for state, silence in (
        (State.DECIDING, Event.LOG_SILENT),
        (State.DELEGATED, Event.RESOURCE_SILENT),
        (State.ONE_PHASE, Event.RESOURCE_SILENT),
        (State.IN_DOUBT, Event.LOG_SILENT),
    ):
        assert step(state, silence) == Transition(State.IN_DOUBT, Action.LEAVE)


def test_a_no_vote_is_never_followed_by_a_decision() -> None:
    assert step(State.VOTING, Event.VOTED_NO) == Transition(State.ABORTING, Action.ROLL_BACK_BRANCHES)


def test_nothing_is_noted_as_applied_before_every_branch_is_done() -> None:
    notes = {
        pair for pair, row in TABLE.items() if isinstance(row, Transition) and row.action is Action.NOTE_APPLIED
    }
    assert notes == {(State.COMMITTING, Event.BRANCHES_DONE)}


def test_a_recoverer_leaves_what_an_open_epoch_may_still_decide() -> None:
    """Pitfall: recovery by elapsed time."""
    assert move(Case.FOUND, Finding.EPOCH_OPEN) == Move(Case.LEFT, Step.NOTHING)
    assert move(Case.FOUND, Finding.LOG_SILENT) == Move(Case.LEFT, Step.NOTHING)


def test_does_not_exist_is_not_taken_for_done() -> None:
    """pgdogdev/pgdog#1271: an absent branch of a commit is asked about."""
    assert move(Case.COMMITTING, Finding.ABSENT) == Move(Case.PROVING, Step.PROVE)
    assert move(Case.EXPECTED, Finding.ABSENT) == Move(Case.PROVING, Step.PROVE)
    assert move(Case.PROVING, Finding.PROVED_ABORTED) == Move(Case.HEURISTIC, Step.NOTE_HEURISTIC)


def test_what_is_not_ours_is_reported_and_not_touched() -> None:
    assert move(Case.FOUND, Finding.NOT_OURS) == Move(Case.ORPHAN, Step.REPORT)


def test_what_is_prepared_and_decided_is_told_and_nothing_else_is() -> None:
    """Pitfall: nobody resolves what a dead coordinator left. Recovery pushes both outcomes, each as the cell says."""
    for case in (Case.FOUND, Case.EXPECTED):
        assert move(case, Finding.CELL_COMMIT) == Move(Case.COMMITTING, Step.COMMIT)
        assert move(case, Finding.CELL_ABORT) == Move(Case.ROLLING_BACK, Step.ROLL_BACK)
    for case, step_ in ((Case.COMMITTING, Step.NOTE_APPLIED), (Case.ROLLING_BACK, Step.NOTHING)):
        assert move(case, Finding.FINISHED) == Move(Case.DONE, step_)
        assert move(case, Finding.ATTACHED) == Move(case, Step.DETACH)
    told = {finding for (_, finding), row in MOVES.items() if isinstance(row, Move) and row.step is Step.ROLL_BACK}
    assert told == {Finding.CELL_ABORT}


def test_who_does_not_answer_is_left_for_the_next_pass_and_nothing_is_noted() -> None:
    for case in (Case.EXPECTED, Case.COMMITTING, Case.ROLLING_BACK, Case.PROVING):
        assert move(case, Finding.UNREACHED) == Move(Case.LEFT, Step.NOTHING)


def test_the_owner_tells_its_branches_what_the_cell_says() -> None:
    for state, commit, abort in (
        (State.DECIDING, Event.CELL_COMMIT, Event.CELL_ABORT),
        (State.DELEGATED, Event.RESOURCE_COMMITTED, Event.RESOURCE_REFUSED),
    ):
        assert step(state, commit) == Transition(State.COMMITTING, Action.COMMIT_BRANCHES)
        assert step(state, abort) == Transition(State.ABORTING, Action.ROLL_BACK_BRANCHES)
    assert step(State.DECIDING, Event.LOG_REFUSED) == Transition(State.ABORTING, Action.ROLL_BACK_BRANCHES)


def test_an_owner_in_doubt_does_nothing_more() -> None:
    """Only recovery finds out what was decided; so there is one way to do that, and it is the one that is tried out."""
    rows = {event: TABLE[State.IN_DOUBT, event] for event in Event}
    allowed = {event: row for event, row in rows.items() if isinstance(row, Transition)}
    assert allowed == {Event.LOG_SILENT: Transition(State.IN_DOUBT, Action.LEAVE)}
