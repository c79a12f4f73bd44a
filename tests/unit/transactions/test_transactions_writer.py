"""What a process writes of its own place, and what it believes of it, once something has gone wrong there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import BranchRef, Commit, Heuristic, Member
from troth.errors import NotApplied, StorageError, SyncFailed, UsageError
from troth.transactions.log import file, framing, place, writer
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided
from troth.transactions.log.writer import Writer


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


def test_each_of_a_batch_that_was_fenced_is_told_its_own_verdict(tmp_path: Path) -> None:
    log, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    first, second = record(log, 1), record(log, 2)
    log.decide([first])
    assert other.close_epoch("a", even_if_alive=True)
    assert log.decide([first, second]) == [
        Decided(Verdict.COMMIT, first.gid),
        Decided(Verdict.ABORT, second.gid),
    ]
    log.close()
    other.close()


def test_of_a_batch_that_could_not_be_written_what_stands_is_told_as_it_stands(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    first, bad = record(log, 1), Commit(log.epoch.name(2), (), cast(Any, None))
    log.decide([first])
    told, refused = log.decide([first, bad])
    assert told == Decided(Verdict.COMMIT, first.gid)
    assert isinstance(refused, NotApplied)
    log.close()


def test_who_is_cut_short_while_it_opens_another_epoch_gives_the_place_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the next file is there it does not know; others finish what is prepared."""
    log = FileLog(tmp_path, coordinator="a")
    open_next = log._place.open_next

    def cut_short(opener: place.Opener, **named: Any) -> int:
        os.close(open_next(opener, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr(log._place, "open_next", cut_short)
    with pytest.raises(KeyboardInterrupt):
        log.renew()
    (refused,) = log.decide([record(log, 1)])
    assert isinstance(refused, NotApplied) and "KeyboardInterrupt" in str(refused)
    FileLog(tmp_path, coordinator="a").close()
    log.close()


def test_a_start_that_is_interrupted_keeps_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(*arguments: Any, **named: Any) -> Writer:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(file, "Writer", cut_short)
        with pytest.raises(KeyboardInterrupt) as kept:  # the traceback has the log, as that of a shell would
            FileLog(tmp_path, coordinator="a")
    FileLog(tmp_path, coordinator="a").close()
    assert kept


def test_a_child_closes_the_log_of_its_parent_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path)
    first = record(log, 1)
    log.decide([first])
    log.note_applied([first.gid])
    monkeypatch.setattr(os, "getpid", lambda: 1)
    log.close()


def test_a_file_that_could_not_be_shortened_for_want_of_a_descriptor_is_shortened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "AHEAD_BYTES", 512)
    log = FileLog(tmp_path, coordinator="a", compact_bytes=1)
    real, tries = os.open, []

    def full(path: Any, flags: int, *rest: int) -> int:
        if flags & os.O_EXCL:
            tries.append(path)
            raise OSError(24, "Too many open files")
        return real(path, flags, *rest)

    decided = [record(log, number) for number in range(1, 30)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        for each in decided[:10]:
            assert log.decide([each]) == [Decided(Verdict.COMMIT, each.gid)]
    assert log._place.numbers() == [1]
    assert 0 < len(tries) < 5, "it may cost as much as the file is long, so not with each decision"
    for each in decided[10:]:
        assert log.decide([each]) == [Decided(Verdict.COMMIT, each.gid)]
    assert log._place.number > 1
    assert log.unapplied() == decided
    log.close()


def test_a_file_that_could_not_be_shortened_behind_its_claim_ends_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next file's name fences it off. What was decided stands, and the place is free for who finishes it."""
    log = FileLog(tmp_path, coordinator="a", compact_bytes=1)
    first, second = record(log, 1), record(log, 2)

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        assert log.decide([first]) == [Decided(Verdict.COMMIT, first.gid)]
    (refused,) = log.decide([second])
    assert isinstance(refused, NotApplied) and "Input/output" in str(refused)
    following = FileLog(tmp_path, coordinator="a")
    assert following.unapplied() == [first]
    following.close()
    log.close()


def test_a_decision_with_a_key_that_may_be_written_is_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path, coordinator="a")
    first = record(log, 1, key="order-1")

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        with pytest.raises(SyncFailed):
            log.decide([first])
    log.close()
    following = FileLog(tmp_path, coordinator="a")
    assert following.unapplied() == [first]
    following.close()
