"""`AsyncTwoPhaseCommit`: the twin of `TwoPhaseCommit` for asyncio engines.

It is the same code: SQLAlchemy's greenlets let it wait for asyncio drivers. What would block the loop (the sync of the
decision log, the barrier) is waited for in threads, so that transactions of many tasks share one sync; the second phase
runs as tasks.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.util.concurrency import await_only, greenlet_spawn
from typing_extensions import override

from troth.errors import HeuristicMixed, TrothError, UsageError
from troth.transactions.coordinator import RECOVER_EVERY_S, TwoPhaseCommit
from troth.transactions.deadlocks import LOOK_EVERY_S, Detector
from troth.transactions.log.interface import DecisionLog
from troth.transactions.metrics import Metrics
from troth.transactions.orm import BoundSession
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Participant
from troth.transactions.report import UNREACHABLE, Report
from troth.transactions.steps import OnStep, nothing
from troth.transactions.transaction import Transaction
from troth.transactions.waiting import Flag, Waiting

T = TypeVar("T")

THREADS = 64

_log = logging.getLogger("troth.transactions")


class _Flag:
    """What common code in a greenlet of the loop waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds_max: float) -> None:
        await_only(self._within(seconds_max))

    async def _within(self, seconds_max: float) -> None:
        try:
            await asyncio.wait_for(self._event.wait(), seconds_max)
        except TimeoutError:
            pass


class _InTasks(Waiting):
    """How the common code waits when it runs in a greenlet of the loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="troth 2pc aio")
        # Of its own: those who wait for a snapshot would take all the others, and it needs one to be taken.
        self._line = ThreadPoolExecutor(1, thread_name_prefix="troth 2pc aio line")
        self._tasks: set[asyncio.Task[None]] = set()

    @override
    def flag(self) -> Flag:
        return _Flag()

    @override
    def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        return await_only(asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments))

    @override
    def in_line(self, work: Callable[[], None]) -> None:
        await_only(asyncio.get_running_loop().run_in_executor(self._line, work))

    @override
    def later(self, work: Callable[[], None]) -> None:
        task = asyncio.ensure_future(greenlet_spawn(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @override
    def close(self, last: Callable[[], None]) -> None:
        """What goes on in the background has been waited for: `drained`."""
        try:
            self.blocking(last)
        finally:
            self.end()

    def end(self) -> None:
        """Have no threads any more."""
        self._threads.shutdown(wait=False)
        self._line.shutdown(wait=False)

    async def drained(self) -> None:
        """Wait for second phases that are still under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


async def _to_the_end(work: Awaitable[T]) -> T:
    """Wait for *work* to its end, whatever happens to the waiter: half of a commit helps nobody."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001  (raised by result())
            break
    if cancelled is not None:
        task.exception()  # seen: the cancellation is what the caller is told
        raise cancelled
    return task.result()


class AsyncTwoPhaseCommit:
    """Transactions over several asyncio engines that commit in all databases or in none; see `TwoPhaseCommit`.

    It has the same methods and attributes, to be awaited where they do something; ``waiting=`` and
    ``without_unreachable=`` are left out. What differs in a transaction, `AsyncBranch` and `AsyncTransaction` say.

    ::

        async with AsyncTwoPhaseCommit([bank, ledger]) as tpc:
            async with tpc.begin(timeout=5, key="order-4711") as tx:
                await tx[bank].execute(text("UPDATE account SET balance = balance - 7 WHERE id = 1"))
                await tx[ledger].execute(text("INSERT INTO entry VALUES ('order-4711', 7)"))
    """

    def __init__(
        self,
        participants: Mapping[str, Any] | Sequence[Any],
        *,
        log: "str | Path | DecisionLog | None" = None,
        name: str = "troth",
        coordinator: str | None = None,
        recover_every: float | None = RECOVER_EVERY_S,
        detect_deadlocks: bool = False,
        on_step: OnStep = nothing,
    ) -> None:
        """Nothing is done before `start` (or ``async with``); the arguments are `TwoPhaseCommit`'s."""
        self._participants = participants
        self._options: dict[str, Any] = {"log": log, "name": name, "coordinator": coordinator, "on_step": on_step}
        self._recover_every = recover_every
        self._detect_deadlocks = detect_deadlocks
        self._sync: TwoPhaseCommit | None = None
        self._waiting = _InTasks()
        self._recovering = asyncio.Lock()
        self._looking: list[asyncio.Task[None]] = []
        """What `TwoPhaseCommit` has threads for."""

    async def start(self) -> Self:
        """Check the participants, open an epoch in the log, and begin to recover. Raises as `TwoPhaseCommit`."""
        waiting = self._waiting = _InTasks()
        opening = asyncio.ensure_future(
            greenlet_spawn(
                lambda: TwoPhaseCommit(self._participants, recover_every=None, waiting=waiting, **self._options)
            )
        )
        try:
            self._sync = await _to_the_end(opening)
        except BaseException:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                # Cancelled meanwhile: nobody else would close it.
                await _to_the_end(greenlet_spawn(opening.result().close))
            waiting.end()
            raise
        if self._recover_every is not None:
            self._looking.append(asyncio.create_task(self._recover_for_ever(self._recover_every)))
        if self._detect_deadlocks:
            self._looking.append(asyncio.create_task(self._detect_for_ever(Detector(self._sync._core))))
        return self

    async def _recover_for_ever(self, every_s: float) -> None:
        while True:
            try:
                await self.recover()
            except UNREACHABLE:
                pass  # the log, most likely; the next pass tries again
            except Exception:  # noqa: BLE001  (logged; without this task nobody would look again)
                _log.exception("a pass of recovery failed; the next one tries again")
            await asyncio.sleep(every_s * random.uniform(0.8, 1.2))

    async def _detect_for_ever(self, detector: Detector) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await greenlet_spawn(detector.look)
            except Exception:  # noqa: BLE001  (logged; without this task nobody would look again)
                _log.exception("a look for deadlocks failed; the next one tries again")

    @property
    def _started(self) -> TwoPhaseCommit:
        if self._sync is None:
            raise UsageError("start it first: async with AsyncTwoPhaseCommit(...) as tpc")
        return self._sync

    def begin(
        self,
        *,
        timeout: float | None = None,
        key: str = "",
        wait: str = "applied",
    ) -> "AsyncTransaction":
        """A transaction: ``async with tpc.begin() as tx``. Arguments and errors are `TwoPhaseCommit.begin`'s."""
        tpc = self._started
        return AsyncTransaction(lambda: tpc.begin(timeout=timeout, key=key, wait=wait))

    async def outcome(self, gid: str, *, wait: float = 0.0) -> Outcome:
        """See `TwoPhaseCommit.outcome`."""
        until = asyncio.get_running_loop().time() + wait
        while True:
            try:
                found = await greenlet_spawn(self._started.outcome, gid)
            except (HeuristicMixed, UsageError):
                raise
            except TrothError:
                if asyncio.get_running_loop().time() >= until:
                    raise
                found = Outcome.OPEN
            if found is not Outcome.OPEN or asyncio.get_running_loop().time() >= until:
                return found
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def snapshot(
        self,
        participants: Sequence[Any] | None = None,
        *,
        timeout: float = 5.0,  # noqa: ASYNC109  (how long the opening may take)
    ) -> "AsyncIterator[AsyncSnapshot]":
        """See `TwoPhaseCommit.snapshot`: ``await snap[bank].scalar(...)``."""
        async with self._recovering:
            manager = self._started.snapshot(participants, timeout=timeout)
            try:
                opened = await _to_the_end(greenlet_spawn(manager.__enter__))
            except asyncio.CancelledError:
                await _to_the_end(greenlet_spawn(manager.__exit__, None, None, None))
                raise
        try:
            yield AsyncSnapshot(self._started, opened)
        finally:
            await _to_the_end(greenlet_spawn(manager.__exit__, None, None, None))

    async def check(self) -> list[str]:
        """See `TwoPhaseCommit.check`."""
        return await greenlet_spawn(self._started.check)

    async def recover(self, *, even_if_alive: bool = False) -> Report:
        """See `TwoPhaseCommit.recover`."""
        async with self._recovering:
            return await _to_the_end(greenlet_spawn(self._started.recover, even_if_alive=even_if_alive))

    @property
    def coordinator(self) -> str:
        """See `TwoPhaseCommit.coordinator`."""
        return self._started.coordinator

    @property
    def epoch(self) -> int:
        """See `TwoPhaseCommit.epoch`."""
        return self._started.epoch

    @property
    def participants(self) -> list[Participant]:
        """See `TwoPhaseCommit.participants`; their methods block the loop, or need a greenlet."""
        return self._started.participants

    @property
    def log(self) -> DecisionLog:
        """See `TwoPhaseCommit.log`; its methods block the loop."""
        return self._started.log

    @property
    def metrics(self) -> Metrics:
        """Counters of this process."""
        return self._started.metrics

    async def close(self) -> None:
        """See `TwoPhaseCommit.close`."""
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        self._looking.clear()
        if self._sync is not None:
            await self._waiting.drained()
            sync, self._sync = self._sync, None
            await _to_the_end(greenlet_spawn(sync.close))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncSnapshot:
    """Connections of a snapshot, by participant."""

    def __init__(self, tpc: TwoPhaseCommit, snapshot: Any) -> None:
        self._snapshot = snapshot

    def __getitem__(self, participant: Any) -> AsyncConnection:
        return _async_connection(participant, self._snapshot[participant])


def _async_connection(participant: Any, connection: Any) -> AsyncConnection:
    engine = participant if isinstance(participant, AsyncEngine) else AsyncEngine(connection.engine)
    return AsyncConnection(engine, connection)


_STATEMENTS = frozenset({"execute", "scalar", "scalars", "exec_driver_sql", "run_sync", "get", "put", "delete"})
_AWAITED = _STATEMENTS | {"execution_options", "get_raw_connection", "commit", "rollback", "close", "invalidate"}
_ENTERED = frozenset({"stream", "stream_scalars", "begin_nested"})


class AsyncBranch:
    """One participant's connection in a transaction, opened when it is first used.

    What is awaited is AsyncConnection's: ``execute``, ``scalar``, ``scalars``, ``exec_driver_sql``, ``run_sync`` and
    others. So are ``stream``, ``stream_scalars`` and ``begin_nested``, to be awaited or entered with ``async with``. Of
    a troth cluster there are a `ClusterWork`'s ``get``, ``put`` and ``delete``. Everything else, attributes too, has
    the connection itself: ``await tx.connection(participant)``.
    """

    def __init__(self, transaction: "AsyncTransaction", participant: Any) -> None:
        self._transaction = transaction
        self._participant = participant

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _ENTERED:
            return partial(_Entered, self, name)
        if name not in _AWAITED:
            raise AttributeError(
                f"a branch has no {name!r} before its connection is open; take that:"
                " connection = await tx.connection(participant)"
            )

        async def call(*arguments: Any, **options: Any) -> Any:
            handle = await self._transaction.connection(self._participant)
            work = getattr(handle, name)
            if isinstance(handle, AsyncConnection):
                return await work(*arguments, **options)
            # To the end: half of it would still be going on when the transaction is rolled back.
            return await _to_the_end(asyncio.to_thread(work, *arguments, **options))

        return call


class _Entered:
    """What AsyncConnection returns for a name of `_ENTERED`, of a connection that may have to be opened first."""

    def __init__(self, branch: AsyncBranch, name: str, *arguments: Any, **options: Any) -> None:
        self._branch = branch
        self._make = methodcaller(name, *arguments, **options)
        self._made: Any = None

    async def _of_connection(self) -> Any:
        return self._make(await self._branch._transaction.connection(self._branch._participant))

    def __await__(self) -> Generator[Any, Any, Any]:
        async def awaited() -> Any:
            return await (await self._of_connection())

        return awaited().__await__()

    async def __aenter__(self) -> Any:
        self._made = await self._of_connection()
        return await self._made.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._made.__aexit__(*error)


class AsyncTransaction:
    """A global transaction of one task; made by `AsyncTwoPhaseCommit.begin`. Attributes as `Transaction`."""

    def __init__(self, begin: Callable[[], Transaction]) -> None:
        self._begin = begin
        self._sync: Transaction | None = None
        self._opening = asyncio.Lock()

    @property
    def sync(self) -> Transaction:
        """The transaction itself, for what this class has no name for."""
        if self._sync is None:
            raise UsageError("enter it first: async with tpc.begin() as tx")
        return self._sync

    @property
    def gid(self) -> str:
        return self.sync.gid

    @property
    def outcome(self) -> Outcome | None:
        return self.sync.outcome

    @property
    def pending(self) -> tuple[str, ...]:
        return self.sync.pending

    @property
    def replayed(self) -> bool:
        return self.sync.replayed

    def __getitem__(self, participant: Any) -> AsyncBranch:
        return AsyncBranch(self, participant)

    async def connection(self, participant: Any) -> Any:
        """The branch's AsyncConnection (or `ClusterWork`), opened if need be."""
        async with self._opening:  # asyncio.gather may touch branches at once, and each is opened once
            handle = await _to_the_end(greenlet_spawn(self.sync.__getitem__, participant))
        return handle if not hasattr(handle, "exec_driver_sql") else _async_connection(participant, handle)

    def session(self, *, binds: dict[Any, Any] | None = None, **options: Any) -> AsyncSession:
        """An AsyncSession inside of this transaction; its ``commit()`` flushes, the block's end commits."""
        engines = self.sync.engines
        bind = AsyncEngine(engines[0]) if binds is None and len(engines) == 1 else None
        return AsyncSession(bind, binds=binds, sync_session_class=BoundSession, transaction=self.sync, **options)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `Transaction.savepoint`."""
        manager = self.sync.savepoint()
        await greenlet_spawn(manager.__enter__)
        try:
            yield
        except BaseException as error:
            if not await _to_the_end(greenlet_spawn(manager.__exit__, type(error), error, error.__traceback__)):
                raise
        else:
            await _to_the_end(greenlet_spawn(manager.__exit__, None, None, None))

    async def commit(self) -> None:
        """See `Transaction.commit`. A cancellation that comes meanwhile is raised when the commit has ended."""
        await _to_the_end(greenlet_spawn(self.sync.commit))

    async def rollback(self) -> None:
        """See `Transaction.rollback`."""
        await _to_the_end(greenlet_spawn(self.sync.rollback))

    async def __aenter__(self) -> Self:
        self._sync = await greenlet_spawn(self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await _to_the_end(greenlet_spawn(self.sync.__exit__, kind, error, trace))
