"""A program that forks inside of a transaction: the child ends as Python ends, and the parent commits."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from bank import settle

from troth.torture.databases import MariaDBServer, PostgresServer

pytestmark = pytest.mark.integration

PROGRAM = """
import os, sys, warnings
import sqlalchemy as sa
from troth import TwoPhaseCommit
from troth.errors import UsageError

left, right, last, log, leaves = sys.argv[1:]
warnings.simplefilter("ignore")
engines = {name: sa.create_engine(url) for name, url in (("left", left), ("right", right), ("last", last))}
with TwoPhaseCommit(engines, log=log, recover_every=None) as tpc:
    with tpc.begin() as tx:
        for engine in engines.values():
            tx[engine].exec_driver_sql("INSERT INTO forked VALUES (1)")
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
        elif leaves == "by an error":
            sys.exit(7)
        else:
            try:
                tx.rollback()
            except UsageError:
                sys.exit(7)
    assert tx.outcome == "committed" and tx.pending == (), (tx.outcome, tx.pending)
    assert os.waitstatus_to_exitcode(status) == 7, status
"""


@pytest.mark.parametrize("leaves", ["by an error", "by tx.rollback()"])
@pytest.mark.parametrize("drivers", [("psycopg", "pymysql"), ("psycopg2", "mysqldb")])
def test_what_a_child_does_is_nothing_to_the_parents_transaction(
    drivers: tuple[str, str], leaves: str, postgres: PostgresServer, mariadb: MariaDBServer, tmp_path: Path
) -> None:
    urls = [postgres.url(drivers[0]), mariadb.url(drivers[1]), f"sqlite:///{tmp_path}/last.db"]
    for url in urls:
        settle(url)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS forked")
            connection.exec_driver_sql("CREATE TABLE forked (x INTEGER)")
        engine.dispose()
    arguments = [sys.executable, "-c", PROGRAM, *urls, str(tmp_path / "log"), leaves]
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    for url in urls:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM forked")) == 1
            connection.exec_driver_sql("DROP TABLE forked")
        engine.dispose()
