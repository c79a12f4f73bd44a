"""`AsyncTwoPhaseCommit`: the twin of `TwoPhaseCommit` for asyncio engines.

It is the same code: SQLAlchemy's greenlets let it wait for asyncio drivers. What would block the loop (the sync of the
decision log, the barrier) is waited for in threads, so that transactions of many tasks share one sync; the second phase
runs as tasks.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util.concurrency import greenlet_spawn

from troth.errors import UsageError
from troth.transactions.aio_transaction import AsyncTransaction, async_connection
from troth.transactions.aio_waiting import InTasks, to_the_end
from troth.transactions.coordinator import RECOVER_EVERY_S, TwoPhaseCommit
from troth.transactions.deadlocks import LOOK_EVERY_S, Detector
from troth.transactions.log.interface import DecisionLog
from troth.transactions.metrics import Metrics
from troth.transactions.outcome import Outcome
from troth.transactions.participants.bounded import ANSWER_WITHIN_S, Bounded
from troth.transactions.recovery import tell_why_it_ended
from troth.transactions.report import UNREACHABLE, Report
from troth.transactions.steps import OnStep, nothing

_log = logging.getLogger("troth.transactions")


class AsyncTwoPhaseCommit:
    """Transactions over several asyncio engines that commit in all databases or in none; see `TwoPhaseCommit`.

    It has the same methods and attributes, to be awaited where they do something; ``waiting=``, and
    ``without_unreachable=`` with its `unreachable`, are left out. What differs in a transaction, `AsyncBranch` and
    `AsyncTransaction` say.

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
        connect_timeout: float | None = ANSWER_WITHIN_S,
    ) -> None:
        """Nothing is done before `start` (or ``async with``); the arguments are `TwoPhaseCommit`'s."""
        self.name = name
        self._participants = participants
        self._options: dict[str, Any] = {
            "log": log,
            "name": name,
            "coordinator": coordinator,
            "on_step": on_step,
            "connect_timeout": connect_timeout,
        }
        self._recover_every = recover_every
        self._detect_deadlocks = detect_deadlocks
        self._sync: TwoPhaseCommit | None = None
        self._is_closed = False
        self._waiting = InTasks()
        self._recovering = asyncio.Lock()
        self._looking: list[asyncio.Task[None]] = []
        """What `TwoPhaseCommit` has threads for."""

    async def start(self) -> Self:
        """Check the participants, open an epoch in the log, and begin to recover. Raises as `TwoPhaseCommit`."""
        waiting = self._waiting = InTasks()
        opening = asyncio.ensure_future(
            greenlet_spawn(
                lambda: TwoPhaseCommit(self._participants, recover_every=None, waiting=waiting, **self._options)
            )
        )
        try:
            self._sync = await to_the_end(opening)
        except BaseException:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                # Cancelled meanwhile: nobody else would close it.
                await to_the_end(greenlet_spawn(opening.result().close))
            waiting.end()
            raise
        if self._recover_every is not None:
            self._looking.append(asyncio.create_task(self._recover_for_ever(self._recover_every)))
        if self._detect_deadlocks:
            self._looking.append(asyncio.create_task(self._detect_for_ever(Detector(self._sync._core))))
        return self

    async def _recover_for_ever(self, every_s: float) -> None:
        told = ""
        while True:
            try:
                await self.recover()
                told = ""
            except UNREACHABLE as error:
                told = tell_why_it_ended(error, told)
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
            if self._is_closed:
                raise UsageError("this AsyncTwoPhaseCommit is closed; begin inside of its block, or open another")
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
        found: Outcome = await greenlet_spawn(self._started.outcome, gid, wait=wait)
        return found

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
                opened = await to_the_end(greenlet_spawn(manager.__enter__))
            except asyncio.CancelledError:
                await to_the_end(greenlet_spawn(manager.__exit__, None, None, None))
                raise
        try:
            yield AsyncSnapshot(opened)
        finally:
            await to_the_end(greenlet_spawn(manager.__exit__, None, None, None))

    async def check(self) -> list[str]:
        """See `TwoPhaseCommit.check`."""
        return await greenlet_spawn(self._started.check)

    async def recover(self, *, even_if_alive: bool = False) -> Report:
        """See `TwoPhaseCommit.recover`."""
        async with self._recovering:
            return await to_the_end(greenlet_spawn(self._started.recover, even_if_alive=even_if_alive))

    @property
    def coordinator(self) -> str:
        """See `TwoPhaseCommit.coordinator`."""
        return self._started.coordinator

    @property
    def epoch(self) -> int:
        """See `TwoPhaseCommit.epoch`."""
        return self._started.epoch

    @property
    def participants(self) -> list[Bounded]:
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
        self._is_closed = True
        await asyncio.gather(*self._looking, return_exceptions=True)
        self._looking.clear()
        if self._sync is not None:
            await self._waiting.drained()
            sync, self._sync = self._sync, None
            await to_the_end(greenlet_spawn(sync.close))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncSnapshot:
    """Connections of a snapshot, by participant."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = snapshot

    def __getitem__(self, participant: Any) -> AsyncConnection:
        return async_connection(participant, self._snapshot[participant])
