"""Listeners of an engine hear of a commit when there is one, and of a rollback otherwise."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from troth import TwoPhaseCommit
from troth.errors import Aborted
from troth.torture.databases import DatabaseServer, PostgresServer
from troth.transactions.outcome import Outcome

pytestmark = pytest.mark.integration

row = sa.Table("heard", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


@pytest.fixture(params=["psycopg", "psycopg2", "pymysql"])
def other(request: pytest.FixtureRequest, postgres_other: PostgresServer) -> Iterator[sa.Engine]:
    server: DatabaseServer = postgres_other
    if request.param == "pymysql":
        server = request.getfixturevalue("mariadb")
    url = sa.engine.make_url(server.url())
    engine = sa.create_engine(url.set(drivername=f"{url.get_backend_name()}+{request.param}"))
    with engine.begin() as connection:
        row.drop(connection, checkfirst=True)
        row.create(connection)
    yield engine
    engine.dispose()


def test_each_end_is_heard_as_what_it_is(postgres: PostgresServer, other: sa.Engine, tmp_path: Path) -> None:
    left = sa.create_engine(postgres.url())
    with left.begin() as connection:
        row.drop(connection, checkfirst=True)
        row.create(connection)
    heard: list[str] = []
    with TwoPhaseCommit({"left": left, "other": other}, log=tmp_path / "log", recover_every=None) as tpc:
        sa.event.listen(other, "commit", lambda _: heard.append("commit"))
        sa.event.listen(other, "rollback", lambda _: heard.append("rollback"))

        def work(number: int, *engines: sa.Engine, fails: bool = False, refuses: bool = False) -> list[str]:
            heard.clear()
            try:
                with tpc.begin() as tx:
                    for engine in engines:
                        tx[engine].execute(row.insert().values(id=number))
                    if refuses:
                        try:  # the left one votes no
                            tx[left].exec_driver_sql("SELECT 1 / 0")
                        except sa.exc.DBAPIError:
                            pass
                    if fails:
                        raise ZeroDivisionError
            except (ZeroDivisionError, Aborted):
                pass
            return list(heard)

        assert work(1, left, other) == ["commit"]
        assert work(2, other) == ["commit"]
        assert work(3, left, other, fails=True) == ["rollback"]
        assert work(4, other, left, refuses=True) == ["rollback"]
    left.dispose()


def test_a_branch_that_was_prepared_in_vain_is_heard_to_be_rolled_back(
    postgres: PostgresServer, other: sa.Engine, tmp_path: Path
) -> None:
    left = sa.create_engine(postgres.url())
    heard: list[str] = []
    with TwoPhaseCommit({"left": left, "other": other}, log=tmp_path / "log", recover_every=None) as tpc:
        sa.event.listen(other, "commit", lambda _: heard.append("commit"))
        sa.event.listen(other, "rollback", lambda _: heard.append("rollback"))
        with pytest.raises(Aborted), tpc.begin() as tx:
            tx[other].execute(row.insert().values(id=1))
            # Temporary tables are known to be in the way at PREPARE, and not before.
            tx[left].exec_driver_sql("CREATE TEMPORARY TABLE in_the_way (x INTEGER)")
        assert heard == ["rollback"]
    left.dispose()


@pytest.mark.parametrize("both", [False, True])
def test_what_a_listener_raises_is_no_answer_of_a_database(
    both: bool, postgres: PostgresServer, other: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = sa.create_engine(postgres.url())
    with left.begin() as connection:
        row.drop(connection, checkfirst=True)
        row.create(connection)

    def heard(connection: object) -> None:
        raise ZeroDivisionError("listener's bug")

    with TwoPhaseCommit({"left": left, "other": other}, log=tmp_path / "log", recover_every=None) as tpc:
        sa.event.listen(other, "commit", heard)
        with tpc.begin() as tx:
            tx[other].execute(row.insert().values(id=1))
            if both:
                tx[left].execute(row.insert().values(id=1))
        sa.event.remove(other, "commit", heard)
    assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ())
    assert "committed in other" in caplog.text
    with other.connect() as connection:
        assert connection.scalar(sa.select(row.c.id)) == 1
    left.dispose()
