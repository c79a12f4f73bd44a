"""How a file of the embedded log is opened: what can be read of it is on the disk, and stays what it was."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Commit
from troth.errors import Corrupt, StorageError, SyncFailed
from troth.transactions.log import place
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided


def decided(log: FileLog, number: int) -> Gid:
    gid = log.epoch.name(number)
    assert log.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    return Gid(log.log_id, log.epoch.coordinator, log.epoch.number, number)


def broken(*arguments: object) -> None:
    raise OSError(5, "Input/output error")


def drafts(path: Path) -> list[Path]:
    return list(path.glob("*/*.draft"))


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_a_file_that_could_not_be_made_durable_is_believed_by_nobody(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sync would succeed, since the kernel tells of a page that it could not write but once; and a power cut
    takes it back."""
    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    monkeypatch.setattr(place.Place, "_find_room", lambda self, size: None)
    owner, other, reader = (FileLog(tmp_path, coordinator=name) for name in "abr")
    assert other.verdict(Gid(owner.log_id, "a", 1, 1)) is Verdict.OPEN
    with monkeypatch.context() as patched:
        patched.setattr(os, call, broken)
        with pytest.raises(StorageError, match="Input/output error"):
            other.close_epoch("a", even_if_alive=True)
    assert not owner._place.path(2).stat().st_size
    assert not drafts(tmp_path)
    for log in (other, reader):
        with pytest.raises(StorageError, match="has not finished"):
            log.verdict(Gid(owner.log_id, "a", 1, 1))
    gid = owner.epoch.name(1)
    assert owner.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    assert [log.verdict(Gid(owner.log_id, "a", 1, 1)) for log in (other, reader)] == [Verdict.COMMIT] * 2
    for log in (owner, other, reader):
        log.close()


def test_who_could_not_make_the_name_of_its_file_durable_believes_it_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    assert other.verdict(Gid(owner.log_id, "a", 1, 1)) is Verdict.OPEN
    with monkeypatch.context() as patched:
        patched.setattr(place, "sync_directory", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            other.close_epoch("a", even_if_alive=True)
    with pytest.raises(SyncFailed, match="fsync has failed here"):
        other.verdict(Gid(owner.log_id, "a", 1, 1))
    owner.close()
    other.close()


def after(call: str, seen: place.Place, then: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a file of *seen* is paused behind *call*, once, until *then* has been done."""
    real, first = getattr(seen, call), [True]

    def paused(*arguments: object) -> object:
        answer = real(*arguments)
        if first:
            first.clear()
            then()
        return answer

    monkeypatch.setattr(seen, call, paused)


@pytest.mark.parametrize("call", ["_claim", "refresh"])
def test_a_successor_that_was_overtaken_while_it_was_paused_goes_behind_the_others(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim is gone by then, and what it has written under it, or creates it anew, is nobody's."""
    owner, other, reader = (FileLog(tmp_path, coordinator=name) for name in "abr")
    seen = other._other("a")
    seen.refresh()

    def overtaken() -> None:
        for _ in range(2):
            owner.renew()

    after(call, seen, overtaken, monkeypatch)
    first = decided(owner, 1)
    os.close(seen.open(place.Opener.NOBODY))
    assert seen.number == 5 and seen.cells.verdict(first) is Verdict.COMMIT
    assert reader.verdict(first) is Verdict.COMMIT
    assert reader._other("a").number == 5 and not drafts(tmp_path)
    gid = owner.epoch.name(2)
    (answer,) = owner.decide([Commit(gid, ())])
    assert answer == Decided(Verdict.ABORT, gid)
    for log in (owner, other, reader):
        log.close()


def test_what_a_process_that_died_has_left_is_tidied_up(tmp_path: Path) -> None:
    log = FileLog(tmp_path, coordinator="a")
    gid = decided(log, 1)
    log._place.path(2).touch()
    for number in (2, 3):  # of the second the power cut has taken the claim
        log._place._draft(number).write_bytes(b"half")
    log.renew()
    assert log._place.numbers() == [3] and not drafts(tmp_path)
    assert log.verdict(gid) is Verdict.COMMIT
    log.close()


def emptied(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(bytes(size))


def replaced(path: Path) -> None:
    path.rename(path.with_suffix(".away"))
    path.touch()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_place_none_of_whose_files_can_be_read_is_damaged_and_not_new(is_known: bool, tmp_path: Path) -> None:
    """The first of its files was removed, so that a later one said what counted of it."""
    log, other = FileLog(tmp_path), FileLog(tmp_path, coordinator="b")
    if not is_known:
        log.renew()
    gid = decided(log, 1)
    if is_known:
        assert other.verdict(gid) is Verdict.COMMIT
    log.close()
    (replaced if is_known else emptied)(log._place.path(log._place.number))
    for ask in (other.verdict, lambda _: other.close_epoch("0")):
        with pytest.raises(Corrupt, match="damaged from its beginning"):
            ask(gid)
    (known,) = (each for each in other.coordinators() if each.name == "0")
    assert "damaged" in known.problem
    other.close()


def test_a_place_whose_first_owner_died_before_it_had_begun_is_new(tmp_path: Path) -> None:
    log = FileLog(tmp_path, coordinator="b")
    (tmp_path / "a").mkdir()
    for number in (1, 2):
        place.Place(tmp_path, log.log_id, "a").path(number).touch()
    owner = FileLog(tmp_path, coordinator="a")
    assert owner.epoch.number == 3
    assert log.verdict(decided(owner, 1)) is Verdict.COMMIT
    owner.close()
    log.close()
