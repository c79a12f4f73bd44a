"""The channel that asks libpq itself: it keeps the interpreter while it looks, and is as careful as psycopg."""

import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from troth.torture.databases import PostgresServer
from troth.transactions.channels.pq import PqChannel, _keeping

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.integration

LOOKS = 400_000
QUESTIONS = 300


@pytest.fixture
def connection(postgres: PostgresServer) -> Iterator[Any]:
    url = sa.make_url(postgres.url("psycopg")).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as opened:
        yield opened


@pytest.fixture
def channel(connection: Any) -> PqChannel:
    return PqChannel(sa.create_engine("postgresql+psycopg://").dialect, connection)


@pytest.fixture
def nobody_is_made_to_hand_over() -> Iterator[None]:
    """Threads run when another one waits, or offers it, and not because it had its time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


needs_library = pytest.mark.skipif(
    psycopg.pq.__impl__ == "python", reason="psycopg's implementation in Python has no library to ask"
)


def wakes_another_thread(calls: Iterable[object]) -> bool:
    """Whether one that only needs the interpreter runs before all *calls* are made."""
    gate, has_run = threading.Lock(), threading.Event()

    def wait() -> None:
        gate.acquire()
        has_run.set()

    gate.acquire()
    other = threading.Thread(target=wait)
    other.start()
    gate.release()
    for _ in calls:
        pass
    was_woken = has_run.is_set()
    other.join()
    return was_woken


@needs_library
def test_no_other_thread_is_woken_by_a_look(connection: Any, nobody_is_made_to_hand_over: None) -> None:
    _, look = _keeping(connection.pgconn)
    assert not wakes_another_thread(look() for _ in range(LOOKS))


@needs_library
def test_no_other_thread_is_woken_by_what_is_sent(connection: Any, nobody_is_made_to_hand_over: None) -> None:
    send, look = _keeping(connection.pgconn)

    def asked() -> None:
        send(b"SELECT 1")
        while look():
            connection.pgconn.consume_input()
        while connection.pgconn.get_result() is not None:
            while look():
                connection.pgconn.consume_input()

    assert not wakes_another_thread(asked() for _ in range(QUESTIONS))


def test_what_cannot_be_sent_is_said_as_the_driver_would(connection: Any, channel: PqChannel) -> None:
    finish = channel.start(["SELECT 1"])
    with pytest.raises(sa.exc.OperationalError, match="another command is already in progress") as refused:
        channel.start(["SELECT 2"])
    assert not refused.value.connection_invalidated
    assert [answer.row for answer in finish()] == [("1",)]
    assert [answer.row for answer in channel.start(["SELECT 3"])()] == [("3",)]


def test_to_a_session_that_was_ended_nothing_is_sent(
    postgres: PostgresServer, connection: Any, channel: PqChannel
) -> None:
    with sa.create_engine(postgres.url("psycopg"), poolclass=sa.NullPool).connect() as other:
        other.exec_driver_sql(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 10000)")
    with pytest.raises(sa.exc.OperationalError) as lost:
        channel.start(["SELECT 1"])()
    assert lost.value.connection_invalidated
    with pytest.raises(sa.exc.OperationalError) as again:
        channel.start(["SELECT 1"])
    assert again.value.connection_invalidated


def test_a_look_sees_whether_an_answer_is_whole(connection: Any) -> None:
    pgconn, (_, look) = connection.pgconn, _keeping(connection.pgconn)
    pgconn.send_query(b"SELECT 1")
    assert look()  # nothing of it was read
    psycopg.waiting.wait(psycopg.generators.fetch(pgconn), pgconn.socket)
    assert not look()


def test_of_a_connection_that_was_closed_nothing_is_believed(connection: Any, channel: PqChannel) -> None:
    (_, look), finish = _keeping(connection.pgconn), channel.start(["SELECT 1"])
    connection.close()
    assert not look()
    with pytest.raises(sa.exc.OperationalError, match=r"pointer is NULL|closed"):
        finish()


def test_what_the_server_remarks_is_heard(connection: Any, channel: PqChannel) -> None:
    """libpq calls back into Python from within a look."""
    heard: list[str | None] = []
    connection.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
    statements = ["DO $$ BEGIN RAISE NOTICE 'one'; RAISE NOTICE 'two'; END $$", "SELECT 3"]
    assert [answer.row for answer in channel.start(statements)()] == [None, ("3",)]
    assert heard == ["one", "two"]


def test_a_listener_that_fails_spoils_no_answer(
    connection: Any, channel: PqChannel, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(diagnostic: Any) -> None:
        raise ZeroDivisionError

    connection.add_notice_handler(fail)
    assert [a.tag for a in channel.start(["DO $$ BEGIN RAISE NOTICE 'one'; END $$"])()] == ["DO"]


def test_an_answer_that_comes_in_many_pieces_is_whole(channel: PqChannel) -> None:
    wide = "x" * 3_000_000
    answers = channel.start([f"SELECT '{wide}'", "SELECT repeat('y', 3000000)"])()
    assert [len(answer.row[0]) for answer in answers if answer.row] == [3_000_000, 3_000_000]
