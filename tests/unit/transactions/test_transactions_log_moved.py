"""A name in the embedded log is not a file: numbers that come again, and logs that are moved, removed or replaced."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Commit
from troth.errors import NotApplied, StorageError
from troth.transactions.log import framing, place
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided


def removed(log: Path) -> None:
    shutil.rmtree(log)


def moved(log: Path) -> None:
    log.rename(log.with_name("away"))


def its_place_removed(log: Path) -> None:
    shutil.rmtree(log / "a")


def its_files_removed(log: Path) -> None:
    for each in (log / "a").glob("decisions-*"):
        each.unlink()


def its_file_replaced(log: Path) -> None:
    """By what a backup had of it."""
    (file,) = (log / "a").glob("decisions-*")
    shutil.copy(file, log / "backup")
    (log / "backup").rename(file)


def linked_to_a_copy(log: Path) -> None:
    disk = log.readlink()
    shutil.copytree(disk, disk.with_name("copy"))
    log.unlink()
    log.symlink_to(disk.with_name("copy"))


@pytest.mark.parametrize("is_begun_anew", [False, True])
@pytest.mark.parametrize(
    "how", [removed, moved, its_place_removed, its_files_removed, its_file_replaced, linked_to_a_copy]
)
def test_a_process_whose_log_is_not_where_it_was_decides_nothing_any_more(
    how: Callable[[Path], None], is_begun_anew: bool, tmp_path: Path
) -> None:
    """Others read what is there now, and not what it writes."""
    disk, path = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    path.symlink_to(disk)
    if how is not linked_to_a_copy:
        path.unlink()
    log = FileLog(path, coordinator="a")
    gids = [log.epoch.name(number) for number in range(1, 5)]
    assert log.decide([Commit(gids[0], ())]) == [Decided(Verdict.COMMIT, gids[0])]
    how(path)
    another = FileLog(path, coordinator="b") if is_begun_anew else None
    if another is not None and not (path / "a" / "holder").exists():
        FileLog(path, coordinator="a").close()
    with pytest.raises(StorageError, match="moved, removed or replaced under this process"):
        log.decide([Commit(gids[1], ())])
    for gid in gids[:2]:
        with pytest.raises(StorageError, match="put the log back and start again"):
            log.verdict(Gid(log.log_id, "a", 1, int(gid.rpartition(".")[2])))
    (refused,) = log.decide([Commit(gids[2], ())])
    assert isinstance(refused, NotApplied)
    with pytest.raises(StorageError, match="put the log back"):
        log.renew()
    log.close()
    if another is not None:
        assert another.decide([Commit(another.epoch.name(1), ())])[0] == Decided(
            Verdict.COMMIT, another.epoch.name(1)
        )
        another.close()


def test_a_lock_file_that_was_cleared_away_costs_an_epoch_at_most(tmp_path: Path) -> None:
    """Locks are hints. Whoever comes has the place too, closes the epoch, and is fenced off in its turn."""
    log = FileLog(tmp_path / "log", coordinator="a", compact_bytes=1)
    (tmp_path / "log" / "a" / "holder").unlink()
    first = log.epoch.name(1)
    assert log.decide([Commit(first, ())]) == [Decided(Verdict.COMMIT, first)]
    another = FileLog(tmp_path / "log", coordinator="b")
    assert another.close_epoch("a")
    late = log.epoch.name(2)
    assert log.decide([Commit(late, ())]) == [Decided(Verdict.ABORT, late)]
    renewed = log.renew().name(3)
    assert log.decide([Commit(renewed, ())]) == [Decided(Verdict.COMMIT, renewed)]
    for reader in (log, another):
        assert [reader.verdict(Gid(log.log_id, "a", 1, number)) for number in (1, 2)] == [
            Verdict.COMMIT,
            Verdict.ABORT,
        ]
        reader.close()


def test_a_successor_that_cannot_be_seen_may_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(tmp_path / "log", coordinator="a")
    successor = str(log._place.path(log._place.number + 1))
    real = os.stat

    def stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if str(path) == successor:
            raise PermissionError(13, "not allowed", path)
        return real(path, *arguments, **named)

    assert not log._place.is_superseded(log._place.number, log._writer._file.fileno())
    monkeypatch.setattr(os, "stat", stat)
    assert log._place.is_superseded(log._place.number, log._writer._file.fileno())
    monkeypatch.undo()
    log.close()


def test_who_opens_another_epoch_in_a_log_that_is_not_its_own_leaves_that_alone(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "log", coordinator="a")
    removed(tmp_path / "log")
    another = FileLog(tmp_path / "log", coordinator="a")
    with pytest.raises(StorageError, match="moved, removed or replaced"):
        log.renew()
    gid = another.epoch.name(1)
    assert another.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    assert another._place.numbers() == [1]
    log.close()
    another.close()


def test_a_log_that_is_replaced_while_a_file_is_shortened_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision stands: it was looked after before."""
    path = tmp_path / "log"
    log = FileLog(path, coordinator="a", compact_bytes=1)
    real = log._place.open_next

    def replaced(opener: place.Opener) -> int:
        its_place_removed(path)
        FileLog(path, coordinator="a").close()
        return real(opener)

    monkeypatch.setattr(log._place, "open_next", replaced)
    gid, later = log.epoch.name(1), log.epoch.name(2)
    assert log.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    (refused,) = log.decide([Commit(later, ())])
    assert isinstance(refused, NotApplied)
    log.close()


def test_a_log_whose_next_file_cannot_be_begun_keeps_what_it_has_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path, coordinator="a", compact_bytes=1)

    def refuse(opener: place.Opener) -> int:
        raise StorageError("it cannot be read")

    monkeypatch.setattr(log._place, "open_next", refuse)
    gid, later = log.epoch.name(1), log.epoch.name(2)
    assert log.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    (refused,) = log.decide([Commit(later, ())])
    assert isinstance(refused, NotApplied)
    log.close()


def listed_before(seen: place.Place, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads *seen* has listed its files, and then been paused until now."""
    real, stale = seen.numbers, [numbers]
    monkeypatch.setattr(seen, "numbers", lambda: stale.pop() if stale else real())


@pytest.mark.parametrize("by", list(place.Opener))
def test_a_number_that_others_have_used_and_removed_is_not_opened_again(
    by: place.Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever creates it was paused after it had listed the files. Those behind it count, an epoch of the old too."""
    owner, late = FileLog(tmp_path, coordinator="a", compact_bytes=1), FileLog(tmp_path, coordinator="b")
    seen = late._other("a")
    seen.refresh()
    for number in range(1, 4):
        owner._writer._compact_bytes = 1
        owner.decide([Commit(owner.epoch.name(number), ())])
    assert owner._place.numbers() == [4]
    listed_before(seen, [1], monkeypatch)
    with pytest.raises(place.Fenced):
        seen.open_next(by)
    assert not seen.path(2).stat().st_size, "and nothing is written there"
    gid = owner.epoch.name(4)
    assert owner.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    assert late.close_epoch("a", even_if_alive=True)
    assert late.verdict(Gid(owner.log_id, "a", 1, 4)) is Verdict.COMMIT
    owner.close()
    late.close()


def test_an_owner_whose_files_name_has_come_again_knows_that_its_file_is_gone(tmp_path: Path) -> None:
    """Two have taken the place over meanwhile, the second has removed what the first had begun; and another, which was
    paused before both, creates the owner's number once more."""
    other = FileLog(tmp_path, coordinator="b")

    def taken_over(step: str) -> None:
        if step == "decision_written":
            assert other.close_epoch("a", even_if_alive=True)
            os.close(other._other("a").open(place.Opener.NOBODY))
            log._place.path(1).touch()
            assert log._place.numbers() == [1, 3]

    log = FileLog(tmp_path, coordinator="a", on_step=taken_over)
    with pytest.raises(place.Fenced):
        log._writer.append([Commit(log.epoch.name(1), ())])
    log.close()
    other.close()


def test_a_reader_takes_an_empty_file_for_none_that_it_has_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has listed the file that it knows and the next, claimed one; that is opened, the first removed, its name comes
    again; and what the reader then finds there says nothing of what was decided meanwhile."""
    owner, other, reader = (FileLog(tmp_path, coordinator=name) for name in "abr")
    seen = reader._other("a")
    seen.refresh()
    gid = owner.epoch.name(1)
    owner.decide([Commit(gid, (), key="k")])
    real = seen._read_from_start

    def opened_meanwhile(number: int) -> bool:
        found = real(number)
        if number == 2 and seen.number == 1 and not seen.path(2).stat().st_size:
            seen.path(2).unlink()
            assert other.close_epoch("a", even_if_alive=True)
            assert seen.path(2).stat().st_size and not seen.path(1).exists()
            seen.path(1).touch()
        return found

    monkeypatch.setattr(seen, "_read_from_start", opened_meanwhile)
    seen.path(2).touch()
    assert seen.refresh()
    assert seen.number == 2 and seen.cells.holder_of("k") == gid
    for log in (owner, other, reader):
        log.close()


def test_a_reader_sees_by_the_list_that_a_number_has_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that it has read as the newest was removed, and so was the next one."""
    owner, reader = FileLog(tmp_path, coordinator="a", compact_bytes=1), FileLog(tmp_path, coordinator="r")
    seen = reader._other("a")
    gid = owner.epoch.name(1)
    real = seen._read_newest

    def gone_meanwhile(numbers: list[int]) -> int:
        found = real(numbers)
        if numbers == [1]:
            for number in range(1, 4):
                owner.decide([Commit(owner.epoch.name(number), ())])
            assert owner._place.number > 2 and not seen.path(2).exists()
            seen.path(1).touch()
        return found

    monkeypatch.setattr(seen, "_read_newest", gone_meanwhile)
    assert seen.refresh()
    assert seen.number > 2 and seen.cells.record_of(gid)
    owner.close()
    reader.close()


def test_a_place_that_was_begun_anew_is_not_taken_for_the_one_that_was_read(tmp_path: Path) -> None:
    reader = FileLog(tmp_path, coordinator="r")
    old = FileLog(tmp_path, coordinator="a")
    gid = old.epoch.name(1)
    old.decide([Commit(gid, ())])
    assert reader.commit_of(Gid(old.log_id, "a", 1, 1))
    its_place_removed(tmp_path)
    new = FileLog(tmp_path, coordinator="a")
    new.decide([Commit(new.epoch.name(2), ())])
    assert reader.commit_of(Gid(old.log_id, "a", 1, 2)), framing.file_name(1)
    for log in (old, new, reader):
        log.close()


def test_a_place_that_was_begun_anew_and_is_behind_is_gone_for_who_has_read_it(tmp_path: Path) -> None:
    """It was told what stood there, and tells nobody now that it was never decided."""
    reader = FileLog(tmp_path, coordinator="r")
    old = FileLog(tmp_path, coordinator="a")
    gid = Gid(old.log_id, "a", old.renew().number, 1)
    old.decide([Commit(str(gid), ())])
    assert reader.verdict(gid) is Verdict.COMMIT
    its_place_removed(tmp_path)
    new = FileLog(tmp_path, coordinator="a")
    for ask in (partial(reader.verdict, gid), partial(reader.close_epoch, "a", even_if_alive=True)):
        with pytest.raises(StorageError, match="are gone"):
            ask()
    with pytest.raises(StorageError, match="are gone"):
        reader._other("a").open(place.Opener.NOBODY)
    assert new._place.numbers() == [1]
    for log in (old, new, reader):
        log.close()


def test_who_was_overtaken_since_it_looked_does_not_shorten_the_file_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = FileLog(tmp_path, coordinator="a", compact_bytes=1), FileLog(tmp_path, coordinator="b")
    real = owner._place.open_next

    def overtaken(opener: place.Opener) -> int:
        assert other.close_epoch("a", even_if_alive=True)
        return real(opener)

    monkeypatch.setattr(owner._place, "open_next", overtaken)
    gid = owner.epoch.name(1)
    assert owner.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    assert owner._writer.is_fenced and owner._place.numbers() == [2]
    owner.close()
    other.close()
