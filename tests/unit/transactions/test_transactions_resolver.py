"""Branches that are gone, that a session holds, or that a last resource decides: what recovery makes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from recovering import Database, Place, decided, name, prepared

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Epoch
from troth.core.twophase.records import Heuristic
from troth.core.twophase.table import Finding
from troth.errors import StorageError
from troth.transactions import recovery as recovery_module
from troth.transactions.log.file import FileLog
from troth.transactions.resolver import DETACHES_MAX

# ---- absent branches ----


@pytest.mark.parametrize("proof", [Finding.PROVED_COMMITTED, Finding.UNPROVEN])
def test_an_absent_branch_of_a_commit_is_asked_about_and_then_noted(place: Place, proof: Finding) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank)
    place.die()
    place.bank.proof = proof
    report = place.run()
    assert (report.proved, report.committed) == ([f"{gid}.0"], [])
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


def test_an_outcome_against_the_decision_is_an_error_in_the_log_once_and_a_gauge_until_it_is_forgotten(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank)
    place.die()
    place.bank.proof = Finding.PROVED_ABORTED
    for _ in range(2):
        place.run()
    (logged,) = caplog.records
    assert (logged.levelname, logged.getMessage()) == (
        "ERROR",
        f"{gid}: bank was rolled back, although the decision is commit: repair it, then: troth tx forget {gid}",
    )
    assert place.core.metrics.heuristics == 1
    assert 'troth_2pc_heuristics{coordinator="x"} 1' in place.core.metrics.text("x")
    place.log.forget(gid, "operator")
    place.run()
    assert 'troth_2pc_heuristics{coordinator="x"} 0' in place.core.metrics.text("x")


def test_a_pass_that_cannot_read_what_went_against_decisions_keeps_the_gauge(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread() -> list[Heuristic]:
        raise StorageError("no disk")

    place.core.metrics.heuristics = 3
    monkeypatch.setattr(place.log, "heuristics", unread)
    place.run()
    assert (place.core.metrics.heuristics, place.core.metrics.passes) == (3, 1)


def test_what_cannot_be_written_down_keeps_no_other_from_being_noted_and_is_found_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed, whole = name(place.other, 1), name(place.other, 2)
    decided(place.other, mixed, place.bank)
    decided(place.other, whole, place.stock)
    place.die()
    place.bank.proof, place.stock.proof = Finding.PROVED_ABORTED, Finding.PROVED_COMMITTED
    with monkeypatch.context() as patched:
        patched.setattr(place.log, "note_heuristic", no_room)
        report = place.run()
    assert (report.heuristic, report.left, report.proved) == ([], [f"{mixed}.0"], [f"{whole}.0"])
    assert "no room" in report.unreachable["log of me"]
    assert [commit.gid for commit in place.log.unapplied()] == [mixed]
    assert place.run().heuristic == [f"{mixed}.0"]
    assert place.log.unapplied() == []


def no_room(noted: Heuristic) -> bool:
    raise StorageError("no room")


def test_what_is_dealt_with_is_no_news_and_what_another_database_has_done_is(place: Place) -> None:
    gid = name(place.other)
    prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    place.bank.states[f"{gid}.0"], place.bank.proof = "rolled back", Finding.PROVED_ABORTED
    place.stock.is_up = False
    assert place.run().heuristic == [f"{gid}.0"]
    assert place.log.forget(gid, "operator")
    assert [place.run().heuristic for _ in range(2)] == [[], []]
    place.stock.is_up = True
    place.stock.states[f"{gid}.1"], place.stock.proof = "rolled back", Finding.PROVED_ABORTED
    assert place.run().heuristic == [f"{gid}.1"]
    assert [each.participant for each in place.log.heuristics()] == ["stock"]
    assert place.log.unapplied() == []
    assert place.core.metrics.recovered["heuristic"] == 2


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


def test_a_doubt_is_kept_until_its_decision_is_applied(place: Place) -> None:
    gid = name(place.log)
    record = decided(place.log, gid, place.bank)
    place.core.leave_in_doubt(gid, record)
    place.bank.is_up = False
    place.run()
    assert place.core.all_in_doubt() == [(gid, record)]
    place.bank.is_up, place.bank.proof = True, Finding.PROVED_COMMITTED
    place.run()
    assert place.core.all_in_doubt() == []


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


def no_answer(*arguments: object, **named: object) -> Finding:
    raise OSError("too many connections")


@pytest.mark.parametrize("call", ["finish", "detach"])
def test_a_database_that_does_not_answer_has_not_said_that_it_does_not_know_a_branch(
    call: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else it would be noted as applied, and stay prepared."""
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank)
    place.die()
    place.bank.held[branch] = 1
    with monkeypatch.context() as patch:
        patch.setattr(place.bank, call, no_answer)
        report = place.run()
        assert report.left == [branch]
        assert report.unreachable == {"bank": "too many connections"}
        assert [record.gid for record in place.log.unapplied()] == [gid]
    assert place.run().committed == [branch]


def test_a_database_that_does_not_answer_proves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = name(place.other)
    decided(place.other, gid, place.bank)
    place.die()
    with monkeypatch.context() as patch:
        patch.setattr(place.bank, "prove", no_answer)
        assert place.run().left == [f"{gid}.0"]
    assert [record.gid for record in place.log.unapplied()] == [gid]


def test_a_database_that_cannot_be_listed_keeps_no_other_from_being_finished(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (branch,) = prepared(name(place.other), place.stock)
    place.die()
    monkeypatch.setattr(place.bank, "prepared", no_answer)
    report = place.run()
    assert report.rolled_back == [branch]
    assert "too many connections" in report.unreachable["bank"]


def test_a_branch_that_is_left_keeps_no_other_of_its_database_from_being_finished(place: Place) -> None:
    (kept,) = prepared(name(place.other), place.bank)
    (branch,) = prepared(name(place.log), place.bank)
    report = place.run()
    assert (report.left, report.rolled_back) == ([kept], [branch])


def test_what_is_known_of_a_part_of_the_log_that_is_damaged_now_is_left(place: Place, tmp_path: Path) -> None:
    """Its coordinator may live, and have decided more than can be read."""
    gid = name(place.other)
    decided(place.other, gid, place.bank)
    place.run()
    decided(place.other, name(place.other, 2), place.stock)
    decided(place.other, name(place.other, 3), place.stock)
    (damaged,) = (tmp_path / "other").glob("decisions-*.log")
    content = bytearray(damaged.read_bytes())
    content[content.index(b"T1.", content.index(gid.encode()) + 40)] ^= 1
    damaged.write_bytes(content)
    place.die()
    place.bank.sessions = [place.other.epoch]
    assert list(place.run().unreachable) == ["log of other"]
    assert (place.bank.proofs, place.bank.sessions) == ([], [place.other.epoch])


# ---- the last resource ----


@pytest.mark.parametrize("is_of_an_earlier_run", [False, True])
def test_the_last_resource_of_our_own_past_is_made_to_refuse(is_of_an_earlier_run: bool, place: Place) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    decided(place.log, gid, place.bank, delegate="stock")
    if is_of_an_earlier_run:
        place.core.epoch = place.log.renew()
    assert place.run().rolled_back == [branch]
    assert place.stock.refusals[0] is True
    assert place.verdict(gid) is Verdict.ABORT


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
