"""What `ports.FileSystem` promises, asked of every implementation: the real disk, and the simulator's."""

import errno
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from troth.errors import StorageError
from troth.ports import FileSystem
from troth.runtime import files as real
from troth.runtime.files import DiskFile, DiskFiles
from troth.simulate.disk import SimulatedDisk


@pytest.fixture(params=["real", "simulated"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileSystem]:
    if request.param == "simulated":
        yield SimulatedDisk(random.Random(1))
        return
    opened = DiskFiles(tmp_path / "data")
    yield opened
    opened.close()


def test_a_new_directory_is_empty(files: FileSystem) -> None:
    assert files.names() == []


def test_names_are_sorted(files: FileSystem) -> None:
    for name in ("b", "a", "c"):
        files.create(name).close()
    assert files.names() == ["a", "b", "c"]


def test_what_is_written_is_read(files: FileSystem) -> None:
    file = files.create("f")
    assert file.size() == 0
    file.write_at(0, b"hello")
    file.write_at(5, b" world")
    assert file.read_at(0, 11) == b"hello world"
    assert file.read_at(6, 3) == b"wor"
    file.sync()
    files.sync_directory()
    file.close()
    again = files.open("f")
    assert again.read_at(0, 100) == b"hello world"
    assert again.size() == 11


def test_a_read_at_the_end_is_short(files: FileSystem) -> None:
    file = files.create("f")
    file.write_at(0, b"abc")
    assert file.read_at(2, 10) == b"c"
    assert file.read_at(3, 10) == b""
    assert file.read_at(99, 10) == b""


def test_a_write_behind_the_end_leaves_zeros_between(files: FileSystem) -> None:
    file = files.create("f")
    file.write_at(700, b"x")
    assert file.read_at(0, 701) == bytes(700) + b"x"


def test_a_write_in_the_middle_changes_only_that(files: FileSystem) -> None:
    file = files.create("f")
    file.write_at(0, b"a" * 2000)
    file.write_at(1000, b"b" * 10)
    assert file.read_at(0, 3000) == b"a" * 1000 + b"b" * 10 + b"a" * 990


def test_truncate_cuts_and_lengthens_with_zeros(files: FileSystem) -> None:
    file = files.create("f")
    file.write_at(0, b"a" * 1000)
    file.truncate(10)
    assert file.size() == 10
    file.truncate(20)
    assert file.read_at(0, 100) == b"a" * 10 + bytes(10)
    file.write_at(15, b"z")
    assert file.read_at(10, 100) == bytes(5) + b"z" + bytes(4)


def test_reserved_space_reads_as_zeros(files: FileSystem) -> None:
    file = files.create("f", reserve=10_000)
    assert file.size() == 10_000
    assert file.read_at(9_000, 5_000) == bytes(1_000)


def test_create_empties_what_is_there(files: FileSystem) -> None:
    files.create("f").write_at(0, b"old")
    assert files.create("f").size() == 0
    assert files.names() == ["f"]


def test_open_wants_an_existing_file(files: FileSystem) -> None:
    with pytest.raises(FileNotFoundError):
        files.open("f")
    with pytest.raises(FileNotFoundError):
        files.remove("f")
    with pytest.raises(FileNotFoundError):
        files.rename("f", "g")


def test_rename_replaces(files: FileSystem) -> None:
    files.create("old").write_at(0, b"old")
    files.create("new").write_at(0, b"new")
    files.rename("old", "new")
    assert files.names() == ["new"]
    assert files.open("new").read_at(0, 10) == b"old"


def test_an_open_file_outlives_its_name(files: FileSystem) -> None:
    file = files.create("f")
    file.write_at(0, b"abc")
    files.remove("f")
    assert files.names() == []
    assert file.read_at(0, 3) == b"abc"


def test_a_closed_file_is_of_no_use(files: FileSystem) -> None:
    file = files.create("f")
    file.close()
    file.close()
    for use in (lambda: file.read_at(0, 1), lambda: file.write_at(0, b"x"), file.sync, file.size):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()


def test_large_writes_are_whole(files: FileSystem) -> None:
    data = random.Random(3).randbytes(3_000_000)
    file = files.create("f")
    file.write_at(123, data)
    assert file.read_at(123, len(data) + 5) == data


# What only the real one has.


def test_two_processes_can_not_have_one_directory(tmp_path: Path) -> None:
    holder = DiskFiles(tmp_path)
    code = f"from troth.runtime.files import DiskFiles; DiskFiles({str(tmp_path)!r})"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "StorageError" in second.stderr
    assert "is in use by process" in second.stderr
    assert "stop that one first" in second.stderr
    holder.close()
    holder.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import os, signal; from troth.runtime.files import DiskFiles;"
        f"held = DiskFiles({str(tmp_path)!r}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    DiskFiles(tmp_path).close()


def test_one_process_can_not_have_it_twice_either(tmp_path: Path) -> None:
    holder = DiskFiles(tmp_path)
    with pytest.raises(StorageError, match="in use by process"):
        DiskFiles(tmp_path)
    (tmp_path / "lock").write_text("")
    with pytest.raises(StorageError, match="in use by another process"):
        DiskFiles(tmp_path)
    holder.close()


def test_the_lock_and_directories_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    files = DiskFiles(tmp_path)
    files.create("f").close()
    assert files.names() == ["f"]
    assert (tmp_path / "lock").exists()
    files.close()


def test_nobody_else_can_read_the_data(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path / "new")
    files.create("f").close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "f").stat().st_mode & 0o777 == 0o600
    files.close()


def test_a_new_directory_is_durable_in_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(real.os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    DiskFiles(tmp_path / "above" / "data").close()
    assert sorted(synced) == sorted([tmp_path.resolve(), tmp_path.resolve() / "above"])
    DiskFiles(tmp_path / "above" / "data").close()
    assert len(synced) == 2


def test_a_directory_that_can_not_be_used_is_typed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can not be used"):
        DiskFiles(tmp_path / "file")
    (tmp_path / "lock").mkdir()
    with pytest.raises(StorageError, match="can not be opened"):
        DiskFiles(tmp_path)


def test_short_reads_and_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take or give a part only: signals, 2 GiB, a disk that is nearly full."""
    files = DiskFiles(tmp_path)
    file = files.create("f")
    inner_write, inner_read = real.os.pwrite, real.os.pread
    monkeypatch.setattr(real.os, "pwrite", lambda fd, data, offset: inner_write(fd, bytes(data[:7]), offset))
    monkeypatch.setattr(real.os, "pread", lambda fd, size, offset: inner_read(fd, min(size, 5), offset))
    data = bytes(range(100))
    file.write_at(3, data)
    assert file.read_at(3, 100) == data
    assert file.read_at(3, 200) == data
    monkeypatch.undo()
    file.close()
    files.close()


def test_a_file_system_that_can_not_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: int) -> None:
        def fallocate(fd: int, offset: int, size: int) -> None:
            raise OSError(code, "refused")

        monkeypatch.setattr(real.os, "posix_fallocate", fallocate)

    files = DiskFiles(tmp_path)
    refuse(errno.EOPNOTSUPP)
    file = files.create("f", reserve=5000)
    assert isinstance(file, DiskFile)
    assert file.size() == 5000
    refuse(errno.ENOSPC)
    with pytest.raises(OSError, match="refused"):
        files.create("g", reserve=5000)
    files.close()


def test_a_lock_that_can_not_be_written_is_told_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("troth.runtime.files.os.ftruncate", full)
        with pytest.raises(StorageError, match="Make room on this disk"):
            DiskFiles(tmp_path)
    DiskFiles(tmp_path).close()
