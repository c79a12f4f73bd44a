"""What every channel can do, and how the errors of drivers come out of it."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import exc
from sqlalchemy.engine.interfaces import Dialect

from troth.errors import RequestTimeout

ACTIVE: Final = 1
"""libpq's PQTRANS_ACTIVE: neither idle nor, with or without an error, in a transaction that waits for a statement."""


IDLE: Final = 0
"""libpq's PQTRANS_IDLE: in no transaction."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the database said to one statement: the command tag where there is one, and the first row."""

    tag: str
    row: tuple[Any, ...] | None


Finish = Callable[[], list[Answer]]
"""Waits for the answers to what was started, in order. Raises sqlalchemy.exc.DBAPIError at the first that failed;
`connection_invalidated` of it says that the connection is gone, so that nothing is known."""


class Bounded(Protocol):
    """Whose answers are waited for. A channel outlives it, and works for others before and after."""

    until: float | None
    """They are waited for until the clock (time.monotonic) says this; then RequestTimeout is raised, and the connection
    is not to be used again. None: for as long as it takes. Set before `start`; psycopg 3, whose BEGIN is sent long
    before its answer is wanted, looks when it waits."""


class Unbounded:
    """Whoever waits for as long as it takes."""

    until: float | None = None


UNBOUNDED: Final = Unbounded()


class Channel(Protocol):
    """Statements straight to one driver connection, for as long as that lives."""

    @property
    def dbapi(self) -> Any:
        """The driver connection."""

    def start(self, statements: Sequence[str], bound: Bounded = UNBOUNDED) -> Finish:
        """Send *statements* in order; a later one is not executed after a failed one (but see MySQL's channel)."""

    def roll_back(self, bound: Bounded) -> None:
        """Have the driver roll back what is open, as far as it knows, and know then that nothing is. Raises as `Finish`
        does."""

    def is_idle(self) -> bool:
        """Whether the driver itself knows that no transaction is open. False: it has to be told."""

    def is_busy(self) -> bool:
        """Whether something is left half done, such as a COPY: the driver would wait for its end before anything else,
        for ever. False where nobody knows."""


def unanswered() -> RequestTimeout:
    """What was sent may have been done, or may yet be."""
    return RequestTimeout("the database has not answered in time")


def wrapped(dialect: Dialect, statement: str, error: Exception, dbapi: Any) -> Exception:
    """*error* of the driver as SQLAlchemy would raise it. Others are raised here, as they are: ``raise ... from error``
    would make one the cause of itself."""
    base = dialect.loaded_dbapi.Error
    if not isinstance(error, base):
        raise error
    lost = dialect.is_disconnect(error, dbapi, None)
    told = exc.DBAPIError.instance(
        statement, None, error, base, hide_parameters=False, connection_invalidated=lost, dialect=dialect
    )
    told.__cause__ = error
    return told


def unsent(error: Exception) -> Exception:
    """*error*, of which it is known that the last of the statements has not left."""
    error.troth_unsent = True  # type: ignore[attr-defined]
    return error


def may_have_been_sent(error: BaseException) -> bool:
    """Whether the last of the statements that *error* came of may have reached the server."""
    return not getattr(error, "troth_unsent", False)
