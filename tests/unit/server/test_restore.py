"""A data directory made out of a saved snapshot."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from troth.cli.main import cli
from troth.errors import StorageError
from troth.kv.requests import Failure, Put, Range, RangeResult
from troth.kv.store import Store
from troth.replica.machine import StateMachine
from troth.runtime.files import DiskFiles
from troth.server import restore as restore_module
from troth.server.config import ServerConfig
from troth.server.restore import restore
from troth.storage import identity
from troth.storage.backup import SealingSink
from troth.storage.directory import open_directory
from troth.storage.log import WriteAheadLog
from troth.storage.snapshots import SnapshotStore


def test_nobody_else_can_read_what_was_restored(tmp_path: Path) -> None:
    machine = StateMachine(Store)
    with (tmp_path / "saved").open("wb") as file:
        sink = SealingSink(file)
        for piece in machine.dump():
            sink.write(piece)
        sink.seal()
    data = tmp_path / "above" / "data"
    restore(tmp_path / "saved", ServerConfig(name="n1", data_dir=str(data)))
    assert data.stat().st_mode & 0o777 == 0o700


def saved(path: Path) -> Path:
    machine = StateMachine(Store)
    machine.store.apply(Put(b"a", b"1"))
    with path.open("wb") as file:
        sink = SealingSink(file)
        for piece in machine.dump():
            sink.write(piece)
        sink.seal()
    return path


def test_a_restored_cluster_can_begin_beyond_all_that_the_old_one_has_told(tmp_path: Path) -> None:
    """Its revisions are fencing tokens elsewhere; and who watches from one must not be shown another past."""
    config = ServerConfig(name="n1", data_dir=str(tmp_path / "data"))
    restored = restore(saved(tmp_path / "saved"), config, bump_revision=1000)
    assert restored.revision == 1002
    files = DiskFiles(config.data_dir)
    known = identity.load(files)
    assert known is not None
    opened = open_directory(files, known)
    assert opened.recovered.snapshot is not None
    machine = StateMachine(Store)
    machine.load(opened.snapshots.load(opened.recovered.snapshot))
    opened.close()
    files.close()
    store = machine.store
    assert (store.revision, store.compact_revision) == (1002, 1002)
    kept = store.range(Range(b"a"))
    assert isinstance(kept, RangeResult) and [each.value for each in kept.kvs] == [b"1"]
    assert isinstance(store.range(Range(b"a", revision=1001)), Failure)
    assert store.apply(Put(b"b", b"2")).revision == 1003


@pytest.mark.parametrize(("words", "revision"), [((), 2), (("--bump-revision", "1000"), 1002)])
def test_the_command_says_where_the_new_cluster_begins(
    tmp_path: Path, words: tuple[str, ...], revision: int
) -> None:
    snapshot = str(saved(tmp_path / "saved"))
    done = CliRunner().invoke(cli, ["snapshot", "restore", snapshot, "--data-dir", str(tmp_path / "data"), *words])
    assert done.exit_code == 0 and f"at revision {revision} is in" in done.stdout


class _KilledError(BaseException):
    """Nothing of this process is done any more."""


def test_a_restoration_that_is_killed_leaves_no_directory_that_would_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = saved(tmp_path / "saved")
    data = tmp_path / "data"
    config = ServerConfig(name="n1", data_dir=str(data))
    for step in ("store", "write", "append", "sync", "remove_newborn", "rename"):
        with monkeypatch.context() as patched:

            def killed(*_: object, **_kw: object) -> None:
                raise _KilledError

            places = {
                "store": (identity, "store"),
                "write": (SnapshotStore, "write"),
                "append": (WriteAheadLog, "append"),
                "sync": (WriteAheadLog, "sync"),
                "remove_newborn": (restore_module, "remove_newborn"),
                "rename": (Path, "rename"),
            }
            patched.setattr(*places[step], killed)
            patched.setattr(shutil, "rmtree", lambda *_, **_kw: None)
            with pytest.raises(_KilledError):
                restore(snapshot, config)
        assert not data.exists(), step
    data.mkdir()  # an empty one is as good as none
    restored = restore(snapshot, config)
    assert [each.name for each in tmp_path.iterdir() if each != snapshot] == ["data"]
    assert restored.revision == 2
    assert not (data / "newborn").exists()


def test_a_restoration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = saved(tmp_path / "saved")

    def full(*_: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(SnapshotStore, "write", full)
    with pytest.raises(StorageError):
        restore(snapshot, ServerConfig(name="n1", data_dir=str(tmp_path / "data")))
    assert list(tmp_path.iterdir()) == [snapshot]
