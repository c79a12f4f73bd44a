"""The directory of an embedded decision log: its name, and a place in it for each coordinator.

::

    log-id              the log's name, drawn once
    <coordinator>/      a place: the files of one coordinator (place.py)
        holder          locked by the process that has the place; the lock goes when it dies
    keys                locked while decisions with keys are made, in one place at a time
    barrier             transactions/barrier.py
"""

import errno
import fcntl
import itertools
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from troth.core.twophase.gid import LOG_CHARS, base36, drawn_log, is_name
from troth.errors import Corrupt, StorageError
from troth.runtime.files import sync_directory
from troth.transactions import forks
from troth.transactions.log.interface import PLACES_MAX

LOG_ID = "log-id"
HOLDER = "holder"
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
PLACE_WAIT_S = 0.5
PLACE_PAUSE_S = 0.005
KEYS_WAIT_S = 2.0
KEYS_POLL_S = 0.0005


class Hold:
    """A kernel lock on a place that this process has, and that a child of it has not."""

    def __init__(self, descriptor: int, place: Path) -> None:
        self._descriptor = descriptor
        self._path = str(place)
        self._place = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        forks.watch(self)

    def on_forked(self) -> None:
        """The lock goes with its last descriptor, so a child would hold it for a parent that has died."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._place)
            self._descriptor = -1

    def is_there(self) -> bool:
        """Whether the place, while it is held, is still at its path: or else it was moved or removed, and who comes
        finds another one, or none. That only the lock's file is gone is no such thing: the lock is a hint."""
        return self._descriptor < 0 or is_at(self._place, self._path)

    def let_go(self) -> None:
        if self._descriptor >= 0:
            let_go(self._descriptor)
            os.close(self._place)
            self._descriptor = -1


def is_at(descriptor: int, path: str) -> bool:
    """Whether *path* names the file that is open as *descriptor*. While it is open, no other has its number."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def let_go(lock: int) -> None:
    """Not by closing alone: a child that was forked meanwhile has the descriptor too, and would hold the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


class Directory:
    """The directory *root*; created, and named, by the first process that comes.

    Raises:
        OSError: it cannot be used.
        Corrupt: it does not hold a log's name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log_id = _log_id(root)

    def names(self) -> list[str]:
        """All places that there are. Raises StorageError."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if is_name(entry.name) and entry.is_dir())
        except OSError as error:
            raise StorageError(f"the decision log {self.root} can not be read: {error}") from error

    def take_place(self, wanted: str | None, *, but: Collection[str] = ()) -> tuple[str, Hold]:
        """The place *wanted*, or the first that nobody holds *but* these, and its lock.

        Raises:
            StorageError: it is held.
        """
        until = time.monotonic() + PLACE_WAIT_S
        free = (name for name in map(base36, range(PLACES_MAX)) if name not in but)
        for name in free if wanted is None else itertools.repeat(wanted):
            lock = self._lock(name)
            if lock is not None:
                self._sign(lock)
                return name, Hold(lock, self.root / name)
            if wanted is not None:
                # Recovery of another process holds it for a moment, to see whether anybody does.
                if time.monotonic() >= until:
                    break
                time.sleep(PLACE_PAUSE_S)
        raise StorageError(
            f"the place {wanted or ''} of the decision log {self.root} is held by {self.holder_text(wanted or '0')}:"
            " stop that process first, or leave coordinator= out to have a place of its own"
        )

    def _lock(self, name: str) -> int | None:
        (self.root / name).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        lock = os.open(self.root / name / HOLDER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        return lock

    def _sign(self, lock: int) -> None:
        """Say who has the place; whoever only looks needs no room on the disk."""
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        except BaseException:
            let_go(lock)
            raise

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Hold the place *name* for a moment: False if somebody else has it, so that its coordinator lives."""
        lock = self._lock(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                let_go(lock)

    def holder_text(self, name: str) -> str:
        """Who has the place, in words. Who only looks at it does not sign."""
        try:
            pid = (self.root / name / HOLDER).read_text().strip()
        except OSError:
            pid = ""
        return f"another process (process {pid} was the last to take it)" if pid else "another process"

    @contextmanager
    def keys_held(self) -> Iterator[bool]:
        """Whether the lock of all keys could be had within `KEYS_WAIT_S`; its holder may be paused for ever."""
        lock = os.open(self.root / "keys", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        until = time.monotonic() + KEYS_WAIT_S
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= until:
                        yield False
                        return
                    time.sleep(KEYS_POLL_S)
                else:
                    yield True
                    return
        finally:
            # `let_go`, but not by a call, at whose beginning a signal may cut in: it would be held for ever.
            try:
                fcntl.flock(lock, fcntl.LOCK_UN)
            finally:
                os.close(lock)


def _log_id(root: Path) -> str:
    """The log's name; drawn, durably, by the first process that comes."""
    root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path = root / LOG_ID
    if not path.exists():
        drawn = drawn_log(secrets.randbelow)
        # Not by the process's number alone, which is 1 in each container.
        draft = root / f".log-id-{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                write_all(descriptor, f"{drawn}\n".encode("ascii"), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.link(draft, path)  # unlike a rename, this fails if another process was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        sync_directory(root)
        sync_directory(root.parent)
    log_id = path.read_bytes().decode("ascii", "replace").strip()
    if len(log_id) != LOG_CHARS or not is_name(log_id):
        raise Corrupt(f"{path} does not hold a log's name; restore it from a backup", path=str(path))
    return log_id


def create(path: Path) -> int:
    """A new file. Raises FileExistsError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def write_all(descriptor: int, content: bytes, at: int) -> None:
    written = os.pwrite(descriptor, content, at)
    while written < len(content):
        written += os.pwrite(descriptor, memoryview(content)[written:], at + written)
