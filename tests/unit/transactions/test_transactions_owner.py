"""What an owner says to its branches, and in which order; what it makes of their answers, and of none."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Commit
from troth.core.twophase.table import Finding
from troth.errors import (
    Aborted,
    HeuristicMixed,
    NotApplied,
    OutcomeUnknown,
    RequestTimeout,
    StorageError,
    TransactionInDoubt,
    Unavailable,
    UsageError,
)
from troth.transactions import core as core_module
from troth.transactions import fan
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Begun, Prepared
from troth.transactions.snapshot import _standing
from troth.transactions.steps import OnStep, nothing
from troth.transactions.transaction import Transaction

REFUSED = NotApplied("the database says no")
LOST = ConnectionError("the connection is gone")


class Database:
    """A participant whose branches write down what they are told, and fail as they are asked to."""

    kind = "memory"
    given = None

    def __init__(self, name: str, trace: list[str], *, can_prepare: bool = True) -> None:
        self.name = name
        self.can_prepare = can_prepare
        self.trace = trace
        self.wrote: bool | None = True
        """What its statements have told; None: it has to be asked, and says `writes`."""
        self.writes = True
        self.fails: dict[str, BaseException] = {}
        """By verb, when the answer is read; by ``verb!``, when it is sent."""
        self.proves = Finding.UNPROVEN
        self.holds_by_voting = self.is_absent = False
        self.until: float | None = None
        """Of `Branch.answer_by`."""

    def open(self, number: int, begun: Begun) -> "Branch":
        return Branch(self, number, begun)

    def prove(self, proof: str) -> Finding:
        return self.proves

    def close(self) -> None: ...


class Branch:
    handle = None
    proof = "742"

    def __init__(self, participant: Database, number: int, begun: Begun) -> None:
        self.participant = participant
        self.number = number
        self.name = f"{begun.gid}.{number}"
        self.wrote = participant.wrote

    def answer_by(self, until: float) -> None:
        self.participant.until = until

    def _told(self, verb: str) -> Callable[[], Finding | None]:
        self.participant.trace.append(f"{self.participant.name} {verb}")
        fails = self.participant.fails
        if f"{verb}!" in fails:
            raise fails[f"{verb}!"]

        def answer() -> Finding | None:
            if verb in fails:
                raise fails[verb]
            if verb == "roll back" and self.participant.is_absent:
                return Finding.ABSENT
            if verb == "ask" and self.wrote is None:
                self.wrote = self.participant.writes
            return None

        return answer

    def ask(self) -> Callable[[], None]:
        return self._told("ask")

    def others_wrote(self) -> None:
        if self.participant.holds_by_voting:
            self.wrote = True

    def prepare(self) -> Callable[[], None]:
        return self._told("prepare")

    def commit_alone(self) -> Callable[[], None]:
        return self._told("commit alone")

    def commit_prepared(self) -> Callable[[], None]:
        return self._told("commit")

    def commit_with_marker(self) -> None:
        self._told("mark")()

    def roll_back(self) -> Callable[[], None]:
        return self._told("roll back")

    def release(self, *, broken: bool) -> None:
        self.participant.trace.append(f"{self.participant.name} {'is closed' if broken else 'is free'}")

    def savepoint(self) -> Any:
        return nullcontext()


class Place:
    """A bank, a stock and a last resource."""

    def __init__(self, path: Path, on_step: OnStep = nothing) -> None:
        self.trace: list[str] = []
        self.bank, self.stock = Database("bank", self.trace), Database("stock", self.trace)
        self.lite = Database("lite", self.trace, can_prepare=False)
        self.log = FileLog(path)
        participants: list[Any] = [self.bank, self.stock, self.lite]
        self.core = Core(participants, self.log, barrier=Barrier(None), on_step=on_step)

    def begin(self, *names: str, key: str = "", timeout: float | None = None) -> Transaction:
        tx = self.untouched(key=key, timeout=timeout)
        for name in names or ("bank", "stock"):
            tx[name]
        return tx

    def untouched(self, *, key: str = "", timeout: float | None = None) -> Transaction:
        return Transaction(self.core, timeout=timeout, key=key, wait="applied")

    def aborted(self, tx: Transaction) -> Aborted:
        with pytest.raises(Aborted) as caught:
            tx.commit()
        assert tx.outcome is Outcome.ABORTED
        return caught.value

    def cell(self, tx: Transaction) -> Commit | None:
        found = parse_gid(tx.gid)
        assert found is not None
        return self.log.commit_of(found[0])

    def voted(self, tx: Transaction) -> list[str]:
        """Whose branches stand in the cell."""
        record = self.cell(tx)
        assert record is not None
        return [ref.participant for ref in record.branches]


@pytest.fixture
def place(tmp_path: Path) -> Any:
    place = Place(tmp_path)
    yield place
    # Whatever happened, nobody waits for a transaction that has ended.
    place.core.barrier.enter_exclusive(0.01, "a snapshot")
    assert not place.core._under_way
    place.core.close()


ENDED = ["bank is free", "stock is free"]
ROLLED_BACK = ["bank roll back", "stock roll back"]


def test_all_are_asked_before_any_is_told(place: Place) -> None:
    tx = place.begin()
    tx.commit()
    assert place.trace == ["bank prepare", "stock prepare", "bank commit", "stock commit", *ENDED]
    assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ())
    assert place.core.unapplied() == []
    with pytest.raises(UsageError):
        tx["lite"]


def test_a_branch_is_opened_once(place: Place) -> None:
    place.begin("bank", "stock", "bank").commit()
    assert place.trace.count("bank prepare") == 1


def test_when_its_time_is_up_nobody_is_asked(place: Place) -> None:
    assert isinstance(place.aborted(place.begin(timeout=-1)).__cause__, TimeoutError)
    assert place.trace == ROLLED_BACK + ENDED


def test_at_the_end_of_a_block_databases_have_its_time_and_ten_seconds_to_answer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vote may wait for a lock, which is for as long as any statement may."""
    monkeypatch.setattr(fan.time, "monotonic", lambda: 100.0)
    place.begin("bank", "stock", timeout=5).commit()
    assert (place.bank.until, place.stock.until) == (115.0, 115.0)
    place.bank.until = None
    place.begin("bank").commit()
    assert place.bank.until is None


def test_a_vote_that_is_not_answered_in_time_is_left_to_recovery(place: Place) -> None:
    """It may become prepared at any time: nothing was decided, so that it will be rolled back."""
    place.bank.fails["prepare"] = RequestTimeout("the database has not answered in time")
    tx = place.begin("bank", "stock", timeout=5)
    error = place.aborted(tx)
    assert (error.participant, tx.pending) == ("bank", ("bank",))
    assert place.trace[-3:] == ["stock roll back", "bank is closed", "stock is free"]
    found = parse_gid(tx.gid)
    assert found is not None and place.cell(tx) is None and place.core.decision(tx.gid) is Outcome.ABORTED


@pytest.mark.parametrize("when", ["prepare!", "prepare"])
@pytest.mark.parametrize("name", ["bank", "stock"])
def test_one_no_rolls_all_back(name: str, when: str, place: Place) -> None:
    getattr(place, name).fails[when] = REFUSED
    error = place.aborted(place.begin())
    assert (error.__cause__, error.participant) == (REFUSED, name)
    assert place.trace[-4:] == ROLLED_BACK + ENDED
    assert place.core.metrics.refusals == {name: 1}


def test_a_no_of_who_turned_out_to_have_written_rolls_all_back(place: Place) -> None:
    place.stock.wrote = None
    place.stock.fails["prepare"] = REFUSED
    assert place.aborted(place.begin()).__cause__ is REFUSED
    assert place.trace == ["bank ask", "stock ask", "bank prepare", "stock prepare", *ROLLED_BACK, *ENDED]


def test_behind_a_no_the_other_answers_are_waited_for(place: Place) -> None:
    """The last to be asked is heard first. What of the others is still to come would be taken for the next answer."""
    place.stock.fails["prepare"] = REFUSED
    place.bank.fails["prepare"] = LOST
    place.aborted(place.begin())
    assert place.trace[-3:] == ["stock roll back", "bank is closed", "stock is free"]


def test_one_that_cannot_be_told_of_a_commit_keeps_no_other_from_being_told(place: Place) -> None:
    place.bank.fails["commit!"] = LOST
    tx = place.begin()
    tx.commit()
    assert place.trace[-4:] == ["bank commit", "stock commit", "bank is closed", "stock is free"]
    assert tx.pending == ("bank",)


@pytest.mark.parametrize("when", ["prepare!", "prepare", "roll back"])
def test_what_interrupts_a_branch_is_raised_when_all_are_rolled_back(when: str, place: Place) -> None:
    place.bank.fails |= {when: KeyboardInterrupt(), "prepare" if when == "roll back" else "none": REFUSED}
    tx = place.begin()
    with pytest.raises(KeyboardInterrupt):
        tx.commit()
    assert tx.outcome is Outcome.ABORTED
    assert place.trace[-3:] == ["stock roll back", "bank is closed", "stock is free"]


@pytest.mark.parametrize("verdict", [Verdict.FORGOTTEN, Verdict.FOREIGN, Verdict.OPEN])
def test_what_the_log_says_and_is_no_decision_decides_nothing(
    verdict: Verdict, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.log, "decide", lambda commits: [Decided(verdict, commits[0].gid)])
    with pytest.raises(TransactionInDoubt, match=f"is not known .the log says {verdict.name}") as caught:
        place.begin().commit()
    assert type(caught.value.__cause__) is OutcomeUnknown, "nothing was aborted"
    assert place.trace[-2:] == ["bank is closed", "stock is closed"]


def test_callers_see_of_a_transaction_what_is_theirs(place: Place) -> None:
    """And nothing of what it is made of."""
    assert {name for name in dir(place.begin()) if not name.startswith("_")} == {
        *("gid", "key", "outcome", "pending", "replayed"),
        *("engines", "session", "savepoint", "commit", "rollback"),
    }


def test_the_first_no_is_the_reason(place: Place) -> None:
    place.bank.fails |= {"prepare!": REFUSED, "roll back": NotApplied("and neither will it roll back")}
    place.stock.fails["prepare!"] = NotApplied("so do I")
    assert place.aborted(place.begin()).__cause__ is REFUSED


def test_who_was_lost_at_the_vote_is_told_nothing_more(place: Place) -> None:
    place.bank.fails["prepare"] = LOST
    place.aborted(place.begin())
    assert place.trace[-3:] == ["stock roll back", "bank is closed", "stock is free"]


@pytest.mark.parametrize(("error", "end"), [(LOST, "bank is closed"), (REFUSED, "bank is free")])
def test_who_could_not_be_told_of_a_commit_is_left_to_recovery(
    error: Exception, end: str, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.bank.fails["commit"] = error
    tx = place.begin()
    tx.commit()
    assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ("bank",))
    assert f"{tx.gid} has committed; recovery tells bank, which did not answer" in caplog.text
    assert [record.gid for record in place.core.unapplied()] == [tx.gid], "or nobody would look for the branch"
    assert place.trace[-2:] == [end, "stock is free"]


def answering(place: Place, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Have the log fail with *error*."""

    def decide(commits: Sequence[Commit]) -> Any:
        raise error

    monkeypatch.setattr(place.log, "decide", decide)


def test_while_the_log_is_silent_nobody_is_told_anything(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(place, monkeypatch, OutcomeUnknown("no answer"))
    tx = place.begin()
    with pytest.raises(TransactionInDoubt):
        tx.commit()
    assert place.trace[2:] == ["bank is closed", "stock is closed"]
    ((gid, record),) = place.core.all_in_doubt()
    assert (gid, len(record.branches)) == (tx.gid, 2)


def test_when_the_log_has_failed_nothing_more_is_begun(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(place, monkeypatch, StorageError("the disk is full"))
    with pytest.raises(TransactionInDoubt):
        place.begin().commit()
    with pytest.raises(StorageError, match="full"):
        place.begin()


@pytest.mark.parametrize("told", [(), ("bank",), ("bank", "stock")])
def test_a_snapshot_holds_what_no_database_or_every_one_was_told(
    told: tuple[str, ...], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.bank.fails["commit"] = place.stock.fails["commit"] = LOST
    tx = place.begin()
    tx.commit()
    branches = {"bank": f"{tx.gid}.0", "stock": f"{tx.gid}.1"}
    found = parse_gid(tx.gid)
    assert found is not None

    def prepared(database: Database) -> list[Prepared]:
        is_listed = database.name in branches and database.name not in told
        return [Prepared(found[0], branches[database.name], 0.0)] if is_listed else []

    monkeypatch.setattr(Database, "prepared", prepared, raising=False)
    whole = {(): set(branches.values()), ("bank", "stock"): set()}
    assert _standing(place.core) == whole.get(told)


def test_what_interrupts_the_log_is_raised_and_leaves_a_doubt(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(place, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        place.begin().commit()
    assert len(place.core.all_in_doubt()) == 1
    assert place.trace[2:] == ["bank is closed", "stock is closed"]


@pytest.mark.parametrize(
    ("proves", "raised"),
    [
        (Finding.PROVED_COMMITTED, HeuristicMixed),
        (Finding.PROVED_ABORTED, Aborted),
        (Finding.UNPROVEN, Aborted),
    ],
)
def test_what_was_committed_by_hand_before_it_could_be_rolled_back_is_told_and_noted(
    proves: Finding, raised: type[Exception], place: Place
) -> None:
    place.bank.is_absent, place.bank.proves, place.stock.fails = True, proves, {"prepare": REFUSED}
    tx = place.begin()
    with pytest.raises(raised) as caught:
        tx.commit()
    assert caught.value.__cause__ is REFUSED
    assert (tx.outcome, tx.pending) == (Outcome.ABORTED, ())
    noted = [(found.gid, found.participant) for found in place.log.heuristics()]
    assert noted == ([(tx.gid, "bank")] if raised is HeuristicMixed else [])


def test_what_is_gone_is_rolled_back_only_when_its_database_says_so(place: Place) -> None:
    place.bank.is_absent, place.bank.proves, place.stock.fails = True, Finding.UNREACHED, {"prepare": REFUSED}
    tx = place.begin()
    assert "is aborted; bank could not be told" in str(place.aborted(tx))
    assert tx.pending == ("bank",)


def test_what_was_committed_by_hand_does_not_hide_what_could_not_be_told(place: Place) -> None:
    place.bank.is_absent, place.bank.proves = True, Finding.PROVED_COMMITTED
    place.stock.fails = {"prepare": LOST}
    tx = place.begin()
    with pytest.raises(HeuristicMixed, match="committed by hand in bank; stock could not be told"):
        tx.commit()
    assert tx.pending == ("stock",)


def test_what_was_lost_while_it_prepared_is_pending_and_what_was_lost_before_is_not(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.bank.fails = {"prepare": LOST}
    tx = place.begin()
    assert str(place.aborted(tx)).startswith(f"{tx.gid} is aborted; bank could not be told")
    assert tx.pending == ("bank",)
    assert f"{tx.gid} is aborted; recovery tells bank" in caplog.text
    place.bank.wrote, place.bank.fails = None, {"ask": LOST}
    tx = place.begin()
    assert "is rolled back in every database" in str(place.aborted(tx))
    assert tx.pending == ()


def test_a_prepared_branch_that_cannot_be_rolled_back_is_pending(place: Place) -> None:
    place.bank.fails, place.stock.fails = {"roll back": LOST}, {"prepare": REFUSED}
    tx = place.begin()
    assert place.aborted(tx).__cause__ is REFUSED
    assert tx.pending == ("bank",)


def test_what_the_log_refuses_is_rolled_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(place, monkeypatch, REFUSED)
    assert place.aborted(place.begin()).__cause__ is REFUSED
    assert place.trace[2:] == ROLLED_BACK + ENDED
    assert place.core.all_in_doubt() == []


def test_a_lone_writer_commits_without_the_log_before_all_who_read(place: Place) -> None:
    """A reader's locks may guard it: an advisory lock, or a row that was selected FOR SHARE."""
    place.bank.wrote, place.bank.writes = None, False
    tx = place.begin()
    tx.commit()
    assert place.trace == ["bank ask", "stock ask", "stock commit alone", "bank commit alone", *ENDED]
    assert (place.cell(tx), place.core.outcome(tx.gid)) == (None, Outcome.COMMITTED)


def test_a_reader_that_is_refused_when_asked_is_a_no(place: Place) -> None:
    place.bank.wrote, place.bank.writes, place.bank.fails = None, False, {"ask": REFUSED}
    assert place.aborted(place.begin()).__cause__ is REFUSED
    assert "stock commit alone" not in place.trace


@pytest.mark.parametrize("fails", [REFUSED, LOST])
@pytest.mark.parametrize("key", ["", "order-1"])
def test_what_a_reader_says_when_it_is_let_go_changes_nothing_and_is_logged(
    key: str, fails: Exception, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.bank.wrote, place.bank.writes, place.bank.fails = None, False, {"commit alone": fails}
    tx = place.begin(key=key)
    tx.commit()
    assert (tx.outcome, tx.pending, place.core.outcome(tx.gid)) == (Outcome.COMMITTED, (), Outcome.COMMITTED)
    assert f"{tx.gid} has committed; bank, where it has only read, could not: {fails}" in caplog.text


def test_a_lone_writer_that_is_refused_takes_the_readers_with_it(place: Place) -> None:
    """What looks like a reader may have sent a NOTIFY, or have written in a foreign table."""
    place.bank.wrote, place.bank.writes, place.stock.fails = None, False, {"commit alone": REFUSED}
    assert place.aborted(place.begin()).__cause__ is REFUSED
    assert place.trace[2:] == ["stock commit alone", *ROLLED_BACK, *ENDED]


@pytest.mark.parametrize("wrote", [True, None])
@pytest.mark.parametrize("key", ["", "order-1"])
def test_who_can_hold_what_it_read_by_a_vote_alone_votes_when_another_wrote(
    key: str, wrote: bool | None, place: Place
) -> None:
    place.bank.wrote, place.stock.wrote, place.stock.writes = wrote, None, False
    place.stock.holds_by_voting = True
    tx = place.begin(key=key)
    tx.commit()
    assert sorted(place.voted(tx)) == ["bank", "stock"]


def test_who_can_hold_what_it_read_by_a_vote_alone_has_nothing_to_hold_it_for_when_none_wrote(
    place: Place,
) -> None:
    for database in (place.bank, place.stock):
        database.wrote, database.writes, database.holds_by_voting = None, False, True
    tx = place.begin()
    tx.commit()
    assert not any("prepare" in told for told in place.trace)


@pytest.mark.parametrize("wrote", [True, None])
def test_a_lone_writer_with_a_key_stands_in_the_log(wrote: bool | None, place: Place) -> None:
    place.bank.wrote = wrote
    tx = place.begin("bank", key="order-1")
    tx.commit()
    assert place.trace[-3:] == ["bank prepare", "bank commit", "bank is free"]
    assert place.voted(tx) == ["bank"]


@pytest.mark.parametrize(
    ("proves", "outcome"),
    [(Finding.PROVED_COMMITTED, Outcome.COMMITTED), (Finding.PROVED_ABORTED, Outcome.ABORTED)],
)
def test_how_a_lost_lone_writer_ended_its_database_says(proves: Finding, outcome: Outcome, place: Place) -> None:
    place.bank.fails["commit alone"], place.bank.proves = LOST, proves
    tx = place.begin("bank")
    if outcome is Outcome.COMMITTED:
        tx.commit()
    else:
        place.aborted(tx)
    assert tx.outcome is outcome


def test_a_lost_lone_writer_of_which_nothing_is_known_is_in_doubt_until_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "PROVE_WITHIN_S", 0)
    place.bank.fails["commit alone"], place.bank.proves = LOST, Finding.UNREACHED
    tx = place.begin("bank")
    with pytest.raises(TransactionInDoubt) as silence:
        tx.commit()
    assert str(silence.value).startswith(f"{tx.gid}: the only database that it wrote in was told to commit")
    assert place.core.outcome(tx.gid) is Outcome.OPEN
    place.bank.proves = Finding.PROVED_COMMITTED
    assert place.core.outcome(tx.gid) is Outcome.COMMITTED


def test_a_lost_lone_writer_whose_database_keeps_no_such_knowledge_is_not_open_for_ever(place: Place) -> None:
    place.bank.fails["commit alone"] = LOST
    tx = place.begin("bank")
    with pytest.raises(TransactionInDoubt):
        tx.commit()
    assert place.core.outcome(tx.gid) is Outcome.UNRECORDED


@pytest.mark.parametrize("key", ["", "order-1"])
@pytest.mark.parametrize("asked", [("stock",), ("bank", "stock")])
def test_who_says_only_when_asked_that_it_wrote_votes_as_well(
    asked: tuple[str, ...], key: str, place: Place
) -> None:
    for name in asked:
        getattr(place, name).wrote = None
    tx = place.begin(key=key)
    tx.commit()
    assert sorted(place.voted(tx)) == ["bank", "stock"]
    assert [place.trace.count(f"{name} prepare") for name in ("bank", "stock")] == [1, 1]


def test_who_has_only_read_is_let_go_when_all_others_have_committed(place: Place) -> None:
    place.stock.wrote, place.stock.writes = None, False
    tx = place.begin(key="order-1")
    tx.commit()
    assert place.trace == ["bank prepare", "stock ask", "bank commit", "stock commit alone", *ENDED]
    assert place.voted(tx) == ["bank"]


def test_the_last_resource_decides_in_the_barrier_and_the_others_follow(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark(branch: Branch) -> None:
        branch._told("mark")()
        with pytest.raises(Unavailable):
            place.core.barrier.enter_exclusive(0.001, "a snapshot")

    monkeypatch.setattr(Branch, "commit_with_marker", mark)
    tx = place.begin("bank", "lite")
    tx.commit()
    assert place.trace == ["bank prepare", "lite mark", "bank commit", "bank is free", "lite is free"]
    record = place.cell(tx)
    assert record is not None
    assert (record.delegate, place.voted(tx)) == ("lite", ["bank"])


def test_what_the_last_resource_refuses_is_aborted_in_the_log(place: Place) -> None:
    place.lite.fails["mark"] = REFUSED
    tx = place.begin("bank", "lite", key="order-1")
    assert place.aborted(tx).__cause__ is REFUSED
    found = parse_gid(tx.gid)
    assert found is not None
    assert place.log.verdict(found[0]) is Verdict.ABORT
    assert place.log.holder_of("order-1") is None


def test_a_last_resource_that_says_nothing_leaves_all_in_doubt(place: Place) -> None:
    place.lite.fails["mark"] = LOST
    tx = place.begin("bank", "lite", key="order-1")
    with pytest.raises(TransactionInDoubt):
        tx.commit()
    assert place.trace[2:] == ["bank is closed", "lite is closed"]
    found = parse_gid(tx.gid)
    assert found is not None
    assert place.log.verdict(found[0]) is Verdict.DELEGATED, "it may have committed"
    assert place.log.holder_of("order-1") == tx.gid
    ((gid, record),) = place.core.all_in_doubt()
    assert (gid, record.delegate) == (tx.gid, "lite")


@pytest.mark.parametrize(
    ("step", "outcome"), [("after_first_prepare", Outcome.ABORTED), ("after_decision", Outcome.COMMITTED)]
)
def test_after_an_interrupt_no_connection_is_used_again(step: str, outcome: Outcome, tmp_path: Path) -> None:
    def on_step(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    place = Place(tmp_path, on_step)
    tx = place.begin()
    with pytest.raises(KeyboardInterrupt):
        tx.commit()
    assert place.trace[2:] == ["bank is closed", "stock is closed"]
    assert place.core.outcome(tx.gid) is outcome
    assert len(place.core.all_in_doubt()) == (outcome is Outcome.COMMITTED)
    place.core.close()


def test_an_error_of_the_block_rolls_back(place: Place) -> None:
    with pytest.raises(ZeroDivisionError), place.begin():
        raise ZeroDivisionError
    assert place.trace == ROLLED_BACK + ENDED


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_failed_savepoint_that_can_not_undo_all_ends_in_an_abort(
    error: type[BaseException], place: Place
) -> None:
    tx = place.begin("bank")
    with pytest.raises(error), tx.savepoint():
        tx["stock"]
        raise error
    why = place.aborted(tx).__cause__
    assert isinstance(why, UsageError) and isinstance(why.__cause__, error)
    tx = place.begin("bank", "stock")
    with pytest.raises(ZeroDivisionError), tx.savepoint():
        raise ZeroDivisionError
    tx.commit()
    assert tx.outcome is Outcome.COMMITTED


def test_a_statement_may_wait_for_a_lock_as_long_as_the_transaction_may(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []
    real = place.bank.open

    def opened(number: int, begun: Begun) -> Branch:
        waits.append(begun.timeout_s)
        return real(number, begun)

    monkeypatch.setattr(place.bank, "open", opened)
    for timeout in (5.0, None):
        place.begin("bank", timeout=timeout).rollback()
    assert waits[0] is not None and 0 < waits[0] <= 5
    assert waits[1] is None


@pytest.mark.parametrize("timeout", ["3", True, float("nan"), 2_147_484, 1e9, [1]])
def test_a_time_that_no_database_can_count_is_refused_before_anything_is_begun(timeout: Any, place: Place) -> None:
    with pytest.raises(UsageError, match="timeout="):
        place.begin(timeout=timeout)
    assert place.core._open == set()


def test_for_ever_is_no_bound(place: Place) -> None:
    assert place.begin("bank", timeout=float("inf"))._deadline is None


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("touched", [(), ("bank",)])
def test_what_has_ended_takes_no_more_work_and_ends_once(end: str, touched: tuple[str, ...], place: Place) -> None:
    tx = place.untouched()
    for name in touched:
        tx[name]
    getattr(tx, end)()
    for name in ("bank", "stock"):
        with pytest.raises(UsageError, match="is over"):
            tx[name]
    with pytest.raises(UsageError, match="is over"):
        tx.commit()
    tx.rollback()
    assert tx.outcome is (Outcome.COMMITTED if end == "commit" else Outcome.ABORTED)


def test_work_that_was_done_before_ends_its_block_also_through_an_except_of_it(place: Place) -> None:
    place.begin("bank", key="order-1").commit()
    went_on = False
    with place.untouched(key="order-1") as tx:
        with suppress(Exception):
            tx["bank"]
        went_on = True
    assert (tx.replayed, went_on) == (True, False)


def test_two_threads_open_no_branches_of_one_transaction_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would be branch 0, of which a database with both prepares one."""
    tx, real = place.untouched(), place.bank.open

    def meanwhile(number: int, begun: Begun) -> Branch:
        with pytest.raises(UsageError, match="at a time"):
            tx["stock"]
        return real(number, begun)

    monkeypatch.setattr(place.bank, "open", meanwhile)
    tx["bank"]
    tx["stock"]
    assert [branch.number for branch in tx._branches] == [0, 1]
