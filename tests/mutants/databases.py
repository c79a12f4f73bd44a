"""Planted bugs in what is said to database servers: ``python tests/mutants/databases.py [TEXT]``.

As planted.py, from databases.txt, with tests that need PostgreSQL and MariaDB. Both PostgreSQL servers are started once
for all; MariaDB anew for each bug in what it is told, as a branch that one leaves behind keeps the next waiting.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from pitfalls import Pitfall
from planted import changed, read
from survivors import HEAVY
from trial import ROOT, Changed, FirstFailure, forget_project, module_name

from troth.torture.databases import DatabaseServer, MariaDBServer, PostgresServer

PLANTED = tuple(read((Path(__file__).parent / "databases.txt").read_text()))
TESTS = (
    "tests/unit/transactions/test_transactions_mysql.py",
    "tests/unit/transactions/test_transactions_postgresql.py",
    "tests/integration/test_twophase_libpq.py",
    "tests/integration/test_twophase_participants.py",
    "tests/integration/test_twophase_sessions.py",
    "tests/integration/test_twophase_said.py",
    "tests/integration/test_twophase_below.py",
    "tests/integration/test_twophase_proxies.py",
    "tests/integration/test_twophase_snapshots.py",
    "tests/integration/test_twophase_listeners.py",
    "tests/integration/test_twophase_drivers.py::test_a_streamed_result_that_is_left_open_is_no_lost_connection",
    "tests/integration/test_twophase_guarantees.py::test_preflight_says_what_to_set",
)
OF_MARIADB = (
    "mariadb or mysql or asyncmy or streamed or attached or holds or asked or preflight_f or preflight_r"
    " or forget_a_vote"
)
PATIENCE_S = 150


class Given:
    """Gives tests the servers that run already."""

    def __init__(self, servers: dict[str, DatabaseServer]) -> None:
        self._servers = servers

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> DatabaseServer | None:
        server = self._servers.get(fixturedef.argname)
        if server is not None:
            fixturedef.cached_result = (server, fixturedef.cache_key(request), None)
        return server


def caught_by(pitfall: Pitfall | None, servers: dict[str, DatabaseServer]) -> str:
    """The first test that fails with the bug in place (None: with the code as it is); empty if none does."""
    sources = {} if pitfall is None else {module_name(pitfall.file): changed(pitfall)}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE_S)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.chdir(ROOT)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        forget_project()
        sys.meta_path.insert(0, Changed(sources))
        seen = FirstFailure()
        chosen = [
            "-k",
            OF_MARIADB if "mariadb" in servers else "not mariadb and not mysql and not test_twophase_sessions",
        ]
        code = 1
        try:
            code = pytest.main(
                ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", *chosen, *TESTS],
                plugins=[seen, Given(servers)],
            )
        finally:
            os.write(writing, (seen.name or ("nothing" if code == 0 else "pytest")).encode())
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    os.waitpid(child, 0)
    return "" if said == "nothing" else said or "does not come to an end"


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name in (*HEAVY, "psycopg", "pymysql"):
        importlib.import_module(name)
    chosen = [each for each in PLANTED if wanted in each.name or wanted in each.file]
    missed = 0
    with PostgresServer() as postgres, PostgresServer() as other:
        servers: dict[str, DatabaseServer] = {"postgres": postgres, "postgres_other": other}
        if found := caught_by(None, servers):
            sys.exit(f"the code as it is fails {found}: nothing can be said about bugs in it")
        for pitfall in chosen:
            if pitfall.file.endswith("mysql.py") or "MariaDB" in pitfall.name:
                with MariaDBServer() as mariadb:
                    found = caught_by(pitfall, {**servers, "mariadb": mariadb})
            else:
                found = caught_by(pitfall, servers)
            missed += not found
            print(f"{pitfall.name}: {found or '**nothing**'}", flush=True)
    print(f"{len(chosen)} bugs, {missed} caught by nothing")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
