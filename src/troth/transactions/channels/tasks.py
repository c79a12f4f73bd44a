"""Drivers of asyncio: each statement is a task."""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.util.concurrency import await_only, greenlet_spawn
from typing_extensions import override

from troth.transactions.channels.blocking import BlockingStatements
from troth.transactions.channels.interface import Answer, Finish


class TaskChannel(BlockingStatements):
    """Drivers of asyncio, behind SQLAlchemy's adapters; to be used inside of `greenlet_spawn`."""

    @override
    def is_idle(self) -> bool:
        raw = self.dbapi.driver_connection
        match self._dialect.driver:
            case "psycopg" | "psycopg_async":
                return not raw.pgconn.transaction_status
            case "aiomysql":
                return not raw.get_transaction_status()
            case _:
                return False  # asyncmy overlooks when the server takes the flag back

    def start(self, statements: Sequence[str]) -> Finish:
        task = asyncio.ensure_future(greenlet_spawn(self.run, statements))
        return lambda: await_only(task)

    @override
    def _run(self, statement: str) -> Answer:
        match self._dialect.driver:
            case "asyncpg":
                return await_only(_asyncpg(self.dbapi, statement))
            case "psycopg" | "psycopg_async":
                return await_only(_psycopg(self.dbapi.driver_connection, statement))
            case _:
                return super()._run(statement)


async def _asyncpg(adapter: Any, statement: str) -> Answer:
    """The simple protocol, which alone gives the tag; a SELECT by the other one, which alone gives rows."""
    raw = adapter.driver_connection
    try:
        if statement == "BEGIN":  # the adapter wants to know of it, and adds the isolation level
            async with adapter._execute_mutex:
                await adapter._start_transaction()
            return Answer(statement, None)
        if statement.startswith("SELECT"):
            row = await raw.fetchrow(statement)
            return Answer("", tuple(row) if row is not None else None)
        return Answer(await raw.execute(statement), None)
    except Exception as error:
        adapter._handle_exception(error)
        raise


async def _psycopg(raw: Any, statement: str) -> Answer:
    async with raw.cursor() as cursor:
        before = raw.autocommit
        outside = raw.info.transaction_status == 0
        if outside and not before:
            await raw.set_autocommit(True)
        try:
            await cursor.execute(statement)
            row = await cursor.fetchone() if cursor.description else None
            return Answer(cursor.statusmessage or "", row)
        finally:
            if outside and not before and not raw.closed:
                await raw.set_autocommit(before)
