"""A transaction chooses the isolation level of its branches."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from troth import AsyncTwoPhaseCommit, TwoPhaseCommit
from troth.errors import UsageError
from troth.torture.databases import DatabaseServer

pytestmark = pytest.mark.integration

POSTGRES = sa.text("SHOW transaction_isolation")
MARIADB = sa.text("SELECT @@tx_isolation")
FIRST = sa.text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")


def server_of(driver: str, request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue("mariadb" if "my" in driver else "postgres")
    return found


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_it_may_be_set_by_the_first_statement(
    driver: str, timeout: float | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = sa.create_engine(server_of(driver, request).url(driver))
    with (
        TwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc,
        tpc.begin(timeout=timeout) as tx,
    ):
        tx[engine].execute(FIRST)
        assert tx[engine].scalar(POSTGRES) == "serializable"
        assert tx[engine].scalar(sa.text("SHOW application_name")) == tx.gid
    engine.dispose()


@pytest.mark.parametrize("within_s", [None, 5.0])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_it_may_be_set_by_the_first_statement_on_asyncio(
    driver: str, within_s: float | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = create_async_engine(server_of(driver, request).url(driver))
    async with AsyncTwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        async with tpc.begin(timeout=within_s) as tx:
            await tx[engine].execute(FIRST)
            assert await tx[engine].scalar(POSTGRES) == "serializable"
            assert await tx[engine].scalar(sa.text("SHOW application_name")) == tx.gid
        async with tpc.begin() as tx:
            assert await tx[engine.execution_options(isolation_level="REPEATABLE READ")].scalar(POSTGRES) == (
                "repeatable read"
            )
        async with tpc.begin() as tx:
            assert await tx[engine].scalar(POSTGRES) == "read committed"
    await engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pymysql", "mysqldb"])
def test_it_may_be_an_option_of_the_engine_that_names_the_branch(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = sa.create_engine(server_of(driver, request).url(driver), pool_size=1, max_overflow=0)
    strict = engine.execution_options(isolation_level="SERIALIZABLE")
    shown = MARIADB if "my" in driver else POSTGRES
    with engine.connect() as connection:
        usual = connection.scalar(shown)
    with TwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        with tpc.begin() as tx:
            assert str(tx[strict].scalar(shown)).upper() == "SERIALIZABLE"
            assert tx[engine] is tx[strict]
            with tx.session(bind=strict) as session:
                assert isinstance(session, Session)
                assert str(session.scalar(shown)).upper() == "SERIALIZABLE"
        with tpc.begin() as tx:
            assert tx[engine].scalar(shown) == usual
            with pytest.raises(UsageError, match="the branch of one is open"):
                tx[strict]
    engine.dispose()
