"""Recovery alone, over databases made of dictionaries and a real decision log: what it finishes, and what it leaves."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typing_extensions import override

pytest.importorskip("sqlalchemy")

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Epoch, Gid, parse_gid
from troth.core.twophase.records import Abort, BranchRef, Commit, Heuristic
from troth.core.twophase.table import Finding
from troth.errors import StorageError
from troth.transactions import core as core_module
from troth.transactions import recovery as recovery_module
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.log.file import FileLog
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Prepared
from troth.transactions.recovery import Recovery
from troth.transactions.report import Report
from troth.transactions.resolver import DETACHES_MAX, LOOKS_MAX
from troth.transactions.snapshot import _standing as standing
from troth.transactions.waiting import InThreads

T = TypeVar("T")


@dataclass
class Database:
    """A participant. `states`: branch -> prepared, committed, rolled back."""

    name: str
    states: dict[str, str] = field(default_factory=dict)
    is_up: bool = True
    held: dict[str, int] = field(default_factory=dict)
    """Branch -> how many more times its session has to be ended."""
    coming: list[str] = field(default_factory=list)
    """Branches that become prepared after each look, one at a time: a PREPARE was under way."""
    proof: Finding = Finding.UNPROVEN
    proofs: list[str] = field(default_factory=list)
    sessions: list[Epoch] = field(default_factory=list)
    marker_says: bool | None = None
    refusals: list[bool] = field(default_factory=list)
    pruned: list[tuple[str, set[str]]] = field(default_factory=list)
    looks: int = 0
    kind: str = "memory"
    can_prepare: bool = True
    key: Any = None

    def reach(self) -> None:
        if not self.is_up:
            raise OSError(f"{self.name} is down")

    def prepared(self) -> list[Prepared]:
        self.reach()
        self.looks += 1
        listed = [branch for branch, state in self.states.items() if state == "prepared"]
        if self.coming:
            self.states[self.coming.pop(0)] = "prepared"
        found = [(parse_gid(branch), branch) for branch in listed]
        return [Prepared(gid[0], branch, 1.0) for gid, branch in found if gid is not None]

    def finish(self, branch: str, *, commit: bool) -> Finding:
        self.reach()
        if self.held.get(branch):
            return Finding.ATTACHED
        if self.states.get(branch) != "prepared":
            return Finding.ABSENT
        self.states[branch] = "committed" if commit else "rolled back"
        return Finding.FINISHED

    def detach(self, branch: str) -> None:
        self.reach()
        self.held[branch] -= 1

    def prove(self, proof: str) -> Finding:
        self.reach()
        self.proofs.append(proof)
        return self.proof

    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        self.reach()
        ended = [session for session in self.sessions if is_closed(session)]
        self.sessions = [session for session in self.sessions if session not in ended]
        return len(ended)

    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        self.refusals.append(refuse)
        if refuse and self.marker_says is None:
            self.marker_says = False
        return self.marker_says

    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        self.pruned.append((coordinator, set(needed)))

    def waits(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


class Outside(InThreads):
    """Knows whether something is being done that may block."""

    is_blocking = False

    @override
    def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        before, self.is_blocking = self.is_blocking, True
        try:
            return work(*arguments)
        finally:
            self.is_blocking = before


class Watched:
    """A log that is asked only where asyncio's loop would not wait for it."""

    def __init__(self, log: FileLog, waiting: Outside) -> None:
        self._log = log
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._log, name)
        if not callable(found):
            return found

        def asked(*arguments: Any, **named: Any) -> Any:
            assert self._waiting.is_blocking, f"{name}() of the log would keep a loop waiting"
            return found(*arguments, **named)

        return asked


class Place:
    """A process that recovers ("me"), and one that has died or lives ("other"), on one log."""

    def __init__(self, path: Path) -> None:
        self.bank, self.stock = Database("bank"), Database("stock")
        self.other = FileLog(path, coordinator="other")
        self.log = FileLog(path, coordinator="me")
        self.steps: list[str] = []
        waiting = Outside()
        self.core = Core(
            [self.bank, self.stock],  # type: ignore[list-item]
            Watched(self.log, waiting),  # type: ignore[arg-type]
            waiting=waiting,
            barrier=Barrier(None),
            on_step=self.steps.append,
            finds_deadlocks=False,
        )
        self.recovery = Recovery(self.core)

    def run(self, **options: bool) -> Report:
        return self.recovery.run(**options)

    def die(self) -> None:
        self.other.close()

    def verdict(self, gid: str) -> Verdict:
        found = parse_gid(gid)
        assert found is not None
        return self.log.verdict(found[0])


@pytest.fixture(autouse=True)
def _syncs_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here."""
    for call in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, call, lambda descriptor: None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def name(log: FileLog, sequence: int = 1) -> str:
    return str(Gid(log.log_id, log.epoch.coordinator, log.epoch.number, sequence))


def prepared(gid: str, *databases: Database) -> list[str]:
    """*gid* is prepared in *databases*; the branches."""
    branches = []
    for number, database in enumerate(databases):
        branches.append(f"{gid}.{number}")
        database.states[branches[-1]] = "prepared"
    return branches


def decided(log: FileLog, gid: str, *databases: Database, delegate: str = "") -> Commit:
    refs = tuple(BranchRef(each.name, f"{gid}.{n}", f"proof {n}") for n, each in enumerate(databases))
    record = Commit(gid, refs, delegate=delegate)
    (answer,) = log.decide([record])
    assert not isinstance(answer, Exception) and answer.gid == gid
    return record


# ---- what the cell says ----


def test_what_was_decided_is_committed_everywhere_and_noted(place: Place) -> None:
    gid = name(place.other)
    one, two = prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    report = place.run()
    assert (place.bank.states[one], place.stock.states[two]) == ("committed", "committed")
    assert sorted(report.committed) == [one, two]
    assert report.in_doubt == 0
    assert place.log.unapplied() == []
    assert place.verdict(gid) is Verdict.COMMIT


def test_without_a_cell_it_is_rolled_back_once_the_epoch_is_closed(place: Place) -> None:
    """The closing is what makes "no cell" final: the owner, if it only sleeps, can write none any more."""
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    place.die()
    assert place.run().rolled_back == [branch]
    assert place.bank.states[branch] == "rolled back"
    assert place.verdict(gid) is Verdict.ABORT
    assert [each.epoch for each in place.log.coordinators() if each.name == "other"] == [2]


def test_what_a_living_owner_may_still_decide_is_left(place: Place) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    report = place.run()
    assert report.left == [branch]
    assert place.bank.states[branch] == "prepared"
    assert place.verdict(gid) is Verdict.OPEN
    decided(place.other, gid, place.bank)
    assert place.run().committed == [branch]


def test_an_owner_that_is_taken_for_dead_is_fenced_off_first(place: Place) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    assert place.run(even_if_alive=True).rolled_back == [branch]
    (late,) = place.other.decide([Commit(gid, ())])
    assert not isinstance(late, Exception) and late.verdict is Verdict.ABORT


def test_what_is_under_way_in_this_process_is_left_to_it(place: Place) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    place.core.entered(gid)
    decided(place.log, gid, place.bank)
    assert place.run().left == [branch]
    assert place.bank.states[branch] == "prepared"
    assert [record.gid for record in place.log.unapplied()] == [gid]
    place.core.left(gid)
    assert place.run().committed == [branch]


def test_branches_of_another_log_are_reported_and_not_touched(place: Place) -> None:
    (branch,) = prepared("T1.otherlog.other.1.1", place.bank)
    report = place.run(even_if_alive=True)
    assert report.orphans == [branch]
    assert report.in_doubt == 0
    assert place.bank.states[branch] == "prepared"


def test_a_log_that_is_silent_decides_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    place.die()

    def silent(gid: Gid) -> Verdict:
        raise StorageError("the log is silent")

    monkeypatch.setattr(place.log, "verdict", silent)
    assert place.run().left == [branch]
    assert place.bank.states[branch] == "prepared"
    monkeypatch.undo()
    assert place.run().rolled_back == [branch]


# ---- what this process has left behind ----


def test_what_we_left_in_doubt_is_aborted_in_its_cell_before_a_branch_is_told(place: Place) -> None:
    """Nothing stands in the cell, and the epoch is open: whoever else asks must be told the same from now on."""
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", branch),)))
    told: list[Verdict] = []
    finish = place.bank.finish

    def telling(branch: str, *, commit: bool) -> Finding:
        told.append(place.verdict(gid))
        return finish(branch, commit=commit)

    place.bank.finish = telling  # type: ignore[method-assign]
    assert place.run().rolled_back == [branch]
    assert told == [Verdict.ABORT], "it stands in the log before anybody hears of it"
    (late,) = place.log.decide([Commit(gid, ())])
    assert not isinstance(late, Exception) and late.verdict is Verdict.ABORT


def test_what_we_left_in_doubt_and_stands_in_the_log_is_committed(place: Place) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    record = decided(place.log, gid, place.bank)
    place.core.leave_in_doubt(gid, record)
    assert place.run().committed == [branch]
    assert place.core.all_in_doubt() == [], "it is settled"


def test_what_we_left_in_doubt_and_nobody_lists_is_settled_too(place: Place) -> None:
    gid = name(place.log)
    place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
    place.run()
    assert place.verdict(gid) is Verdict.ABORT
    assert place.core.all_in_doubt() == []


def test_what_we_were_rolling_back_is_rolled_back_whenever_it_becomes_prepared(place: Place) -> None:
    """The block is over, so nobody can decide otherwise: nothing has to be remembered of it."""
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    assert place.run().rolled_back == [branch]
    prepared(gid, place.bank)
    assert place.run().rolled_back == [branch], "a vote was under way"
    assert place.verdict(gid) is Verdict.OPEN, "an abort of our own needs no record"


def test_what_we_have_not_ended_is_left(place: Place) -> None:
    gid = place.core.next_gid()
    (branch,) = prepared(gid, place.bank)
    assert place.run().left == [branch]
    place.core.ended(gid, "aborted", alone=False)
    assert place.run().rolled_back == [branch]


def test_more_in_doubt_than_there_is_room_for_are_never_said_to_be_aborted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "UNFINISHED_MAX", 2)
    gids = [name(place.log, sequence) for sequence in range(1, 6)]
    (branch,) = prepared(gids[0], place.bank)
    for gid in gids[:4]:
        place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
    assert [place.core.outcome(gid) for gid in gids] == [Outcome.OPEN] * 4 + [Outcome.ABORTED]
    assert place.run().rolled_back == [branch], "not left for ever"
    assert place.verdict(gids[0]) is Verdict.ABORT, "the cell was won first"
    assert [place.core.outcome(gid) for gid in gids] == [
        Outcome.ABORTED, Outcome.OPEN, Outcome.ABORTED, Outcome.ABORTED, Outcome.ABORTED
    ]  # fmt: skip


def test_what_we_left_and_is_under_way_again_is_not_settled(place: Place) -> None:
    gid = name(place.log)
    place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
    place.core.entered(gid)
    place.run()
    assert place.verdict(gid) is Verdict.OPEN
    assert [left for left, _ in place.core.all_in_doubt()] == [gid]


def test_a_damaged_log_of_one_coordinator_leaves_the_others_to_be_recovered(tmp_path: Path) -> None:
    place = Place(tmp_path)
    third = FileLog(tmp_path, coordinator="third")
    lost, ours = name(place.other), name(third)
    decided(place.other, lost, place.stock)
    decided(place.other, name(place.other, 2), place.stock)
    decided(third, ours, place.bank)
    (left,), (branch,) = prepared(lost, place.stock), prepared(ours, place.bank)
    place.die()
    third.close()
    (damaged,) = (tmp_path / "other").glob("decisions-*.log")
    content = bytearray(damaged.read_bytes())
    content[content.index(b"T1.")] ^= 1
    damaged.write_bytes(content)
    for options in ({}, {"even_if_alive": True}):
        report = place.run(**options)
        assert list(report.unreachable) == ["log of other"]
        assert report.left == [left]
    assert place.bank.states[branch] == "committed"
    with pytest.raises(StorageError, match="other"):
        standing(place.core)  # a snapshot could be torn by what is not known


def test_what_one_database_committed_long_ago_is_not_said_to_be_aborted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "UNFINISHED_MAX", 2)
    gids = [place.core.next_gid() for _ in range(4)]
    for gid in gids[:3]:
        place.core.ended(gid, "committed", alone=True)
    place.core.ended(gids[3], "aborted", alone=False)
    assert [place.core.outcome(gid) for gid in gids] == [
        Outcome.UNRECORDED, Outcome.COMMITTED, Outcome.COMMITTED, Outcome.ABORTED
    ]  # fmt: skip


# ---- fencing ----


def test_sessions_of_closed_epochs_are_ended_and_no_others(place: Place) -> None:
    """Or else a PREPARE of a dead owner's could arrive after everybody has looked."""
    log_id = place.log.log_id
    dead, mine = place.other.epoch, place.log.epoch
    sessions = [
        *(Epoch(log_id, "other", dead.number), Epoch(log_id, "other", dead.number + 1)),
        *(mine, Epoch("otherlog", "other", dead.number), Epoch(log_id, "never seen", 1)),
    ]
    place.bank.sessions, place.stock.sessions = list(sessions), list(sessions)
    assert place.run().fenced == 0, "its owner lives"
    place.die()
    assert place.run().fenced == 2
    assert place.bank.sessions == place.stock.sessions == sessions[1:]


def test_sessions_of_our_own_earlier_epochs_are_ended(tmp_path: Path) -> None:
    FileLog(tmp_path, coordinator="me").close()
    place = Place(tmp_path)
    mine = place.log.epoch
    place.bank.sessions = [Epoch(mine.log, "me", mine.number - 1), mine]
    assert place.run().fenced == 1
    assert place.bank.sessions == [mine]


def test_a_database_that_cannot_be_fenced_is_left_and_the_others_are_finished(place: Place) -> None:
    gid = name(place.other)
    one, two = prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    place.stock.is_up = False
    report = place.run()
    assert report.committed == [one]
    assert "stock is down" in report.unreachable["stock"]
    assert place.stock.states[two] == "prepared"
    assert [record.gid for record in place.log.unapplied()] == [gid]
    place.stock.is_up = True
    assert place.run().committed == [two, one], "the one is proved again, as it is not noted"
    assert place.log.unapplied() == []


# ---- looking again ----


def test_it_looks_again_until_a_look_finds_nothing(place: Place) -> None:
    """greenplum-db/gpdb#10393: a PREPARE was under way at the first look."""
    first, second, third = (f"{name(place.other, sequence)}.0" for sequence in (1, 2, 3))
    place.bank.states[first] = "prepared"
    place.bank.coming = [second, third]
    place.die()
    assert place.run().rolled_back == [first, second, third]


def test_it_does_not_look_for_ever(place: Place) -> None:
    place.bank.states[f"{name(place.other, 1)}.0"] = "prepared"
    place.bank.coming = [f"{name(place.other, sequence)}.0" for sequence in range(2, 40)]
    place.die()
    assert len(place.run().rolled_back) == LOOKS_MAX


def test_what_is_left_is_looked_at_once_a_pass(place: Place) -> None:
    (branch,) = prepared(name(place.other), place.bank)
    assert place.run().left == [branch]


# ---- absent branches ----


@pytest.mark.parametrize("proof", [Finding.PROVED_COMMITTED, Finding.UNPROVEN])
def test_an_absent_branch_of_a_commit_is_asked_about_and_then_noted(place: Place, proof: Finding) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank)
    place.die()
    place.bank.proof = proof
    assert place.run().committed == [f"{gid}.0"]
    assert place.bank.proofs == ["proof 0"]
    assert place.log.unapplied() == []


def test_a_branch_that_was_rolled_back_against_the_decision_is_written_down(place: Place) -> None:
    gid = name(place.other)
    prepared(gid, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    place.bank.proof = Finding.PROVED_ABORTED
    place.stock.states[f"{gid}.1"] = "prepared"
    report = place.run()
    assert report.heuristic == [f"{gid}.0"]
    assert place.log.heuristics() == [Heuristic(gid, "bank", "rolled back, although the decision is commit")]
    assert place.log.unapplied() == [], "every branch is finished, one of them wrongly"


def test_a_decision_is_noted_as_applied_when_every_branch_is_done_and_not_before(place: Place) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    place.bank.proof = Finding.UNREACHED
    assert place.run().left == [f"{gid}.0"]
    assert [record.gid for record in place.log.unapplied()] == [gid]
    place.bank.proof, place.stock.proof = Finding.UNPROVEN, Finding.UNREACHED
    place.run()
    assert [record.gid for record in place.log.unapplied()] == [gid]
    place.stock.proof = Finding.UNPROVEN
    place.run()
    assert place.log.unapplied() == []


def test_a_database_is_asked_once_about_all_decisions_that_are_not_applied(place: Place) -> None:
    looks = []
    for count in (1, 20):
        for sequence in range(count):
            decided(place.log, name(place.log, count + sequence), place.bank, place.stock)
        before = place.bank.looks
        place.run()
        looks.append(place.bank.looks - before)
    assert place.log.unapplied() == []
    assert looks[0] == looks[1]


def test_a_branch_is_not_done_because_another_was_finished_through_its_database(place: Place) -> None:
    """Two databases of one server list, and may finish, each other's branches."""
    gid = name(place.other)
    one, two = prepared(gid, place.bank, place.stock)
    place.bank.states = place.stock.states = {one: "prepared", two: "prepared"}
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    place.bank.held = {one: DETACHES_MAX + 1, two: 99}
    place.stock.held = {two: 99}
    report = place.run()
    assert (set(report.committed), place.bank.states[two]) == ({one}, "prepared")
    assert [record.gid for record in place.log.unapplied()] == [gid]


def test_a_decision_with_a_participant_that_we_do_not_have_is_not_noted_as_applied(place: Place) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank, Database("elsewhere"))
    place.die()
    report = place.run()
    assert "elsewhere" in report.unreachable
    assert [record.gid for record in place.log.unapplied()] == [gid]


def test_unapplied_decisions_of_an_owner_that_lives_are_its_own_business(place: Place) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank)
    place.run()
    assert place.bank.proofs == []
    assert [record.gid for record in place.other.unapplied()] == [gid]


def test_each_branch_that_is_gone_when_it_is_told_is_proved_by_its_own_proof(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = name(place.other)
    prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    for database in (place.bank, place.stock):
        monkeypatch.setattr(database, "finish", lambda branch, *, commit: Finding.ABSENT)
        database.proof = Finding.PROVED_COMMITTED
    place.run()
    assert (set(place.bank.proofs), set(place.stock.proofs)) == ({"proof 0"}, {"proof 1"})


def test_a_database_that_proves_but_cannot_be_listed_has_not_said_that_a_branch_is_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank)
    place.die()

    def refused() -> None:
        raise OSError("too many connections")

    with monkeypatch.context() as patch:
        patch.setattr(place.bank, "prepared", refused)
        assert place.run().left == [branch]
    assert place.run().committed == [branch]


def test_a_database_whose_sessions_could_not_be_ended_is_left_for_the_next_pass(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of the dead may be about to prepare: what is found there is not all."""
    (branch,) = prepared(name(place.other), place.bank)
    place.die()

    def refused(is_closed: Callable[[Epoch], bool]) -> int:
        raise OSError("too many connections")

    with monkeypatch.context() as patch:
        patch.setattr(place.bank, "fence", refused)
        report = place.run()
        assert "too many connections" in report.unreachable["bank"]
        assert place.bank.states[branch] == "prepared"
    assert place.run().rolled_back == [branch]


def test_a_branch_whose_name_the_log_has_forgotten_is_reported_and_left(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (branch,) = prepared(name(place.other), place.bank)
    place.die()
    monkeypatch.setattr(FileLog, "verdict", lambda log, gid: Verdict.FORGOTTEN)
    assert place.run().orphans == [branch]
    assert place.bank.states[branch] == "prepared"


# ---- sessions that hold a branch ----


def test_a_session_that_holds_a_branch_is_ended_and_the_branch_told_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module.threading.Event, "wait", lambda event, timeout=None: True)
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank)
    place.die()
    place.bank.held[branch] = 2
    assert place.run().committed == [branch]
    assert place.bank.states[branch] == "committed", "it was told what it is to be told, each time"
    place.bank.states[branch], place.bank.held[branch] = "prepared", DETACHES_MAX + 1
    assert place.run().left == [branch], "not for ever in one pass"
    assert place.run().committed == [branch]


# ---- the last resource ----


def test_a_dead_owners_last_resource_is_made_to_refuse_and_the_log_is_told(place: Place) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank, delegate="stock")
    place.die()
    assert place.run().rolled_back == [branch]
    assert place.stock.refusals[0] is True
    assert place.verdict(gid) is Verdict.ABORT


def test_a_last_resource_that_has_committed_decides_commit(place: Place) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank, delegate="stock")
    place.die()
    place.stock.marker_says = True
    assert place.run().committed == [branch]
    assert place.log.unapplied() == []


def test_the_last_resource_of_an_owner_that_lives_is_asked_and_not_made_to_refuse(place: Place) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank, delegate="stock")
    assert place.run().left == [branch]
    assert place.stock.refusals and not any(place.stock.refusals)
    assert place.verdict(gid) is Verdict.DELEGATED


def test_markers_are_pruned_of_our_own_transactions_but_for_those_that_are_needed(place: Place) -> None:
    mine, others = name(place.log), name(place.other)
    decided(place.log, mine, Database("elsewhere"))
    decided(place.other, others, place.bank)
    place.run()
    assert [prefix for prefix, _ in place.stock.pruned] == [f"T1.{place.log.log_id}.me."]
    assert mine in place.stock.pruned[0][1]


# ---- a pass as a whole ----


def test_a_pass_closes_fences_and_only_then_resolves(place: Place) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    place.die()
    seen: list[Sequence[object]] = []
    place.core.on_step = lambda step: seen.append((step, place.bank.states[branch]))  # type: ignore[misc]
    place.run()
    assert seen[0] == ("fenced", "prepared")
    assert [step for step, _ in seen] == ["fenced", "before_resolve", "after_first_resolve", "resolved"]
    assert seen[-1] == ("resolved", "rolled back")


def test_metrics_say_what_is_still_in_doubt(place: Place) -> None:
    prepared(name(place.other), place.bank)
    prepared("T1.otherlog.other.1.1", place.stock)
    place.run()
    metrics = place.core.metrics
    assert (metrics.passes, metrics.in_doubt, metrics.oldest_s) == (
        1,
        {"bank": 1, "stock": 0},
        {"bank": 1.0, "stock": 0.0},
    )
    place.die()
    place.run()
    assert metrics.in_doubt == {"bank": 0, "stock": 0}
    assert metrics.recovered == Counter(rolled_back=1)


def test_an_abort_by_an_operator_is_no_open_cell(place: Place) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    assert place.log.abort(Abort(gid, "operator")) is Verdict.ABORT
    assert place.run().rolled_back == [branch]


def test_a_pass_is_in_nobodys_way_but_while_it_commits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look and to prove may take long, and a snapshot waits for whoever shares the barrier."""
    barrier = place.core.barrier
    sharing: list[tuple[str, int]] = []

    def watched(database: Database, call: str) -> None:
        real = getattr(database, call)

        def called(*arguments: Any, **options: Any) -> Any:
            sharing.append((call, len(barrier._sharing)))
            return real(*arguments, **options)

        monkeypatch.setattr(database, call, called)

    for database in (place.bank, place.stock):
        for call in ("prepared", "finish", "prove"):
            watched(database, call)
    gone, found = name(place.other, 1), name(place.other, 2)
    decided(place.other, gone, place.bank)
    decided(place.other, found, place.bank, place.stock)
    place.die()
    assert place.run().committed and {shared for _, shared in sharing} == {0}, "it is proved, and nothing told"
    one, two = prepared(found, place.bank, place.stock)
    sharing.clear()
    assert place.run().committed == [one, two]
    told = [shared for call, shared in sharing if call == "finish"]
    assert told == [1, 1], "no snapshot between the two"
    assert sharing[0] == ("prepared", 0)
    assert not barrier._sharing
