"""Any driver that has a cursor: one statement after the other, in a thread where nobody may wait for it."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, Final

from sqlalchemy.engine.interfaces import Dialect
from typing_extensions import override

from troth.transactions.channels.interface import (
    ACTIVE,
    UNBOUNDED,
    Answer,
    Bounded,
    Finish,
    unanswered,
    unsent,
    wrapped,
)
from troth.transactions.daemons import Daemons

THREADS_MAX = 10_000
"""So high that it never binds: a connection has one thread at most, and pools bound connections. Votes may wait for a
row that only the second phase of another transaction lets go, so that one must never wait for theirs."""


CUT_WITHIN_S: Final = 1.0
"""So long at most a driver takes to notice that its connection was cut."""


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
        return info is not None and info.transaction_status == ACTIVE

    def run(self, statements: Sequence[str]) -> list[Answer]:
        answers = []
        for place, statement in enumerate(statements, 1):
            try:
                answers.append(self._run(statement))
            except Exception as error:
                failed = wrapped(self._dialect, statement, error, self.dbapi)
                raise (unsent(failed) if place < len(statements) else failed) from error
        return answers

    def _roll_back(self) -> list[Answer]:
        try:
            self.dbapi.rollback()
        except Exception as error:
            raise wrapped(self._dialect, "ROLLBACK", error, self.dbapi) from error
        return []

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


def in_thread(work: Callable[[], list[Answer]]) -> "Future[list[Answer]]":
    if not _threads:
        _threads.append(Daemons(THREADS_MAX, "troth 2pc"))
    return _threads[0].submit(work)


def cut(descriptor: int) -> None:
    """End a connection under its driver, which waits for an answer, and lets nobody close it meanwhile."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as shared:
        shared.shutdown(socket.SHUT_RDWR)


def _in_time(future: "Future[list[Answer]]", until: float, descriptor: int) -> list[Answer]:
    wait([future], max(0.0, until - time.monotonic()))
    if future.done():
        return future.result()
    cut(descriptor)
    wait([future], CUT_WITHIN_S)
    raise unanswered()


class ThreadChannel(BlockingStatements):
    """Any driver that can only block."""

    def start(self, statements: Sequence[str], bound: Bounded = UNBOUNDED) -> Finish:
        return self._in_thread(lambda: self.run(statements), bound.until)

    def roll_back(self, bound: Bounded) -> None:
        self._in_thread(self._roll_back, bound.until)()

    def _in_thread(self, work: Callable[[], list[Answer]], until: float | None) -> Finish:
        if until is None:
            return in_thread(work).result
        try:
            descriptor = self.dbapi.fileno()  # a driver that waits tells nobody
        except self._dialect.loaded_dbapi.Error:
            descriptor = -1  # it is closed, as will be told
        return partial(_in_time, in_thread(work), until, descriptor)


class MySqlDbChannel(ThreadChannel):
    """mysqlclient, which leaves to the caller how much of a streamed result is read."""

    @override
    def is_busy(self) -> bool:
        """Asks no server: without another result, which nobody has asked for either, it answers -1."""
        try:
            return bool(self.dbapi.next_result() != -1)
        except self._dialect.loaded_dbapi.Error:
            return True  # 2014, "Commands out of sync", which SQLAlchemy takes for a lost connection


class Psycopg2Channel(ThreadChannel):
    """psycopg2, which has an idea of its own of where a transaction begins and ends."""

    def __init__(self, dialect: Dialect, dbapi: Any) -> None:
        super().__init__(dialect, dbapi)
        self._extensions = dialect.loaded_dbapi.extensions

    def _status(self) -> Any:
        return self.dbapi.info.transaction_status

    def _knows_of_no_transaction(self) -> bool:
        return bool(self.dbapi.status == self._extensions.STATUS_READY)

    @override
    def is_idle(self) -> bool:
        return bool(self._knows_of_no_transaction() and self._status() == self._extensions.TRANSACTION_STATUS_IDLE)

    @override
    def _run(self, statement: str) -> Answer:
        if statement != "COMMIT":
            return super()._run(statement)
        # Of one in a cursor it would not take notice, and have to be told by another one.
        has_failed = self._status() == self._extensions.TRANSACTION_STATUS_INERROR
        self.dbapi.commit()
        return Answer("ROLLBACK" if has_failed else "COMMIT", None)

    @override
    def start(self, statements: Sequence[str], bound: Bounded = UNBOUNDED) -> Finish:
        return self._in_thread(lambda: self._without_its_begin(statements), bound.until)

    def _without_its_begin(self, statements: Sequence[str]) -> list[Answer]:
        """It sends BEGIN by itself before a statement, unless it is told not to."""
        if self._status() != self._extensions.TRANSACTION_STATUS_IDLE:
            return self.run(statements)
        if not self._knows_of_no_transaction():
            # It believes to be in the transaction that PREPARE has ended: this COMMIT is for the driver alone.
            self.dbapi.commit()
        before = self.dbapi.autocommit
        self.dbapi.autocommit = True
        try:
            return self.run(statements)
        finally:
            if not self.dbapi.closed:
                self.dbapi.autocommit = before
