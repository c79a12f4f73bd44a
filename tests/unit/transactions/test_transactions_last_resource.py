"""What a last resource's connection is set to while it works for a transaction, and afterwards."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from typing_extensions import override  # noqa: E402

from troth.core.twophase.records import Commit, Member  # noqa: E402
from troth.errors import Aborted, PreflightFailed, StorageError, UsageError  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402
from troth.transactions.participants import sqlite  # noqa: E402
from troth.transactions.participants.base import Begun  # noqa: E402
from troth.transactions.participants.sql import SqlBranch  # noqa: E402


def test_the_time_of_a_transaction_is_not_that_of_the_next_on_its_connection(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", connect_args={"timeout": 3})
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        for fails in (False, True):
            try:
                with tpc.begin(timeout=0.5) as tx:
                    assert tx[engine].exec_driver_sql("PRAGMA busy_timeout").scalar_one() <= 500
                    tx[engine].exec_driver_sql(f"CREATE TABLE made_{fails} (x)")
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            with engine.connect() as connection:
                assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 3000


def test_its_commit_is_synced_although_the_engine_begins_by_itself(tmp_path: Path) -> None:
    """SQLite changes `synchronous` outside of transactions only, and SQLAlchemy advises to send BEGIN from an event."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")

    def connected(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = NORMAL")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc, tpc.begin() as tx:
        assert tx[engine].exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


@pytest.mark.parametrize(
    "statement", ["PRAGMA user_version = 7", "PRAGMA application_id = 7", "CREATE TABLE t (x)", "SELECT 1"]
)
def test_what_changes_no_row_is_written_all_the_same(statement: str, tmp_path: Path) -> None:
    """Taken for a reader, it would commit before the decision."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc, tpc.begin() as tx:
        tx[engine].exec_driver_sql(statement)
        tx._branches[0].ask()
        assert tx._branches[0].wrote is (statement != "SELECT 1")


@pytest.mark.parametrize(
    ("statement", "wrote"),
    [
        ("PRAGMA other.user_version = 7", True),
        ("PRAGMA other.application_id = 7", True),
        ("CREATE TABLE other.t (x)", True),
        ("CREATE TEMP TABLE t (x)", False),
        ("SELECT 1", False),
    ],
)
def test_what_changes_no_row_of_an_attached_file_is_written_all_the_same(
    statement: str, wrote: bool, tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    attach = f"ATTACH '{tmp_path}/other.db' AS \"other\""
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute(attach))
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc, tpc.begin() as tx:
        tx[engine].exec_driver_sql(statement)
        tx._branches[0].ask()
        assert tx._branches[0].wrote is wrote


@pytest.mark.parametrize("mode", ["MEMORY", "OFF"])
def test_a_journal_that_an_event_of_the_engine_takes_from_the_disk_is_refused(mode: str, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute(f"PRAGMA journal_mode = {mode}"))
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        for _ in range(2):
            with pytest.raises(PreflightFailed, match="survives no crash"), tpc.begin() as tx:
                tx[engine].exec_driver_sql("CREATE TABLE t (x)")


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_driver_whose_commit_is_not_one_is_refused(autocommit: bool, tmp_path: Path) -> None:
    """From Python 3.12: True makes commit() do nothing; False opens transactions that SQLAlchemy knows nothing of."""

    of_312 = type("Connection", (sqlite3.Connection,), {"autocommit": autocommit})
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", connect_args={"factory": of_312})
    with pytest.raises(PreflightFailed, match="autocommit"):
        TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None)


def test_the_drivers_default_is_taken(tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if hasattr(sqlite3, "LEGACY_TRANSACTION_CONTROL"):
        options["autocommit"] = sqlite3.LEGACY_TRANSACTION_CONTROL
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", connect_args=options)
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc, tpc.begin() as tx:
        tx[engine].exec_driver_sql("CREATE TABLE made (x)")


def test_who_is_interrupted_while_waiting_for_begin_waits_for_it_no_more(tmp_path: Path) -> None:
    """A part of the answer may have been read: who waits for it again waits for ever."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        waits: list[None] = []
        closed: list[object] = []
        sa.event.listen(engine.pool, "invalidate", lambda raw, *_: closed.append(raw))

        def interrupted() -> list[Any]:
            waits.append(None)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), tpc.begin() as tx:
            handle = tx[engine]
            tx._branches[0].unanswered = interrupted
            handle.exec_driver_sql("CREATE TABLE made (x)")
        assert len(waits) == 1
        assert len(closed) == 1  # nor does whoever has the connection next


@pytest.fixture
def last(tmp_path: Path) -> Iterator[sqlite.Sqlite]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", connect_args={"timeout": 0.01})
    participant = sqlite.Sqlite("last", engine, engine)
    participant.identify()
    yield participant
    participant.close()
    engine.dispose()


def test_its_marker_is_written_by_the_owner_or_by_who_refuses_and_then_stays(last: sqlite.Sqlite) -> None:
    for gid, is_refused in (("T1.log.0.1.1", False), ("T1.log.0.1.2", True)):
        if is_refused:
            assert last.marker(gid, refuse=False) is None
            assert last.marker(gid, refuse=True) is False
        branch = last.open(0, Begun(gid, None))
        branch.handle.exec_driver_sql(f"CREATE TABLE made_{is_refused} (x)")
        if is_refused:
            with pytest.raises(Aborted, match="recovery has refused"):
                branch.commit_with_marker()
            branch.roll_back()
        else:
            branch.commit_with_marker()
        branch.release(broken=False)
        assert last.marker(gid, refuse=True) is not is_refused
    with last.engine.connect() as connection:
        made = connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE name LIKE 'made%'")).all()
    assert made == ["made_False"]


def in_flight(tmp_path: Path) -> tuple[Any, FileLog, str]:
    """An engine, a log, and a transaction in it that the engine's file has committed alone, when its owner died."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", poolclass=sa.NullPool)
    log = FileLog(tmp_path / "log")
    with TwoPhaseCommit({"last": engine}, log=log, recover_every=None) as tpc:
        (last,) = tpc._core.participants.all
        gid = tpc.begin().gid
        log.decide([Commit(gid, (), "key", "last")])
        branch: Any = last.open(0, Begun(gid, None))
        branch.handle.exec_driver_sql("CREATE TABLE made (x)")
        branch.commit_with_marker()
        branch.release(broken=False)
    return engine, FileLog(tmp_path / "log"), gid


@pytest.mark.parametrize(
    "there_is", ["nothing", "an empty file", "one of the application's", "one of another system"]
)
def test_a_file_that_is_made_anew_is_not_taken_for_the_one_that_is_away(there_is: str, tmp_path: Path) -> None:
    """A volume that is mounted late, say. Recovery would find no row there, and refuse what has been committed."""
    engine, log, gid = in_flight(tmp_path)
    file = tmp_path / "last.db"
    file.rename(tmp_path / "away")
    match there_is:
        case "an empty file":
            file.touch()
        case "one of the application's":
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE made (x)")
        case "one of another system":
            TwoPhaseCommit([engine], log=tmp_path / "another", recover_every=None).close()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"the log knows last as sqlite:[0-9a-f]{16}, and now it is"):
            TwoPhaseCommit({"last": engine}, log=log, recover_every=None)
        assert file.exists() is (there_is != "nothing"), "nor is one made"
        log = FileLog(tmp_path / "log")
    (tmp_path / "away").replace(file)
    with TwoPhaseCommit({"last": engine}, log=log, recover_every=None) as tpc:
        assert tpc.recover().in_doubt == 0
        assert tpc.outcome(gid) is Outcome.COMMITTED


def test_a_new_file_may_take_the_place_of_one_that_nothing_waits_for(tmp_path: Path) -> None:
    engine, log, _ = in_flight(tmp_path)
    with TwoPhaseCommit({"last": engine}, log=log, recover_every=None) as tpc:
        tpc.recover()
    (tmp_path / "last.db").unlink()
    for _ in range(2):
        with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc, tpc.begin() as tx:
            tx[engine].exec_driver_sql("CREATE TABLE IF NOT EXISTS made (x)")


def test_a_file_of_older_versions_gets_an_id_and_is_known_by_its_path_until_then(tmp_path: Path) -> None:
    engine, log, gid = in_flight(tmp_path)
    log.register([Member("last", "sqlite", f"sqlite:{tmp_path}/last.db")])
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {sqlite.TABLE} WHERE gid GLOB 'file.*'")
    away = tmp_path / "away"
    (tmp_path / "last.db").rename(away)
    with pytest.raises(StorageError, match=r"knows last as sqlite:/.*, and now it is not there, or a new one"):
        TwoPhaseCommit({"last": engine}, log=log, recover_every=None)
    away.rename(tmp_path / "last.db")
    identities = set()
    for _ in range(2):
        with TwoPhaseCommit({"last": engine}, log=FileLog(tmp_path / "log"), recover_every=None) as tpc:
            identities |= {members["last"].identity for members in tpc.log.members().values()}
            # As if the process had ended between the two, the file knew of it and the log did not.
            tpc.log.register([Member("last", "sqlite", f"sqlite:{tmp_path}/last.db")])
            assert tpc.outcome(gid) is Outcome.COMMITTED
    (identity,) = identities
    assert identity != f"sqlite:{tmp_path}/last.db"


@pytest.mark.parametrize("there_is", ["nothing", "another"])
def test_a_file_that_goes_while_a_process_runs_is_waited_for(there_is: str, tmp_path: Path) -> None:
    engine, log, gid = in_flight(tmp_path)
    file, away = tmp_path / "last.db", tmp_path / "away"
    with TwoPhaseCommit({"last": engine}, log=log, recover_every=None) as tpc:
        file.rename(away)
        if there_is == "another":
            TwoPhaseCommit([engine], log=tmp_path / "another", recover_every=None).close()
        (last,) = tpc.participants
        for ask in (lambda: last.marker(gid, refuse=True), lambda: last.prune("T1.", ())):
            with pytest.raises(StorageError, match=r"its file .*last.db is not there, or is another one"):
                ask()
        assert file.exists() is (there_is == "another")
        (said,) = tpc.check()
        assert "is not there, or is another one" in said
        tpc.recover()
        assert tpc.outcome(gid) is Outcome.OPEN
        with pytest.raises(PreflightFailed, match="is not there, or is another one"), tpc.begin() as tx:
            tx[engine].exec_driver_sql("SELECT 1")
        away.replace(file)
        assert tpc.check() == []
        assert tpc.outcome(gid) is Outcome.COMMITTED


def test_two_that_come_first_to_a_file_agree_on_its_id(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    first, second = (sqlite.Sqlite(name, engine, engine) for name in ("first", "second"))
    assert first.facts().identity == second.facts().identity == ""
    assert first.identify() == second.identify() == first.facts().identity == second.identify()


def test_two_that_read_before_they_write_queue_at_the_beginning(last: sqlite.Sqlite) -> None:
    """Or both would read, and the second to write would be refused at once, however long it may wait."""
    first = last.open(0, Begun("T1.log.0.1.1", None))
    with pytest.raises(sa.exc.OperationalError, match="locked"):
        last.open(0, Begun("T1.log.0.1.2", 0.01))
    first.roll_back()
    first.release(broken=False)


def test_markers_are_pruned_of_ones_own_name_and_not_of_one_like_it(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        rows = [(f"T1.log.{name}.1.{number}", 1) for name in ("axb", "a_b") for number in range(sqlite.KEPT)]
        rows += [(f"T1.log.a_b.2.{number}", 1) for number in range(sqlite.KEPT)]
        with engine.begin() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.executemany(f"INSERT INTO {sqlite.TABLE} VALUES (?, ?)", [*rows, ("T1.log.a_b.3.1", 1)])
        tpc.participants[0].prune("T1.log.a_b.", ())
        with engine.connect() as connection:
            of_axb = connection.scalar(
                sa.text(f"SELECT count(*) FROM {sqlite.TABLE} WHERE gid GLOB 'T1.log.axb.*'")
            )
    assert of_axb == sqlite.KEPT


def test_a_connection_that_is_gone_after_its_commit_changes_nothing_about_it(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin(timeout=5) as tx:
            tx[engine].exec_driver_sql("CREATE TABLE made (x)")
            (branch,) = tx._branches
            commit, raw = branch.commit_alone, tx[engine].connection.driver_connection

            def committed() -> Any:
                finish = commit()
                raw.close()
                return finish

            branch.commit_alone = committed
        assert tx.outcome is Outcome.COMMITTED


def test_one_dead_connection_tells_of_all_that_the_pool_has_from_before(tmp_path: Path) -> None:
    """A server was restarted: as with SQLAlchemy one transaction fails for that, and not one for each connection."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with engine.connect() as one, engine.connect() as other:
        stale = {each.connection.driver_connection for each in (one, other)}
    gone = sa.exc.OperationalError("XA START", None, Exception("gone away"), connection_invalidated=True)

    class Dead(SqlBranch):
        @override
        def begin(self, begun: Begun) -> None:
            raise gone

    with pytest.raises(sa.exc.OperationalError, match="gone away"):
        Dead(sqlite.Sqlite("last", engine, engine), 0, Begun("gid", None))
    with engine.connect() as one, engine.connect() as other:
        assert not stale & {each.connection.driver_connection for each in (one, other)}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[TwoPhaseCommit, Any]]:
    """A coordinator, and its engine with a table `t` whose numbers are unique."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x PRIMARY KEY)")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        yield tpc, engine
        with engine.connect() as connection:
            assert not connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]


def rows(engine: Any) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT x FROM t ORDER BY x")))


def test_an_error_that_a_savepoint_has_undone_is_forgiven_and_no_other(made: tuple[TwoPhaseCommit, Any]) -> None:
    tpc, engine = made
    insert = "INSERT INTO t VALUES (1)"
    with tpc.begin() as tx:
        tx[engine].exec_driver_sql(insert)
        with pytest.raises(sa.exc.IntegrityError), tx.savepoint():
            tx[engine].exec_driver_sql(insert)
    with pytest.raises(Aborted), tpc.begin() as tx:
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (2)")
        with pytest.raises(sa.exc.IntegrityError):
            tx[engine].exec_driver_sql(insert)
        with pytest.raises(sa.exc.IntegrityError), tx.savepoint():
            tx[engine].exec_driver_sql(insert)
    assert rows(engine) == [1]


def test_a_branch_that_was_rolled_back_inside_does_not_commit(made: tuple[TwoPhaseCommit, Any]) -> None:
    tpc, engine = made
    with pytest.raises(Aborted, match="was rolled back"), tpc.begin() as tx:
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (1)")
        tx[engine].get_transaction().rollback()
    assert rows(engine) == []


def test_a_refused_commit_leaves_nothing_open_in_the_pool(made: tuple[TwoPhaseCommit, Any]) -> None:
    tpc, engine = made
    with pytest.raises(UsageError, match="inside of a global transaction"), tpc.begin() as tx:
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (1)")
        tx[engine].commit()
    assert rows(engine) == []


def test_a_refused_commit_has_done_nothing(made: tuple[TwoPhaseCommit, Any]) -> None:
    tpc, engine = made
    with tpc.begin() as tx:
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (1)")
        with pytest.raises(UsageError, match="inside of a global transaction"):
            tx[engine].commit()
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (2)")
    assert rows(engine) == [1, 2]
    with pytest.raises(Aborted), tpc.begin() as tx:
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (3)")
        with pytest.raises(UsageError, match="inside of a global transaction"):
            tx[engine].get_transaction().commit()
    assert rows(engine) == [1, 2]


def test_a_closed_connection_is_named_as_the_reason(made: tuple[TwoPhaseCommit, Any]) -> None:
    tpc, engine = made
    with pytest.raises(Aborted, match=r"close\(\)"), tpc.begin() as tx:
        with tx[engine] as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    assert rows(engine) == []


def test_a_statement_that_could_not_be_made_has_not_failed_in_the_database(
    made: tuple[TwoPhaseCommit, Any],
) -> None:
    tpc, engine = made
    with tpc.begin() as tx:
        tx[engine].exec_driver_sql("INSERT INTO t VALUES (1)")
        with pytest.raises(sa.exc.StatementError, match="value is required"):
            tx[engine].execute(sa.text("INSERT INTO t VALUES (:x)"))
    assert rows(engine) == [1]


def test_refusals_are_kept_when_old_markers_go(tmp_path: Path) -> None:
    """Whoever was refused may be paused for as long as it likes, and then commit."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        (last,) = tpc.participants
        many = sqlite.NEEDED_MAX + 1
        gids = [tpc._core.epoch.name(number) for number in range(1, 2 * sqlite.KEPT + many + 5)]
        assert last.marker(gids[0], refuse=True) is False
        with engine.begin() as connection:
            raw = connection.connection.driver_connection
            raw.executemany(f"INSERT INTO {sqlite.TABLE} VALUES (?, 1)", [(gid,) for gid in gids[1:]])  # type: ignore[union-attr]
        last.prune("T1.", gids[1 : many + 1])
        assert last.marker(gids[many], refuse=False) is True, "of those that are needed none goes"
        last.prune("T1.", {gids[1]})
        assert [last.marker(gid, refuse=False) for gid in gids[:3]] == [False, True, None]
        assert last.marker(gids[-1], refuse=False) is True


def test_a_branch_that_could_not_be_begun_gives_its_connection_up(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA journal_mode = OFF"))
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        with pytest.raises(PreflightFailed) as kept, tpc.begin() as tx:
            tx[engine]
        assert kept.value is not None
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_an_engine_whose_statements_are_transactions_is_refused(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db", isolation_level="AUTOCOMMIT")
    for each in (engine, sa.create_engine(engine.url).execution_options(isolation_level="AUTOCOMMIT")):
        with pytest.raises(PreflightFailed, match="AUTOCOMMIT"):
            TwoPhaseCommit([each], log=tmp_path / "log", recover_every=None)
