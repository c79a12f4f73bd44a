"""From what the caller gave to participants."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Engine

from troth.client.sync import Client, connect
from troth.client.url import is_url
from troth.core.twophase.records import TEXT_BYTES_MAX, is_text
from troth.errors import PreflightFailed, UsageError
from troth.transactions.participants.base import Participant
from troth.transactions.participants.cluster import Cluster
from troth.transactions.participants.mysql import MySql
from troth.transactions.participants.postgresql import Postgres
from troth.transactions.participants.sql import SqlParticipant
from troth.transactions.participants.sqlite import LastResource, Sqlite
from troth.transactions.waiting import Waiting

KINDS: dict[str, type[SqlParticipant]] = {
    "postgresql": Postgres,
    "mysql": MySql,
    "mariadb": MySql,
    "sqlite": Sqlite,
}
"""By SQLAlchemy's name of the dialect. Oracle and SQL Server would be rows here."""


def choose(given: Mapping[str, Any] | Sequence[Any], waiting: Waiting) -> list[Participant]:
    """The participants of *given*: engines (async ones too), `LastResource`, troth clients or ``troth://`` URLs.

    Without names they are called after their database, which stays the same when the program is started again.

    Raises:
        UsageError: nothing, twice the same name, a name that cannot stand in the log, or what is no database.
        PreflightFailed: a kind of database that cannot take part.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{given!r:.80} is no list of participants: TwoPhaseCommit([engine_a, engine_b])")
    named: list[tuple[str | None, Any]]
    named = list(given.items()) if isinstance(given, Mapping) else [(None, each) for each in given]
    if not named:
        raise UsageError("TwoPhaseCommit needs at least one participant: TwoPhaseCommit([engine_a, engine_b])")
    with ExitStack() as undo:
        found = []
        for name, each in named:
            if isinstance(given, Mapping) and not (name and is_text(name)):
                raise UsageError(
                    f"{name!r:.80} is no name for a participant: a str of 1 to {TEXT_BYTES_MAX} bytes of UTF-8"
                )
            found.append(_participant(name, each, waiting))
            undo.callback(found[-1].close)
        names = [participant.name for participant in found]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"two participants would be called {name!r}; name them:"
                " TwoPhaseCommit({'bank': engine_a, 'ledger': engine_b})"
            )
        undo.pop_all()
    return found


def _participant(name: str | None, given: Any, waiting: Waiting) -> Participant:
    if isinstance(given, str) and is_url(given):
        return Cluster(name or given, waiting.blocking(connect, given), waiting, owns=True)
    if isinstance(given, Client):
        return Cluster(name or "troth", given, waiting)
    named = given.engine if isinstance(given, LastResource) else given
    engine = getattr(named, "sync_engine", named)  # an AsyncEngine
    if not isinstance(engine, Engine):
        raise UsageError(
            f"{given!r:.80} is no participant: give a SQLAlchemy engine, a troth client or a troth:// URL"
        )
    kind = KINDS.get(engine.dialect.name)
    if kind is None:
        raise PreflightFailed(
            [
                f"{name or engine.url.database}: {engine.dialect.name} is not supported as a participant (not tested)"
            ]
        )
    _check_driver(name or str(engine.url.database), engine, waiting)
    if isinstance(given, LastResource) and kind is not Sqlite:
        raise UsageError(f"LastResource is for databases that cannot prepare; {engine.dialect.name} can")
    url = engine.url
    where = f"{url.host or url.query.get('host') or 'local'}:{url.port or ''}/{url.database or ''}"
    return kind(name or f"{engine.dialect.name}:{where}", engine, named)


def _check_driver(name: str, engine: Engine, waiting: Waiting) -> None:
    """Raise UsageError if nobody could wait for its driver here."""
    driver = f"{engine.dialect.name}+{engine.dialect.driver}"
    if engine.dialect.is_async and not waiting.is_async:
        raise UsageError(
            f"{name}: {driver} is a driver of asyncio: AsyncTwoPhaseCommit takes it, or use another one"
        )
    if waiting.is_async and not engine.dialect.is_async:
        raise UsageError(f"{name}: {driver} blocks: make it with create_async_engine, or use TwoPhaseCommit")
