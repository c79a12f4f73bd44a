"""Coroutine tests of this directory run on uvloop, as the servers do. Database servers are started once for all."""

import inspect
from collections.abc import Iterator

import pytest
import uvloop
from real_cluster import Consensus

from troth.core.engines import ENGINES
from troth.torture.databases import MariaDBServer, PostgresServer


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.function):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    uvloop.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(params=sorted(ENGINES))
def consensus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whoever uses it is run once with each engine. TROTH_CONSENSUS=paxos runs all other tests with that one."""
    monkeypatch.setattr(Consensus, "name", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that all tests share."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_other() -> Iterator[PostgresServer]:
    """Another one: a server, and so an identity, of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """A MariaDB that all tests share."""
    with MariaDBServer() as server:
        yield server
