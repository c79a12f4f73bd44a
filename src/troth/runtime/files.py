"""The real file system behind `ports.FileSystem`: one directory, owned by one process at a time.

Calls block; they belong in the writer thread, not on the event loop.
"""

import errno
import fcntl
import os
from pathlib import Path

from troth.errors import StorageError
from troth.storage.names import LOCK

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class DiskFile:
    """`ports.File` over a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        part = os.pread(self._descriptor, size, offset)
        if not part or len(part) == size:
            return part
        # pread may stop early (a signal, 2 GiB at a time); only an empty answer means the end of the file.
        parts = [part]
        have = len(part)
        while have < size:
            part = os.pread(self._descriptor, size - have, offset + have)
            if not part:
                break
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def write_at(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            # A full disk may take a part first; the next call then says ENOSPC.
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def sync(self) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.fdatasync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class DiskFiles:
    """`ports.FileSystem` over a directory, which is created if need be and locked until `close`.

    The lock is the kernel's (flock), so it goes when the process dies, however it dies.
    """

    def __init__(self, directory: Path | str) -> None:
        """Raises StorageError when another process has the directory, or it can not be used."""
        self.directory = Path(directory)
        try:
            make_durably(self.directory)
            self._handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StorageError(
                f"the data directory {self.directory} can not be used: {error}. Name another one, or give this user the"
                " right to write there"
            ) from error
        try:
            self._lock = self._take_lock()
        except BaseException:
            os.close(self._handle)
            raise

    def _take_lock(self) -> int:
        path = self.directory / LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise StorageError(
                f"{path} can not be opened: {error}. Give this user the right to write there"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            who = f"process {holder}" if holder else "another process"
            raise StorageError(
                f"the data directory {self.directory} is in use by {who}: stop that one first, or give this server"
                " a directory of its own"
            ) from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            os.close(lock)
            raise StorageError(
                f"{path} can not be written: {error}. Make room on this disk, or name another directory"
            ) from error
        return lock

    def names(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return sorted(entry.name for entry in entries if entry.name != LOCK and entry.is_file())

    def open(self, name: str) -> DiskFile:
        return DiskFile(os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._handle))

    def create(self, name: str, reserve: int = 0) -> DiskFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(name, flags, FILE_MODE, dir_fd=self._handle)
        try:
            if reserve:
                _reserve(descriptor, reserve)
        except BaseException:
            os.close(descriptor)
            raise
        return DiskFile(descriptor)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._handle)

    def sync_directory(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        """Give the directory free. Files still open stay usable: close them first."""
        if self._handle >= 0:
            os.close(self._handle)
            os.close(self._lock)
            self._handle = -1


def check_readable(*paths: str) -> None:
    """Raise an OSError that names the first of *paths* that can not be read: OpenSSL's own names none."""
    for path in paths:
        with open(path, "rb"):
            pass


def make_durably(directory: Path) -> None:
    """Create *directory* with all above it that is missing. Its name stands in the directory above, so without a sync
    of that one the power may take it back, and all that was synced in it."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    for each in missing:
        sync_directory(each.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        # This file system can not reserve; the file still has to have its length.
        os.ftruncate(descriptor, size)
