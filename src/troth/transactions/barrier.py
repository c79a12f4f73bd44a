"""A cut across databases that no transaction tears.

Two-phase commit is atomic, not isolated: between the first and the last COMMIT PREPARED a reader of both databases sees
half of a transaction. So every second phase holds the shared side of this barrier, and a snapshot holds the exclusive
side for as long as it takes its first look at each database. Across the processes of one machine that share a
decision log the sides are a kernel lock on a file in it, taken once for all second phases under way here.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from troth.errors import Unavailable

POLL_S = 0.002


class Barrier:
    """Shared and exclusive sides; who wants the exclusive one is let in before newcomers of the other."""

    def __init__(self, path: Path | None) -> None:
        """*path*: the file that other processes lock too; None: this process alone."""
        self._changed = threading.Condition()
        self._sharing = 0
        self._excluded = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path is not None else -1

    def enter_shared(self) -> None:
        """A second phase begins here; waits while a snapshot is being taken."""
        with self._changed:
            while self._excluded:
                self._changed.wait()
            if not self._sharing and self._file >= 0:
                fcntl.flock(self._file, fcntl.LOCK_SH)
            self._sharing += 1

    def leave_shared(self) -> None:
        """It has ended."""
        with self._changed:
            self._sharing -= 1
            if not self._sharing:
                if self._file >= 0:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                self._changed.notify_all()

    @contextmanager
    def exclusive(self, within_s: float) -> Iterator[None]:
        """While nobody is in a second phase.

        Raises:
            Unavailable: some second phase takes longer than *within_s*.
        """
        until = time.monotonic() + within_s
        with self._changed:
            while self._excluded:
                self._wait(until)
            self._excluded = True
        try:
            with self._changed:
                while self._sharing:
                    self._wait(until)
            self._lock_file(until)
            try:
                yield
            finally:
                if self._file >= 0:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            with self._changed:
                self._excluded = False
                self._changed.notify_all()

    def _wait(self, until: float) -> None:
        if not self._changed.wait(max(0.0, until - time.monotonic())) and time.monotonic() >= until:
            raise Unavailable("no moment without a commit under way was found in time; try again, or allow more")

    def _lock_file(self, until: float) -> None:
        while self._file >= 0:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Unavailable("another process is in a second phase for too long") from None
                time.sleep(POLL_S)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
