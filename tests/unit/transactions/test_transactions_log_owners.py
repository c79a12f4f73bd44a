"""A decision log with files of several users: `sudo troth tx list` beside an application that is not root."""

import builtins
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.records import Commit
from troth.errors import NotApplied, StorageError
from troth.transactions.barrier import Barrier
from troth.transactions.log import directory, place
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided

APPLICATION = (4711, 4712)


def test_what_root_creates_belongs_to_whoever_has_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else one look would leave a place that the application can neither read nor lock."""
    given: list[str] = []
    real = os.stat

    def seen(path: Any, *rest: Any, **named: Any) -> Any:
        found = real(path, *rest, **named)
        is_ours = isinstance(path, Path) and path in (tmp_path, tmp_path / "0")
        return os.stat_result((*found[:4], *APPLICATION, *found[6:])) if is_ours else found

    def give(descriptor: int, user: int, group: int) -> None:
        assert (user, group) == APPLICATION
        given.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.partition("-")[0])

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(directory.os, "stat", seen)
    monkeypatch.setattr(os, "fchown", give)
    log = FileLog(tmp_path)
    Barrier(tmp_path / "barrier")
    key = log.epoch.name(1)
    assert log.decide([Commit(key, (), key="k")]) == [Decided(Verdict.COMMIT, key)]
    log.close()
    assert given == [".log", "0", "holder", ".room", "decisions", "decisions", "barrier", "keys"]
    again = FileLog(tmp_path)
    assert given[8:] == [".room", "decisions", "decisions"], "and nothing that was there before"
    again.close()
    monkeypatch.setattr(os, "geteuid", lambda: 4713)
    FileLog(tmp_path).close()
    assert len(given) == 11, "another user may give nothing"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_an_application_goes_on_after_root_has_looked(tmp_path: Path) -> None:
    os.chown(tmp_path, *APPLICATION)
    FileLog(tmp_path).close()
    found = [tmp_path, *tmp_path.rglob("*")]
    assert len(found) > 4
    assert {(each.stat().st_uid, each.stat().st_gid) for each in found} == {APPLICATION}


def test_root_is_not_led_elsewhere_by_a_link(tmp_path: Path) -> None:
    """The application's user could have it empty, or be given, any file."""
    log = FileLog(tmp_path / "log", coordinator="a")
    precious = tmp_path / "precious"
    precious.write_text("all")
    (tmp_path / "log" / "b").mkdir()
    (tmp_path / "log" / "b" / "holder").symlink_to(precious)
    with pytest.raises(StorageError, match="symbolic link"):
        FileLog(tmp_path / "log", coordinator="b")
    assert precious.read_text() == "all"
    log.close()


def forbidden(path: Path, monkeypatch: pytest.MonkeyPatch, *calls: str) -> None:
    """Of another user: *calls* are refused for *path* and all below."""

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(name: Any, *rest: Any, **named: Any) -> Any:
            if isinstance(name, str | Path) and Path(name).is_relative_to(path):
                raise PermissionError(13, "Permission denied", str(name))
            return real(name, *rest, **named)

        return call

    for each in calls or ("open", "listdir"):
        monkeypatch.setattr(os, each, refusing(getattr(os, each)))
    monkeypatch.setattr(place, "open", refusing(builtins.open), raising=False)


def test_a_place_of_another_user_stops_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FileLog(tmp_path).close()
    log = FileLog(tmp_path, coordinator="a")
    with monkeypatch.context() as patched:
        forbidden(tmp_path / "0", patched)
        second = FileLog(tmp_path)
        assert second.epoch.coordinator == "1"
        assert "passed over" in caplog.text and "chown -R" in caplog.text
        with pytest.raises(StorageError, match="Permission denied"):
            FileLog(tmp_path, coordinator="0")
        with_key, without = (log.epoch.name(number) for number in (1, 2))
        refused, decided = log.decide([Commit(with_key, (), key="k"), Commit(without, ())])
        assert isinstance(refused, NotApplied) and "chown -R" in str(refused)
        assert decided == Decided(Verdict.COMMIT, without)
        with pytest.raises(StorageError, match="chown -R"):
            log.holder_of("k")
        known = {each.name: each for each in log.coordinators()}
        assert "chown -R" in known["0"].problem and known["0"].is_alive, "as far as anybody can see"
        assert not known["1"].problem
        unread: dict[str, str] = {}
        assert [each.gid for each in log.unapplied(unread)] == [without]
        assert list(unread) == ["0"]
        assert log.heuristics() == [] and log.members().keys() >= {"a", "1"}
        for even_if_alive in (False, True):
            with pytest.raises(StorageError, match="chown -R"):
                log.close_epoch("0", even_if_alive=even_if_alive)
        second.close()
    assert log.close_epoch("0")
    log.close()


@pytest.mark.parametrize("call", ["listdir", "open"])
def test_files_of_another_user_in_a_place_that_can_be_locked_are_passed_over(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version that gave nothing away; it had taken the place of an application that did not run."""
    FileLog(tmp_path).close()
    with monkeypatch.context() as patched:
        if call == "listdir":
            forbidden(tmp_path / "0", patched, "listdir")
        else:
            real = place.create

            def create(path: Path) -> int:
                if path.parent.name == "0":
                    raise PermissionError(13, "Permission denied", str(path))
                return real(path)

            patched.setattr(place, "create", create)
        log = FileLog(tmp_path)
        assert log.epoch.coordinator == "1"
    again = FileLog(tmp_path, coordinator="0")
    again.close()
    log.close()


def test_a_log_in_which_no_place_can_be_made_is_said_to_be_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileLog(tmp_path).close()

    def refuse(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if not path.exists():
            raise PermissionError(13, "Permission denied", str(path))
        if not exist_ok:
            raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", refuse)
    forbidden(tmp_path / "0", monkeypatch)
    with pytest.raises(StorageError, match="give this user the right to write there"):
        FileLog(tmp_path)


def test_who_holds_a_place_can_be_unknown_though_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileLog(tmp_path).close()
    log = FileLog(tmp_path, coordinator="a")
    with monkeypatch.context() as patched:
        forbidden(tmp_path / "0" / "holder", patched)
        (known,) = (each for each in log.coordinators() if each.name == "0")
    assert known.epoch == 1 and known.is_alive and "can not be seen" in known.problem
    log.close()


def test_a_start_that_cannot_open_its_place_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as its process runs."""
    real = os.open

    def full(path: Any, flags: int, *rest: int) -> int:
        if path == tmp_path / "0" and (tmp_path / "0" / "holder").exists():
            raise OSError(24, "Too many open files")
        return real(path, flags, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(StorageError, match="Too many open files"):
            FileLog(tmp_path)
    log = FileLog(tmp_path, coordinator="0")
    log.close()


def test_a_start_that_fails_for_all_places_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.Place, "refresh", lambda self: broken())
    with pytest.raises(StorageError, match="not the place's"):
        FileLog(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["0"]


def broken() -> bool:
    raise StorageError("a fault that is not the place's")
