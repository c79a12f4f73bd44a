"""psycopg 3, by the asynchronous calls of libpq that it shows."""

import ctypes
import select
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from sqlalchemy.engine.interfaces import Dialect

from troth.transactions.channels.interface import ACTIVE, UNBOUNDED, Answer, Bounded, Finish, unanswered, wrapped

LOOK_UP_EVERY_S = 0.1
"""How long a wait may keep Ctrl-C from being seen."""


class PqChannel:
    """psycopg 3: libpq's own asynchronous calls. All statements travel as one message, so one round trip.

    Each call that lets other threads run wakes one of them, mostly for nothing, and may hand the interpreter to it: a
    context switch or two. Here the only such call is a poll for what has not arrived when it is first looked for.
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
        self._send, self._is_unfinished = _keeping(self._pgconn)
        arrivals = select.poll()
        arrivals.register(self._pgconn.socket, select.POLLIN)
        self._poll = arrivals.poll

    def start(self, statements: Sequence[str], bound: Bounded = UNBOUNDED) -> Finish:
        text = "; ".join(statements)
        pgconn = self._pgconn
        try:
            self._send(text.encode())
            has_read = bool(pgconn.flush())
            if has_read:
                # Until the server takes all of it what it says is read, so that nothing may be left to arrive.
                self._wait(self._sent(pgconn), pgconn.socket, LOOK_UP_EVERY_S)
        except Exception as error:
            raise wrapped(self._dialect, text, error, self.dbapi) from error
        return partial(self._finish, text, has_read, bound)

    def roll_back(self, bound: Bounded) -> None:
        self.start(["ROLLBACK"], bound)()

    def is_idle(self) -> bool:
        return not self._pgconn.transaction_status

    def is_busy(self) -> bool:
        return bool(self._pgconn.transaction_status == ACTIVE)

    def _finish(self, text: str, has_read: bool, bound: Bounded) -> list[Answer]:
        pgconn = self._pgconn
        answers: list[Answer] = []
        failed: Exception | None = None
        is_unfinished = self._is_unfinished
        try:
            if not has_read:
                pgconn.consume_input()
            while True:
                while not is_unfinished():
                    result = pgconn.get_result()
                    if result is None:
                        if failed is None:
                            return answers
                        raise failed
                    if result.error_message:
                        failed = failed or self._error_of(result)
                    row = _first_row(result) if result.ntuples else None
                    answers.append(Answer((result.command_status or b"").decode(), row))
                until = bound.until
                if until is None:
                    self._poll()
                elif not self._poll(max(0.0, until - time.monotonic()) * 1000):
                    raise unanswered()
                pgconn.consume_input()
        except Exception as error:
            # Before a server ends a session it says why; that the connection is closed says less.
            raise wrapped(self._dialect, text, failed or error, self.dbapi) from error


def _keeping(pgconn: Any) -> tuple[Callable[[bytes], None], Callable[[], int]]:
    """PQsendQuery and PQisBusy of this connection: send; and look whether the rest of an answer has yet to arrive.

    psycopg lets other threads run in both, though a look takes less than a microsecond, and what is sent here fits into
    the socket's buffer, or else is left to `flush`: neither waits for anything. So the library that psycopg has loaded
    is called here, with the interpreter kept. Where that is not to be had (psycopg's implementation in Python, a loader
    that does not look into what a library needs, an interpreter without a lock to keep), or where libpq might wait,
    psycopg does it.
    """
    found = _library(type(pgconn).__module__)
    if found is None:
        return pgconn.send_query, pgconn.is_busy
    send_query, is_busy = found

    def send(text: bytes) -> None:
        if not pgconn.nonblocking:  # or closed, of which psycopg tells
            pgconn.send_query(text)
        elif not send_query(pgconn.pgconn_ptr, text):
            from psycopg import OperationalError

            raise OperationalError(f"sending failed: {pgconn.error_message.decode(errors='replace').strip()}")

    def look() -> int:
        # No other thread runs between the two; of a connection that one of them has closed the address is None.
        return is_busy(pgconn.pgconn_ptr)

    return send, look


@cache
def _library(module: str) -> tuple[Any, Any] | None:
    """PQsendQuery and PQisBusy as *module* has loaded them, to be called with the interpreter kept; None: psycopg's."""
    try:
        library = ctypes.PyDLL(sys.modules[module].__file__)
        send_query, is_busy = library.PQsendQuery, library.PQisBusy
    except (AttributeError, KeyError, OSError, TypeError):
        return None
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    send_query.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    is_busy.argtypes = (ctypes.c_void_p,)
    return send_query, is_busy


def _first_row(result: Any) -> tuple[str | None, ...]:
    row = []
    for column in range(result.nfields):
        value = result.get_value(0, column)
        row.append(None if value is None else value.decode())
    return tuple(row)
