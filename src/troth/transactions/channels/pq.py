"""psycopg 3, by the asynchronous calls of libpq that it shows."""

import select
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy.engine.interfaces import Dialect

from troth.transactions.channels.interface import ACTIVE, Answer, Finish, wrapped

LOOK_UP_EVERY_S = 0.1
"""How long a wait may keep Ctrl-C from being seen."""


class PqChannel:
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
            raise wrapped(self._dialect, text, error, self.dbapi) from error
        return partial(self._finish, text, has_read)

    def is_idle(self) -> bool:
        return not self._pgconn.transaction_status

    def is_busy(self) -> bool:
        return bool(self._pgconn.transaction_status == ACTIVE)

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
            raise wrapped(self._dialect, text, failed or error, self.dbapi) from error


def _first_row(result: Any) -> tuple[str | None, ...]:
    row = []
    for column in range(result.nfields):
        value = result.get_value(0, column)
        row.append(None if value is None else value.decode())
    return tuple(row)
