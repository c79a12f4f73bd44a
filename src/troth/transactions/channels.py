"""One statement on many connections from one thread: send on all, then wait for all.

A channel sits on one driver connection, below SQLAlchemy's transaction. `Channel.start` sends and returns at once; the
function that it returns waits for the answers. Two databases then sync at the same time, and nobody pays for a thread
(measured: threads cost more than they gain on a fast disk). Drivers that can only block are run in threads when there
is more than one; asyncio drivers become tasks.

Statements go out as they are, outside of the driver's own idea of transactions: PostgreSQL's PREPARE TRANSACTION is
answered with the *tag* ``ROLLBACK``, and no error, when the transaction had failed; no driver's own ``tpc_prepare``
looks at it (psycopg/psycopg2#1213), so here the tag is part of the answer.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import exc
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.util.concurrency import await_only, greenlet_spawn
from typing_extensions import override

from troth.transactions.daemons import Daemons

THREADS_MAX = 10_000
"""No bound: a connection has one thread at most, and pools bound connections. Votes may wait for a row that only the
second phase of another transaction lets go, so that one must never wait for theirs."""
_KEPT: Final = "troth.channel"
"""Where a pooled connection's `info` keeps its channel."""
_IN_TRANSACTION: Final = 1
"""SERVER_STATUS_IN_TRANS, which MariaDB and MySQL send with each answer."""
_ACTIVE: Final = 1
"""libpq's PQTRANS_ACTIVE: neither idle nor, with or without an error, in a transaction that waits for a statement."""
LOOK_UP_EVERY_S = 0.1
"""How long a wait may keep Ctrl-C from being seen."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the database said to one statement: the command tag where there is one, and the first row."""

    tag: str
    row: tuple[Any, ...] | None


Finish = Callable[[], list[Answer]]
"""Waits for the answers to what was started, in order. Raises sqlalchemy.exc.DBAPIError at the first that failed;
`connection_invalidated` of it says that the connection is gone, so that nothing is known."""


class Channel(Protocol):
    """Statements straight to one driver connection, for as long as that lives."""

    @property
    def dbapi(self) -> Any:
        """The driver connection."""

    def start(self, statements: Sequence[str]) -> Finish:
        """Send *statements* in order; a later one is not executed after a failed one (but see MySQL's channel)."""

    def is_idle(self) -> bool:
        """Whether the driver itself knows that no transaction is open. False: it has to be told."""

    def is_busy(self) -> bool:
        """Whether something is left half done, such as a COPY: the driver would wait for its end before anything else,
        for ever. False where nobody knows."""

    def setting(self, name: str) -> str | None:
        """A setting of the session of which the server tells every change, whoever makes it; None: not known."""


def channel_of(dialect: Dialect, connection: Any) -> Channel:
    """The channel of the pool's *connection* (`Connection.connection`); made once, and kept with it."""
    dbapi = connection.dbapi_connection
    kept: Channel | None = connection.info.get(_KEPT)
    if kept is None or kept.dbapi is not dbapi:
        kept = connection.info[_KEPT] = _open_channel(dialect, dbapi)
    return kept


def _open_channel(dialect: Dialect, dbapi: Any) -> Channel:
    if dialect.is_async:
        return _TaskChannel(dialect, dbapi)
    match dialect.driver:
        case "psycopg":
            return _PqChannel(dialect, dbapi)
        case "pymysql":
            return _PyMySqlChannel(dialect, dbapi)
        case _:
            return _ThreadChannel(dialect, dbapi)


def _wrapped(dialect: Dialect, statement: str, error: Exception, dbapi: Any) -> Exception:
    """*error* of the driver as SQLAlchemy would raise it; other errors as they are."""
    base = dialect.loaded_dbapi.Error
    if not isinstance(error, base):
        return error
    lost = dialect.is_disconnect(error, dbapi, None)
    wrapped = exc.DBAPIError.instance(
        statement, None, error, base, hide_parameters=False, connection_invalidated=lost, dialect=dialect
    )
    wrapped.__cause__ = error
    return wrapped


def _unsent(error: Exception) -> Exception:
    """*error*, of which it is known that the last of the statements has not left."""
    error.troth_unsent = True  # type: ignore[attr-defined]
    return error


def may_have_been_sent(error: BaseException) -> bool:
    """Whether the last of the statements that *error* came of may have reached the server."""
    return not getattr(error, "troth_unsent", False)


class _PqChannel:
    """psycopg 3: libpq's own asynchronous calls. All statements travel as one message, so one round trip.

    Each call that lets other threads run (a poll, a look whether the answer is whole) may hand the interpreter to one
    of them, which costs a context switch or two; psycopg's own way to wait has four times as many as this one.
    """

    def __init__(self, dialect: Dialect, dbapi: Any) -> None:
        # Late: the driver is there, since a connection of it is.
        from psycopg import errors, generators, waiting

        self._dialect = dialect
        self.dbapi = dbapi
        self._pgconn = dbapi.pgconn
        self._sent = generators.send
        self._wait = waiting.wait
        self._error_of = errors.error_from_result
        arrivals = select.poll()
        arrivals.register(self._pgconn.socket, select.POLLIN)
        self._arrival = arrivals.poll

    def start(self, statements: Sequence[str]) -> Finish:
        text = "; ".join(statements)
        pgconn = self._pgconn
        try:
            pgconn.send_query(text.encode())
            has_read = bool(pgconn.flush())
            if has_read:
                # Until the server takes all of it what it says is read, so that nothing may be left to arrive.
                self._wait(self._sent(pgconn), pgconn.socket, LOOK_UP_EVERY_S)
        except Exception as error:
            raise _wrapped(self._dialect, text, error, self.dbapi) from error
        return partial(self._finish, text, has_read)

    def is_idle(self) -> bool:
        return not self._pgconn.transaction_status

    def is_busy(self) -> bool:
        return bool(self._pgconn.transaction_status == _ACTIVE)

    def setting(self, name: str) -> str | None:
        found = self._pgconn.parameter_status(name.encode())
        return None if found is None else found.decode()

    def _finish(self, text: str, has_read: bool = False) -> list[Answer]:
        pgconn = self._pgconn
        answers: list[Answer] = []
        failed: Exception | None = None
        try:
            while True:
                if not has_read:
                    self._arrival()
                    pgconn.consume_input()
                has_read = False
                while not pgconn.is_busy():
                    result = pgconn.get_result()
                    if result is None:
                        if failed is None:
                            return answers
                        raise failed
                    if result.error_message:
                        failed = failed or self._error_of(result)
                    row = _first_row(result) if result.ntuples else None
                    answers.append(Answer((result.command_status or b"").decode(), row))
        except Exception as error:
            # Before a server ends a session it says why; that the connection is closed says less.
            raise _wrapped(self._dialect, text, failed or error, self.dbapi) from error


def _first_row(result: Any) -> tuple[str | None, ...]:
    row = []
    for column in range(result.nfields):
        value = result.get_value(0, column)
        row.append(None if value is None else value.decode())
    return tuple(row)


class _PyMySqlChannel:
    """PyMySQL: each statement is a packet; all are sent before the first answer is read.

    The server works them off one by one, also after one has failed: so only such statements may be sent together
    where a later one is harmless, and refused by the server, when an earlier one has failed (XA END, XA PREPARE).
    """

    def __init__(self, dialect: Dialect, dbapi: Any) -> None:
        self._dialect = dialect
        self.dbapi = dbapi

    def is_idle(self) -> bool:
        return not self.dbapi.server_status & _IN_TRANSACTION

    def is_busy(self) -> bool:
        return False

    def setting(self, name: str) -> str | None:
        return None

    def start(self, statements: Sequence[str]) -> Finish:
        from pymysql import err
        from pymysql.constants.COMMAND import COM_QUERY

        try:
            if self._is_closed_by_the_server():
                raise err.OperationalError(2006, "MySQL server has gone away")
            for statement in statements:
                self.dbapi._execute_command(COM_QUERY, statement)
        except Exception as error:
            raise _unsent(_wrapped(self._dialect, "; ".join(statements), error, self.dbapi)) from error
        return partial(self._finish, statements)

    def _is_closed_by_the_server(self) -> bool:
        """Such a connection (idle for too long, or killed) takes what is sent all the same, and answers nothing: then
        nobody could say whether it was executed. Of one with TLS that is not known."""
        sock = self.dbapi._sock
        if sock is None:
            return False
        arrivals = select.poll()
        arrivals.register(sock, select.POLLIN)
        if not arrivals.poll(0):
            return False
        try:
            return not sock.recv(1, socket.MSG_PEEK)
        except ValueError:
            return False  # TLS takes no flags
        except OSError:
            return True

    def _finish(self, statements: Sequence[str]) -> list[Answer]:
        answers = []
        failed: Exception | None = None
        for statement in statements:
            try:
                # Each answer begins a new sequence of packets.
                self.dbapi._next_seq_id = 1
                self.dbapi._read_query_result()
                rows = self.dbapi._result.rows
                answers.append(Answer("", rows[0] if rows else None))
            except Exception as error:  # noqa: BLE001  (raised below, when all answers have been read)
                failed = failed or _wrapped(self._dialect, statement, error, self.dbapi)
                if getattr(failed, "connection_invalidated", True):
                    break
        if failed is not None:
            raise failed
        return answers


class BlockingStatements:
    """Statements through a plain DBAPI cursor, one after the other."""

    def __init__(self, dialect: Dialect, dbapi: Any) -> None:
        self._dialect = dialect
        self.dbapi = dbapi

    def is_idle(self) -> bool:
        return False

    def is_busy(self) -> bool:
        raw = self._dialect.get_driver_connection(self.dbapi)
        info = getattr(raw, "info", None)  # psycopg and psycopg2
        return info is not None and info.transaction_status == _ACTIVE

    def setting(self, name: str) -> str | None:
        raw = self._dialect.get_driver_connection(self.dbapi)
        settings = getattr(raw, "get_settings", None)
        if settings is not None:  # asyncpg
            return getattr(settings(), name, None)
        info = getattr(raw, "info", None)  # psycopg and psycopg2
        return None if info is None else info.parameter_status(name)

    def run(self, statements: Sequence[str]) -> list[Answer]:
        answers = []
        for place, statement in enumerate(statements, 1):
            try:
                answers.append(self._run(statement))
            except Exception as error:
                failed = _wrapped(self._dialect, statement, error, self.dbapi)
                raise (_unsent(failed) if place < len(statements) else failed) from error
        return answers

    def _run(self, statement: str) -> Answer:
        cursor = self.dbapi.cursor()
        try:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return Answer(getattr(cursor, "statusmessage", None) or "", tuple(row) if row else None)
        finally:
            cursor.close()


_threads: list[Daemons] = []
# A forked process has the pool, and none of its threads: work given to it would wait for ever.
os.register_at_fork(after_in_child=_threads.clear)


def _in_thread(work: Callable[[], list[Answer]]) -> Finish:
    if not _threads:
        _threads.append(Daemons(THREADS_MAX, "troth 2pc"))
    return _threads[0].submit(work).result


class _ThreadChannel(BlockingStatements):
    """psycopg2, mysqlclient and any other driver that can only block."""

    @override
    def is_idle(self) -> bool:
        if self._dialect.driver != "psycopg2":
            return False
        extensions = self._dialect.loaded_dbapi.extensions
        return bool(
            self.dbapi.status == extensions.STATUS_READY
            and self.dbapi.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
        )

    @override
    def _run(self, statement: str) -> Answer:
        if statement != "COMMIT" or self._dialect.driver != "psycopg2":
            return super()._run(statement)
        # Of one in a cursor it would not take notice, and have to be told by another one.
        extensions = self._dialect.loaded_dbapi.extensions
        has_failed = self.dbapi.info.transaction_status == extensions.TRANSACTION_STATUS_INERROR
        self.dbapi.commit()
        return Answer("ROLLBACK" if has_failed else "COMMIT", None)

    def start(self, statements: Sequence[str]) -> Finish:
        return _in_thread(lambda: self._outside_of_transactions(statements))

    def _outside_of_transactions(self, statements: Sequence[str]) -> list[Answer]:
        """psycopg2 sends BEGIN by itself before a statement, unless it is told not to."""
        if self._dialect.driver != "psycopg2":
            return self.run(statements)
        extensions = self._dialect.loaded_dbapi.extensions
        if self.dbapi.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
            return self.run(statements)
        if self.dbapi.status != extensions.STATUS_READY:
            # It believes to be in the transaction that PREPARE has ended: this COMMIT is for the driver alone.
            self.dbapi.commit()
        before = self.dbapi.autocommit
        self.dbapi.autocommit = True
        try:
            return self.run(statements)
        finally:
            if not self.dbapi.closed:
                self.dbapi.autocommit = before


class _TaskChannel(BlockingStatements):
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
