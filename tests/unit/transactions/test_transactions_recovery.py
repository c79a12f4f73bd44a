"""Passes of recovery: what the cells say, whose sessions are ended, how often it looks, and what is told of it."""

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from recovering import OVER, Database, Place, claimed, decided, name, prepared

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Epoch, Gid
from troth.core.twophase.records import Abort, Commit
from troth.core.twophase.table import Finding
from troth.errors import StorageError
from troth.transactions.log import place as files
from troth.transactions.log.file import FileLog
from troth.transactions.metrics import Metrics
from troth.transactions.participants.base import Prepared
from troth.transactions.participants.named import Participants
from troth.transactions.resolver import DETACHES_MAX, LOOKS_MAX
from troth.transactions.snapshot import _standing as standing

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


@pytest.mark.parametrize("sequence", [1, OVER + 1])
def test_without_a_cell_it_is_rolled_back_once_the_epoch_is_closed(sequence: int, place: Place) -> None:
    """The closing is what makes "no cell" final: the owner, if it only sleeps, can write none any more."""
    gid = name(place.other, sequence)
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
    assert place.run().left == [branch], "it has just decided, and tells the branch itself"
    assert place.bank.states[branch] == "prepared"
    assert place.run().committed == [branch], "decided for a whole pause between passes, and not told"


@pytest.mark.parametrize("in_the_background", [False, True])
def test_what_ends_while_a_database_lists_it_is_left_to_its_owner(
    in_the_background: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or under load each pass would take what is just ending for left behind, and connect to tell it once more."""
    log, core = place.log, place.core
    gid = core.next_gid()
    core.entered(gid)
    (branch,) = prepared(gid, place.bank)
    decided(log, gid, place.bank)
    if in_the_background:
        core.ended(gid, "committed")
    look, told = place.bank.prepared, []

    def listed() -> list[Prepared]:
        found = look()
        place.bank.states[branch] = "committed"
        core.note_applied(gid)
        core.left(gid)
        core.ended(gid, "committed")
        return found

    monkeypatch.setattr(place.bank, "prepared", listed)
    monkeypatch.setattr(place.bank, "finish", lambda branch, *, commit: told.append(branch))
    assert place.run().committed == []
    assert (told, place.bank.proofs) == ([], [])


def test_what_begins_while_a_database_lists_it_is_left_to_its_owner(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, begun = place.bank.prepared, []

    def listed() -> list[Prepared]:
        gid = place.core.next_gid()
        begun.extend(prepared(gid, place.bank))
        decided(place.log, gid, place.bank)
        return look()

    monkeypatch.setattr(place.bank, "prepared", listed)
    report = place.run()
    assert begun[0] in report.left


def test_what_ends_while_unapplied_decisions_are_looked_at_is_not_asked_about(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = place.core.next_gid()
    place.core.entered(gid)
    decided(place.log, gid, place.bank)
    unapplied = place.core.unapplied

    def ending(unread: dict[str, str]) -> list[Commit]:
        found = unapplied(unread)
        place.core.left(gid)
        place.core.ended(gid, "committed")
        return found

    monkeypatch.setattr(place.core, "unapplied", ending)
    place.run()
    assert place.bank.proofs == []


def test_what_goes_on_under_an_epoch_of_before_is_left_to_its_owner(place: Place) -> None:
    gid = place.core.next_gid()
    place.core.entered(gid)
    decided(place.log, gid, place.bank)
    place.log.renew()
    place.core.next_gid()
    place.run()
    assert place.bank.proofs == []
    place.core.left(gid)
    place.core.ended(gid, "committed")
    place.run()
    assert place.bank.proofs == ["proof 0"]


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


def test_an_abort_by_an_operator_is_no_open_cell(place: Place) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    assert place.log.abort(Abort(gid, "operator")) is Verdict.ABORT
    assert place.run().rolled_back == [branch]


def test_a_damaged_log_of_one_coordinator_leaves_the_others_to_be_recovered(place: Place, tmp_path: Path) -> None:
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
    assert place.run().sessions_ended == 0, "its owner lives"
    place.die()
    assert place.run().sessions_ended == 2
    assert place.bank.sessions == place.stock.sessions == sessions[1:]


def test_sessions_of_our_own_earlier_epochs_are_ended(place: Place) -> None:
    mine = place.log.renew()
    place.core.epoch = mine
    place.bank.sessions = [Epoch(mine.log, "me", mine.number - 1), mine]
    assert place.run().sessions_ended == 1
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
    report = place.run()
    assert (report.committed, report.proved) == ([two], [one]), "the one is proved again, as it is not noted"
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


# ---- a pass as a whole ----


def test_a_pass_closes_fences_and_only_then_resolves(place: Place) -> None:
    gid = name(place.other)
    branch, _ = prepared(gid, place.bank, place.stock)
    place.die()
    seen: list[Sequence[object]] = []
    place.core.on_step = lambda step: seen.append((step, place.bank.states[branch]))  # type: ignore[misc]
    place.run()
    assert seen[0] == ("fenced", "prepared")
    steps = ["fenced", "before_resolve", "after_first_resolve", "before_resolve", "resolved"]
    assert [step for step, _ in seen] == steps
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


def test_a_name_stays_within_its_label() -> None:
    metrics = Metrics(in_doubt={'a "bank"': 1})
    assert 'in_doubt{coordinator="a\\\\b\\n\\"c\\"",participant="a \\"bank\\""} 1' in metrics.text('a\\b\n"c"')


def test_a_branch_is_counted_once_however_often_it_is_met(place: Place) -> None:
    """Each pass asks again about what is done of a transaction, until all of it is."""
    gid = name(place.other)
    lost, told, last = prepared(gid, place.bank, place.stock, third := Database("third"))
    databases: list[Any] = [place.bank, place.stock, third]
    place.core.participants = Participants(databases, place.core.waiting)
    decided(place.other, gid, place.bank, place.stock, third)
    place.die()
    place.bank.states[lost], place.bank.proof = "rolled back", Finding.PROVED_ABORTED
    third.held[last] = 99
    reports = [place.run() for _ in range(3)]
    assert [report.left for report in reports] == [[last]] * 3, "it is listed, and decided: one branch"
    assert [report.in_doubt for report in reports] == [1, 1, 1]
    assert [report.committed for report in reports] == [[told], [], []]
    assert [report.heuristic for report in reports] == [[lost], [], []]
    third.held.clear()
    assert place.run().left == []
    assert place.core.metrics.recovered == Counter(committed=2, heuristic=1)


def test_what_was_left_and_then_done_is_not_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = name(place.other)
    (branch,) = prepared(gid, place.bank)
    decided(place.other, gid, place.bank)
    place.die()
    place.bank.held[branch] = DETACHES_MAX + 1
    report = place.run()
    assert (report.left, report.committed) == ([], [branch])


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
    report = place.run()
    assert (len(report.proved), report.committed) == (3, [])
    assert {shared for _, shared in sharing} == {0}, "nothing is told"
    one, two = prepared(found, place.bank, place.stock)
    sharing.clear()
    assert place.run().committed == [one, two]
    told = [shared for call, shared in sharing if call == "finish"]
    assert told == [1, 1], "no snapshot between the two"
    assert sharing[0] == ("prepared", 0)
    assert not barrier._sharing


def test_one_pass_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would end each other's sessions, and find absent what the other has just finished."""
    under_way: list[int] = []
    inside = 0
    real = place.bank.prepared

    def looked() -> list[Prepared]:
        nonlocal inside
        inside += 1
        under_way.append(inside)
        time.sleep(0.01)
        inside -= 1
        return real()

    monkeypatch.setattr(place.bank, "prepared", looked)
    threads = [threading.Thread(target=place.recovery.run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(under_way) >= 3 and set(under_way) == {1}


def test_the_end_waits_for_a_pass_that_is_under_way(place: Place) -> None:
    """Or else it would ask a log that is closed."""
    begun, go_on, order = threading.Event(), threading.Event(), list[str]()

    def on_step(step: str) -> None:
        if step == "fenced":
            begun.set()
            assert go_on.wait(5)
            order.append("pass")

    place.core.on_step = on_step
    place.recovery.start(lambda: 60.0)
    assert begun.wait(5)
    stopping = threading.Thread(target=lambda: (place.recovery.stop(), order.append("end")))
    stopping.start()
    stopping.join(0.05)
    go_on.set()
    stopping.join(5)
    assert order == ["pass", "end"]


def test_a_full_disk_keeps_no_pass_from_doing_and_reading_what_needs_no_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is applied is noted for a dead coordinator to spare later passes work, and for nothing else."""
    gid = name(place.other)
    first, second = prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.die()
    place.stock.is_up = False
    assert place.run().committed == [first]

    def full(descriptor: int, content: bytes, at: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    place.stock.is_up = True
    assert place.stock.pruned == []
    report = place.run()
    assert place.stock.pruned, "what comes after it is done"
    assert report.committed == [second] and "No space left" in report.unreachable["log of me"]
    place.stock.states[second] = "prepared"  # a database that failed over brings it back
    report = place.run()
    assert (report.committed, report.left) == ([second], [])


def test_who_only_looks_whether_a_coordinator_lives_needs_no_room(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    place.die()
    monkeypatch.setattr(os, "pwrite", full)
    assert {each.name: each.is_alive for each in place.log.coordinators()} == {"me": True, "other": False}
    with pytest.raises(StorageError, match="Make room"):
        place.log.close_epoch("other")


def test_a_pass_says_whose_decisions_it_has_left_and_goes_on_with_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = name(place.log)
    decided(place.log, gid, place.bank)
    place.bank.proof = Finding.PROVED_COMMITTED
    claimed(place.other)
    report = place.run()
    assert report.proved == [f"{gid}.0"] and "began to take" in report.unreachable["log of other"]
    unread: dict[str, str] = {}
    monkeypatch.setattr(files, "time", None)  # and waits for nobody
    assert place.log.unapplied(unread) == [] and list(unread) == ["other"]
