"""The seams between pure code and the world: a file system, and chance.

Production gives the real ones (`runtime.files`), the simulator gives ones that lose, tear and reorder what was
not synced. Time is not here: it is an argument (`now`) of each call that needs it.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Rng(Protocol):
    """Chance, as `random.Random` gives it; injected so that a run can be repeated."""

    def randrange(self, start: int, stop: int) -> int: ...

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...

    def choice(self, seq: Sequence[T], /) -> T: ...


class File(Protocol):
    """An open file. Nothing written is durable before `sync` has returned."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* bytes from *offset*; shorter only at the end of the file. Raises OSError."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of *data* at *offset*, growing the file if needed. Raises OSError (ENOSPC, EIO)."""

    def sync(self) -> None:
        """Return when all writes so far are on the disk (fdatasync). Raises OSError; then nothing is known."""

    def size(self) -> int:
        """Length in bytes."""

    def truncate(self, size: int) -> None:
        """Cut to *size* bytes; durable after the next `sync`."""

    def close(self) -> None:
        """Release the file. Does not sync."""


class FileSystem(Protocol):
    """One flat directory. Names are plain file names; a name is durable only after `sync_directory`."""

    def names(self) -> list[str]:
        """All file names, sorted."""

    def open(self, name: str) -> File:
        """Open an existing file for reading and writing. Raises FileNotFoundError."""

    def create(self, name: str, reserve: int = 0) -> File:
        """Create (or empty) a file; *reserve* bytes are allocated where possible and read as zeros."""

    def rename(self, old: str, new: str) -> None:
        """Atomically give *old* the name *new*, replacing what was there."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def sync_directory(self) -> None:
        """Return when creations, renames and removals so far are on the disk."""
