"""What a database has said about a commit stands, whatever its driver makes of it afterwards."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from troth import AsyncTwoPhaseCommit, TwoPhaseCommit
from troth.errors import Aborted
from troth.torture.databases import DatabaseServer, PostgresServer
from troth.transactions.outcome import Outcome

pytestmark = pytest.mark.integration

BLOCKING = ["psycopg", "psycopg2", "pymysql", "mysqldb"]
ASYNC = ["psycopg", "asyncpg", "aiomysql", "asyncmy"]
UNSURE = ("mysqldb", "asyncpg", "asyncmy")
"""Of these one statement more goes to the server, for the driver alone."""

row = sa.Table("said", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


class Ends:
    """What SQLAlchemy tells the driver at the end of a transaction, which the server cancels each time."""

    def __init__(self, dialect: Any) -> None:
        self.count = 0
        self._dialect = dialect

    def __call__(self, connection: Any) -> None:
        self.count += 1
        raise self._dialect.loaded_dbapi.OperationalError("canceling statement due to user request")


def server_of(driver: str, request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue("mariadb" if "my" in driver else "postgres")
    engine = sa.create_engine(found.url())
    with engine.begin() as connection:
        row.drop(connection, checkfirst=True)
        row.create(connection)
    engine.dispose()
    return found


def found(server: DatabaseServer) -> list[int]:
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(row.c.id).order_by(row.c.id)))


def disturbed(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Ends:
    ends = Ends(engine.dialect)
    for verb in ("do_commit", "do_rollback"):
        monkeypatch.setattr(engine.dialect, verb, ends)
    return ends


@pytest.mark.parametrize("driver", BLOCKING)
def test_a_lone_writer_that_has_committed_is_told_so(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = server_of(driver, request)
    engine = sa.create_engine(server.url(driver), pool_size=1, max_overflow=0)
    with TwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        for number in (1, 2):
            with pytest.MonkeyPatch.context() as patched, tpc.begin() as tx:
                tx[engine].execute(row.insert().values(id=number))
                ends = disturbed(engine, patched)
            assert (tx.outcome, tpc.outcome(tx.gid)) == (Outcome.COMMITTED, Outcome.COMMITTED)
            assert (ends.count > 0) is (driver in UNSURE)
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(row)) == 2
    engine.dispose()
    assert found(server) == [1, 2]


@pytest.mark.parametrize("driver", BLOCKING)
def test_a_lone_writer_whose_session_had_ended_before_its_commit_was_sent_is_aborted(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """It was idle for too long, most likely; nobody has to look what became of it."""
    server = server_of(driver, request)
    engine, other = sa.create_engine(server.url(driver)), sa.create_engine(server.url())
    number, kill, lives = "pg_backend_pid()", "SELECT pg_terminate_backend({})", "pg_stat_activity WHERE pid = {}"
    if "my" in driver:
        number, kill, lives = "CONNECTION_ID()", "KILL {}", "information_schema.processlist WHERE id = {}"
    with TwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        with pytest.raises(Aborted), tpc.begin() as tx, other.connect() as operator:
            session = tx[engine].scalar(sa.text(f"SELECT {number}"))
            tx[engine].execute(row.insert().values(id=1))
            operator.exec_driver_sql(kill.format(session))
            while operator.scalar(sa.text(f"SELECT count(*) FROM {lives.format(session)}")):
                operator.rollback()
        assert (tx.outcome, tpc.outcome(tx.gid)) == (Outcome.ABORTED, Outcome.ABORTED)
    assert found(server) == []
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize("driver", BLOCKING)
def test_a_second_phase_that_was_answered_leaves_nothing_pending(
    driver: str,
    request: pytest.FixtureRequest,
    postgres_other: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    server = server_of(driver, request)
    engine, other = sa.create_engine(server.url(driver)), sa.create_engine(postgres_other.url())
    with other.begin() as connection:
        row.drop(connection, checkfirst=True)
        row.create(connection)
    with TwoPhaseCommit({"one": engine, "two": other}, log=tmp_path, recover_every=None) as tpc:
        with tpc.begin() as tx:
            for each in (engine, other):
                tx[each].execute(row.insert().values(id=1))
            disturbed(engine, monkeypatch)
        assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ())
        monkeypatch.undo()
    assert (found(server), found(postgres_other)) == ([1], [1])
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize("driver", ASYNC)
async def test_a_lone_writer_on_asyncio_that_has_committed_is_told_so(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = server_of(driver, request)
    engine = create_async_engine(server.url(driver), pool_size=1, max_overflow=0)
    async with AsyncTwoPhaseCommit({"one": engine}, log=tmp_path, recover_every=None) as tpc:
        for number in (1, 2):
            with pytest.MonkeyPatch.context() as patched:
                async with tpc.begin() as tx:
                    await tx[engine].execute(row.insert().values(id=number))
                    ends = disturbed(engine.sync_engine, patched)
            assert tx.outcome is Outcome.COMMITTED
            assert (ends.count > 0) is (driver in UNSURE)
    await engine.dispose()
    assert found(server) == [1, 2]
