"""The directory of an embedded decision log: its name, and a place in it for each coordinator.

::

    log-id              the log's name, drawn once
    <coordinator>/      a place: the files of one coordinator (place.py)
        holder          locked by the process that has the place; the lock goes when it dies
    keys                locked while decisions with keys are made, in one place at a time
    barrier             transactions/barrier.py

What root creates here belongs to whoever has the directory that it is in: a look by `sudo troth tx` is to leave nothing
that the application cannot read.
"""

import errno
import fcntl
import itertools
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from troth.core.twophase.gid import LOG_CHARS, base36, drawn_log, is_name
from troth.errors import Corrupt, StorageError
from troth.runtime.files import make_durably, sync_directory
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

_log = logging.getLogger("troth.transactions")


class Hold:
    """A kernel lock on a place that this process has, and that a child of it has not."""

    def __init__(self, descriptor: int, place: Path) -> None:
        self._descriptor = descriptor
        self._path = str(place)
        try:
            self._place = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            let_go(descriptor)
            raise
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
            raise StorageError(f"the decision log {self.root} can not be read: {error}{advice(error)}") from error

    def take_place(self, wanted: str | None, *, but: Collection[str] = ()) -> tuple[str, Hold]:
        """The place *wanted*, or the first that nobody holds *but* these, and its lock.

        Raises:
            StorageError: it is held.
        """
        until = time.monotonic() + PLACE_WAIT_S
        free = (name for name in map(base36, range(PLACES_MAX)) if name not in but)
        for name in free if wanted is None else itertools.repeat(wanted):
            try:
                lock = self._lock(name)
            except PermissionError as error:
                if wanted is not None or not (self.root / name).is_dir():
                    raise
                _log.warning("a place of the decision log is passed over: %s%s", error, advice(error))
                continue
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
        self._make(name)
        lock = open_shared(self.root / name / HOLDER)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        return lock

    def _make(self, name: str) -> None:
        try:
            (self.root / name).mkdir(mode=DIRECTORY_MODE)
        except FileExistsError:
            return
        made = os.open(self.root / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give_to_owner(made, self.root)
        finally:
            os.close(made)

    def _sign(self, lock: int) -> None:
        """Say who has the place, durably that it is there; whoever only looks needs no room on the disk."""
        try:
            sync_directory(self.root)  # whoever made it: perhaps just now, and was no further yet
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        except BaseException:
            let_go(lock)
            raise

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Hold the place *name* for a moment: False if somebody else has it, so that its coordinator lives.

        Raises:
            StorageError: that cannot be seen.
        """
        try:
            lock = self._lock(name)
        except OSError as error:
            raise StorageError(
                f"who has the place {self.root / name} can not be seen: {error}{advice(error)}"
            ) from error
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
        lock = open_shared(self.root / "keys")
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
    make_durably(root)
    path = root / LOG_ID
    if not path.exists():
        drawn = drawn_log(secrets.randbelow)
        # Not by the process's number alone, which is 1 in each container.
        draft = root / f".log-id-{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = create(draft)
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
    # Also what is there already: whoever made it may not have come to its own syncs yet.
    sync_directory(root)
    with suppress(PermissionError):
        sync_directory(root.parent)
    log_id = path.read_bytes().decode("ascii", "replace").strip()
    if len(log_id) != LOG_CHARS or not is_name(log_id):
        raise Corrupt(f"{path} does not hold a log's name; restore it from a backup", path=str(path))
    return log_id


def create(path: Path) -> int:
    """A new file. Raises FileExistsError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    _give_to_owner(descriptor, path.parent)
    return descriptor


def open_shared(path: Path) -> int:
    """The file *path*, which is there once for all processes; created by the first."""
    while True:
        try:
            # The directory may be another user's than this process's, who could lead it elsewhere by a link.
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            with suppress(FileExistsError):
                return create(path)


def _give_to_owner(created: int, directory: Path) -> None:
    """Of what this process has just created itself, and nobody else: nobody may be given what was there before."""
    if os.geteuid() == 0:
        owner = os.stat(directory)
        with suppress(OSError):  # in a user namespace not every user can be given something
            os.fchown(created, owner.st_uid, owner.st_gid)


def advice(error: OSError) -> str:
    """What to do, where it is not plain."""
    if not isinstance(error, PermissionError):
        return ""
    return ". All that is in the log belongs to one user (chown -R), whom all its processes run as"


def write_all(descriptor: int, content: bytes, at: int) -> None:
    written = os.pwrite(descriptor, content, at)
    while written < len(content):
        written += os.pwrite(descriptor, memoryview(content)[written:], at + written)
