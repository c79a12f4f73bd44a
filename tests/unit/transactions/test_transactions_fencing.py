"""A coordinator that was taken for dead goes on."""

import os
from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.core.twophase.cells import Verdict  # noqa: E402
from troth.core.twophase.gid import Gid, parse_gid  # noqa: E402
from troth.core.twophase.records import BranchRef, Commit, Heuristic, Member  # noqa: E402
from troth.errors import NotApplied, OutcomeUnknown, StorageError  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.log import directory, file, framing, place  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.log.interface import Decided  # noqa: E402


def test_the_last_of_a_closed_epoch_close_no_other(tmp_path: Path) -> None:
    """Eight clients once closed each other's epochs after a single recovery, and nearly all they did was aborted."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        core = tpc._core
        first, second = core.next_gid(), core.next_gid()
        rescuer = FileLog(tmp_path / "log", coordinator="rescuer")
        assert rescuer.close_epoch(core.epoch.coordinator, even_if_alive=True)
        assert core.decide(Commit(first, ())).verdict is Verdict.ABORT
        third = core.next_gid()
        assert core.decide(Commit(second, ())).verdict is Verdict.ABORT
        fourth = core.next_gid()
        assert [core.decide(Commit(gid, ())).verdict for gid in (third, fourth)] == [Verdict.COMMIT] * 2
        rescuer.close()


def gid_of(name: str) -> Gid:
    found = parse_gid(name)
    assert found is not None
    return found[0]


def claimed(log: FileLog) -> None:
    """Somebody takes the place over, and has come no further than the next file's name."""
    log._place.path(log._place.number + 1).touch()


@pytest.mark.parametrize("how", ["note_refused", "note_heuristic", "register", "forget", "note_applied", "close"])
def test_an_owner_that_is_told_that_it_is_fenced_by_whatever_it_writes_overwrites_nothing(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had decided stands in that file alone, until its successor has read it."""
    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    monkeypatch.setattr(file, "DONE_MAX", 0)
    log = FileLog(tmp_path, coordinator="a")
    done, delegated, later = (log.epoch.name(number) for number in (1, 2, 3))
    log.decide([Commit(done, (BranchRef("bank", done),)), Commit(delegated, (), delegate="lite")])
    log.note_heuristic(Heuristic(done, "bank", "rolled back"))
    claimed(log)
    before = log._place.path(1).read_bytes().rstrip(b"\0")
    kept = tmp_path / "kept"
    os.link(log._place.path(1), kept)
    match how:
        case "note_refused":
            with pytest.raises(StorageError, match="another process has taken over"):
                log.note_refused(delegated)
            log.note_refused(delegated)
            assert log.verdict(gid_of(delegated)) is Verdict.ABORT
        case "note_heuristic":
            assert log.note_heuristic(Heuristic(done, "stock", "rolled back"))
            assert len(log.heuristics()) == 2
        case "register":
            log.register([Member("bank", "postgresql", "1")])
        case "forget":
            assert log.forget(done, "me")
            assert log.heuristics() == []
        case _:
            log.note_applied([done])
    assert kept.read_bytes().startswith(before)
    if how != "close":
        (answer,) = log.decide([Commit(later, ())])
        assert isinstance(answer, Decided) and answer.verdict is Verdict.ABORT
    log.close()
    assert kept.read_bytes().startswith(before)
    other = FileLog(tmp_path, coordinator="b")
    assert other.close_epoch("a")
    assert other.verdict(gid_of(done)) is Verdict.COMMIT
    other.close()


def listed_before(log: FileLog, name: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """*log* has listed the files of the place *name*, and then been paused until now."""
    seen = log._other(name)
    real, stale = seen.numbers, [numbers]
    monkeypatch.setattr(seen, "numbers", lambda: stale.pop() if stale else real())


def test_who_reads_a_record_behind_the_back_of_a_successor_does_not_believe_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor has read the file before the record was there, so it is aborted."""
    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    monkeypatch.setattr(directory, "KEYS_WAIT_S", 0.01)
    reader = FileLog(tmp_path, coordinator="r")

    def on_step(step: str) -> None:
        if step == "decision_written":
            listed_before(reader, "a", [1], monkeypatch)
            with pytest.raises(StorageError, match="began to take this place over"):
                reader.verdict(gid_of(later))
            with pytest.raises(StorageError, match="began to take this place over"):
                reader.unapplied()
            unread: dict[str, str] = {}
            assert reader.unapplied(unread) == [] and "began to take this place over" in unread["a"]
            with pytest.raises(StorageError, match="began to take this place over"):
                reader.holder_of("key")
            refused = reader.decide([Commit(reader.epoch.name(1), (), key="key")])
            assert isinstance(refused[0], NotApplied)

    log = FileLog(tmp_path, coordinator="a", on_step=on_step)
    later = log.epoch.name(1)
    claimed(log)
    log.decide([Commit(later, (), key="key")])
    log.close()
    reader.close()


def test_who_reads_a_first_record_that_came_too_late_does_not_believe_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has begun the file after it meanwhile, and carries over what it finds in the one before it."""
    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    log, other, reader = (FileLog(tmp_path, coordinator=name) for name in "abr")
    assert other.close_epoch("a", even_if_alive=True)
    (tmp_path / "a" / framing.file_name(3)).touch()
    listed_before(reader, "a", [2], monkeypatch)
    with pytest.raises(StorageError, match="began to take this place over"):
        reader.verdict(gid_of(log.epoch.name(1)))
    for each in (log, other, reader):
        each.close()


def test_nobody_finishes_what_its_own_place_may_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner is fenced off, its successor has written nothing yet, and it can not go on by itself."""
    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    log = FileLog(tmp_path, coordinator="a")
    claimed(log)
    monkeypatch.setattr(log._writer, "renew", refuse)
    gid = log.epoch.name(1)
    (answer,) = log.decide([Commit(gid, ())])
    assert isinstance(answer, OutcomeUnknown)
    with pytest.raises(StorageError, match="began to take this place over"):
        log.unapplied()
    log.close()


def refuse() -> None:
    raise StorageError("no room")


def test_who_can_not_open_another_epoch_writes_nothing_more_in_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When that fails, the place may know a file by now that is another's, and its end."""
    log, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    real = log._place.open_next

    def overtaken(opener: place.Opener, **named: object) -> int:
        assert other.close_epoch("a", even_if_alive=True)
        log._place.refresh()
        raise StorageError("other processes open this place again and again")

    monkeypatch.setattr(log._place, "open_next", overtaken)
    before = log._place.path(1).read_bytes()
    os.link(log._place.path(1), tmp_path / "kept")
    with pytest.raises(StorageError, match="again and again"):
        log.renew()
    with pytest.raises(StorageError, match="again and again"):
        log.register([Member("bank", "postgresql", "1")])
    assert (tmp_path / "kept").read_bytes() == before
    monkeypatch.setattr(log._place, "open_next", real)
    log.register([Member("bank", "postgresql", "1")])
    assert log.epoch.number == 3, "what it notes is of no epoch, so it goes on in the next one"
    log.close()
    other.close()


def test_who_is_overtaken_while_it_shortens_its_file_writes_nothing_more_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, other = FileLog(tmp_path, coordinator="a", compact_bytes=1), FileLog(tmp_path, coordinator="b")

    def overtaken(opener: place.Opener, **named: object) -> int:
        os.link(log._place.path(1), tmp_path / "kept")
        assert other.close_epoch("a", even_if_alive=True)
        log._place.refresh()
        raise place.Fenced

    monkeypatch.setattr(log._place, "open_next", overtaken)
    gid = log.epoch.name(1)
    assert log.decide([Commit(gid, ())]) == [Decided(Verdict.COMMIT, gid)]
    before = (tmp_path / "kept").read_bytes()
    monkeypatch.undo()
    log.register([Member("bank", "postgresql", "1")])
    assert (tmp_path / "kept").read_bytes() == before
    assert other.verdict(gid_of(gid)) is Verdict.COMMIT
    log.close()
    other.close()
