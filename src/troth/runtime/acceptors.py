"""Drives one acceptor: requests of a loop turn in, one write, one sync, and then the answers out.

The loop decides (core/register/acceptor.py), the storage thread writes (runtime/writer.py). An answer waits until all
records that came before it are durable, so nothing is ever said that a power failure could take back.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Self

from troth.core.register.messages import Accept, Full, RecordMessage, ReplyMessage, RequestMessage
from troth.core.register.slots import STEP_KEYS
from troth.errors import StorageError, SyncFailed
from troth.ids import LogIndex, NodeId
from troth.runtime.disk_machine import DiskMachine
from troth.storage.acceptors import open_acceptor

SNAPSHOT_LOG_BYTES = 16 << 20
"""After so many bytes of records, or as many as the state is large, the state is saved and the records before it
dropped."""

LOG_GROWTH_MAX = 32
"""So many times that the log may grow where the state is as large; it takes room on the disk and time at a start."""

WAITING_BYTES_MAX = 64 << 20
"""Records that wait for the disk; beyond it nothing more is accepted until it has caught up."""

_log = logging.getLogger("troth.acceptor")

Answer = Callable[[ReplyMessage], None]


class AcceptorCounters:
    """What the metrics show of an acceptor."""

    def __init__(self) -> None:
        self.requests = 0
        self.conflicts = 0
        self.turns = 0
        self.snapshots = 0


class Home:
    """The directory of an acceptor, and the acceptor that lives there."""

    def __init__(self, directory: str, *, machine: DiskMachine, bytes_max: int) -> None:
        """Open *directory* (blocking: a few syncs when it is new).

        Raises:
            StorageError: it can not be used, or is not what was written.
        """
        self.files = machine.directory(directory)
        try:
            # An id for the case that the directory is new; it is durable before anybody hears it.
            newborn = NodeId(machine.chance.getrandbits(63) | 1)
            self.store, self.acceptor = open_acceptor(self.files, newborn, bytes_max=bytes_max)
        except BaseException:
            self.files.close()
            raise

    def close(self) -> None:
        self.store.close()
        self.files.close()


class AcceptorNode:
    """An acceptor with its disk. `failed` is called, once, with why it can not go on."""

    @classmethod
    def at(
        cls,
        directory: str,
        *,
        machine: DiskMachine,
        failed: Callable[[BaseException], None],
        bytes_max: int,
        snapshot_log_bytes: int = SNAPSHOT_LOG_BYTES,
    ) -> Self:
        """The acceptor that lives at *directory*. Blocks, and raises, as `Home`."""
        home = Home(directory, machine=machine, bytes_max=bytes_max)
        return cls(home, machine=machine, failed=failed, snapshot_log_bytes=snapshot_log_bytes)

    def __init__(
        self,
        home: Home,
        *,
        machine: DiskMachine,
        failed: Callable[[BaseException], None],
        snapshot_log_bytes: int = SNAPSHOT_LOG_BYTES,
    ) -> None:
        self.counters = AcceptorCounters()
        self._home, self._store, self.acceptor = home, home.store, home.acceptor
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self._snapshot_log_bytes = snapshot_log_bytes
        self._inbox: list[tuple[RequestMessage, Answer]] = []
        self._outbox: deque[tuple[int, list[tuple[Answer, ReplyMessage]]]] = deque()
        self._sizes: deque[int] = deque()
        self._waiting_bytes = 0
        self._submitted = 0
        self._durable = 0
        self._scheduled = False
        self._stopped = False
        self._log_bytes = self._store.log_bytes
        self._saving = False
        self._after_writes: tuple[int, Callable[[], None]] | None = None
        self._worker = machine.worker("troth-acceptor-snapshot", self._on_worker_failed)
        self._writer = machine.writer(
            log=self._store,
            post=self._loop.call_soon_threadsafe,
            on_durable=self._on_durable,
            on_failed=self._fail,
        )
        self._writer.start()

    def on_request(self, request: RequestMessage, answer: Answer) -> None:
        """*answer* is called on the loop when the reply may leave."""
        self._inbox.append((request, answer))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """All requests that have arrived, in one write."""
        self._scheduled = False
        if self._stopped:
            return
        inbox, self._inbox = self._inbox, []
        records: list[RecordMessage] = []
        answers: list[tuple[Answer, ReplyMessage]] = []
        on_request = self.acceptor.on_request
        gathered_bytes = 0
        for request, answer in inbox:
            if isinstance(request, Accept) and self._waiting_bytes + gathered_bytes > WAITING_BYTES_MAX:
                answers.append((answer, Full("too much waits for the acceptor's disk: send less at once")))
                continue
            reply, record = on_request(request)
            answers.append((answer, reply))
            if record is not None:
                records.append(record)
                gathered_bytes += len(request.state.value or b"") if isinstance(request, Accept) else 0
        self.counters.turns += 1
        self.counters.requests += len(inbox)
        if records:
            persist = self._store.persist(records)
            size = persist.entries[0].size_bytes
            self._sizes.append(size)
            self._waiting_bytes += size
            self._log_bytes += size
            self._submitted += 1
            self._writer.submit(persist)
        elif self._submitted == self._durable:
            _deliver(answers)
            return
        self._outbox.append((self._submitted, answers))
        least = self._snapshot_log_bytes
        if self._log_bytes > max(least, min(self.acceptor.bytes, LOG_GROWTH_MAX * least)) and not self._saving:
            self._save()

    def _on_durable(self, count: int) -> None:
        self._durable += count
        for _ in range(count):
            self._waiting_bytes -= self._sizes.popleft()
        while self._outbox and self._outbox[0][0] <= self._durable:
            _deliver(self._outbox.popleft()[1])
        if self._after_writes is not None and self._after_writes[0] <= self._durable:
            job = self._after_writes[1]
            self._after_writes = None
            job()

    def _fail(self, error: BaseException) -> None:
        """The disk failed: nothing more is answered (a second sync that succeeds would prove nothing)."""
        if not self._stopped:
            self._stopped = True
            self._outbox.clear()
            self._failed(error)

    # ---- snapshots -----------------------------------------------------------------------------------------

    def _save(self) -> None:
        """The state as it is now, by a thread of its own, once all that it holds is durable in the log. It is read in
        steps with turns in between: a server whose acceptor holds very much has heartbeats to send."""
        self._saving = True
        self._log_bytes = 0
        self.acceptor.forget_promises()
        steps = self.acceptor.snapshot_steps()
        index, submitted = self._store.index, self._submitted
        records: list[RecordMessage] = []

        def write() -> None:
            try:
                self._store.save(index, records)
            except SyncFailed:
                raise
            except StorageError as error:
                _log.warning("the snapshot could not be written, the log goes on: %s", error)
                self._loop.call_soon_threadsafe(self._saved, None)
            else:
                self._loop.call_soon_threadsafe(self._saved, index)
            finally:
                # `gather` holds itself and these: a cycle, and the collector does not know how large it is.
                records.clear()

        def gather() -> None:
            try:
                for piece in steps:
                    records.extend(piece)
                    if len(piece) >= STEP_KEYS and not self._stopped:
                        self._loop.call_soon(gather)
                        return
            except BaseException:
                steps.close()
                records.clear()
                self._saved(None)
                raise
            if submitted <= self._durable:
                self._worker.do(write)
            else:
                self._after_writes = (submitted, lambda: self._worker.do(write))

        gather()

    def _saved(self, index: LogIndex | None) -> None:
        self._saving = False
        if index is not None and not self._stopped:
            self.counters.snapshots += 1
            self._writer.call(lambda: self._store.drop_before(index))

    def _on_worker_failed(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def stop(self) -> None:
        """Let what was asked become durable, and release the directory. Blocks for a moment."""
        was_running, self._stopped = not self._stopped, True
        is_quiet = self._worker.stop()
        if self._writer.stop() and is_quiet and was_running:
            self._store.close()
        self._home.files.close()


def _deliver(answers: list[tuple[Answer, ReplyMessage]]) -> None:
    for answer, reply in answers:
        answer(reply)
