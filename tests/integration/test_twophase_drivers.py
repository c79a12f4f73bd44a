"""Every driver that SQLAlchemy has for these databases does the same in a transaction over two of them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bank import context, prepared
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import greenlet_spawn

from troth import TwoPhaseCommit
from troth.core.twophase.table import Finding
from troth.errors import Aborted
from troth.torture.databases import MariaDBServer, PostgresServer
from troth.transactions.aio import AsyncTwoPhaseCommit

pytestmark = pytest.mark.integration

BLOCKING = [
    ("psycopg", "psycopg"),
    ("psycopg2", "psycopg2"),
    ("psycopg", "psycopg2"),
    ("psycopg", "pymysql"),
    ("psycopg2", "mysqldb"),
    ("pymysql", "mysqldb"),
]
ASYNC = [("psycopg", "psycopg"), ("asyncpg", "asyncpg"), ("asyncpg", "aiomysql"), ("psycopg", "asyncmy")]
POSTGRES = ("psycopg", "psycopg2", "asyncpg")

entry = sa.Table("entry", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


@dataclass(frozen=True)
class Two:
    """Two databases by URL."""

    left: str
    right: str
    look_left: str
    look_right: str

    def found(self) -> tuple[list[int], list[int]]:
        """The rows of both, seen from outside."""
        both = []
        for url in (self.look_left, self.look_right):
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with engine.connect() as connection:
                both.append(list(connection.scalars(sa.select(entry.c.id).order_by(entry.c.id))))
        return both[0], both[1]

    def in_doubt(self) -> list[str]:
        """Names of prepared branches."""
        return prepared(self.look_left) + prepared(self.look_right)


@pytest.fixture
def two(request: pytest.FixtureRequest, postgres: PostgresServer, postgres_other: PostgresServer) -> Two:
    """The databases for a pair of drivers: two servers, or two databases of the one MariaDB."""
    left, right = request.param
    mariadb: MariaDBServer | None = None
    if left not in POSTGRES or right not in POSTGRES:
        mariadb = request.getfixturevalue("mariadb")

    def urls(driver: str, server: PostgresServer) -> tuple[str, str]:
        if driver in POSTGRES:
            return server.url(driver), server.url()
        assert mariadb is not None
        return mariadb.url(driver), mariadb.url()

    (left, look_left), (right, look_right) = urls(left, postgres), urls(right, postgres_other)
    if look_left == look_right:
        engine = sa.create_engine(look_right)
        with engine.begin() as connection:
            connection.execute(sa.text("create database if not exists troth_other"))
        engine.dispose()
        right, look_right = f"{right}_other", f"{look_right}_other"
    for url in (look_left, look_right):
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            entry.drop(connection, checkfirst=True)
            entry.create(connection)
        engine.dispose()
    return Two(left, right, look_left, look_right)


@pytest.fixture
def engines(two: Two) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    left, right = sa.create_engine(two.left), sa.create_engine(two.right)
    yield left, right
    left.dispose()
    right.dispose()


def insert(connection: sa.Connection, number: int) -> None:
    connection.execute(entry.insert().values(id=number))


@pytest.mark.parametrize("driver", ["pymysql", "mysqldb"])
def test_the_time_of_a_transaction_is_not_that_of_the_next_on_its_connection(
    driver: str, mariadb: MariaDBServer, tmp_path: Path
) -> None:
    engine = sa.create_engine(mariadb.url(driver), pool_size=1, max_overflow=0)
    wait = sa.text("select @@innodb_lock_wait_timeout")
    with engine.connect() as connection:
        before_s = connection.scalar(wait)
    found, outside = [], []
    with TwoPhaseCommit([engine], log=str(tmp_path / "log"), recover_every=None) as tpc:
        for timeout in (7, None, 9, 9, None):
            with tpc.begin(timeout=timeout) as tx:
                found.append(tx[engine].scalar(wait))
        for timeout in (7, 7):
            with tpc.begin(timeout=timeout) as tx:
                found.append(tx[engine].scalar(wait))
            with engine.connect() as connection:
                outside.append(connection.scalar(wait))
    assert found == [7, before_s, 9, 9, before_s, 7, 7]
    assert outside == [before_s] * 2
    engine.dispose()


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
async def test_the_time_of_a_transaction_is_not_that_of_the_applications_own_statements(
    driver: str, mariadb: MariaDBServer, tmp_path: Path
) -> None:
    engine = create_async_engine(mariadb.url(driver), pool_size=1, max_overflow=0)
    wait = sa.text("select @@innodb_lock_wait_timeout")
    async with engine.connect() as connection:
        before_s = await connection.scalar(wait)
    async with AsyncTwoPhaseCommit([engine], log=str(tmp_path / "log"), recover_every=None) as tpc:
        for _ in range(2):
            async with tpc.begin(timeout=7) as tx:
                assert await tx[engine].scalar(wait) == 7
            async with engine.connect() as connection:
                assert await connection.scalar(wait) == before_s
    await engine.dispose()


@pytest.mark.parametrize(
    ("driver", "is_async"), [("psycopg", False), ("psycopg2", False), ("psycopg", True), ("asyncpg", True)]
)
async def test_a_session_is_named_by_each_transaction_though_the_application_resets_it(
    driver: str, is_async: bool, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Recovery ends the sessions of a dead coordinator by their names."""
    named = sa.text("select current_setting('application_name')")
    options: dict[str, Any] = {"log": str(tmp_path / "log"), "recover_every": None}
    if not is_async:
        engine = sa.create_engine(postgres.url(driver), pool_size=1, max_overflow=0)
        with TwoPhaseCommit([engine], **options) as tpc:
            found = []
            for _ in range(3):
                with tpc.begin() as tx:
                    found.append(tx[engine].scalar(named) == tx.gid)
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(sa.text("discard all"))
        engine.dispose()
    else:
        aio = create_async_engine(postgres.url(driver), pool_size=1, max_overflow=0)
        async with AsyncTwoPhaseCommit([aio], **options) as several:
            found = []
            for _ in range(3):
                async with several.begin() as one:
                    found.append(await one[aio].scalar(named) == one.gid)
                async with aio.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.exec_driver_sql("reset all")
        await aio.dispose()
    assert found == [True] * 3


blocking = pytest.mark.parametrize("two", BLOCKING, ids="+".join, indirect=True)


@blocking
def test_both_or_none(two: Two, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        for number in range(5):
            with tpc.begin() as tx:
                insert(tx[left], number)
                insert(tx[right], number)
        with pytest.raises(ZeroDivisionError), tpc.begin() as tx:
            insert(tx[left], 90)
            insert(tx[right], 90)
            1 / 0  # noqa: B018
        with pytest.raises((sa.exc.IntegrityError, Aborted)) as caught, tpc.begin() as tx:
            insert(tx[left], 91)
            insert(tx[right], 1)
        error = caught.value
        assert isinstance(
            error if isinstance(error, sa.exc.DBAPIError) else error.__cause__, sa.exc.IntegrityError
        )
    assert two.found() == ([*range(5)], [*range(5)])
    assert two.in_doubt() == []


@blocking
def test_a_lone_writer_beside_a_reader(two: Two, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        for writer, reader, seen in ((left, right, 0), (right, left, 1)):
            with tpc.begin() as tx:
                insert(tx[writer], 1)
                assert tx[reader].scalar(sa.select(sa.func.count()).select_from(entry)) == seen
    assert two.found() == ([1], [1])


@blocking
def test_a_savepoint_undoes_its_part_in_both(
    two: Two, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc, tpc.begin() as tx:
        insert(tx[left], 1)
        insert(tx[right], 1)
        with contextlib.suppress(ZeroDivisionError), tx.savepoint():
            insert(tx[left], 2)
            insert(tx[right], 2)
            1 / 0  # noqa: B018
        insert(tx[left], 3)
        insert(tx[right], 3)
    assert two.found() == ([1, 3], [1, 3])


@blocking
def test_a_swallowed_error_never_commits_half(
    two: Two, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    """PostgreSQL has given up the whole transaction and says so only if asked; MariaDB would commit the rest."""
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        with tpc.begin() as tx:
            insert(tx[left], 1)
            insert(tx[right], 1)
        for failing in (left, right):
            with pytest.raises(Aborted), tpc.begin() as tx:
                for engine in (left, right):
                    insert(tx[engine], 2)
                with contextlib.suppress(sa.exc.IntegrityError):
                    insert(tx[failing], 1)
            on_left, on_right = two.found()
            assert on_left == on_right
            assert 2 not in on_left


@blocking
def test_a_connection_that_is_lost_before_the_vote_aborts(
    two: Two, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        for victim, look in ((left, two.look_left), (right, two.look_right)):
            with pytest.raises(Aborted), tpc.begin() as tx:
                insert(tx[left], 1)
                insert(tx[right], 1)
                is_postgres = victim.dialect.name == "postgresql"
                session = tx[victim].scalar(
                    sa.text("select pg_backend_pid()" if is_postgres else "select connection_id()")
                )
                ending = f"select pg_terminate_backend({session}, 5000)" if is_postgres else f"kill {session}"
                engine = sa.create_engine(look, poolclass=sa.NullPool)
                with engine.connect() as connection:
                    connection.exec_driver_sql(ending)
        tpc.recover()
        assert two.found() == ([], [])
        assert two.in_doubt() == []
        with tpc.begin() as tx:
            insert(tx[left], 1)
            insert(tx[right], 1)
    assert two.found() == ([1], [1])


def dies(left: str, right: str, log: str, step: str) -> None:
    """Runs in a process of its own."""

    def on_step(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    engines = sa.create_engine(left), sa.create_engine(right)
    with TwoPhaseCommit(list(engines), log=log, on_step=on_step) as tpc, tpc.begin() as tx:
        for engine in engines:
            insert(tx[engine], 1)


@blocking
@pytest.mark.parametrize("step", ["after_prepares", "after_decision"])
def test_a_killed_coordinator_is_finished_with_this_driver(
    two: Two, step: str, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    log = str(tmp_path / "log")
    process = context.Process(target=dies, args=(two.left, two.right, log, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with TwoPhaseCommit(list(engines), log=log) as tpc:
        tpc.recover()
    expected = [] if step == "after_prepares" else [1]
    assert two.found() == (expected, expected)
    assert two.in_doubt() == []


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_what_became_of_a_branch_is_proved_by_asyncio_as_well(
    driver: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    engine = create_async_engine(postgres.url(driver))
    proof = sa.text("SELECT pg_current_xact_id()::text")
    async with AsyncTwoPhaseCommit([engine], log=str(tmp_path / "log"), recover_every=None) as tpc:
        (database,) = tpc.participants
        async with engine.connect() as connection:
            committed = await connection.scalar(proof)
            await connection.commit()
            rolled_back = await connection.scalar(proof)
            await connection.rollback()
        assert await greenlet_spawn(database.prove, committed) is Finding.PROVED_COMMITTED
        assert await greenlet_spawn(database.prove, rolled_back) is Finding.PROVED_ABORTED
        assert await greenlet_spawn(database.prove, "4000000000") is Finding.PROVED_ABORTED
    await engine.dispose()


@asynccontextmanager
async def async_pair(
    two: Two, log: Path, **options: Any
) -> AsyncIterator[tuple[AsyncTwoPhaseCommit, AsyncEngine, AsyncEngine]]:
    left, right = create_async_engine(two.left), create_async_engine(two.right)
    try:
        async with AsyncTwoPhaseCommit([left, right], log=str(log), **options) as tpc:
            yield tpc, left, right
    finally:
        await left.dispose()
        await right.dispose()


asynchronous = pytest.mark.parametrize("two", ASYNC, ids="+".join, indirect=True)


@asynchronous
async def test_asyncio_both_or_none(two: Two, tmp_path: Path) -> None:
    async with async_pair(two, tmp_path / "log") as (tpc, left, right):

        async def one(number: int) -> None:
            async with tpc.begin(timeout=20) as tx:
                for engine in (left, right):
                    await tx[engine].execute(entry.insert().values(id=number))

        await asyncio.gather(*(one(number) for number in range(4)))
        with pytest.raises(ZeroDivisionError):
            async with tpc.begin() as tx:
                for engine in (left, right):
                    await tx[engine].execute(entry.insert().values(id=90))
                1 / 0  # noqa: B018
        with pytest.raises(Aborted) as caught:
            async with tpc.begin() as tx:
                for engine in (left, right):
                    await tx[engine].execute(entry.insert().values(id=91))
                with contextlib.suppress(sa.exc.IntegrityError):
                    await tx[right].execute(entry.insert().values(id=1))
        assert isinstance(caught.value.__cause__, sa.exc.IntegrityError)
    assert two.found() == ([*range(4)], [*range(4)])
    assert two.in_doubt() == []


@asynchronous
async def test_a_cancelled_task_leaves_nothing_half_done(two: Two, tmp_path: Path) -> None:
    async with async_pair(two, tmp_path / "log") as (tpc, left, right):

        async def one(number: int) -> None:
            async with tpc.begin(timeout=20) as tx:
                for engine in (left, right):
                    await tx[engine].execute(entry.insert().values(id=number))

        for number in range(30):
            task = asyncio.create_task(one(number))
            # Each time a little later: before the first statement, between two, in the votes, in the second phase.
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await tpc.recover()
        async with tpc.begin() as tx:
            for engine in (left, right):
                await tx[engine].execute(entry.insert().values(id=99))
    on_left, on_right = two.found()
    assert on_left == on_right
    assert 99 in on_left
    assert two.in_doubt() == []


@pytest.mark.parametrize("two", [("asyncpg", "psycopg"), ("asyncpg", "asyncmy")], ids="+".join, indirect=True)
async def test_a_deadlock_of_two_tasks_over_two_databases_ends_before_the_time_is_up(
    two: Two, tmp_path: Path
) -> None:
    async with async_pair(two, tmp_path / "log", detect_deadlocks=True) as (tpc, left, right):
        both_hold = asyncio.Barrier(2)

        async def client(*engines: AsyncEngine) -> str:
            try:
                async with tpc.begin(timeout=60) as tx:
                    for place, engine in enumerate(engines):
                        if place:
                            await both_hold.wait()
                        await tx[engine].execute(entry.insert().values(id=1))
                return "committed"
            except (Aborted, sa.exc.DBAPIError):
                return "victim"

        async with asyncio.timeout(30):
            found = await asyncio.gather(client(left, right), client(right, left))
    assert sorted(found) == ["committed", "victim"]
    assert two.found() == ([1], [1])


@pytest.mark.parametrize("both", [False, True])
def test_a_streamed_result_that_is_left_open_is_no_lost_connection(
    both: bool, mariadb: MariaDBServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    """mysqlclient lets nobody say anything before it is read; the others read it themselves."""
    ledger, bank = sa.create_engine(mariadb.url("mysqldb")), sa.create_engine(postgres.url())
    for engine in (ledger, bank):
        with engine.begin() as connection:
            entry.drop(connection, checkfirst=True)
            entry.create(connection)
            connection.execute(entry.insert(), [{"id": number} for number in range(2000)])
    with TwoPhaseCommit({"ledger": ledger, "bank": bank}, log=tmp_path, recover_every=None) as tpc:
        with pytest.raises(Aborted, match="ledger: a streamed result"), tpc.begin() as tx:
            insert(tx[ledger], 3000)
            if both:
                insert(tx[bank], 3000)
            streamed = tx[ledger].execution_options(yield_per=10).execute(sa.select(entry))
            streamed.fetchone()
        assert not tx.pending
        with tpc.begin() as tx:
            for engine in (ledger, bank):
                insert(tx[engine], 3001)
    for server in (mariadb, postgres):
        engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
        with engine.connect() as connection:
            assert list(connection.scalars(sa.select(entry.c.id).where(entry.c.id >= 3000))) == [3001]
    assert prepared(mariadb.url()) + prepared(postgres.url()) == []
    ledger.dispose()
    bank.dispose()
