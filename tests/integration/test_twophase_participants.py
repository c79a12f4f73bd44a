"""What PostgreSQL and MariaDB do with one branch, and what recovery is told of it: each word of the protocol alone."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from bank import settle
from sqlalchemy import exc

from troth.core.twophase.gid import Epoch
from troth.core.twophase.table import Finding
from troth.errors import Aborted
from troth.torture.databases import MariaDBServer, PostgresServer
from troth.transactions.channels.interface import Answer
from troth.transactions.participants.base import Begun
from troth.transactions.participants.mysql import MySql, MySqlBranch
from troth.transactions.participants.postgresql import Postgres, PostgresBranch

pytestmark = pytest.mark.integration

EPOCH = Epoch("partlogx", "me", 7)
OTHER = Epoch("partlogx", "me", 8)


@pytest.fixture
def bank(postgres: PostgresServer) -> Iterator[Postgres]:
    settle(postgres.url())
    engine = sa.create_engine(postgres.url(), pool_size=1, max_overflow=4)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS told")
        connection.exec_driver_sql(
            "CREATE TABLE told (id INTEGER PRIMARY KEY, above INTEGER REFERENCES told DEFERRABLE INITIALLY DEFERRED)"
        )
    found = Postgres("bank", engine, engine)
    yield found
    found.close()
    engine.dispose()
    settle(postgres.url())


@pytest.fixture
def ledger(mariadb: MariaDBServer) -> Iterator[MySql]:
    settle(mariadb.url())
    engine = sa.create_engine(mariadb.url(), pool_size=1, max_overflow=4)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE OR REPLACE TABLE told (id INTEGER PRIMARY KEY)")
    found = MySql("ledger", engine, engine)
    yield found
    found.close()
    engine.dispose()
    settle(mariadb.url())


def begun(sequence: int, *, timeout_s: float | None = 5.0) -> Begun:
    return Begun(EPOCH.name(sequence), timeout_s)


def rows(participant: Postgres | MySql) -> list[int]:
    with participant.connected() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM told ORDER BY id")))


def listed(participant: Postgres | MySql) -> list[str]:
    return [found.branch for found in participant.prepared()]


def one(branch: PostgresBranch | MySqlBranch, query: str) -> Any:
    return branch.handle.exec_driver_sql(query).scalar()


def opened(bank: Postgres, sequence: int, row: int | None = None, **options: Any) -> PostgresBranch:
    branch = bank.open(0, begun(sequence, **options))
    if row is not None:
        branch.handle.exec_driver_sql(f"INSERT INTO told (id) VALUES ({row})")
    return branch


def fail_below(branch: PostgresBranch) -> None:
    """A statement fails of which SQLAlchemy hears nothing: the caller works with the driver itself."""
    cursor = branch.handle.connection.cursor()
    with pytest.raises(Exception, match="division by zero"):
        cursor.execute("SELECT 1 / 0")


@pytest.mark.parametrize("verb", ["prepare", "commit_alone"])
def test_the_tag_is_looked_at_and_a_failed_transaction_votes_no(verb: str, bank: Postgres) -> None:
    branch = opened(bank, 1, row=1)
    branch.proof = "1"  # known: so nothing but the one statement goes to the server
    fail_below(branch)
    with pytest.raises(Aborted, match="rolled the transaction back instead"):
        getattr(branch, verb)()()
    branch.roll_back()()
    branch.release(broken=False)
    assert rows(bank) == [] and listed(bank) == []


def test_a_vote_that_asks_for_its_proof_first_is_refused_when_the_transaction_has_failed(bank: Postgres) -> None:
    branch = opened(bank, 1, row=1)
    fail_below(branch)
    with pytest.raises(Aborted, match="rolled the transaction back instead"):
        branch.prepare()()
    branch.roll_back()()
    branch.release(broken=False)
    assert rows(bank) == [] and listed(bank) == []


def test_the_reason_of_a_failed_transaction_is_told(bank: Postgres) -> None:
    branch = opened(bank, 1, row=1)
    with pytest.raises(exc.DataError) as raised:
        branch.handle.exec_driver_sql("SELECT 1 / 0")
    with pytest.raises(Aborted) as caught:
        branch.prepare()()
    assert caught.value.__cause__ is raised.value
    branch.roll_back()()
    branch.release(broken=False)


def test_a_vote_that_is_refused_leaves_a_transaction_that_is_over_and_not_prepared(bank: Postgres) -> None:
    branch = opened(bank, 1)
    branch.handle.exec_driver_sql("INSERT INTO told VALUES (1, 99)")
    with pytest.raises(exc.IntegrityError):
        branch.prepare()()
    branch.roll_back()()
    branch.release(broken=False)
    assert rows(bank) == [] and listed(bank) == []


def test_the_proof_of_a_vote_tells_what_became_of_it(bank: Postgres) -> None:
    kept, undone = opened(bank, 1, row=1), opened(bank, 2, row=2)
    for branch in (kept, undone):
        branch.prepare()()
        assert bank.prove(branch.proof) is Finding.UNREACHED, "nothing yet"
    assert sorted(listed(bank)) == [kept.name, undone.name]
    kept.commit_prepared()()
    undone.roll_back()()
    assert listed(bank) == []
    assert rows(bank) == [1]
    assert bank.prove(kept.proof) is Finding.PROVED_COMMITTED
    assert bank.prove(undone.proof) is Finding.PROVED_ABORTED
    for branch in (kept, undone):
        branch.release(broken=False)


def test_an_id_that_the_server_has_never_given_was_given_before_it_was_restored(bank: Postgres) -> None:
    assert bank.prove("4000000000") is Finding.PROVED_ABORTED
    assert bank.prove("") is Finding.UNPROVEN


def test_an_id_of_which_the_server_knows_nothing_proves_nothing(bank: Postgres) -> None:
    assert bank.prove("0") is Finding.UNPROVEN


def test_who_has_written_is_known_by_its_id_or_by_its_statements(bank: Postgres) -> None:
    reader, writer = opened(bank, 1), opened(bank, 2, row=1)
    one(reader, "SELECT count(*) FROM told")
    reader.ask()()
    assert (reader.wrote, reader.proof) == (False, "")
    writer.wrote = None
    writer.ask()()
    assert writer.wrote is True and writer.proof
    reader.wrote = True  # as after an INSERT into a foreign table, which has no id here
    reader.ask()()
    assert reader.wrote is True
    for branch in (reader, writer):
        branch.roll_back()()
        branch.release(broken=False)


def test_a_vote_whose_answer_was_lost_is_rolled_back_where_it_is_prepared(bank: Postgres) -> None:
    branch = opened(bank, 1, row=1)
    real = branch.channel.start
    lost = exc.DBAPIError("PREPARE TRANSACTION", None, OSError("gone"), connection_invalidated=True)

    def start(statements: Any, bound: Any = None) -> Callable[[], list[Answer]]:
        finish = real(statements, bound)

        def answered() -> list[Answer]:
            finish()
            raise lost

        return answered

    branch.channel.start = start  # type: ignore[method-assign]
    with pytest.raises(exc.DBAPIError):
        branch.prepare()()
    branch.channel.start = real  # type: ignore[method-assign]
    assert listed(bank) == [branch.name]
    branch.roll_back()()
    assert listed(bank) == []
    branch.release(broken=True)


def test_recovery_finishes_what_is_listed_as_it_is_told_and_once(bank: Postgres) -> None:
    kept, undone = opened(bank, 1, row=1), opened(bank, 2, row=2)
    for branch in (kept, undone):
        branch.prepare()()
        branch.release(broken=True)
    assert bank.finish(kept.name, commit=True) is Finding.FINISHED
    assert bank.finish(undone.name, commit=False) is Finding.FINISHED
    assert bank.finish(kept.name, commit=True) is Finding.ABSENT
    assert rows(bank) == [1]


def test_a_branch_of_another_database_of_the_server_is_not_listed_and_cannot_be_finished(
    bank: Postgres, postgres: PostgresServer
) -> None:
    with bank.connected() as connection:
        if not connection.exec_driver_sql("SELECT 1 FROM pg_database WHERE datname = 'part'").scalar():
            connection.exec_driver_sql("CREATE DATABASE part")
    engine = sa.create_engine(sa.make_url(postgres.url()).set(database="part"))
    part = Postgres("part", engine, engine)
    settle(str(engine.url))
    branch = part.open(0, begun(77))
    branch.handle.exec_driver_sql("CREATE TABLE made (id INTEGER)")  # it is never committed
    branch.prepare()()
    branch.release(broken=False)
    assert listed(part) == [branch.name] and listed(bank) == []
    with pytest.raises(exc.DBAPIError, match="another database"):
        bank.finish(branch.name, commit=True)
    assert part.finish(branch.name, commit=False) is Finding.FINISHED
    assert part.facts().identity != bank.facts().identity
    part.close()
    engine.dispose()


def test_one_database_under_two_addresses_is_one(bank: Postgres, postgres: PostgresServer) -> None:
    engine = sa.create_engine(sa.make_url(postgres.url()).set(host="localhost"))
    again = Postgres("again", engine, engine)
    assert again.facts().identity == bank.facts().identity
    again.close()
    engine.dispose()


def test_sessions_of_closed_epochs_are_ended_in_a_transaction_and_left_alone_outside_of_one(
    bank: Postgres,
) -> None:
    idle, working = opened(bank, 1), opened(bank, 2, row=1)
    one(idle, "SELECT 1")
    idle.roll_back()()
    idle.release(broken=False)
    with (
        bank.engine.begin() as own
    ):  # the same session, out of the pool, in a transaction of the application's own
        assert own.exec_driver_sql("SELECT 1").scalar() == 1
        assert bank.fence(lambda epoch: epoch == OTHER) == 0
        assert one(working, "SELECT count(*) FROM told") == 1
        assert bank.fence(lambda epoch: epoch == EPOCH) == 1
        assert own.exec_driver_sql("SELECT 1").scalar() == 1
    with pytest.raises(exc.DBAPIError):
        working.prepare()()
    working.release(broken=True)


@pytest.mark.parametrize("becomes", ["somebody else's", "idle"])
def test_a_session_that_has_ended_its_transaction_since_it_was_listed_is_left_alone(
    becomes: str, bank: Postgres
) -> None:
    with bank.engine.connect() as connection:
        connection.exec_driver_sql(f"SET SESSION application_name = '{EPOCH.name(1)}'")
        connection.commit()
        connection.exec_driver_sql("SELECT 1")

        def is_closed(epoch: Epoch) -> bool:
            connection.rollback()
            if becomes == "somebody else's":
                connection.exec_driver_sql("SET SESSION application_name = 'somebody'")
                connection.commit()
                connection.exec_driver_sql("SELECT 1")
            return epoch == EPOCH

        assert bank.fence(is_closed) == 0
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        connection.invalidate()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_session_is_named_and_waits_for_locks_as_its_transaction_does_and_no_longer(
    driver: str, postgres: PostgresServer
) -> None:
    engine = sa.create_engine(postgres.url(driver), pool_size=1, max_overflow=0)
    other = Postgres("other", engine, engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET application_name = 'somebody'")
        connection.commit()
    for sequence, timeout_s, waits in ((1, 7.0, "7s"), (2, None, "0"), (3, 0.0001, "1ms")):
        for verb in ("commit_alone", "roll_back", "prepare"):
            branch = opened(other, sequence, timeout_s=timeout_s)
            assert one(branch, "SHOW lock_timeout") == waits
            assert one(branch, "SHOW application_name") == EPOCH.name(sequence)
            getattr(branch, verb)()()
            if verb == "prepare":
                branch.roll_back()()
            branch.release(broken=False)
            with engine.connect() as connection:  # the same one, out of the pool
                assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
                assert connection.exec_driver_sql("SHOW application_name").scalar() == "somebody"
    other.close()
    engine.dispose()


def copying(branch: PostgresBranch) -> Any:
    """A COPY whose caller has left it open; the driver keeps its connection locked."""
    copy = branch.handle.connection.driver_connection.cursor().copy("COPY told (id) FROM STDIN")
    copy.__enter__()
    return copy


def fetching(branch: PostgresBranch) -> Any:
    rows = branch.handle.connection.driver_connection.cursor().stream("SELECT generate_series(1, 1000)")
    next(rows)
    return rows


@pytest.mark.parametrize("left_open", [copying, fetching])
def test_what_is_left_half_done_is_given_up_with_its_connection(
    left_open: Callable[[PostgresBranch], Any], bank: Postgres
) -> None:
    """The driver would wait for its end before it rolls back, while other branches hold their locks."""
    branch = opened(bank, 1, 1)
    kept = left_open(branch)
    with pytest.raises(Aborted, match="was left open"):
        branch.ask()()
    ending = threading.Thread(target=lambda: branch.roll_back()(), daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    assert branch.handle.invalidated
    branch.release(broken=False)
    assert rows(bank) == []
    del kept


# ---- MariaDB ----


def written(ledger: MySql, sequence: int, row: int, **options: Any) -> MySqlBranch:
    branch = ledger.open(0, begun(sequence, **options))
    branch.handle.exec_driver_sql(f"INSERT INTO told VALUES ({row})")
    return branch


@pytest.mark.parametrize("verb", ["prepare", "commit_alone"])
def test_mariadb_goes_on_after_an_error_and_the_branch_does_not(verb: str, ledger: MySql) -> None:
    branch = written(ledger, 1, 1)
    with pytest.raises(exc.IntegrityError) as raised:
        branch.handle.exec_driver_sql("INSERT INTO told VALUES (1)")
    with pytest.raises(Aborted) as caught:
        getattr(branch, verb)()()
    assert caught.value.__cause__ is raised.value
    branch.roll_back()()
    branch.release(broken=False)
    assert rows(ledger) == [] and listed(ledger) == []


@pytest.mark.parametrize("verb", ["rollback", "close"])
def test_mariadb_is_given_up_by_its_connection_as_any_database_is(verb: str, ledger: MySql) -> None:
    with written(ledger, 1, 1).handle as connection:
        branch = connection.branch
        getattr(connection, verb)()
        with pytest.raises(Aborted, match="was rolled back"):
            branch.prepare()
        branch.roll_back()()
        branch.release(broken=False)
    assert rows(ledger) == [] and listed(ledger) == []
    again = written(ledger, 2, 2)
    assert again._session == branch._session, "the connection is as good as new"
    again.commit_alone()()
    again.release(broken=False)
    assert rows(ledger) == [2]


def test_mariadb_goes_on_after_a_rollback_in_the_middle_and_keeps_nothing(ledger: MySql) -> None:
    branch = written(ledger, 1, 1)
    branch.handle.rollback()
    branch.handle.exec_driver_sql("INSERT INTO told VALUES (2)")
    with pytest.raises(Aborted, match="was rolled back"):
        branch.commit_alone()
    branch.roll_back()()
    branch.release(broken=False)
    assert rows(ledger) == [] and listed(ledger) == []


def test_mariadb_commits_alone_or_after_a_vote_and_rolls_back_before_it_or_after(ledger: MySql) -> None:
    alone, voted, undone, early = (written(ledger, number, number) for number in (1, 2, 3, 4))
    alone.commit_alone()()
    for branch in (voted, undone):
        branch.prepare()()
    assert sorted(listed(ledger)) == [voted.name, undone.name]
    voted.commit_prepared()()
    undone.roll_back()()
    early.roll_back()()
    assert rows(ledger) == [1, 2] and listed(ledger) == []
    for branch in (alone, voted, undone, early):
        branch.roll_back()()  # over: nothing is said
        branch.release(broken=False)
    assert ledger.sessions == {}
    with ledger.engine.connect() as connection:
        number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
        assert number in {branch._session.number for branch in (alone, voted, undone, early)}, (
            "the pool has it again"
        )


def test_mariadb_names_a_session_once(ledger: MySql) -> None:
    """Each name is a lock that the session holds."""
    names = set()
    for sequence in (1, 2):
        branch = written(ledger, sequence, sequence)
        names.add(branch._session)
        branch.roll_back()()
        branch.release(broken=False)
    assert len(names) == 1


def test_mariadb_has_not_voted_when_its_session_is_gone(ledger: MySql) -> None:
    """The vote goes out all the same: to a socket of which nobody has heard yet."""
    branch = written(ledger, 1, 1)
    with ledger.connected() as connection:
        connection.exec_driver_sql(f"KILL {branch._session.number}")
    with pytest.raises(exc.DBAPIError) as raised:
        branch.prepare()()
    assert raised.value.connection_invalidated
    branch.release(broken=True)
    assert rows(ledger) == [] and listed(ledger) == []


def test_mariadb_has_not_voted_when_it_has_said_no(ledger: MySql) -> None:
    """To the second of two statements, which went out together."""
    branch = written(ledger, 1, 1)
    branch.channel.start([f"XA END {branch.name}", f"XA ROLLBACK {branch.name}"])()
    with pytest.raises(exc.DBAPIError) as raised:
        branch.prepare()()
    assert not raised.value.connection_invalidated
    branch.release(broken=True)
    assert rows(ledger) == [] and listed(ledger) == []


def test_mariadb_answers_each_of_many_statements_and_the_first_that_fails_is_told(ledger: MySql) -> None:
    branch = written(ledger, 1, 1)
    with pytest.raises(exc.DBAPIError, match="no_such_column"):
        branch.channel.start(["SELECT no_such_column", "SELECT nor_such", "SELECT 1"])()
    assert branch.channel.start(["SELECT 2", "SELECT 3"])() == [Answer("", (2,)), Answer("", (3,))]
    branch.roll_back()()
    branch.release(broken=False)


def test_mariadb_rolls_back_what_was_told_to_end_before(ledger: MySql) -> None:
    """As after a deadlock, or a vote that was cut off in the middle."""
    branch = written(ledger, 1, 1)
    branch.channel.start([f"XA END {branch.name}"])()
    branch.roll_back()()
    branch.release(broken=False)
    assert rows(ledger) == []


def test_mariadb_names_the_tables_that_no_rollback_undoes(ledger: MySql) -> None:
    assert ledger.facts().warnings == ()
    with ledger.connected() as connection:
        for engine in ("MyISAM", "Aria", "MEMORY"):
            connection.exec_driver_sql(
                f"CREATE OR REPLACE TABLE plain_{engine.lower()} (x INTEGER) ENGINE = {engine}"
            )
    try:
        (warning,) = ledger.facts().warnings
        assert "plain_aria, plain_memory, plain_myisam" in warning
    finally:
        with ledger.connected() as connection:
            connection.exec_driver_sql("DROP TABLE plain_myisam, plain_aria, plain_memory")


def test_mariadb_lists_our_branches_alone_each_as_it_wants_to_be_told(ledger: MySql) -> None:
    kept, undone = written(ledger, 1, 1), written(ledger, 2, 2)
    for branch in (kept, undone):
        branch.prepare()()
        branch.release(broken=True)
    foreign = [f"'{EPOCH.name(3)}','0.1',1", "'else','0.1',1414680404", f"'{EPOCH.name(3)}.0','1',1414680404"]
    with ledger.connected() as connection:
        for number, name in enumerate(foreign):
            for verb in ("START", "END", "PREPARE"):
                connection.exec_driver_sql(f"XA {verb} {name}")
                if verb == "START":
                    connection.exec_driver_sql(f"INSERT INTO told VALUES ({10 + number})")
            connection.exec_driver_sql("DO 0")
            assert len(listed(ledger)) == 2
            connection.exec_driver_sql(f"XA ROLLBACK {name}")
    found = {str(each.gid): each.branch for each in ledger.prepared()}
    assert found == {EPOCH.name(1): kept.name, EPOCH.name(2): undone.name}
    assert ledger.finish(kept.name, commit=True) is Finding.FINISHED
    assert ledger.finish(undone.name, commit=False) is Finding.FINISHED
    assert ledger.finish(kept.name, commit=True) is Finding.ABSENT
    with pytest.raises(exc.DBAPIError, match="syntax"):
        ledger.finish("'no name of a branch", commit=True)
    assert rows(ledger) == [1]


def test_mariadb_waits_for_locks_as_long_as_the_transaction_may_and_no_other(ledger: MySql) -> None:
    waited = "SELECT @@innodb_lock_wait_timeout"
    with ledger.engine.connect() as connection:
        own = connection.exec_driver_sql(waited).scalar()
    for timeout_s, expected in ((7.0, 7), (None, own), (0.2, 1)):
        branch = ledger.open(0, begun(1, timeout_s=timeout_s))
        assert one(branch, waited) == expected
        branch.roll_back()()
        branch.release(broken=False)
    with ledger.engine.connect() as connection:
        assert connection.exec_driver_sql(waited).scalar() == own


def test_mariadb_waits_for_locks_as_long_as_the_transaction_may_on_a_session_that_was_reset(ledger: MySql) -> None:
    reset = "SET SESSION innodb_lock_wait_timeout = DEFAULT"
    sa.event.listen(ledger.engine, "checkin", lambda dbapi, record: dbapi.query(reset))
    for sequence in (1, 2):
        branch = ledger.open(0, begun(sequence, timeout_s=7.0))
        assert one(branch, "SELECT @@innodb_lock_wait_timeout") == 7
        branch.roll_back()()
        branch.release(broken=False)


def test_two_databases_of_a_mariadb_are_two_and_two_addresses_of_one_are_one(
    ledger: MySql, mariadb: MariaDBServer
) -> None:
    url = sa.make_url(mariadb.url())
    with ledger.connected() as connection:
        connection.exec_driver_sql("CREATE DATABASE IF NOT EXISTS troth_other")
    identities = []
    for engine in (
        sa.create_engine(url.set(database="troth_other")),
        sa.create_engine(url.set(query={"charset": "utf8mb4"})),
    ):
        participant = MySql("again", engine, engine)
        identities.append(participant.facts().identity)
        participant.close()
        engine.dispose()
    own = ledger.facts().identity
    assert identities[0] != own == identities[1]


def test_a_branch_that_is_gone_cannot_be_told_to_commit(bank: Postgres) -> None:
    branch = opened(bank, 1, row=1)
    before_s = time.monotonic()
    branch.prepare()()
    (found,) = bank.prepared()
    assert 0 <= found.age_s <= time.monotonic() - before_s
    assert bank.finish(branch.name, commit=False) is Finding.FINISHED
    with pytest.raises(exc.DBAPIError, match="does not exist"):
        branch.commit_prepared()()
    branch.release(broken=True)
    assert bank.finish(f"{EPOCH.name(1)}.it's 1%", commit=True) is Finding.ABSENT


def test_who_waits_for_whom_is_told_by_their_names(bank: Postgres) -> None:
    first, second = opened(bank, 1, row=1), opened(bank, 2)
    failed: list[Exception] = []

    def wait() -> None:
        try:
            second.handle.exec_driver_sql("INSERT INTO told (id) VALUES (1)")
        except exc.DBAPIError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not (waits := bank.waits()):
        assert thread.is_alive()
    assert [(found.waiter, found.holder) for found in waits] == [(EPOCH.name(2), EPOCH.name(1))]
    waits[0].cancel()
    thread.join(10)
    assert "canceling statement due to user request" in str(failed[0])
    for branch in (first, second):
        branch.roll_back()()
        branch.release(broken=False)


@pytest.mark.parametrize("notes", [True, False])
def test_a_mariadb_that_notes_whose_each_session_is_tells_who_waits_in_other_processes(notes: bool) -> None:
    """Each `MySql` knows only the sessions that it has opened, as each process does."""
    names = ("performance_schema", "performance_schema_consumer_events_transactions_current")
    settings = {**dict.fromkeys(names, "ON"), "performance_schema_instrument": "transaction=ON"} if notes else {}
    with MariaDBServer(**settings) as server:
        engines = [sa.create_engine(server.url()) for _ in range(3)]
        one_process, other, looking = (MySql("ledger", engine, engine) for engine in engines)
        with engines[0].begin() as connection:
            connection.exec_driver_sql("CREATE TABLE told (id INTEGER PRIMARY KEY)")
        first, second = written(one_process, 1, 1), other.open(1, begun(2))
        failed: list[Exception] = []

        def wait() -> None:
            try:
                second.handle.exec_driver_sql("INSERT INTO told VALUES (1)")
            except exc.DBAPIError as error:
                failed.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        with looking.connected() as connection:
            while not connection.exec_driver_sql(looking._waits).all():
                assert thread.is_alive()
        waits = looking.waits()
        assert [(found.waiter, found.holder) for found in waits] == [(EPOCH.name(2), EPOCH.name(1))] * notes
        for found in waits:
            found.cancel()
        if not notes:
            first.roll_back()()
        thread.join(10)
        assert not thread.is_alive() and bool(failed) is notes
        for branch in (first, second):
            branch.release(broken=True)
        for engine in engines:
            engine.dispose()


@pytest.mark.parametrize("verb", ["prepare", "commit_alone"])
def test_what_is_lost_with_its_session_is_told_as_lost_and_why(verb: str, bank: Postgres) -> None:
    """A refusal would be an abort; of what was lost nobody knows."""
    branch = opened(bank, 1, row=1)
    with bank.connected() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({one(branch, 'SELECT pg_backend_pid()')}, 5000)")
    with pytest.raises(exc.DBAPIError, match="terminating connection") as raised:
        getattr(branch, verb)()()
    assert raised.value.connection_invalidated
    branch.release(broken=True)
    assert rows(bank) == [] and listed(bank) == []


def test_a_branch_in_which_nothing_was_done_can_be_asked_and_ended(bank: Postgres) -> None:
    branch = opened(bank, 1)
    branch.ask()()
    assert branch.wrote is False
    branch.commit_alone()()
    branch.release(broken=False)


def test_a_connection_in_an_unknown_state_is_not_used_again(bank: Postgres) -> None:
    pids = []
    for broken in (True, False):
        branch = opened(bank, 1)
        pids.append(one(branch, "SELECT pg_backend_pid()"))
        branch.roll_back()()
        branch.release(broken=broken)
    assert pids[0] != pids[1]


def test_whatever_is_done_first_is_done_in_the_transaction(bank: Postgres) -> None:
    """Its beginning goes out alone, and is answered before anything else is sent, whichever way that goes."""
    drawn = sa.Table(
        "drawn", sa.MetaData(), sa.Column("id", sa.Integer, sa.Sequence("drawn_ids"), primary_key=True)
    )
    told = sa.table("told", sa.column("id"))
    with bank.engine.begin() as connection:
        drawn.drop(connection, checkfirst=True)
        drawn.create(connection)

    def by_the_driver(connection: sa.Connection) -> None:
        connection.connection.cursor().execute("INSERT INTO told VALUES (7)")

    for first, writes in (
        (
            lambda connection: connection.execute(
                sa.insert(told).returning(told.c.id), [{"id": 7}, {"id": 8}]
            ).all(),
            True,
        ),
        (lambda connection: connection.execute(sa.insert(drawn)), True),
        (lambda connection: connection.scalar(sa.Sequence("drawn_ids")), False),
        (by_the_driver, True),
    ):
        branch = opened(bank, 1)
        first(branch.handle)
        assert one(branch, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL") is writes
        branch.roll_back()()
        branch.release(broken=False)
    assert rows(bank) == []
    with bank.connected() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM drawn")) == 0
