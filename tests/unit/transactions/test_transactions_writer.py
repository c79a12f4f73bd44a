"""What a process writes of its own place, and what it believes of it, once something has gone wrong there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import BranchRef, Commit, Heuristic, Member
from troth.errors import StorageError, UsageError
from troth.transactions.log import framing
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided


def gid_of(log: FileLog, sequence: int) -> Gid:
    return Gid(log.log_id, log.epoch.coordinator, log.epoch.number, sequence)


def record(log: FileLog, sequence: int, *, key: str = "", delegate: str = "") -> Commit:
    name = log.epoch.name(sequence)
    return Commit(name, (BranchRef("bank", f"{name}.0"),), key=key, delegate=delegate)


def interrupted(write: Callable[[], Any], log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """*write* is cut short by Ctrl-C once it is on the disk."""
    file = log._writer._file
    real = file.sync

    def cut_short() -> None:
        real()
        raise KeyboardInterrupt

    monkeypatch.setattr(file, "sync", cut_short)
    with pytest.raises(KeyboardInterrupt):
        write()


def test_whoever_asks_for_the_holder_of_a_key_is_told_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last write was cut short behind its sync; and the next process has the place since."""
    log = FileLog(tmp_path, coordinator="a")
    first = record(log, 1, key="order-1")
    interrupted(lambda: log.decide([first]), log, monkeypatch)
    assert log.holder_of("order-1") == first.gid
    following = FileLog(tmp_path, coordinator="a")
    second = record(following, 1, key="order-2")
    following.decide([second])
    assert log.holder_of("order-2") == second.gid
    following.close()
    log.close()


def test_what_is_noted_is_told_as_the_file_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(tmp_path, coordinator="a")
    noted = Heuristic(log.epoch.name(1), "bank", "rolled back")
    interrupted(lambda: log.note_heuristic(noted), log, monkeypatch)
    assert log.heuristics() == [noted]
    following = FileLog(tmp_path, coordinator="a")
    member = Member("bank", "postgresql", "1")
    following.register([member])
    assert log.members()["a"] == {"bank": member}
    assert following.forget(noted.gid, "operator")
    assert log.heuristics() == []
    following.close()
    log.close()


def test_a_process_that_was_fenced_and_begins_nothing_goes_on_taking_notes(tmp_path: Path) -> None:
    """Nobody but it would ever renew its epoch, and what a pass of its recovery has found would be told to nobody."""
    log, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    delegated, left = record(log, 1, delegate="lite"), record(log, 2)
    log.decide([delegated, left])
    undecided = log.epoch.name(3)
    for number, note in enumerate(
        [
            lambda: log.note_heuristic(Heuristic(left.gid, "bank", "rolled back")),
            lambda: log.register([Member("bank", "postgresql", "1")]),
            lambda: log.forget(left.gid, "operator"),
        ]
    ):
        assert other.close_epoch("a", even_if_alive=True)
        note()
        assert log.epoch.number == 2 * number + 3, "in an epoch of its own again"
    assert other.heuristics() == []
    assert other.members()["a"] == {"bank": Member("bank", "postgresql", "1")}
    (answer,) = log.decide([Commit(undecided, ())])
    assert answer == Decided(Verdict.ABORT, undecided), "which was closed in between"
    log.close()
    other.close()


@pytest.mark.parametrize("reason", ["fault", "fork", "closed"])
def test_no_epoch_is_opened_in_a_place_that_is_not_ours_any_more(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would close that of whoever has the place now: of the next process, or of a child's parent."""
    log = FileLog(tmp_path, coordinator="a")
    match reason:
        case "fault":
            interrupted(lambda: log.decide([record(log, 1)]), log, monkeypatch)
        case "fork":
            monkeypatch.setattr(os, "getpid", lambda: 1)
        case _:
            log.close()
    with pytest.raises(UsageError if reason == "fork" else StorageError):
        log.renew()
    assert [path.name for path in (tmp_path / "a").glob("decisions-*")] == [framing.file_name(1)]
    monkeypatch.undo()
    log.close()


def test_a_refusal_is_not_written_behind_a_note_that_it_is_applied(tmp_path: Path) -> None:
    """The one who fenced us was told meanwhile that it is applied: no log can say both."""
    log, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    first, second = record(log, 1, delegate="lite"), record(log, 2, delegate="lite")
    log.decide([first, second])
    log._hold.let_go()
    assert other.close_epoch("a")
    other.note_applied([first.gid])
    log._writer.is_fenced = True
    log.note_refused(first.gid)
    log.note_refused(second.gid)
    for reader in (log, other, FileLog(tmp_path, coordinator="c")):
        parsed = [Gid(log.log_id, "a", 1, number) for number in (1, 2)]
        assert [reader.verdict(gid) for gid in parsed] == [Verdict.COMMIT, Verdict.ABORT]
        reader.close()
