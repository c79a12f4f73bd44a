"""Drivers of asyncio: each statement is a task."""

import asyncio
import time
from collections.abc import Sequence

from sqlalchemy.util.concurrency import await_only, greenlet_spawn
from typing_extensions import override

from troth.transactions.aio_waiting import seen
from troth.transactions.channels.blocking import CUT_WITHIN_S, BlockingStatements, cut
from troth.transactions.channels.interface import IDLE, UNBOUNDED, Answer, Bounded, Finish, unanswered


class TaskChannel(BlockingStatements):
    """Any of them, behind SQLAlchemy's adapter; to be used inside of `greenlet_spawn`.

    asyncmy is never known to be idle: it overlooks when the server takes the flag back.
    """

    def start(self, statements: Sequence[str], bound: Bounded = UNBOUNDED) -> Finish:
        return self._awaiting(asyncio.ensure_future(greenlet_spawn(self.run, statements)), bound.until)

    def roll_back(self, bound: Bounded) -> None:
        self._awaiting(asyncio.ensure_future(greenlet_spawn(self._roll_back)), bound.until)()

    def _awaiting(self, task: "asyncio.Future[list[Answer]]", until: float | None) -> Finish:
        return lambda: await_only(task if until is None else self._in_time(task, until))

    async def _in_time(self, task: "asyncio.Future[list[Answer]]", until: float) -> list[Answer]:
        await asyncio.wait([task], timeout=max(0.0, until - time.monotonic()))
        if not task.done():
            task.add_done_callback(seen)
            # A driver that is cancelled would ask the server to cancel, and wait for what it says.
            self._cut()
            await asyncio.wait([task], timeout=CUT_WITHIN_S)
            raise unanswered()
        return task.result()

    def _cut(self) -> None:
        """Without a word to the server: that is asyncpg's `terminate`, and the other ones' `close`."""
        raw = self.dbapi.driver_connection
        getattr(raw, "terminate", raw.close)()


class AioMySqlChannel(TaskChannel):
    """aiomysql."""

    @override
    def is_idle(self) -> bool:
        return not self.dbapi.driver_connection.get_transaction_status()


class AsyncpgChannel(TaskChannel):
    """asyncpg: the simple protocol, which alone gives the tag; a SELECT by the other one, which alone gives rows."""

    @override
    def is_busy(self) -> bool:
        """While somebody takes the rows of a COPY, which may be for ever, nothing is read from the server. Of what was
        cancelled it may be that nobody will ever say it is: then asyncpg waits for that before anything else."""
        raw = self.dbapi.driver_connection
        return not raw.is_closed() and (raw._protocol._is_cancelling() or not raw._transport.is_reading())

    @override
    def _run(self, statement: str) -> Answer:
        return await_only(self._awaited(statement))

    async def _awaited(self, statement: str) -> Answer:
        adapter = self.dbapi
        raw = adapter.driver_connection
        try:
            if statement == "BEGIN":  # the adapter wants to know of it, and adds the isolation level
                async with adapter._execute_mutex:
                    if adapter._transaction is None:  # or a listener of the engine has executed something
                        await adapter._start_transaction()
                return Answer(statement, None)
            if statement.startswith("SELECT"):
                row = await raw.fetchrow(statement)
                return Answer("", tuple(row) if row is not None else None)
            return Answer(await raw.execute(statement), None)
        except Exception as error:
            adapter._handle_exception(error)
            raise


class PsycopgTaskChannel(TaskChannel):
    """psycopg 3 with asyncio."""

    @override
    def _cut(self) -> None:
        cut(self.dbapi.driver_connection.fileno())

    @override
    def is_idle(self) -> bool:
        return bool(self.dbapi.driver_connection.pgconn.transaction_status == IDLE)

    @override
    def _run(self, statement: str) -> Answer:
        return await_only(self._awaited(statement))

    async def _awaited(self, statement: str) -> Answer:
        raw = self.dbapi.driver_connection
        async with raw.cursor() as cursor:
            before = raw.autocommit
            outside = raw.info.transaction_status == IDLE
            if outside and not before:
                await raw.set_autocommit(True)
            try:
                await cursor.execute(statement)
                row = await cursor.fetchone() if cursor.description else None
                return Answer(cursor.statusmessage or "", row)
            finally:
                if outside and not before and not raw.closed:
                    await raw.set_autocommit(before)
