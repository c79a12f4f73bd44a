"""A program dies between its decision and its commits, and is tried again under the same key."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from bank import prepared, settle

from troth.torture.databases import PostgresServer

pytestmark = pytest.mark.integration

PROGRAM = """
import os, sys
import sqlalchemy as sa
from troth import TwoPhaseCommit

left, right, log, dies_at = sys.argv[1:]
engines = {"left": sa.create_engine(left), "right": sa.create_engine(right)}
def step(name):
    if name == dies_at:
        os._exit(9)
tpc = TwoPhaseCommit(engines, log=log, recover_every=None, on_step=step)
with tpc.begin(key="order-1") as tx:
    for engine in engines.values():
        tx[engine].exec_driver_sql("INSERT INTO replayed VALUES (1)")
assert (tx.outcome, tx.replayed, tx.pending) == ("committed", True, ()), tx.pending
for engine in engines.values():
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM replayed").scalar() == 1
os._exit(0)  # with no time for a pass of recovery
"""


@pytest.mark.parametrize("dies_at", ["after_decision", "between_commits"])
def test_what_a_retry_says_is_committed_can_be_seen(
    dies_at: str, postgres: PostgresServer, postgres_other: PostgresServer, tmp_path: Path
) -> None:
    urls = [postgres.url(), postgres_other.url()]
    for url in urls:
        settle(url)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS replayed")
            connection.exec_driver_sql("CREATE TABLE replayed (x INTEGER)")
        engine.dispose()
    for step, code in ((dies_at, 9), ("never", 0)):
        arguments = [sys.executable, "-c", PROGRAM, *urls, str(tmp_path / "log"), step]
        found = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert found.returncode == code, found.stderr
    assert [prepared(url) for url in urls] == [[], []]
