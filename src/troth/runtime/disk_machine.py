"""What an acceptor takes from the computer that it runs on, alone or in a server: files, chance, and threads for both.

Apart from machine.py, which knows all that a server needs: an acceptor that runs alone loads neither engines, replica
nor key space without it. What a process holds the kernel has to clear away when it is killed.
"""

import gc
import random
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from troth.ports import FileSystem
from troth.runtime.files import DiskFiles
from troth.runtime.writer import DurableLog, LogWriter, StorageWriter
from troth.storage.log import SEGMENT_BYTES

GC_THRESHOLDS = (50_000, 20, 100)
"""Messages and versions are made by the ten thousand and hold no cycles; the default of 700 would look for some all
the time, and a full collection walks the whole state."""

SWITCH_SECONDS = 0.0005
"""How long the loop may keep the interpreter from the storage thread that wants to start, or has finished, a sync."""


class Directory(FileSystem, Protocol):
    """A data directory that this process has for itself until it gives it free."""

    def close(self) -> None:
        """Give the directory free. Files still open stay usable: close them first."""


class Worker(Protocol):
    """Does slow jobs one after the other, beside the loop."""

    def do(self, job: Callable[[], None]) -> None:
        """Run *job* after those before it."""

    def stop(self, seconds_max: float = 5.0) -> bool:
        """Finish what is queued and end; False when the disk hangs."""


class ThreadWorker:
    """A thread; *on_failed* is called in it with what a job raised, and no job is done after that."""

    def __init__(self, name: str, on_failed: Callable[[BaseException], object]) -> None:
        self._on_failed = on_failed
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def stop(self, seconds_max: float = 5.0) -> bool:
        self._jobs.put(None)
        self._thread.join(seconds_max)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            # Whatever it was, the owner has to know; it decides what becomes of the process.
            except Exception as error:  # noqa: BLE001
                self._on_failed(error)
                # A second sync may succeed and prove nothing: what waits must not build on what has failed.
                return


class DiskMachine:
    """The computer that this process runs on, as far as disks go."""

    segment_bytes = SEGMENT_BYTES
    """Length of the log's files."""

    def __init__(self) -> None:
        self.chance: random.Random = random.SystemRandom()

    def directory(self, path: str) -> Directory:
        """The data directory at *path*. Raises StorageError."""
        return DiskFiles(path)

    def writer(
        self,
        *,
        log: DurableLog,
        post: Callable[..., object],
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
    ) -> LogWriter:
        """Who makes log records durable."""
        return StorageWriter(log=log, post=post, on_durable=on_durable, on_failed=on_failed)

    def worker(self, name: str, on_failed: Callable[[BaseException], object]) -> Worker:
        """Who does slow jobs; *on_failed* may be called from another thread."""
        return ThreadWorker(name, on_failed)

    def settle(self) -> None:
        """Start-up is over. What it has made stays: the collector need not look at it again."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_SECONDS)
