"""What transactions of one process share: the open epoch, a log that fails, and what is known of those that ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from recovering import OVER, Place, claimed, decided, name, prepared  # noqa: E402

from troth.core.twophase.cells import Verdict  # noqa: E402
from troth.core.twophase.records import BranchRef, Commit, Heuristic, Member  # noqa: E402
from troth.core.twophase.table import Event, Finding  # noqa: E402
from troth.errors import HeuristicMixed, NotApplied, StorageError, UsageError  # noqa: E402
from troth.transactions import core as core_module  # noqa: E402
from troth.transactions import remembered  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit, register_members  # noqa: E402
from troth.transactions.core import APPLIED_AT_ONCE  # noqa: E402
from troth.transactions.log import place as files  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402
from troth.transactions.participants.base import Facts  # noqa: E402


def test_who_begins_after_the_log_has_failed_is_told_why(place: Place) -> None:
    """Also if nothing of what it was handed then was written: what begins would prepare, and have nobody to decide."""
    first, second = place.core.next_gid(), place.core.next_gid()
    place.log._writer.fault = StorageError("the disk is full")
    with pytest.raises(NotApplied, match="disk is full"):
        place.core.decide(Commit(first, ()))
    with pytest.raises(StorageError, match="disk is full"):
        place.core.next_gid()
    with pytest.raises(NotApplied, match="disk is full"):
        place.core.decide(Commit(second, ()))


def test_an_epoch_that_the_log_has_opened_itself_is_gone_on_in(place: Place) -> None:
    """It does so when whoever fenced it has died: to open one more would close it under others."""
    opened = place.log.renew()
    assert place.core.next_gid() == opened.name(OVER + 1)
    assert place.log.epoch == place.core.epoch == opened


def test_a_decision_stands_whether_or_not_it_could_be_noted_what_is_applied(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(gids: Sequence[str]) -> None:
        raise StorageError("as asked")

    monkeypatch.setattr(place.log, "note_applied", refused)
    gid = place.core.next_gid()
    for sequence in range(APPLIED_AT_ONCE):
        place.core.note_applied(place.core.epoch.name(100 + sequence))
    assert place.core.decide(Commit(gid, ())).verdict is Verdict.COMMIT


def test_how_many_names_were_dropped_is_kept_when_none_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "UNFINISHED_MAX", 2)
    gids = [place.core.next_gid() for _ in range(4)]
    for gid in gids[:3]:
        place.core.ended(gid, "committed", alone=True)
    place.core.ended(gids[3], "committed", only_read=True)
    assert place.core.outcome(gids[0]) is Outcome.UNRECORDED
    in_doubt = [place.core.next_gid() for _ in range(3)]
    for gid in (*in_doubt, in_doubt[2]):
        place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
        place.core.ended(gid, "in_doubt")
    assert place.core.outcome(in_doubt[0]) is Outcome.OPEN


def test_a_lone_writers_database_is_asked_until_it_says_how_it_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session may still be at the commit whose answer was lost."""
    monkeypatch.setattr(core_module, "PROVE_PAUSE_S", 0)
    said = [Finding.UNREACHED, Finding.UNREACHED, Finding.PROVED_COMMITTED]
    monkeypatch.setattr(place.bank, "prove", lambda proof: said.pop(0))

    class Branch:
        participant, proof = place.bank, "742"

    assert place.core.prove_alone(place.core.next_gid(), Branch()) is Event.RESOURCE_COMMITTED  # type: ignore[arg-type]


def test_whom_to_ask_about_lone_writers_is_kept_within_bounds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "UNFINISHED_MAX", 2)

    class Branch:
        participant, proof = place.bank, "742"

    gids = [place.core.next_gid() for _ in range(4)]
    for gid in gids:
        place.core.keep_proof(gid, Branch())  # type: ignore[arg-type]
    assert list(place.core._unproved) == gids[-2:]


def test_a_last_resource_out_of_reach_has_said_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    decided(place.log, gid, place.bank, delegate="stock")

    def away(gid: str, *, refuse: bool) -> bool | None:
        raise sa.exc.OperationalError("SELECT", None, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(place.stock, "marker", away)
        assert place.core.outcome(gid) is Outcome.OPEN
        assert place.run().left == [branch]
    place.stock.marker_says = True
    assert place.run().committed == [branch]


def test_a_marker_that_is_gone_is_no_commit_if_it_was_refused_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markers go when their transactions are applied; but between two looks somebody may have noted a refusal."""
    gid = name(place.log)
    decided(place.log, gid, place.bank, delegate="stock")

    def refused_meanwhile(gid: str, *, refuse: bool) -> bool | None:
        place.log.note_refused(gid)
        return None

    monkeypatch.setattr(place.stock, "marker", refused_meanwhile)
    assert place.core.outcome(gid) is Outcome.ABORTED


def test_a_marker_that_is_gone_is_a_commit_if_that_was_applied_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = name(place.log)
    decided(place.log, gid, place.bank, delegate="stock")

    def applied_meanwhile(gid: str, *, refuse: bool) -> bool | None:
        place.log.note_applied([gid])
        return None

    monkeypatch.setattr(place.stock, "marker", applied_meanwhile)
    assert place.core.outcome(gid) is Outcome.COMMITTED


def test_what_its_last_resource_has_not_said_is_open_while_its_owner_shortens_its_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it an answer to who tries again under its key: it may yet be refused."""
    gid = name(place.other)
    place.other.decide([Commit(gid, (), "order-1", "stock")])
    real = place.log.unapplied

    def meanwhile(*arguments: Any) -> list[Commit]:
        claim = claimed(place.other)
        place.log.coordinators()  # another thread looks there
        try:
            return real(*arguments)
        finally:
            claim.unlink()

    monkeypatch.setattr(place.log, "unapplied", meanwhile)
    assert place.core.outcome(gid) is Outcome.OPEN
    with pytest.raises(NotApplied, match="has not said how it ends"):
        place.core.decide(Commit(place.core.next_gid(), (), "order-1"))


def test_databases_are_let_go_though_the_log_cannot_be_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    for database in (place.bank, place.stock):
        monkeypatch.setattr(database, "close", lambda database=database: closed.append(database.name))

    def refused() -> None:
        raise StorageError("as asked")

    monkeypatch.setattr(place.log, "close", refused)
    place.core.waiting.blocking(place.core._close)
    assert closed == ["bank", "stock"]


def test_what_is_applied_is_told_to_the_log_at_the_end(place: Place, tmp_path: Path) -> None:
    gid = name(place.log)
    decided(place.log, gid, place.bank)
    place.core.note_applied(gid)
    place.core.waiting.blocking(place.core._close)
    again = FileLog(tmp_path, coordinator="me")
    assert again.unapplied() == []
    again.close()


def test_a_second_phase_has_company_to_wait_for_when_the_others_have_left(place: Place) -> None:
    first, second = place.core.next_gid(), place.core.next_gid()
    for gid in (first, second):
        place.core.entered(gid)
    assert place.core.company_for(first) is None
    place.core.entered(first)
    place.core.left(first)
    assert place.core.company_for(second) is not None


def test_a_known_name_is_another_database_only_when_nothing_waits_for_the_one_before(place: Place) -> None:
    place.log.register([Member("bank", "memory", "the one")])
    another = {"bank": Facts("another", ())}
    gid = name(place.log)
    decided(place.log, gid, place.bank)
    with pytest.raises(StorageError, match="the log knows bank as the one"):
        register_members(place.log, [place.bank], another)  # type: ignore[list-item]
    place.log.note_applied([gid])
    register_members(place.log, [place.bank], another)  # type: ignore[list-item]
    assert place.log.members()["me"]["bank"].identity == "another"


def test_a_known_name_is_no_other_database_while_nobody_knows_what_waits_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLE_TIMES", 1)
    place.other.register([Member("bank", "memory", "the one")])
    decided(place.other, name(place.other), place.bank)
    place.die()
    claimed(place.other)
    with pytest.raises(StorageError, match="began to take this place over"):
        register_members(place.log, [place.bank], {"bank": Facts("another", ())})  # type: ignore[list-item]


def test_a_name_means_what_the_coordinator_of_a_decision_has_meant_by_it(place: Place) -> None:
    """After a failover a place that was held before says something else, which no decision depends on any more."""
    old, new = ({"bank": Facts(identity, ())} for identity in ("server 1", "server 2"))
    place.log.register([Member("bank", "memory", "server 1")])
    place.other.register([Member("bank", "memory", "server 2")])
    for number, delegate in enumerate(("", "bank"), 1):
        gid = name(place.other, number)
        decided(place.other, gid, *(() if delegate else (place.bank,)), delegate=delegate)
        for _ in range(2):
            register_members(place.log, [place.bank], new)  # type: ignore[list-item]
            with pytest.raises(StorageError, match="knows bank as server 2, and now it is server 1"):
                register_members(place.log, [place.bank], old)  # type: ignore[list-item]
        place.other.note_applied([gid])
    decided(place.other, name(place.other, 3), place.stock)
    register_members(place.log, [place.bank], old)  # type: ignore[list-item]
    assert place.log.members()["me"]["bank"].identity == "server 1", "the decision does not name it"


def test_a_part_of_the_log_that_is_damaged_keeps_nobody_who_means_the_same_from_starting(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLE_TIMES", 1)
    place.log.register([Member("bank", "memory", "server 1")])
    place.other.register([Member("bank", "memory", "server 2")])
    place.die()
    third = FileLog(tmp_path, coordinator="third")
    claimed(place.other)
    with pytest.raises(StorageError, match="began to take this place over"):
        register_members(third, [place.bank], {"bank": Facts("server 1", ())})  # type: ignore[list-item]
    register_members(third, [place.bank], {"bank": Facts("server 2", ())})  # type: ignore[list-item]
    third.close()


def test_what_somebody_finished_by_hand_is_told_before_the_decision(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        gid = tpc._core.next_gid()
        tpc._core.decide(Commit(gid, ()))
        assert tpc.outcome(gid) is Outcome.COMMITTED
        tpc.log.note_heuristic(Heuristic(gid, "last", "rolled back"))
        with pytest.raises(HeuristicMixed, match="last was rolled back"):
            tpc.outcome(gid)
        other = tpc._core.next_gid()
        tpc._core.decide(Commit(other, ()))
        assert tpc.outcome(other) is Outcome.COMMITTED
    with pytest.raises(UsageError, match="closed"):
        tpc.begin()
