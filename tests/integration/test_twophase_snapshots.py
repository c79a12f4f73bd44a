"""A snapshot on real servers sees what the application's own connections would have seen at its one moment."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from troth import TwoPhaseCommit
from troth.torture.databases import MariaDBServer, PostgresServer
from troth.transactions.aio import AsyncTwoPhaseCommit

pytestmark = pytest.mark.integration

purse = sa.Table("seen", sa.MetaData(), sa.Column("v", sa.Integer))
SEEN = sa.select(purse.c.v)


def filled(url: str) -> str:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        purse.drop(connection, checkfirst=True)
        purse.create(connection)
        connection.execute(sa.insert(purse), [{"v": 0}])
    return url


@pytest.fixture
def bank(postgres: PostgresServer) -> str:
    return filled(postgres.url())


@pytest.fixture
def ledger(mariadb: MariaDBServer) -> str:
    return filled(mariadb.url())


def test_both_kinds_mariadb_too_see_the_moment_of_the_snapshot_and_not_of_the_first_read(
    bank: str, ledger: str, tmp_path: Path
) -> None:
    # What an engine is set to is for its transactions, and not for snapshots.
    engines = {
        "bank": sa.create_engine(bank, isolation_level="READ COMMITTED"),
        "ledger": sa.create_engine(ledger, isolation_level="READ COMMITTED"),
    }
    with TwoPhaseCommit(engines, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.snapshot() as snap:
            for value in (7, 8):
                with tpc.begin() as tx:
                    for name in engines:
                        tx[name].execute(sa.update(purse).values(v=value))
                assert [snap[name].scalar(SEEN) for name in engines] == [0, 0]
        with tpc.snapshot() as snap:
            assert [snap[name].scalar(SEEN) for name in engines] == [8, 8]
            with pytest.raises(sa.exc.DBAPIError):
                snap["bank"].execute(sa.update(purse).values(v=9))
    for engine in engines.values():
        engine.dispose()


@pytest.fixture
def tenant(bank: str) -> Iterator[str]:
    engine = sa.create_engine(bank, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        connection.exec_driver_sql("CREATE TABLE tenant.seen AS SELECT 100 AS v")
    yield bank
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA tenant CASCADE")


def search_path(raw: Any, _: object) -> None:
    """SQLAlchemy's recipe."""
    before, raw.autocommit = raw.autocommit, True
    cursor = raw.cursor()
    cursor.execute("SET SESSION search_path = tenant")
    cursor.close()
    raw.autocommit = before


def test_the_schema_that_an_event_sets_for_each_connection_is_a_snapshots_too(tenant: str, tmp_path: Path) -> None:
    engine = sa.create_engine(tenant)
    sa.event.listen(engine, "connect", search_path, insert=True)
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin() as tx:
            assert tx[engine].scalar(SEEN) == 100
        with tpc.snapshot() as snap:
            assert snap[engine].scalar(SEEN) == 100
    engine.dispose()


def test_what_an_event_sets_for_each_transaction_is_a_snapshots_too(tenant: str, tmp_path: Path) -> None:
    engine = sa.create_engine(tenant)

    def choose(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL search_path = tenant")

    sa.event.listen(engine, "begin", choose)
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc, tpc.snapshot() as snap:
        assert snap[engine].scalar(SEEN) == 100
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_with_asyncio_it_is_the_same(driver: str, tenant: str, postgres: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        engine = create_async_engine(postgres.url(driver)).execution_options(schema_translate_map={None: "tenant"})
        async with AsyncTwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
            async with tpc.snapshot() as snap:
                assert await snap[engine].scalar(SEEN) == 100
                async with tpc.begin() as tx:
                    await tx[engine].execute(sa.update(purse).values(v=101))
                assert await snap[engine].scalar(SEEN) == 100
        await engine.dispose()

    asyncio.run(main())
