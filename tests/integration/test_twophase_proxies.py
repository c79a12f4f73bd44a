"""A proxy between the driver and PostgreSQL that does not tell the driver what the server says of its settings."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from bank import settle
from sqlalchemy.ext.asyncio import create_async_engine

from troth import AsyncTwoPhaseCommit, TwoPhaseCommit
from troth.errors import Aborted
from troth.torture.databases import PostgresServer
from troth.transactions.outcome import Outcome

pytestmark = pytest.mark.integration

TAKE = sa.text("UPDATE behind SET balance = balance - 10")
GIVE = sa.text("UPDATE behind SET balance = balance + 10")
READY, SETTING = b"Z", b"S"


def ended(side: socket.socket) -> None:
    """The other thread may be waiting for it; it is not told of a close()."""
    with suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


def without_names(server: socket.socket, client: socket.socket) -> None:
    """Pass on what the server says, but for what it says of the session's name after the beginning."""
    has_begun, held = False, b""
    with suppress(OSError):
        while data := server.recv(65536):
            held += data
            passed = b""
            while len(held) >= 5 and len(held) >= (size := 1 + int.from_bytes(held[1:5])):
                message, held = held[:size], held[size:]
                has_begun = has_begun or message[:1] == READY
                if not (has_begun and message[:1] == SETTING and b"application_name" in message):
                    passed += message
            client.sendall(passed)
    ended(client)


def as_it_is(client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):
        while data := client.recv(65536):
            server.sendall(data)
    ended(server)


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[int]:
    port = sa.make_url(postgres.url()).port
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for pump in ((without_names, server, client), (as_it_is, client, server)):
                    threading.Thread(target=pump[0], args=pump[1:], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1]
    listening.close()


@pytest.fixture(autouse=True)
def tables(postgres: PostgresServer, postgres_other: PostgresServer) -> Iterator[None]:
    for server in (postgres, postgres_other):
        settle(server.url())
        engine = sa.create_engine(server.url())
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS behind")
            connection.exec_driver_sql("CREATE TABLE behind (balance INTEGER)")
            connection.exec_driver_sql("INSERT INTO behind VALUES (100)")
        engine.dispose()
    yield
    for server in (postgres, postgres_other):
        settle(server.url())


def balances(*servers: PostgresServer) -> list[int]:
    found = []
    for server in servers:
        engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
        with engine.connect() as connection:
            found.append(connection.scalar(sa.text("SELECT balance FROM behind")))
    return found


def url(server: PostgresServer, driver: str, proxy: int) -> sa.URL:
    options = {} if driver == "asyncpg" else {"sslmode": "disable", "gssencmode": "disable"}
    return sa.make_url(server.url(driver)).set(port=proxy, query=options)


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("ends", ["ROLLBACK", "COMMIT"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_was_ended_below_is_not_said_to_be_committed_although_the_driver_was_told_nothing(
    driver: str,
    ends: str,
    is_alone: bool,
    proxy: int,
    postgres: PostgresServer,
    postgres_other: PostgresServer,
    tmp_path: Path,
) -> None:
    left = sa.create_engine(url(postgres, driver, proxy))
    right = sa.create_engine(postgres_other.url())
    with TwoPhaseCommit({"left": left, "right": right}, log=tmp_path, recover_every=None) as tpc:
        with (
            pytest.raises(Aborted, match="left: the transaction was ended inside of its block"),
            tpc.begin() as tx,
        ):
            tx[left].execute(TAKE)
            if not is_alone:
                tx[right].execute(GIVE)
            tx[left].exec_driver_sql(ends)
        assert (tx.outcome, tx.pending) == (Outcome.ABORTED, ())
        assert balances(postgres, postgres_other) == [90 if ends == "COMMIT" else 100, 100]
        with tpc.begin() as tx:
            tx[left].execute(TAKE)
            tx[right].execute(GIVE)
        assert tpc.recover().in_doubt == 0
    assert balances(postgres, postgres_other) == [80 if ends == "COMMIT" else 90, 110]
    left.dispose()
    right.dispose()


@pytest.mark.parametrize("ends", ["ROLLBACK", "COMMIT"])
async def test_on_asyncio_neither(ends: str, proxy: int, postgres: PostgresServer, tmp_path: Path) -> None:
    engine = create_async_engine(url(postgres, "asyncpg", proxy), connect_args={"ssl": False})
    async with AsyncTwoPhaseCommit({"left": engine}, log=tmp_path, recover_every=None) as tpc:
        with pytest.raises(Aborted, match="ended inside of its block"):
            async with tpc.begin() as tx:
                await tx[engine].execute(TAKE)
                await tx[engine].exec_driver_sql(ends)
    await engine.dispose()
    assert balances(postgres) == [90 if ends == "COMMIT" else 100]
