"""PyMySQL, packet by packet."""

import select
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import exc
from sqlalchemy.engine.interfaces import Dialect

from troth.transactions.channels.interface import UNBOUNDED, Answer, Bounded, Finish, unanswered, unsent, wrapped

_IN_TRANSACTION: Final = 1
"""SERVER_STATUS_IN_TRANS, which MariaDB and MySQL send with each answer."""


class PyMySqlChannel:
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

    def roll_back(self, bound: Bounded) -> None:
        self.start(["ROLLBACK"], bound)()

    def start(self, statements: Sequence[str], bound: Bounded = UNBOUNDED) -> Finish:
        from pymysql import err
        from pymysql.constants.COMMAND import COM_QUERY

        try:
            if self._is_closed_by_the_server():
                raise err.OperationalError(2006, "MySQL server has gone away")
            for statement in statements:
                self.dbapi._execute_command(COM_QUERY, statement)
        except Exception as error:
            raise unsent(wrapped(self._dialect, "; ".join(statements), error, self.dbapi)) from error
        until = bound.until
        return partial(self._finish, statements) if until is None else partial(self._in_time, statements, until)

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

    def _in_time(self, statements: Sequence[str], until: float) -> list[Answer]:
        """PyMySQL has a bound for each wait, and takes a connection that has come to it for lost."""
        before = self.dbapi._read_timeout
        left_s = max(0.001, until - time.monotonic())
        self.dbapi._read_timeout = left_s if before is None else min(before, left_s)
        try:
            return self._finish(statements)
        except exc.DBAPIError as error:
            if error.connection_invalidated and time.monotonic() >= until:
                raise unanswered() from error
            raise
        finally:
            self.dbapi._read_timeout = before

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
                failed = failed or wrapped(self._dialect, statement, error, self.dbapi)
                if getattr(failed, "connection_invalidated", True):
                    break
        if failed is not None:
            raise failed
        return answers
