"""A cut across databases that no transaction tears.

Two-phase commit is atomic, not isolated: between the first and the last COMMIT PREPARED a reader of both databases sees
half of a transaction. So every second phase holds the shared side of this barrier, and a snapshot holds the exclusive
side for as long as it takes its first look at each database. Across the processes of one machine that share a
decision log the sides are a kernel lock on a file in it, taken once for all second phases under way here.

A reader never keeps writers waiting for ever, though it be paused with the lock in its hands: who has waited
`WAIT_MAX_S` goes on without the barrier, and says so first, in the file. The reader looks there when it has looked at
the databases (`is_whole`), and throws away what it saw.
"""

import fcntl
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from troth.errors import Unavailable
from troth.transactions import forks
from troth.transactions.log.directory import open_shared

POLL_S = 0.002
WAIT_MAX_S = 2.0
MARK_BYTES = 8


class Barrier:
    """Shared and exclusive sides; who wants the exclusive one is let in before newcomers of the other."""

    def __init__(self, path: Path | None) -> None:
        """*path*: the file that other processes lock too; None: this process alone."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sharing: set[str] = set()
        """By name: a signal may cut in anywhere, so whoever enters or leaves must be able to say so again."""
        self._is_locked = False
        """Whether the file is locked for those who share."""
        self._excluded = ""
        """Who has the exclusive side, by name as well; empty: nobody."""
        self._went_on = 0
        self._seen = (0, b"")
        self._file = open_shared(path) if path is not None else -1
        if self._file >= 0 and not os.fstat(self._file).st_size:
            self._mark()  # what is there already needs no room on a full disk
        forks.watch(self)

    def enter_shared(self, who: str, until: float | None = None) -> None:
        """The second phase of *who* begins; waits while a snapshot is being taken, but not for ever.

        *until*: of `time.monotonic`; for one who has waited before, to be let in here. None: `WAIT_MAX_S` from now.
        """
        with self._lock:
            if not self._may_share():
                self._wait_to_share(time.monotonic() + WAIT_MAX_S if until is None else until)
            self._sharing.add(who)

    def try_enter_shared(self, who: str) -> bool:
        """`enter_shared` if nothing has to be waited for; whether it was done."""
        with self._lock:
            if not self._may_share():
                return False
            self._sharing.add(who)
            return True

    def _wait_to_share(self, until: float) -> None:
        while not self._may_share():
            left_s = until - time.monotonic()
            if left_s <= 0:
                self._went_on += 1
                self._mark()
                return
            self._changed.wait(left_s if self._excluded else min(left_s, POLL_S))

    def _mark(self) -> None:
        """Tell the snapshots of other processes. A second phase that goes on is decided, and must not fail on a
        disk where even the bytes that are there already can not be written."""
        if self._file >= 0:
            with suppress(OSError):
                os.pwrite(self._file, secrets.token_bytes(MARK_BYTES), 0)

    def _may_share(self) -> bool:
        if self._excluded:
            return False
        if not self._is_locked and self._file >= 0:
            try:
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._is_locked = True
        return True

    def leave_shared(self, who: str) -> None:
        """It has ended, or was cut short, perhaps before it had entered."""
        with self._lock:
            self._sharing.discard(who)
            if not self._sharing:
                if self._is_locked or (self._file >= 0 and not self._excluded):
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                    self._is_locked = False
                if self._excluded:
                    # Who waits for nobody to share has excluded newcomers first.
                    self._changed.notify_all()

    def enter_exclusive(self, within_s: float, who: str) -> None:
        """Wait until nobody is in a second phase; whoever calls this calls `leave_exclusive`, however it ends.

        Raises:
            Unavailable: some second phase takes longer than *within_s*.
        """
        until = time.monotonic() + within_s
        try:
            with self._changed:
                while self._excluded:
                    self._wait(until)
                self._excluded = who
            self._wait_alone(until)
            self._lock_file(until)
            # Again: while the file was waited for, some of this process may have gone on.
            self._wait_alone(until)
        except BaseException:
            self.leave_exclusive(who)
            raise

    def _wait_alone(self, until: float) -> None:
        with self._changed:
            while self._sharing:
                self._wait(until)
            self._seen = self._marks()

    def is_whole(self) -> bool:
        """Whether nobody has begun a second phase since `enter_exclusive`."""
        with self._changed:
            return self._seen == self._marks()

    def _marks(self) -> tuple[int, bytes]:
        return self._went_on, os.pread(self._file, MARK_BYTES, 0) if self._file >= 0 else b""

    def leave_exclusive(self, who: str) -> None:
        """Let second phases go on, if *who* keeps them out; perhaps it had not entered."""
        with self._changed:
            if self._excluded != who:
                return
            if self._file >= 0 and not self._is_locked:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._changed.notify_all()
            self._excluded = ""

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

    def on_forked(self) -> None:
        """A child must not hold the sides of a parent that dies: the lock goes with its last descriptor."""
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._is_locked = False
