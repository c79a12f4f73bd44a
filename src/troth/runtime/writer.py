"""The storage writer: one thread that makes log records durable, in order, and says so to the loop.

fdatasync takes as long as thousands of messages, so it never runs on the event loop. Whatever is handed over
while the disk is busy is merged into the next write: one append, one sync, however much it was. That merging is
what lets throughput rise with load (group commit).

A failure ends the thread for good. After a failed sync nothing is known about what is on the disk, so there is
nothing it could go on with (see errors.SyncFailed).
"""

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

from troth.core.interface import Persist


class DurableLog(Protocol):
    """The part of the write-ahead log that the thread uses."""

    def append(self, persists: Sequence[Persist]) -> None:
        """Write all of *persists*, in order. Raises StorageError."""

    def sync(self) -> None:
        """Return when what was appended is durable. Raises SyncFailed."""


class LogWriter(Protocol):
    """Makes log records durable, in order, and tells how many are (`StorageWriter`, or the simulator's)."""

    counters: "WriterCounters"

    def start(self) -> None: ...

    def submit(self, persist: Persist) -> None:
        """Queue one write."""

    def call(self, job: Callable[[], None]) -> None:
        """Run *job* between two writes."""

    def stop(self, seconds_max: float = 5.0) -> bool:
        """Finish what is queued; False when the disk hangs."""


class WriterCounters:
    """What the metrics show of the disk. Written by the thread, read by the loop; each is one plain number."""

    def __init__(self) -> None:
        self.syncs = 0
        self.writes = 0
        self.seconds = 0.0
        self.seconds_max = 0.0
        self.batch_sizes: dict[int, int] = {}
        """How often a sync covered up to 1, 2, 4, 8, ... writes."""


class StorageWriter:
    """Takes writes from the loop; *on_durable* is called on the loop with how many more writes are durable."""

    def __init__(
        self,
        *,
        log: DurableLog,
        post: Callable[..., object],
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        """*post* is ``loop.call_soon_threadsafe``."""
        self.counters = WriterCounters()
        self._log = log
        self._post = post
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._queue: SimpleQueue[Persist | Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="troth-storage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, persist: Persist) -> None:
        """Queue one write. Its completion, and that of all before it, is told by `on_durable`."""
        self._queue.put(persist)

    def call(self, job: Callable[[], None]) -> None:
        """Run *job* between two writes (log compaction: it must not race with an append). It may raise."""
        self._queue.put(job)

    def stop(self, seconds_max: float = 5.0) -> bool:
        """Finish what is queued and end the thread; False when the disk hangs."""
        self._queue.put(None)
        self._thread.join(seconds_max)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                item = self._queue.get()
                batch: list[Persist] = []
                while isinstance(item, Persist):
                    batch.append(item)
                    try:
                        item = self._queue.get_nowait()
                    except Empty:
                        item = _NOTHING
                if batch:
                    self._write(batch)
                if item is None:
                    return
                if not isinstance(item, Persist):
                    item()
        # Whatever it was, it may have left a write half done: the process must not go on, and the loop tells why.
        except Exception as error:  # noqa: BLE001
            self._post(self._on_failed, error)

    def _write(self, batch: list[Persist]) -> None:
        begin = time.perf_counter()
        self._log.append(batch)
        self._log.sync()
        took = time.perf_counter() - begin
        self._post(self._on_durable, len(batch))
        counters = self.counters
        counters.syncs += 1
        counters.writes += len(batch)
        counters.seconds += took
        counters.seconds_max = max(counters.seconds_max, took)
        size = 1 << (len(batch) - 1).bit_length()
        counters.batch_sizes[size] = counters.batch_sizes.get(size, 0) + 1


def _NOTHING() -> None:  # noqa: N802 - a constant: the job that is put where there is none
    return None
