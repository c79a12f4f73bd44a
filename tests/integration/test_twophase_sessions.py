"""Recovery ends the session that holds a branch in MariaDB, and never that of somebody else."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from bank import settle

from troth.core.twophase.gid import Epoch
from troth.core.twophase.table import Finding
from troth.torture.databases import MariaDBServer
from troth.transactions.participants.base import Begun
from troth.transactions.participants.mysql import MySql, MySqlBranch

pytestmark = pytest.mark.integration

EPOCH = Epoch("sessions", "me", 1)


@pytest.fixture
def ledger(mariadb: MariaDBServer) -> Iterator[MySql]:
    settle(mariadb.url())
    engine = sa.create_engine(mariadb.url())
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE OR REPLACE TABLE held (id INTEGER PRIMARY KEY)")
    found = MySql("ledger", engine, engine)
    yield found
    found.close()
    engine.dispose()
    settle(mariadb.url())


def prepared(ledger: MySql, sequence: int) -> MySqlBranch:
    branch = ledger.open(0, Begun(EPOCH.name(sequence), 5.0))
    branch.handle.exec_driver_sql(f"INSERT INTO held VALUES ({sequence})")
    branch.prepare()()
    return branch


def number_of(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())


def test_the_session_that_holds_a_branch_is_ended(ledger: MySql) -> None:
    branch = prepared(ledger, 1)
    assert ledger.finish(branch.name, commit=True) is Finding.ATTACHED
    ledger.detach(branch.name)
    # It ends a moment after it was told to.
    answers = (ledger.finish(branch.name, commit=True) for _ in range(2000))
    assert next(found for found in answers if found is not Finding.ATTACHED) is Finding.FINISHED
    ledger.detach(branch.name)  # another recoverer was slower: nobody is there any more
    branch.release(broken=True)


def test_a_session_that_holds_no_lock_any_more_is_ended_too(ledger: MySql) -> None:
    """By a listener when it was given back to the pool, or in the transaction; else its branch stays until it ends."""
    sa.event.listen(ledger.engine, "checkin", lambda dbapi, _: dbapi and dbapi.query("DO RELEASE_ALL_LOCKS()"))
    before = ledger.open(0, Begun(EPOCH.name(3), 5.0))
    before.roll_back()()
    before.release(broken=False)
    for sequence in (4, 5):
        branch = ledger.open(0, Begun(EPOCH.name(sequence), 5.0))
        branch.handle.exec_driver_sql(f"INSERT INTO held VALUES ({sequence})")
        if sequence == 5:
            branch.handle.exec_driver_sql("SELECT RELEASE_ALL_LOCKS()").all()
        branch.prepare()()
        try:
            ledger.detach(branch.name)
            answers = (ledger.finish(branch.name, commit=True) for _ in range(2000))
            assert next((found for found in answers if found is not Finding.ATTACHED), None) is Finding.FINISHED
        finally:
            branch.release(broken=True)


def test_whoever_has_a_sessions_number_after_a_restart_is_left_alone(
    ledger: MySql, mariadb: MariaDBServer
) -> None:
    """Two recoverers saw the branch attached; the server was started anew; one of them ends the session only now."""
    branch = prepared(ledger, 2)
    number = number_of(branch.handle)
    mariadb.kill()
    mariadb.start()
    innocents = sa.create_engine(mariadb.url(), poolclass=sa.NullPool)
    innocent = innocents.connect()
    while number_of(innocent) < number:
        innocent.close()
        innocent = innocents.connect()
    assert number_of(innocent) == number
    ledger.detach(branch.name)
    assert number_of(innocent) == number, "it lives"
    innocent.close()
    branch.release(broken=True)
    assert ledger.finish(branch.name, commit=True) is Finding.FINISHED
