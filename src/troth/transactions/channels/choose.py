"""Which channel a driver's connection gets."""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.engine.interfaces import Dialect

from troth.transactions.channels.blocking import MySqlDbChannel, Psycopg2Channel, ThreadChannel
from troth.transactions.channels.interface import Channel
from troth.transactions.channels.packets import PyMySqlChannel
from troth.transactions.channels.pq import PqChannel
from troth.transactions.channels.tasks import AioMySqlChannel, AsyncpgChannel, PsycopgTaskChannel, TaskChannel

_KEPT: Final = "troth.channel"
"""Where a pooled connection's `info` keeps its channel."""

_OF_THREADS: Final[dict[str, Callable[[Dialect, Any], Channel]]] = {
    "psycopg": PqChannel,
    "psycopg2": Psycopg2Channel,
    "pymysql": PyMySqlChannel,
    "mysqldb": MySqlDbChannel,
}
_OF_TASKS: Final[dict[str, Callable[[Dialect, Any], Channel]]] = {
    "psycopg": PsycopgTaskChannel,
    "psycopg_async": PsycopgTaskChannel,
    "asyncpg": AsyncpgChannel,
    "aiomysql": AioMySqlChannel,
}


def channel_of(dialect: Dialect, connection: Any) -> Channel:
    """The channel of the pool's *connection* (`Connection.connection`); made once, and kept with it."""
    dbapi = connection.dbapi_connection
    kept: Channel | None = connection.info.get(_KEPT)
    if kept is None or kept.dbapi is not dbapi:
        kept = connection.info[_KEPT] = _open_channel(dialect, dbapi)
    return kept


def _open_channel(dialect: Dialect, dbapi: Any) -> Channel:
    if dialect.is_async:
        return _OF_TASKS.get(dialect.driver, TaskChannel)(dialect, dbapi)
    return _OF_THREADS.get(dialect.driver, ThreadChannel)(dialect, dbapi)
