"""What is known of a branch behind an engine from its statements and its errors; SQLite stands for all."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from sqlalchemy import exc  # noqa: E402

from troth import TwoPhaseCommit  # noqa: E402
from troth.core.twophase.gid import Epoch  # noqa: E402
from troth.errors import Aborted, NotApplied, RequestTimeout, UsageError  # noqa: E402
from troth.transactions.participants.base import Begun, Facts  # noqa: E402
from troth.transactions.participants.choose import KINDS  # noqa: E402
from troth.transactions.participants.connection import BranchConnection, overriding  # noqa: E402
from troth.transactions.participants.sql import was_lost  # noqa: E402
from troth.transactions.participants.sqlite import Sqlite, SqliteBranch  # noqa: E402

EPOCH = Epoch("sqllogxx", "me", 1)


@pytest.fixture
def last(tmp_path: Path) -> Iterator[Sqlite]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", pool_size=1)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE work (x INTEGER PRIMARY KEY)")
    found = Sqlite("last", engine, engine)
    assert found.facts().problems == ()
    found.identify()
    yield found
    found.close()
    engine.dispose()


def opened(last: Sqlite) -> SqliteBranch:
    return last.open(0, Begun(EPOCH.name(1), None))


def over(branch: SqliteBranch) -> None:
    branch.roll_back()()
    branch.release(broken=False)


@pytest.mark.parametrize(
    ("statement", "wrote"),
    [
        ("INSERT INTO work VALUES (1)", True),
        (" update work SET x = 8", True),
        ("REPLACE INTO work VALUES (1)", True),
        ("DELETE FROM work WHERE x = 7", True),
        ("DELETE FROM work WHERE x = 99", None),
        ("SELECT x FROM work", None),
    ],
)
def test_a_statement_that_has_changed_rows_tells_so(statement: str, wrote: bool | None, last: Sqlite) -> None:
    with last.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO work VALUES (7)")
    branch = opened(last)
    branch.handle.exec_driver_sql(statement)
    assert branch.wrote is wrote
    branch.ask()()
    assert branch.wrote is bool(wrote)
    over(branch)


def test_work_that_was_given_to_the_driver_itself_is_found_out(last: Sqlite) -> None:
    branch = opened(last)
    branch.handle.connection.driver_connection.execute("INSERT INTO work VALUES (1)")
    assert branch.wrote is None
    branch.ask()()
    assert branch.wrote is True
    over(branch)


def test_a_number_of_rows_is_no_change_of_them(last: Sqlite) -> None:
    branch = opened(last)
    selected: Any = type("Context", (), {"rowcount": 3, "statement": "SELECT x FROM work"})
    branch.saw(selected)
    assert branch.wrote is None
    over(branch)


def test_an_insert_of_which_nobody_says_how_many_rows_it_made_is_no_question(last: Sqlite) -> None:
    """SQLAlchemy closes the cursor of one that it has made itself, and psycopg then says -1."""
    branch = opened(last)
    inserted: Any = type("Context", (), {"rowcount": -1, "statement": "INSERT INTO work VALUES (1)"})
    branch.saw(inserted)
    assert branch.wrote
    over(branch)


def test_the_decision_is_not_made_after_an_error_that_was_swallowed(last: Sqlite) -> None:
    branch = opened(last)
    branch.handle.exec_driver_sql("INSERT INTO work VALUES (1)")
    with pytest.raises(exc.IntegrityError):
        branch.handle.exec_driver_sql("INSERT INTO work VALUES (1)")
    with pytest.raises(Aborted):
        branch.commit_with_marker()
    over(branch)
    assert last.marker(EPOCH.name(1), refuse=False) is None


def test_a_connection_whose_transaction_is_not_over_never_goes_back_to_the_pool(last: Sqlite) -> None:
    branch = opened(last)
    branch.handle.exec_driver_sql("INSERT INTO work VALUES (1)")
    raw = branch.handle.connection.driver_connection
    branch.release(broken=False)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw.execute("SELECT 1")
    with last.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM work").scalar() == 0


def test_recovery_waits_for_a_paused_owner_for_a_moment_and_syncs_what_it_refuses(
    last: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    real = sa.Connection.exec_driver_sql

    def heard(connection: Any, statement: str, *arguments: Any) -> Any:
        said.append(statement)
        return real(connection, statement, *arguments)

    monkeypatch.setattr(sa.Connection, "exec_driver_sql", heard)
    assert last.marker(EPOCH.name(1), refuse=True) is False
    before = said[: next(place for place, statement in enumerate(said) if statement.startswith("INSERT"))]
    assert {"PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 500"} <= set(before)
    assert last.marker(EPOCH.name(1), refuse=True) is False, "the second refusal finds the first"


def test_an_engine_whose_url_names_no_file_may_have_one(tmp_path: Path) -> None:
    engine = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(tmp_path / "last.db"), poolclass=sa.QueuePool
    )
    facts = Sqlite("last", engine, engine).facts()
    assert facts == Facts("", ())
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_takes_no_part(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    (problem,) = Sqlite("last", engine, engine).facts().problems
    assert "in memory" in problem
    engine.dispose()


@pytest.mark.parametrize("pool", [sa.StaticPool, sa.SingletonThreadPool])
def test_a_connection_that_all_threads_or_all_that_one_does_share_takes_no_part(
    pool: type[sa.Pool], tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", poolclass=pool)
    (problem,) = Sqlite("last", engine, engine).facts().problems
    assert f"has a {pool.__name__}" in problem
    engine.dispose()


def failed(name: str | None, *, is_gone: bool = False) -> exc.DBAPIError:
    error = sqlite3.OperationalError("it failed") if name else Exception("it failed")
    if name:
        error.sqlite_errorname = name  # type: ignore[union-attr]
    return exc.DBAPIError("COMMIT", None, error, connection_invalidated=is_gone)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (failed("SQLITE_FULL"), False),
        (failed("SQLITE_BUSY_SNAPSHOT"), False),
        (failed("SQLITE_CONSTRAINT_UNIQUE"), False),
        (failed("SQLITE_IOERR_FSYNC"), True),
        (failed(None), False),
        (failed(None, is_gone=True), True),
        (NotApplied("no"), False),
        (ConnectionError("gone"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_a_refusal_is_told_from_silence(error: BaseException, lost: bool) -> None:
    assert was_lost(error) is lost


def by_the_driver(branch: SqliteBranch) -> None:
    branch.handle.connection.driver_connection.rollback()


def in_sql(branch: SqliteBranch) -> None:
    branch.handle.exec_driver_sql("ROLLBACK")


def by_a_conflict(branch: SqliteBranch) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        branch.handle.connection.driver_connection.execute("INSERT OR ROLLBACK INTO work VALUES (1)")


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("ended", [by_the_driver, in_sql, by_a_conflict])
@pytest.mark.parametrize("verb", ["commit_with_marker", "commit_alone"])
def test_a_transaction_that_was_rolled_back_below_is_not_said_to_be_committed(
    verb: str, ended: Callable[[SqliteBranch], None], goes_on: bool, last: Sqlite
) -> None:
    branch = opened(last)
    branch.handle.exec_driver_sql("INSERT INTO work VALUES (1)")
    ended(branch)
    if goes_on:
        branch.handle.exec_driver_sql("INSERT INTO work VALUES (2)")
    with pytest.raises(Aborted, match="ended inside of its block"):
        getattr(branch, verb)()
    over(branch)
    assert last.marker(EPOCH.name(1), refuse=False) is None
    with last.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM work").scalar() == 0


def test_a_savepoint_that_is_undone_is_not_the_end_of_the_transaction(last: Sqlite) -> None:
    branch = opened(last)
    with pytest.raises(ZeroDivisionError), branch.savepoint():
        branch.handle.exec_driver_sql("INSERT INTO work VALUES (1)")
        1 / 0  # noqa: B018
    branch.handle.exec_driver_sql("INSERT INTO work VALUES (2)")
    branch.commit_with_marker()
    branch.release(broken=False)
    with last.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT x FROM work").scalars().all() == [2]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_what_a_listener_raises_when_it_is_told_of_the_end_is_logged_and_changes_nothing(
    end: str, last: Sqlite, caplog: pytest.LogCaptureFixture
) -> None:
    def heard(connection: object) -> None:
        raise ZeroDivisionError("listener's bug")

    branch = opened(last)
    branch.handle.exec_driver_sql("INSERT INTO work VALUES (1)")
    sa.event.listen(branch.handle, end, heard)
    getattr(branch.handle, {"commit": "tell_committed", "rollback": "tell_rolled_back"}[end])()
    assert "listener's bug" in caplog.text and "last" in caplog.text
    sa.event.remove(branch.handle, end, heard)
    over(branch)


def test_an_engine_with_options_names_the_branch_of_its_engine(tmp_path: Path) -> None:
    engine, other = (sa.create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("last", "other"))
    dirty = engine.execution_options(isolation_level="READ UNCOMMITTED")
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin() as tx:
            connection = tx[dirty.execution_options(logging_token="mine")]
            assert connection.exec_driver_sql("PRAGMA read_uncommitted").scalar() == 1
            assert connection.get_execution_options()["logging_token"] == "mine"
            assert tx[engine] is tx["last"] is connection
            with pytest.raises(UsageError, match="is open, with other options"):
                tx[dirty]
        with tpc.begin() as tx:
            assert tx[engine].exec_driver_sql("PRAGMA read_uncommitted").scalar() == 0
            with pytest.raises(UsageError, match="no participant"):
                tx[other.execution_options(logging_token="mine")]
        with tpc.begin() as tx, pytest.raises(UsageError, match="AUTOCOMMIT"):
            tx[engine.execution_options(isolation_level="AUTOCOMMIT")]
    with TwoPhaseCommit({"last": dirty}, log=tmp_path / "log", recover_every=None) as tpc, tpc.begin() as tx:
        assert tx[dirty].exec_driver_sql("PRAGMA read_uncommitted").scalar() == 1
        tx[dirty.execution_options()]


def test_what_sqlalchemy_has_not_is_not_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a version that calls it by another name would let a branch commit alone."""
    assert overriding(BranchConnection) is BranchConnection
    monkeypatch.delattr(sa.Connection, "_commit_impl")
    with pytest.raises(ImportError, match=r"has no Connection\._commit_impl, which troth overrides; install"):
        overriding(BranchConnection)


@pytest.mark.parametrize("dialect", ["mysql+pymysql", "postgresql+psycopg"])
def test_behind_the_answers_recoverys_connection_is_told_nothing(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that dies at its end would make an error of what had been answered."""
    pytest.importorskip(dialect.rpartition("+")[2])
    engine = sa.create_engine(f"{dialect}://host/bank")
    found = KINDS[engine.dialect.name]("bank", engine, engine)
    told: list[str] = []

    class Raw:
        def __getattr__(self, name: str) -> Any:
            return lambda *arguments: told.append(name)

    def connect() -> Raw:
        told.clear()
        return Raw()

    monkeypatch.setattr(found._own.dialect, "initialize", lambda connection: None)
    monkeypatch.setattr(found._own.pool, "_creator", connect)
    with found.connected():
        assert told, "it is set to AUTOCOMMIT"
        told.clear()
    assert told == ["close"]


def test_a_connection_that_is_in_the_middle_of_something_is_not_asked_to_roll_back(
    last: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open COPY, for one: its database rolls back when the connection is gone."""
    branch = opened(last)
    asked: list[object] = []
    monkeypatch.setattr(branch, "channel", SimpleNamespace(is_busy=lambda: True))
    monkeypatch.setattr(last.engine.dialect, "do_rollback", asked.append)
    branch.roll_back_here()
    assert branch.handle.invalidated and not asked
    branch.release(broken=True)


class Silent:
    """Is never known to be idle, and never answers; or an error is its answer."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.bounds: list[float | None] = []

    def is_idle(self) -> bool:
        return False

    def is_busy(self) -> bool:
        return False

    def roll_back(self, bound: Any) -> None:
        self.bounds.append(bound.until)
        raise self._error


LOST = exc.OperationalError("ROLLBACK", None, Exception("lost"), connection_invalidated=True)


@pytest.mark.parametrize("error", [RequestTimeout("as asked"), LOST], ids=["silent", "lost"])
def test_a_driver_that_has_to_be_told_of_the_end_is_waited_for_no_longer_than_the_database(
    error: Exception, last: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own ROLLBACK, that is: a database that has answered all it was asked may be silent from then on."""
    told: list[object] = []
    branch = opened(last)
    channel = Silent(error)
    monkeypatch.setattr(branch, "channel", channel)
    branch.answer_by(742.0)
    branch.end_here()
    with monkeypatch.context() as patched:
        patched.setattr(last.engine.dialect, "do_rollback", told.append)
        branch.release(broken=False)
    assert (channel.bounds, told) == ([742.0], [])
    assert branch.handle.closed
    with last.engine.begin() as again:  # by another connection: it is the only one that the pool may have
        again.exec_driver_sql("INSERT INTO work VALUES (8)")


def test_a_branch_that_sqlalchemy_holds_for_over_is_rolled_back_within_the_bound(
    last: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = opened(last)
    channel = Silent(RequestTimeout("as asked"))
    monkeypatch.setattr(branch, "channel", channel)
    monkeypatch.setattr(branch, "_transaction", SimpleNamespace(is_active=False))
    branch.answer_by(742.0)
    with pytest.raises(RequestTimeout):
        branch.roll_back_here()
    assert channel.bounds == [742.0] and branch.handle.invalidated
    branch.release(broken=True)
