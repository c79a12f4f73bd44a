"""Which channel a driver's connection gets."""

from typing import Any, Final

from sqlalchemy.engine.interfaces import Dialect

from troth.transactions.channels.blocking import ThreadChannel
from troth.transactions.channels.interface import Channel
from troth.transactions.channels.packets import PyMySqlChannel
from troth.transactions.channels.pq import PqChannel
from troth.transactions.channels.tasks import TaskChannel

_KEPT: Final = "troth.channel"
"""Where a pooled connection's `info` keeps its channel."""


def channel_of(dialect: Dialect, connection: Any) -> Channel:
    """The channel of the pool's *connection* (`Connection.connection`); made once, and kept with it."""
    dbapi = connection.dbapi_connection
    kept: Channel | None = connection.info.get(_KEPT)
    if kept is None or kept.dbapi is not dbapi:
        kept = connection.info[_KEPT] = _open_channel(dialect, dbapi)
    return kept


def _open_channel(dialect: Dialect, dbapi: Any) -> Channel:
    if dialect.is_async:
        return TaskChannel(dialect, dbapi)
    match dialect.driver:
        case "psycopg":
            return PqChannel(dialect, dbapi)
        case "pymysql":
            return PyMySqlChannel(dialect, dbapi)
        case _:
            return ThreadChannel(dialect, dbapi)
