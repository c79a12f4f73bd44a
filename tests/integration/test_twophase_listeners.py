"""Listeners of an engine that execute something when a connection is taken, or a transaction begins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bank import settle
from sqlalchemy.ext.asyncio import create_async_engine

from troth import AsyncTwoPhaseCommit, TwoPhaseCommit
from troth.torture.databases import DatabaseServer

pytestmark = pytest.mark.integration

BLOCKING = ["psycopg", "psycopg2", "pymysql", "mysqldb"]
ASYNC = ["psycopg", "asyncpg", "aiomysql", "asyncmy"]
EVENTS = ["begin", "checkout"]

row = sa.Table("listened", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


@pytest.fixture
def server(driver: str, request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    found: DatabaseServer = request.getfixturevalue("mariadb" if "my" in driver else "postgres")
    settle(found.url())
    engine = sa.create_engine(found.url())
    with engine.begin() as connection:
        row.drop(connection, checkfirst=True)
        row.create(connection)
    engine.dispose()
    yield found
    settle(found.url())


def found(server: DatabaseServer) -> list[int]:
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(row.c.id).order_by(row.c.id)))


def listen(engine: sa.Engine, event: str) -> list[str]:
    """Have a listener of *event* read a table."""
    heard: list[str] = []

    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT count(*) FROM listened").scalar()
        heard.append(event)

    def taken(dbapi: Any, record: Any, proxy: Any) -> None:
        cursor = dbapi.cursor()
        cursor.execute("SELECT count(*) FROM listened")
        cursor.fetchall()
        cursor.close()
        heard.append(event)

    sa.event.listen(engine, event, begun if event == "begin" else taken)
    return heard


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("driver", BLOCKING)
def test_who_reads_before_a_transaction_takes_part(
    driver: str, event: str, server: DatabaseServer, tmp_path: Path
) -> None:
    engine = sa.create_engine(server.url(driver), pool_size=1, max_overflow=0)
    with TwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        heard = listen(engine, event)
        for number in (1, 2):
            with tpc.begin(timeout=5) as tx:
                tx[engine].execute(row.insert().values(id=number))
        with pytest.raises(ZeroDivisionError), tpc.begin() as tx:
            tx[engine].execute(row.insert().values(id=3))
            raise ZeroDivisionError
    assert (found(server), heard) == ([1, 2], [event] * 3)
    engine.dispose()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("driver", ASYNC)
async def test_who_reads_before_a_transaction_takes_part_on_asyncio(
    driver: str, event: str, server: DatabaseServer, tmp_path: Path
) -> None:
    engine = create_async_engine(server.url(driver), pool_size=1, max_overflow=0)
    async with AsyncTwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        heard = listen(engine.sync_engine, event)
        for number in (1, 2):
            async with tpc.begin(timeout=5) as tx:
                await tx[engine].execute(row.insert().values(id=number))
        with pytest.raises(ZeroDivisionError):
            async with tpc.begin() as tx:
                await tx[engine].execute(row.insert().values(id=3))
                raise ZeroDivisionError
    assert (found(server), heard) == ([1, 2], [event] * 3)
    await engine.dispose()


@pytest.mark.parametrize("driver", BLOCKING)
def test_what_a_listener_of_begin_writes_is_part_of_the_transaction(
    driver: str, server: DatabaseServer, tmp_path: Path
) -> None:
    engine = sa.create_engine(server.url(driver), pool_size=1, max_overflow=0)
    with TwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        numbers = iter((1, 2))
        sa.event.listen(
            engine, "begin", lambda connection: connection.execute(row.insert().values(id=next(numbers)))
        )
        with pytest.raises(ZeroDivisionError), tpc.begin() as tx:
            tx[engine].exec_driver_sql("SELECT 1")
            raise ZeroDivisionError
        assert found(server) == []
        with tpc.begin() as tx:
            tx[engine].exec_driver_sql("SELECT 1")
    assert found(server) == [2]
    engine.dispose()
