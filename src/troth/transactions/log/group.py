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
from troth.errors import OutcomeUnknown, Overloaded, required
from troth.transactions.log.interface import Decided, DecisionLog

BATCH_MAX = 512
QUEUE_MAX = 16_384
GATHER_SHARE_OF = 6
GATHER_MAX = 4
"""A writer waits until a sixth of the transactions in their commit have queued, or so many of them."""
GATHER_AT = 12
"""With fewer in their commit nobody is waited for."""
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

    def wake(self) -> None:
        """Done twice it comes to the same."""
        if self.ready is not None and self.ready.locked():
            self.ready.release()


class GroupCommit:
    """Decisions of many threads, written together into one log.

    A signal may cut in between any two bytecodes. So who is at work stands in `_writer` and `_batch`, and whatever a
    writer has begun is ended by `_hand_on`, once or twice.
    """

    def __init__(self, log: DecisionLog, on_batch: Callable[[int], None]) -> None:
        """*on_batch* is told the size of each batch."""
        self._log = log
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._writer: _Waiting | None = None
        """Who writes, or is just about to. None: nobody, and nobody waits."""
        self._batch: list[_Waiting] = []
        self._answers: Sequence[Decided | BaseException] = ()
        """What the log said to `_batch`; empty: nothing yet."""
        self.sync_s = 0.0
        """How long the last batch took."""
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
            KeyboardInterrupt, and whatever else a signal raises: *commit* is written, or never will be; nobody can say
                which but the log.
        """
        mine = _Waiting(commit)
        try:
            self._come(mine)
            if mine.ready is not None:
                mine.ready.acquire()
            if mine.answer is None:
                self._write()
        except BaseException:
            try:
                self._leave(mine)
            finally:
                self._leave(mine)  # Ctrl-C, perhaps twice
            raise
        answer = mine.answer
        if isinstance(answer, BaseException):
            raise answer
        return required(answer, "a batch was written without this one")

    def _come(self, mine: _Waiting) -> None:
        with self._lock:
            if len(self._queue) >= QUEUE_MAX:
                raise Overloaded(f"{QUEUE_MAX} decisions wait for the log already")
            if self._writer is None:
                self._writer = mine
            else:
                mine.ready = threading.Lock()
                mine.ready.acquire()
            self._queue.append(mine)
            if self._wanted and len(self._queue) >= self._wanted:
                self._full.set()

    def _leave(self, mine: _Waiting) -> None:
        """The thread of *mine* goes, and leaves no work behind: no place in the queue, and no batch."""
        with self._lock:
            if mine in self._queue:
                self._queue.remove(mine)
            if self._writer is not mine:
                if self._writer is not None:
                    self._writer.wake()  # it may have been named, and not been told yet
                return
        self._hand_on()

    def _gather(self) -> None:
        """When very many are under way, give those who are just preparing a moment, so that they share this sync."""
        with self._lock:
            self._wanted = min(GATHER_MAX, self.expecting // GATHER_SHARE_OF)
            if len(self._queue) >= self._wanted:
                self._wanted = 0
                return
            self._full.clear()
        self._full.wait(self.sync_s * GATHER_SHARE)
        self._wanted = 0

    def _write(self) -> None:
        """Write what is queued, answer it, and hand the place on."""
        if self.expecting >= GATHER_AT and self._batch_mean < GATHER_BELOW:
            self._gather()
        with self._lock:
            self._batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
        batch = self._batch
        before = time.monotonic()
        try:
            self._answers = self._log.decide([waiting.commit for waiting in batch])
        except Exception as caught:  # noqa: BLE001  (handed to every thread of the batch, which raises it)
            self._answers = [caught] * len(batch)
        self.sync_s = time.monotonic() - before
        self._batch_mean += (len(batch) - self._batch_mean) / 8
        self._hand_on()
        self._on_batch(len(batch))

    def _hand_on(self) -> None:
        """Answer the batch, and give the writer's place to whoever has waited longest."""
        batch = self._batch
        # Without answers: this thread was interrupted while it wrote, and the others are told that nothing is known.
        unknown = OutcomeUnknown("the thread that wrote this decision was interrupted")
        for waiting, answer in zip(batch, self._answers or [unknown] * len(batch), strict=True):
            waiting.answer = answer
            waiting.wake()
        with self._lock:
            self._batch, self._answers = [], ()
            self._writer = self._queue[0] if self._queue else None
            if self._writer is not None:
                self._writer.wake()
