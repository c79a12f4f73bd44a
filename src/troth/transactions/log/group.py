"""Many decisions, one sync: a queue in which one of the waiting threads writes for all.

Whoever comes while nobody writes, writes; whoever comes while somebody writes, waits in the queue, and is written
with all others that wait. The writer hands its place to the next one as soon as its own batch is durable, so that no
thread works for others longer than for one sync (leader and followers; Helland et al., "Group Commit Timers and High
Volume Transaction Systems", 1987, without the timer: the sync itself is the wait).
"""

import threading
import time
from collections.abc import Callable, Sequence

from troth.core.twophase.records import Commit
from troth.errors import OutcomeUnknown, Overloaded
from troth.transactions.log.interface import Decided, DecisionLog

BATCH_MAX = 512
QUEUE_MAX = 16_384
GATHER_FROM = 6
GATHER_MAX = 4
"""A writer waits for a sixth of the transactions that are in their commit, and for no more than this."""
GATHER_SHARE = 0.25
"""How long a writer waits for those who are about to come, as a share of the last sync's duration."""
GATHER_BELOW = 2.5
"""While more than this share each sync anyway, nobody is waited for."""


class _Waiting:
    __slots__ = ("answer", "commit", "ready")

    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self.answer: Decided | BaseException | None = None
        self.ready: threading.Lock | None = None
        """Released for a thread that waits: when its answer is there, or when it is to write the next batch."""


class GroupCommit:
    """Decisions of many threads, written together into one log."""

    def __init__(self, log: DecisionLog, on_batch: Callable[[int], None]) -> None:
        """*on_batch* is told the size of each batch."""
        self._log = log
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._is_writing = False
        self._sync_s = 0.0
        self._batch_mean = 1.0
        self._full = threading.Event()
        self._wanted = 0
        self.expecting = 0
        """How many transactions are in their commit, anywhere between the first vote and the last answer: a hint."""

    def decide(self, commit: Commit) -> Decided:
        """Write *commit* into its cell; on return the answer is durable.

        Raises:
            Overloaded: too many wait already; nothing was handed in.
            StorageError, RequestError: what the log raised for the batch.
        """
        mine = _Waiting(commit)
        with self._lock:
            if len(self._queue) >= QUEUE_MAX:
                raise Overloaded(f"{QUEUE_MAX} decisions wait for the log already")
            self._queue.append(mine)
            if self._is_writing:
                mine.ready = threading.Lock()
                mine.ready.acquire()
            self._is_writing = True
            if self._wanted and len(self._queue) >= self._wanted:
                self._full.set()
        interrupt = self._wait(mine, mine.ready) if mine.ready is not None else None
        if mine.answer is None:
            self._write()
        if interrupt is not None:
            raise interrupt
        answer = mine.answer
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise AssertionError("a batch was written without this one")
        return answer

    def _wait(self, mine: _Waiting, ready: threading.Lock) -> BaseException | None:
        """Until *mine* is answered, or leads; what interrupted the wait: the decision is handed in, and others may
        wait for us."""
        interrupt: BaseException | None = None
        while True:
            try:
                ready.acquire()
            except BaseException as error:  # noqa: BLE001  (returned)
                interrupt = error
            else:
                return interrupt

    def _gather(self) -> None:
        """When very many are under way, give those who are just preparing a moment, so that they share this sync."""
        with self._lock:
            self._wanted = min(GATHER_MAX, self.expecting // GATHER_FROM)
            if len(self._queue) >= self._wanted:
                self._wanted = 0
                return
            self._full.clear()
        self._full.wait(self._sync_s * GATHER_SHARE)
        self._wanted = 0

    def _write(self) -> None:
        """Write what is queued; answer it; hand the place on. Whatever interrupts that is raised afterwards."""
        interrupt: BaseException | None = None
        try:
            if self.expecting >= 2 * GATHER_FROM and self._batch_mean < GATHER_BELOW:
                self._gather()
        except BaseException as caught:  # noqa: BLE001  (raised below: others wait for what this thread writes)
            interrupt = caught
        with self._lock:
            batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
        answers: Sequence[Decided | BaseException]
        before = time.monotonic()
        try:
            answers = self._log.decide([waiting.commit for waiting in batch])
        except Exception as caught:  # noqa: BLE001  (handed to every thread of the batch, which raises it)
            answers = [caught] * len(batch)
        except BaseException as caught:  # noqa: BLE001  (this thread's own: the others are told that nothing is known)
            interrupt = caught
            answers = [OutcomeUnknown("the thread that wrote this decision was interrupted")] * len(batch)
        self._sync_s = time.monotonic() - before
        self._batch_mean += (len(batch) - self._batch_mean) / 8
        with self._lock:
            successor = self._queue[0].ready if self._queue else None
            self._is_writing = successor is not None
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answer = answer
            if waiting.ready is not None:
                waiting.ready.release()
        if successor is not None:
            successor.release()
        try:
            self._on_batch(len(batch))
        except BaseException as caught:  # noqa: BLE001  (raised below, or something else before it)
            interrupt = interrupt or caught
        if interrupt is not None:
            raise interrupt
