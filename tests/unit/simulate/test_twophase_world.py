"""The simulated world of two-phase commit: its last resource, its votes, and what happens to it from outside."""

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.records import Abort, BranchRef, Commit, Heuristic
from troth.core.twophase.table import Action, Case, Finding
from troth.simulate.twophase import World
from troth.simulate.twophase.owner import Owner, is_unanimous
from troth.simulate.twophase.recoverer import _cell_of, _follow
from troth.simulate.twophase.servers import LAST, SILENT, Call

GID = "T1.simlog00.c0.1.1"


@pytest.fixture
def world() -> World:
    """A quiet one, with a transaction in its last resource and the epoch of its owner open."""
    world = World(1, faults=False)
    world.log.open("c0")
    world.databases[LAST].work(GID, fails=False)
    return world


def test_a_vote_is_the_tag_of_a_prepared_transaction_and_nothing_else() -> None:
    """PostgreSQL answers ROLLBACK, and no error, to the PREPARE of a failed transaction."""
    assert is_unanimous(["PREPARE TRANSACTION", "PREPARE TRANSACTION"])
    for other in ("ROLLBACK", "ERROR", SILENT):
        assert not is_unanimous(["PREPARE TRANSACTION", other])


def test_the_last_resource_commits_nothing_that_its_marker_refuses(world: World) -> None:
    last = world.databases[LAST]
    assert last.marker(GID, refuse=True) is False
    assert not last.commit_with_marker(GID)
    assert last.states[GID] == "active"


def test_no_marker_is_a_refusal_only_once_it_has_been_written(world: World) -> None:
    """A recoverer that finds none writes one, in a closed epoch; or else the owner could still commit."""
    assert world.log.decide(Commit(GID, (BranchRef("bank", GID),), delegate=LAST))[1] == GID
    world.log.close("c0")
    asked, answers = _cell_of(GID), None
    try:
        while True:
            calls = next(asked) if answers is None else asked.send(answers)
            answers = [
                getattr(world.log if call.server == "log" else world.databases[call.server], call.method)(
                    *call.arguments
                )
                for call in calls
            ]
    except StopIteration as end:
        assert end.value is Finding.CELL_ABORT
    assert not world.databases[LAST].commit_with_marker(GID)


def test_in_an_open_epoch_no_marker_says_nothing(world: World) -> None:
    world.log.decide(Commit(GID, (BranchRef("bank", GID),), delegate=LAST))
    assert world.databases[LAST].marker(GID, refuse=False) is None
    assert world.databases[LAST].commit_with_marker(GID)


def test_a_decision_under_a_key_that_another_has_names_that_one(world: World) -> None:
    other = GID.removesuffix("1") + "2"
    world.log.decide(Commit(GID, (), key="k"))
    assert world.log.decide(Commit(other, (), key="k"))[1] == GID
    assert world.log.cells["c0"].record_of(other) is None


def test_an_operator_aborts_only_what_is_open(world: World) -> None:
    world.log.decide(Commit(GID, ()))
    world.log.abort(Abort(GID, "an operator"))
    assert not world.violations
    assert world.log.cells["c0"].record_of(GID) is not None


def test_a_branch_that_was_rolled_back_by_hand_is_not_said_to_be_committed(world: World) -> None:
    bank = world.databases["bank"]
    bank.work(GID, fails=False)
    bank.prepare(GID, refuses=False)
    bank.roll_back(GID)
    world.outside.by_hand.add((GID, "bank"))
    followed = _follow(world.outside, "bank", GID, Case.FOUND, Finding.CELL_COMMIT)
    (told,) = next(followed)
    (proof,) = followed.send([bank.finish(*told.arguments)])
    assert (told.method, proof.method) == ("finish", "prove")
    (noted,) = followed.send([bank.prove(GID)])
    assert noted.arguments == (Heuristic(GID, "bank", "rolled back"),)
    assert world.log.heuristic(*noted.arguments)
    assert not world.violations


def test_what_nobody_has_rolled_back_by_hand_is_the_fault_of_the_protocol(world: World) -> None:
    world.log.heuristic(Heuristic(GID, "bank", "rolled back"))
    assert "AC1" in world.violations[0]


def test_who_only_read_is_let_go_when_all_others_have_committed_or_were_rolled_back(world: World) -> None:
    """Its lock guards what they write."""
    for ends, last in (
        ((Action.ASK_BRANCHES, Action.SUBMIT, Action.COMMIT_BRANCHES), "let_go"),
        ((Action.ASK_BRANCHES, Action.ROLL_BACK_BRANCHES), "roll_back"),
    ):
        owner, sent = Owner(lambda one_in: False, GID, ["bank", "ledger"], guard="stock"), list[Call]()
        for action in ends:
            performed, answers = owner.perform(action), None
            try:
                while True:
                    calls = next(performed) if answers is None else performed.send(answers)
                    sent += calls
                    answers = [(Verdict.COMMIT, GID) if call.server == "log" else SILENT for call in calls]
            except StopIteration:
                pass
        assert [call.method for call in sent if call.server == "stock"] == [last]
        assert sent[-1].server == "stock"
