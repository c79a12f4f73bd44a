"""What is done below SQLAlchemy inside of a transaction: it is ended, its role is changed, nothing is begun at all."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bank import settle
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from troth import AsyncTwoPhaseCommit, TwoPhaseCommit
from troth.errors import Aborted, PreflightFailed
from troth.torture.databases import PostgresServer
from troth.transactions.outcome import Outcome

pytestmark = pytest.mark.integration

DRIVERS = ["psycopg", "psycopg2"]
row = sa.Table("below", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


@pytest.fixture(autouse=True)
def tables(postgres: PostgresServer, postgres_other: PostgresServer) -> Iterator[None]:
    for server in (postgres, postgres_other):
        settle(server.url())
        engine = sa.create_engine(server.url())
        with engine.begin() as connection:
            row.drop(connection, checkfirst=True)
            row.create(connection)
        engine.dispose()
    yield
    for server in (postgres, postgres_other):
        settle(server.url())


def found(server: PostgresServer) -> list[int]:
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(row.c.id).order_by(row.c.id)))


def insert(connection: sa.Connection, number: int) -> None:
    connection.execute(row.insert().values(id=number))


def by_the_driver(connection: sa.Connection) -> None:
    connection.connection.rollback()


def in_sql(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ROLLBACK")


def and_begun_again(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN")


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("ended", [by_the_driver, in_sql, and_begun_again])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_transaction_that_was_rolled_back_below_is_not_said_to_be_committed(
    driver: str,
    ended: Callable[[sa.Connection], None],
    goes_on: bool,
    postgres: PostgresServer,
    postgres_other: PostgresServer,
    tmp_path: Path,
) -> None:
    left, right = sa.create_engine(postgres.url(driver)), sa.create_engine(postgres_other.url())
    with TwoPhaseCommit({"left": left, "right": right}, log=tmp_path, recover_every=None) as tpc:
        for engines in ((left,), (left, right)):
            with (
                pytest.raises(Aborted, match="left: the transaction was ended inside of its block"),
                tpc.begin() as tx,
            ):
                for engine in engines:
                    insert(tx[engine], 1)
                ended(tx[left])
                if goes_on and ended is not in_sql:
                    insert(tx[left], 2)
            assert (found(postgres), found(postgres_other)) == ([], [])
        with tpc.begin() as tx:
            for engine in (left, right):
                insert(tx[engine], 3)
    assert (found(postgres), found(postgres_other)) == ([3], [3])
    left.dispose()
    right.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_transaction_on_asyncio_that_was_rolled_back_below_is_not_said_to_be_committed(
    driver: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    async def by_the_adapter(connection: AsyncConnection) -> None:
        await connection.run_sync(by_the_driver)

    async def by_sql(connection: AsyncConnection) -> None:
        await connection.run_sync(in_sql)

    engine = create_async_engine(postgres.url(driver))
    async with AsyncTwoPhaseCommit({"left": engine}, log=tmp_path, recover_every=None) as tpc:
        for ended in (by_the_adapter, by_sql):
            with pytest.raises(Aborted, match="ended inside of its block"):
                async with tpc.begin() as tx:
                    connection = await tx.connection(engine)
                    await connection.execute(row.insert().values(id=1))
                    await ended(connection)
                    if ended is by_the_adapter:
                        await connection.execute(row.insert().values(id=2))
        async with tpc.begin() as tx:
            await tx[engine].execute(row.insert().values(id=3))
    await engine.dispose()
    assert found(postgres) == [3]


def test_who_commits_below_is_told_that_it_stands(postgres: PostgresServer, tmp_path: Path) -> None:
    engine = sa.create_engine(postgres.url())
    with TwoPhaseCommit({"left": engine}, log=tmp_path, recover_every=None) as tpc:
        with pytest.raises(Aborted, match="left has committed, or rolled back, alone"), tpc.begin() as tx:
            insert(tx[engine], 1)
            tx[engine].exec_driver_sql("COMMIT")
    assert found(postgres) == [1]
    engine.dispose()


def test_who_names_the_session_is_not_told_that_something_has_been_committed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    engine = sa.create_engine(postgres.url())
    with TwoPhaseCommit({"left": engine}, log=tmp_path, recover_every=None) as tpc:
        for named in ("SET LOCAL application_name = 'mine'", "RESET ALL"):
            with pytest.raises(Aborted, match="then nothing has been committed"), tpc.begin() as tx:
                insert(tx[engine], 1)
                tx[engine].exec_driver_sql(named)
    assert found(postgres) == []
    engine.dispose()


# ---- AUTOCOMMIT by an event, of which the engine itself says nothing --------------------------------------------


def on_connect(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def set_it(dbapi: Any, record: Any) -> None:
        dbapi.autocommit = True


def on_engine_connect(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "engine_connect")
    def set_it(connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")


@pytest.mark.parametrize("sets", [on_connect, on_engine_connect])
@pytest.mark.parametrize("driver", DRIVERS)
def test_where_nothing_could_be_undone_nothing_is_done(
    driver: str, sets: Callable[[sa.Engine], None], postgres: PostgresServer, tmp_path: Path
) -> None:
    engine = sa.create_engine(postgres.url(driver))
    sets(engine)
    with TwoPhaseCommit({"left": engine}, log=tmp_path, recover_every=None) as tpc:
        # psycopg 3 takes the BEGIN from us in any case.
        refused = ZeroDivisionError if driver == "psycopg" else PreflightFailed
        with pytest.raises(refused), tpc.begin() as tx:
            insert(tx[engine], 1)
            1 / 0  # noqa: B018
    assert found(postgres) == []
    engine.dispose()


async def test_where_nothing_could_be_undone_on_asyncio_nothing_is_done(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    engine = create_async_engine(postgres.url("asyncpg"))
    on_engine_connect(engine.sync_engine)
    async with AsyncTwoPhaseCommit({"left": engine}, log=tmp_path, recover_every=None) as tpc:
        with pytest.raises(PreflightFailed, match="AUTOCOMMIT"):
            async with tpc.begin() as tx:
                await tx[engine].execute(row.insert().values(id=1))
    await engine.dispose()
    assert found(postgres) == []


# ---- a role that is taken for the transaction -----------------------------------------------------------------------


class Dead(BaseException):
    pass


@pytest.fixture
def login(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a user that may take the role "app", to whom the table belongs."""
    engine = sa.create_engine(postgres.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "DROP ROLE IF EXISTS stranger",
            "DROP ROLE IF EXISTS clerk",
            "DROP ROLE IF EXISTS app",
            "CREATE ROLE app",
            "CREATE ROLE clerk LOGIN NOINHERIT IN ROLE app",
            "CREATE ROLE stranger LOGIN",
            "ALTER TABLE below OWNER TO app",
        ):
            connection.exec_driver_sql(statement)
        yield sa.make_url(postgres.url()).set(username="clerk").render_as_string()
        settle(postgres.url())
        connection.exec_driver_sql("DROP TABLE below")
    engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_role_that_was_taken_for_the_transaction_does_not_keep_it_from_its_end(
    driver: str, login: str, postgres: PostgresServer, postgres_other: PostgresServer, tmp_path: Path
) -> None:
    url = sa.make_url(login).set(drivername=f"postgresql+{driver}")
    left, right = sa.create_engine(url), sa.create_engine(postgres_other.url())
    with TwoPhaseCommit({"left": left, "right": right}, log=tmp_path, recover_every=None) as tpc:
        with tpc.begin() as tx:
            tx[left].exec_driver_sql("SET LOCAL ROLE app")
            for engine in (left, right):
                insert(tx[engine], 1)
        assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ())
        with pytest.raises(Aborted), tpc.begin() as tx:
            tx[left].exec_driver_sql("SET LOCAL ROLE app")
            for engine in (left, right):
                insert(tx[engine], 2)
            tx[right].exec_driver_sql("CREATE TEMPORARY TABLE in_the_way (x INTEGER)")
        with left.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_user").scalar() == "clerk"
    assert (found(postgres), found(postgres_other)) == ([1], [1])
    left.dispose()
    right.dispose()


def test_recovery_takes_the_role_that_a_branch_was_prepared_in_or_says_why_it_cannot(
    login: str, postgres: PostgresServer, postgres_other: PostgresServer, tmp_path: Path
) -> None:
    left, right = sa.create_engine(login), sa.create_engine(postgres_other.url())

    @sa.event.listens_for(left, "connect")
    def take(dbapi: Any, record: Any) -> None:
        dbapi.execute("SET ROLE app")
        dbapi.commit()

    def die(step: str) -> None:
        if step == "after_decision":
            raise Dead

    dying = TwoPhaseCommit({"left": left, "right": right}, log=tmp_path, recover_every=None, on_step=die)
    with pytest.raises(Dead), dying, dying.begin() as tx:
        for engine in (left, right):
            insert(tx[engine], 1)
    stranger = sa.create_engine(sa.make_url(login).set(username="stranger"))
    with TwoPhaseCommit({"left": stranger, "right": right}, log=tmp_path, recover_every=None) as tpc:
        report = tpc.recover()
        assert "permission denied" in report.unreachable["left"]
        assert (found(postgres), found(postgres_other)) == ([], [1])
    with TwoPhaseCommit({"left": left, "right": right}, log=tmp_path, recover_every=None) as tpc:
        assert tpc.recover().unreachable == {}
    assert (found(postgres), found(postgres_other)) == ([1], [1])
    for engine in (left, right, stranger):
        engine.dispose()
