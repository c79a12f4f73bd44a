"""What `TwoPhaseCommit` promises beside atomicity, on real servers: keys, snapshots, deadlocks, refusals."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from bank import context, prepared
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from troth import TwoPhaseCommit
from troth.errors import Aborted, HeuristicMixed, PreflightFailed, Unavailable, UsageError
from troth.torture.databases import PostgresServer
from troth.transactions.outcome import Outcome
from troth.transactions.participants import sqlite

pytestmark = pytest.mark.integration


class Base(DeclarativeBase):
    pass


class Purse(Base):
    __tablename__ = "purse"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


class Entry(Base):
    __tablename__ = "purse_entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def engines(postgres: PostgresServer, postgres_other: PostgresServer) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    both = sa.create_engine(postgres.url(), pool_size=16), sa.create_engine(postgres_other.url(), pool_size=16)
    for engine in both:
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(Purse), [{"id": number, "balance": 100} for number in range(4)])
    yield both
    for engine in both:
        engine.dispose()


def give(connection: sa.Connection, amount: int, number: int = 0) -> None:
    row = sa.update(Purse).where(Purse.id == number)
    connection.execute(row.values(balance=Purse.balance + amount))


def total(connection: sa.Connection) -> int:
    return int(connection.scalar(sa.select(sa.func.sum(Purse.balance))) or 0)


def pay(urls: tuple[str, str], log: str, dies_at: str) -> None:
    """Runs in a process of its own: one payment, under a key."""

    def on_step(name: str) -> None:
        if name == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    left, right = (sa.create_engine(url) for url in urls)
    with TwoPhaseCommit([left, right], log=log, on_step=on_step) as tpc, tpc.begin(key="order-4711") as tx:
        give(tx[left], -5)
        give(tx[right], 5)


@pytest.mark.parametrize(
    "dies_at", ["before_prepare", "after_prepares", "after_decision", "after_first_commit", "after_commits"]
)
def test_a_key_makes_a_retry_exactly_once_over_a_crash(
    dies_at: str,
    engines: tuple[sa.Engine, sa.Engine],
    postgres: PostgresServer,
    postgres_other: PostgresServer,
    tmp_path: Path,
) -> None:
    urls, log = (postgres.url(), postgres_other.url()), str(tmp_path / "log")
    for step in (dies_at, "", ""):
        process = context.Process(target=pay, args=(urls, log, step))
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if step else 0)
    left, right = engines
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (395, 405)
    assert prepared(urls[0]) + prepared(urls[1]) == []


def sums(tpc: TwoPhaseCommit, engines: tuple[sa.Engine, sa.Engine], *, seconds: float, torn: bool) -> list[int]:
    """Sums over both databases while money moves; *torn*: read without a snapshot."""
    left, right = engines
    stop, failures = threading.Event(), []

    def client(number: int) -> None:
        try:
            while not stop.is_set():
                with tpc.begin() as tx:
                    give(tx[left], -1, number)
                    give(tx[right], 1, number)
        except BaseException as failure:  # noqa: BLE001 - shown below
            failures.append(failure)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    found, end = [], time.monotonic() + seconds
    try:
        while time.monotonic() < end and not (torn and set(found) > {800}):
            if torn:
                # Right before left: what is taken on the left after our look at the right is missed.
                with right.connect() as on_right, left.connect() as on_left:
                    first = total(on_right)
                    found.append(first + total(on_left))
            else:
                with tpc.snapshot([left, right]) as snapshot:
                    found.append(total(snapshot[left]) + total(snapshot[right]))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    return found


def test_a_snapshot_is_never_torn_and_plain_reads_are(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    with TwoPhaseCommit(list(engines), log=str(tmp_path / "log")) as tpc:
        assert set(sums(tpc, engines, seconds=20, torn=True)) > {800}
        whole = sums(tpc, engines, seconds=1.5, torn=False)
    assert len(whole) >= 3
    assert set(whole) == {800}


def test_a_deadlock_over_two_databases_ends_before_the_time_is_up(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    both_hold, outcomes = threading.Barrier(2), []

    def client(first: sa.Engine, second: sa.Engine) -> None:
        try:
            with tpc.begin(timeout=60) as tx:
                give(tx[first], 1)
                both_hold.wait()
                give(tx[second], 1)
            outcomes.append("committed")
        except (Aborted, sa.exc.DBAPIError):
            outcomes.append("victim")

    started = time.monotonic()
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log"), detect_deadlocks=True) as tpc:
        threads = [threading.Thread(target=client, args=pair) for pair in ((left, right), (right, left))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["committed", "victim"]
    assert time.monotonic() - started < 30, "nobody waited for the time-out"


def test_preflight_says_what_to_set(postgres: PostgresServer, tmp_path: Path) -> None:
    with PostgresServer(max_prepared_transactions=0) as server:
        engines = [sa.create_engine(postgres.url()), sa.create_engine(server.url())]
        with pytest.raises(PreflightFailed, match="max_prepared_transactions"):
            TwoPhaseCommit(engines, log=str(tmp_path / "log"))


def test_preflight_refuses_one_database_under_two_names(postgres: PostgresServer, tmp_path: Path) -> None:
    names = [postgres.url(), postgres.url().replace("127.0.0.1", "localhost")]
    with pytest.raises(PreflightFailed, match="are the same database"):
        TwoPhaseCommit([sa.create_engine(url) for url in names], log=str(tmp_path / "log"))


def test_preflight_refuses_two_databases_that_cannot_prepare(tmp_path: Path) -> None:
    engines = [sa.create_engine(f"sqlite:///{tmp_path / name}") for name in ("a.db", "b.db")]
    with pytest.raises(PreflightFailed, match="cannot prepare"):
        TwoPhaseCommit(engines, log=str(tmp_path / "log"))


def test_preflight_refuses_autocommit(postgres: PostgresServer, tmp_path: Path) -> None:
    engine = sa.create_engine(postgres.url(), isolation_level="AUTOCOMMIT")
    with pytest.raises(PreflightFailed, match="AUTOCOMMIT"):
        TwoPhaseCommit([engine], log=str(tmp_path / "log"))


def test_orm_sessions_write_into_the_same_transaction(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        for fails in (False, True):
            try:
                with tpc.begin() as tx, tx.session(binds={Purse: left, Entry: right}) as session:
                    purse = session.get_one(Purse, 0)
                    purse.balance -= 30
                    session.add(Entry(text="thirty"))
                    session.commit()
                    give(tx[right], 30)
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                assert fails
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (370, 430)
        assert on_right.scalar(sa.select(sa.func.count()).select_from(Entry)) == 1


def test_work_in_a_foreign_table_is_not_committed_before_the_others_have_voted(
    engines: tuple[sa.Engine, sa.Engine], postgres_other: PostgresServer, tmp_path: Path
) -> None:
    """It has no transaction id of its own here, and is no reader all the same; PREPARE refuses it, so it is a "no"."""
    left, right = engines
    url = sa.make_url(postgres_other.url())
    setup = (
        "create extension if not exists postgres_fdw; drop server if exists far cascade; create server far foreign data"
        f" wrapper postgres_fdw options (host '{url.host}', port '{url.port}', dbname '{url.database}'); create user"
        f" mapping for current_user server far options (user '{url.username}', password_required 'false');"
        " create foreign table far_purse (id integer, balance integer) server far options (table_name 'purse')"
    )
    with left.begin() as connection:
        connection.exec_driver_sql(setup)
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        with pytest.raises(Aborted, match="unique"), tpc.begin() as tx:
            # Not even that tells of a write; it has no vote, and is undone with the rest.
            tx[left].exec_driver_sql("with w as (insert into far_purse values (8, 5) returning id) table w")
            tx[right].exec_driver_sql("create table once (id integer unique deferrable initially deferred)")
            tx[right].exec_driver_sql("insert into once values (1), (1)")
        with pytest.raises(Aborted, match="foreign table"), tpc.begin() as tx:
            tx[left].exec_driver_sql("insert into far_purse values (9, 5)")
            # Nothing that it says of itself tells that this one writes.
            tx[right].exec_driver_sql(
                "with w as (insert into purse_entry values (9, 'five') returning id) table w"
            )
    with left.begin() as connection:
        connection.exec_driver_sql("drop server far cascade")
    with right.connect() as on_right:
        assert total(on_right) == 400


@pytest.mark.parametrize("key", ["", "order-1"])
def test_the_locks_of_who_only_read_last_until_the_others_have_committed(
    key: str, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    held: list[bool | None] = []

    def on_commit(connection: sa.Connection) -> None:
        with left.connect() as other:
            held.append(not other.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(4711))))

    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc, tpc.begin(key=key) as tx:
        tx[left].execute(sa.select(sa.func.pg_advisory_xact_lock(4711)))
        give(tx[right], 5)
        sa.event.listen(tx[right], "commit", on_commit)
    on_commit(None)  # type: ignore[arg-type]
    assert held == [True, False]


def test_a_notification_is_not_sent_when_the_lone_writer_is_refused(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    with right.begin() as connection:
        connection.exec_driver_sql("alter table purse add constraint once unique (balance, id) deferrable")
        connection.exec_driver_sql("alter table purse drop constraint purse_pkey")
        connection.execute(sa.insert(Purse), {"id": 9, "balance": 1})
    with left.connect() as listener:
        listener.exec_driver_sql("LISTEN paid")
        listener.commit()
        with (
            TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc,
            pytest.raises(Aborted),
            tpc.begin() as tx,
        ):
            tx[left].exec_driver_sql("NOTIFY paid")
            tx[right].exec_driver_sql("set constraints all deferred")
            tx[right].execute(sa.insert(Purse), {"id": 9, "balance": 1})
        listener.exec_driver_sql("NOTIFY paid, 'later'")
        listener.commit()
        listener.exec_driver_sql("SELECT 1")
        driver = listener.connection.driver_connection
        assert driver is not None
        said = [notify.payload for notify in driver.notifies(timeout=5, stop_after=1)]
    assert said == ["later"]


def test_a_branch_that_somebody_has_committed_is_not_said_to_be_rolled_back(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines

    def refused(record: object) -> None:
        with left.connect().execution_options(isolation_level="AUTOCOMMIT") as operator:
            (gid,) = operator.scalars(
                sa.text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            )
            operator.exec_driver_sql(f"COMMIT PREPARED '{gid}'")
        raise Unavailable("the log is away")

    with TwoPhaseCommit([left, right], log=str(tmp_path / "log"), recover_every=None) as tpc:
        tpc._core.decide = refused  # type: ignore[assignment, method-assign]
        with pytest.raises(HeuristicMixed, match="committed by hand in postgresql") as mixed, tpc.begin() as tx:
            give(tx[left], -5)
            give(tx[right], 5)
        assert (tx.outcome, tx.pending) == (Outcome.ABORTED, ())
        with pytest.raises(HeuristicMixed):
            tpc.outcome(tx.gid)
        assert isinstance(mixed.value.__cause__, Unavailable)
        assert tpc.log.forget(tx.gid, "operator")
        assert tpc.outcome(tx.gid) is Outcome.ABORTED


def test_a_commit_in_the_middle_is_refused(engines: tuple[sa.Engine, sa.Engine], tmp_path: Path) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        with pytest.raises(UsageError), tpc.begin() as tx:
            give(tx[left], -1)
            give(tx[right], 1)
            tx[left].commit()
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (400, 400)


def test_markers_of_a_last_resource_are_pruned_but_never_those_that_count(tmp_path: Path) -> None:
    """Dropped: old ones of this coordinator that are applied. Kept: what is needed, refusals, and other people's."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'last.db'}")
    with TwoPhaseCommit([engine], log=str(tmp_path / "log"), recover_every=None) as tpc:
        (last,) = tpc._core.participants.all
        mine = f"T1.{tpc.log.log_id}.{tpc.coordinator}."
        rows = [(f"{mine}1.{number}", 1) for number in range(3 * sqlite.KEPT)]
        rows[5] = (f"{mine}1.refused", 0)
        rows[7] = ("T1.another0.0.1.7", 1)
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.executemany(f"INSERT INTO {sqlite.TABLE} VALUES (?, ?)", rows)
            raw.commit()
        last.prune(mine, {f"{mine}1.9"})
        with engine.connect() as connection:
            kept = connection.execute(sa.text(f"select gid, committed from {sqlite.TABLE} order by rowid")).all()
    assert [tuple(row) for row in kept[:4]] == [(last.id, 0), rows[5], rows[7], (f"{mine}1.9", 1)]  # type: ignore[attr-defined]
    assert len(kept) == 4 + sqlite.KEPT + 1


def test_coordinators_one_after_the_other_may_share_their_engines(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    """Recovery ends the sessions of dead coordinators; those that lie idle in our own pool harm nobody."""
    left, right = engines
    for _ in range(3):
        with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
            tpc.recover()
            with tpc.begin() as tx:
                give(tx[left], -1)
                give(tx[right], 1)
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (397, 403)


def test_a_snapshot_beside_another_coordinator_that_commits(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    """Its decisions are noted as applied late, and some are just being made: neither keeps us from a whole look."""
    left, right = engines
    stop = threading.Event()
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as other:

        def work() -> None:
            while not stop.is_set():
                with other.begin() as tx:
                    give(tx[left], -1)
                    give(tx[right], 1)

        thread = threading.Thread(target=work)
        with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
            found = []
            thread.start()
            try:
                for _ in range(20):
                    with tpc.snapshot([left, right], timeout=30) as snapshot:
                        found.append(total(snapshot[left]) + total(snapshot[right]))
            finally:
                stop.set()
                thread.join()
            with tpc.snapshot([left, right]) as snapshot:
                found.append(total(snapshot[left]) + total(snapshot[right]))
    assert set(found) == {800}


def test_nobody_else_claims_to_know_how_a_lone_writer_without_a_key_ended(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    log = str(tmp_path / "log")
    with TwoPhaseCommit([left, right], log=log, recover_every=None) as tpc:
        with tpc.begin() as alone:
            give(alone[left], 1)
        with tpc.begin(key="kept") as kept:
            give(kept[left], 1)
        with pytest.raises(ZeroDivisionError), tpc.begin() as given_up:
            give(given_up[left], 1)
            give(given_up[right], 1)
            1 / 0  # noqa: B018
        asked = [tx.gid for tx in (alone, kept, given_up)]
        assert [tpc.outcome(gid) for gid in asked] == [Outcome.COMMITTED, Outcome.COMMITTED, Outcome.ABORTED]
    with TwoPhaseCommit([left, right], log=log, recover_every=None) as later:
        told = [later.outcome(gid) for gid in asked]
    assert told == [Outcome.UNRECORDED, Outcome.COMMITTED, Outcome.UNRECORDED]


def test_a_connection_that_waits_for_its_second_phase_takes_no_more_work(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``wait="decided"`` the block has ended, and another thread tells the databases, on these connections."""
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log"), recover_every=None) as tpc:
        later: list[Callable[[], None]] = []
        monkeypatch.setattr(tpc._core.waiting, "later", later.append)
        with tpc.begin(wait="decided") as tx:
            give(tx[left], -5)
            give(tx[right], 5)
        with pytest.raises(UsageError, match="is over"):
            give(tx[left], -5)
        (second_phase,) = later
        second_phase()
        assert (tpc.outcome(tx.gid), tx.pending) == (Outcome.COMMITTED, ())
        assert not tpc.recover().left
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (395, 405)
    assert left.pool.checkedout() == right.pool.checkedout() == 0  # type: ignore[attr-defined]


FIRST: dict[str, Callable[[sa.Connection], object]] = {
    "a default alone": lambda on: on.scalar(sa.Sequence("purse_entry_id_seq")),
    "a default of a statement": lambda on: on.execute(numbered.insert().return_defaults(), {"text": "first"}),
    "many rows that are returned": lambda on: on.execute(
        sa.insert(Entry).returning(Entry.id), [{"text": "first"}, {"text": "second"}]
    ),
    "the driver's own": lambda on: on.connection.cursor().execute("SELECT 1"),
}
numbered = sa.Table(
    "purse_entry",
    sa.MetaData(),
    sa.Column("id", sa.Integer, sa.Sequence("purse_entry_id_seq"), primary_key=True),
    sa.Column("text", sa.Text),
    implicit_returning=False,
)


@pytest.mark.parametrize("first", FIRST)
def test_the_first_statement_is_of_any_kind(
    first: str, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    """It is sent after the answer to BEGIN has been taken, whichever way it takes through SQLAlchemy."""
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log"), recover_every=None) as tpc, tpc.begin() as tx:
        FIRST[first](tx[left])
        give(tx[left], -5)
        give(tx[right], 5)
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (395, 405)


def test_a_session_that_was_ended_while_it_lay_in_the_pool_is_noticed_at_the_first_statement(
    engines: tuple[sa.Engine, sa.Engine], postgres: PostgresServer, tmp_path: Path
) -> None:
    """Nobody has waited for the answer to BEGIN; the whole pool is thrown away, as SQLAlchemy does it."""
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log"), recover_every=None) as tpc:
        with tpc.begin() as tx:
            give(tx[left], -5)
            give(tx[right], 5)
        with sa.create_engine(postgres.url(), poolclass=sa.NullPool).connect() as connection:
            others = (
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            connection.execute(sa.text(others)).all()
        with pytest.raises(Aborted), tpc.begin() as tx:
            give(tx[right], 5)
            with pytest.raises(sa.exc.DBAPIError) as lost:
                give(tx[left], -5)
            assert lost.value.connection_invalidated
        with tpc.begin() as tx:
            give(tx[left], -5)
            give(tx[right], 5)
    with left.connect() as on_left, right.connect() as on_right:
        assert (total(on_left), total(on_right)) == (390, 410)
