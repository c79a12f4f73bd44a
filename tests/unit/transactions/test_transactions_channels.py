"""Threads for drivers that can only block; what is told of a session that the server has ended."""

import asyncio
import gc
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")
psycopg = pytest.importorskip("psycopg")

from sqlalchemy.util.concurrency import await_only, greenlet_spawn  # noqa: E402

from troth.errors import RequestTimeout  # noqa: E402
from troth.transactions.channels import packets, pq  # noqa: E402
from troth.transactions.channels.blocking import BlockingStatements, ThreadChannel, in_thread  # noqa: E402
from troth.transactions.channels.interface import UNBOUNDED, Answer, may_have_been_sent  # noqa: E402
from troth.transactions.channels.packets import PyMySqlChannel  # noqa: E402
from troth.transactions.channels.pq import PqChannel, _keeping  # noqa: E402
from troth.transactions.channels.tasks import AsyncpgChannel, PsycopgTaskChannel, TaskChannel  # noqa: E402

_FORKED = """
import os, signal
from troth.transactions.channels.blocking import in_thread

in_thread(list).result()
child = os.fork()
if not child:
    signal.alarm(5)
    in_thread(list).result()
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_does_not_wait_for_threads_that_only_its_parent_has() -> None:
    assert subprocess.run([sys.executable, "-c", _FORKED], check=False).returncode == 0


def test_votes_that_wait_for_locks_do_not_keep_the_commit_from_being_sent_that_lets_them_go() -> None:
    """A deferred constraint is checked by the vote, and waits there for the row of another transaction."""
    has_committed = threading.Event()

    def vote() -> list[Answer]:
        assert has_committed.wait(10)
        return []

    def commit() -> list[Answer]:
        has_committed.set()
        return []

    before = threading.stack_size(256 << 10)
    try:
        votes = [in_thread(vote) for _ in range(80)]
        in_thread(commit).result()
        assert [vote.result() for vote in votes] == [[]] * 80
    finally:
        threading.stack_size(before)


class _Ending:
    """libpq's connection, in front of a server that says why it ends the session, and ends it."""

    def __init__(self) -> None:
        self._unread: list[object] = []
        self._is_read = False

    def send_query(self, text: bytes) -> None: ...

    def consume_input(self) -> None:
        if self._is_read:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        self._is_read = True
        self._unread.append(SimpleNamespace(error_message=b"FATAL", ntuples=0, command_status=None))

    def is_busy(self) -> bool:
        return not self._unread

    def get_result(self) -> object:
        return self._unread.pop()


def test_why_the_server_ended_a_session_is_told() -> None:
    channel = object.__new__(PqChannel)
    channel._dialect = sa.create_engine("postgresql+psycopg://").dialect
    channel.dbapi = SimpleNamespace(closed=True, broken=True)
    channel._pgconn = _Ending()
    channel._is_unfinished = channel._pgconn.is_busy
    channel._poll = list
    channel._error_of = lambda result: psycopg.errors.AdminShutdown("terminating connection due to ...")
    with pytest.raises(sa.exc.DBAPIError, match="terminating connection") as caught:
        channel._finish("COMMIT", False, UNBOUNDED)
    assert caught.value.connection_invalidated


def test_where_libpq_cannot_be_asked_psycopg_is() -> None:
    """This class stands in a module of Python, as psycopg's own implementation without C does."""
    connection = _Ending()
    assert _keeping(connection) == (connection.send_query, connection.is_busy)


class _Slow:
    """libpq's connection, in front of a server that answers before it has taken all that is sent to it."""

    socket = 7
    is_answered = False
    results: tuple[object, ...] = (None, SimpleNamespace(error_message=b"", ntuples=0, command_status=b"COMMIT"))

    def send_query(self, text: bytes) -> None:
        self._left = list(self.results)

    def flush(self) -> int:
        return 1

    def is_busy(self) -> bool:
        return not self.is_answered

    def get_result(self) -> object:
        return self._left.pop()


def test_what_was_read_while_a_statement_was_sent_is_not_waited_for() -> None:
    connection = _Slow()

    def sent(*_: object) -> None:
        connection.is_answered = True

    def poll() -> None:
        raise AssertionError("nothing is left to arrive: this would wait for ever")

    channel = object.__new__(PqChannel)
    channel._dialect = sa.create_engine("postgresql+psycopg://").dialect
    channel.dbapi = SimpleNamespace(closed=False, broken=False)
    channel._pgconn, channel._sent, channel._wait, channel._poll = connection, lambda _: None, sent, poll
    channel._send, channel._is_unfinished = connection.send_query, connection.is_busy
    assert [answer.tag for answer in channel.start(["COMMIT"])()] == ["COMMIT"]


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_connection_that_the_server_has_closed_is_sent_nothing(is_closed: bool) -> None:
    """It would take all of a commit, and not say whether that was executed."""
    pymysql = pytest.importorskip("pymysql")
    ours, theirs = socket.socketpair()
    sent: list[str] = []
    dbapi = SimpleNamespace(_sock=ours, _execute_command=lambda command, statement: sent.append(statement))
    channel = PyMySqlChannel(sa.create_engine("mysql+pymysql://").dialect, dbapi)
    with ours, theirs:
        if not is_closed:
            channel.start(["XA END 'a'", "XA COMMIT 'a' ONE PHASE"])
            assert sent == ["XA END 'a'", "XA COMMIT 'a' ONE PHASE"]
            return
        theirs.close()
        with pytest.raises(sa.exc.OperationalError) as lost:
            channel.start(["XA END 'a'", "XA COMMIT 'a' ONE PHASE"])
    assert isinstance(lost.value.orig, pymysql.err.OperationalError)
    assert lost.value.connection_invalidated and not may_have_been_sent(lost.value)
    assert sent == []


def test_an_error_that_is_no_drivers_is_not_its_own_cause() -> None:
    """Whoever walks along the causes would never come to an end."""

    def failed(*_: Any) -> None:
        raise error

    error = AssertionError("as asked")
    dialect = sa.create_engine("mysql+pymysql://").dialect
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = SimpleNamespace(socket=ours)
        libpq = object.__new__(PqChannel)
        libpq._send = failed
        libpq._dialect, libpq.dbapi, libpq._pgconn = (
            sa.create_engine("postgresql+psycopg://").dialect,
            None,
            connection,
        )  # type: ignore[assignment]
        channels: list[Any] = [
            libpq,
            PyMySqlChannel(dialect, SimpleNamespace(_sock=ours, _execute_command=failed)),
            ThreadChannel(dialect, SimpleNamespace(cursor=failed)),
        ]
        for channel in channels:
            with pytest.raises(AssertionError) as raised:
                channel.start(["XA START 'a'"])()
            assert raised.value is error and error.__cause__ is None


@pytest.mark.parametrize(("fails", "was_sent"), [("XA END", False), ("XA COMMIT", True)])
def test_of_statements_one_after_the_other_the_last_was_not_sent_when_one_before_it_failed(
    fails: str, was_sent: bool
) -> None:
    dialect = sa.create_engine("mysql+pymysql://").dialect

    class Cursor:
        description = None

        def execute(self, statement: str) -> None:
            if statement == fails:
                raise dialect.loaded_dbapi.OperationalError(2013, "Lost connection to MySQL server during query")

        def close(self) -> None: ...

    dbapi: Any = SimpleNamespace(cursor=Cursor)
    with pytest.raises(sa.exc.OperationalError) as lost:
        BlockingStatements(dialect, dbapi).run(["XA END", "XA COMMIT"])
    assert lost.value.connection_invalidated
    assert may_have_been_sent(lost.value) is was_sent


@pytest.mark.parametrize(
    ("is_closed", "is_reading", "is_cancelling", "is_busy"),
    [
        (False, True, False, False),
        (False, False, False, True),
        (False, True, True, True),
        (True, False, True, False),
    ],
)
def test_asyncpg_is_busy_while_the_rows_of_a_copy_are_not_taken(
    is_closed: bool, is_reading: bool, is_cancelling: bool, is_busy: bool
) -> None:
    """It reads no answer until then."""
    raw = SimpleNamespace(
        is_closed=lambda: is_closed,
        _transport=SimpleNamespace(is_reading=lambda: is_reading),
        _protocol=SimpleNamespace(_is_cancelling=lambda: is_cancelling),
    )
    dialect: Any = None
    assert AsyncpgChannel(dialect, SimpleNamespace(driver_connection=raw)).is_busy() is is_busy


# ---- who does not answer -----------------------------------------------------------------------------------


def by(until: float | None) -> Any:
    return SimpleNamespace(until=until)


def test_libpq_is_asked_no_longer_than_until_the_time_is_up() -> None:
    def is_busy() -> bool:
        assert not looks, "it goes on"
        looks.append(True)
        return True

    looks: list[bool] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pgconn = SimpleNamespace(
            socket=ours.fileno(), nonblocking=1, send_query=None, is_busy=is_busy, consume_input=lambda: None
        )
        connection: Any = SimpleNamespace(pgconn=pgconn)
        channel = PqChannel(sa.create_engine("postgresql+psycopg://").dialect, connection)
        pgconn.send_query, pgconn.flush = lambda _: None, lambda: 0
        channel._send = pgconn.send_query
        bound = by(None)
        finish = channel.start(["BEGIN"], bound)
        bound.until = time.monotonic() + 0.01  # its answer is not wanted before
        with pytest.raises(RequestTimeout):
            finish()


def test_libpq_is_given_all_of_the_time() -> None:
    waited: list[float] = []

    def poll(*within_ms: float) -> bool:
        waited.extend(within_ms or [-1.0])
        pgconn.is_unfinished = False
        return True

    pgconn: Any = _Slow()
    pgconn.is_unfinished = True
    pgconn.consume_input = lambda: None
    channel: Any = object.__new__(PqChannel)
    channel._dialect, channel._pgconn, channel._poll = (
        sa.create_engine("postgresql+psycopg://").dialect,
        pgconn,
        poll,
    )
    channel._is_unfinished = lambda: pgconn.is_unfinished
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pq.time, "monotonic", lambda: 100.0)
        for until in (107.0, 99.0, None):
            pgconn.is_unfinished = True
            pgconn.send_query(b"")
            channel._finish("COMMIT", False, by(until))
    assert waited == [7000.0, 0.0, -1.0], "milliseconds; and whoever has no bound waits without one"


def test_pymysql_is_given_no_longer_than_until_the_time_is_up_and_has_its_own_bound_again() -> None:
    err = pytest.importorskip("pymysql").err
    waited: list[float] = []
    clock = [0.0]

    def read() -> None:
        waited.append(dbapi._read_timeout)
        clock[0] += waited[-1]
        raise err.OperationalError(2013, "Lost connection to MySQL server during query (timed out)")

    dbapi = SimpleNamespace(
        _sock=None, _execute_command=lambda *_: None, _read_query_result=read, _read_timeout=60
    )
    channel = PyMySqlChannel(sa.create_engine("mysql+pymysql://").dialect, dbapi)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packets.time, "monotonic", lambda: clock[0])
        with pytest.raises(RequestTimeout):
            channel.start(["XA PREPARE 'a'"], by(5.0))()
        assert (waited, dbapi._read_timeout) == ([5.0], 60)
        with pytest.raises(sa.exc.OperationalError):  # by the application's own bound
            channel.start(["XA PREPARE 'a'"], by(500.0))()
        assert waited == [5.0, 60]
        with pytest.raises(sa.exc.OperationalError):
            channel.start(["XA PREPARE 'a'"])()
        assert waited == [5.0, 60, 60]
        with pytest.raises(RequestTimeout):
            channel.start(["XA PREPARE 'a'"], by(7.0))()  # the time was up before
        assert waited[3] > 0, "of a socket 0 would mean not to wait, and less is refused"


class _Waiting:
    """A driver that waits for what its socket brings, and says nothing of itself meanwhile."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._is_used = False
        self.description = None
        self.has_ended = threading.Event()

    def fileno(self) -> int:
        assert not self._is_used
        return self._sock.fileno()

    def cursor(self) -> "_Waiting":
        return self

    def execute(self, statement: str) -> None:
        self._is_used = True
        self._sock.recv(1)
        self.has_ended.set()

    def close(self) -> None: ...


@pytest.mark.parametrize("answers", [True, False])
def test_a_driver_that_only_blocks_is_waited_for_until_the_time_is_up_and_then_cut_off(answers: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        driver: Any = _Waiting(ours)
        channel = ThreadChannel(sa.create_engine("mysql+mysqldb://", module=sqlite3).dialect, driver)
        if answers:
            theirs.send(b"!")
            assert channel.start(["XA PREPARE 'a'"], by(time.monotonic() + 60))() == [Answer("", None)]
            return
        finish = channel.start(["XA PREPARE 'a'"], by(time.monotonic() + 0.01))
        with pytest.raises(RequestTimeout):
            finish()
        assert driver.has_ended.is_set(), "it can be closed"


def test_a_driver_of_asyncio_is_waited_for_until_the_time_is_up_and_then_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answered(within_s: float, run: Any) -> Any:
        is_cut = asyncio.Event()
        channel = TaskChannel(dialect, SimpleNamespace(driver_connection=SimpleNamespace(close=is_cut.set)))
        monkeypatch.setattr(channel, "run", lambda statements: run(is_cut))
        until = time.monotonic() + within_s
        try:
            return await greenlet_spawn(lambda: channel.start(["XA PREPARE 'a'"], by(until))())
        finally:
            ended.append(is_cut.is_set())

    ended: list[bool] = []
    dialect = sa.create_engine("sqlite://").dialect
    assert asyncio.run(answered(60.0, lambda is_cut: [])) == []
    with pytest.raises(RequestTimeout):
        asyncio.run(answered(0.01, lambda is_cut: await_only(is_cut.wait())))
    assert ended == [False, True]


def test_a_driver_that_rolls_back_by_itself_is_waited_for_no_longer_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        driver: Any = _Waiting(ours)
        driver.rollback = lambda: driver.execute("ROLLBACK")
        channel = ThreadChannel(sa.create_engine("mysql+mysqldb://", module=sqlite3).dialect, driver)
        with pytest.raises(RequestTimeout):
            channel.roll_back(by(time.monotonic() + 0.01))
        assert driver.has_ended.is_set()

    async def rolled_back() -> None:
        is_cut = asyncio.Event()
        raw = SimpleNamespace(close=is_cut.set)
        adapter = SimpleNamespace(rollback=lambda: await_only(is_cut.wait()), driver_connection=raw)
        channel = TaskChannel(sa.create_engine("sqlite://").dialect, adapter)
        async with asyncio.timeout(5):
            await greenlet_spawn(channel.roll_back, by(time.monotonic() + 0.01))

    with pytest.raises(RequestTimeout):
        asyncio.run(rolled_back())


def test_what_a_driver_says_of_its_own_rollback_is_told_as_of_any_statement() -> None:
    dialect = sa.create_engine("mysql+pymysql://").dialect

    def failed() -> None:
        raise dialect.loaded_dbapi.OperationalError(2013, "Lost connection to MySQL server during query")

    driver: Any = SimpleNamespace(rollback=failed)
    with pytest.raises(sa.exc.OperationalError) as lost:
        ThreadChannel(dialect, driver).roll_back(UNBOUNDED)
    assert lost.value.connection_invalidated


def test_asyncio_drivers_are_cut_off_by_what_they_have_themselves_and_end_before_they_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQLAlchemy's adapters of before 2.0.44 have no way of their own."""
    dialect = sa.create_engine("sqlite://").dialect
    complaints: list[Any] = []

    async def given_up(kind: type[TaskChannel], raw: Any, is_cut: "asyncio.Future[None]") -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))

        async def answered() -> None:
            await is_cut
            await asyncio.sleep(0)
            has_ended.append(raw)
            raise ConnectionResetError("as asked")

        channel = kind(dialect, SimpleNamespace(driver_connection=raw))
        monkeypatch.setattr(channel, "run", lambda statements: await_only(answered()))
        with pytest.raises(RequestTimeout):
            await greenlet_spawn(lambda: channel.start(["XA PREPARE 'a'"], by(time.monotonic() + 0.01))())
        assert has_ended[-1:] == [raw]
        gc.collect()

    async def of_tasks(name: str) -> None:
        is_cut = asyncio.get_running_loop().create_future()
        raw = SimpleNamespace(close=lambda: None)
        setattr(raw, name, lambda: is_cut.set_result(None))
        await given_up(TaskChannel, raw, is_cut)

    async def of_psycopg() -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        with ours, theirs:
            theirs.setblocking(False)
            is_cut = asyncio.ensure_future(loop.sock_recv(theirs, 1))
            await given_up(PsycopgTaskChannel, SimpleNamespace(fileno=ours.fileno), is_cut)
            assert is_cut.result() == b""

    has_ended: list[Any] = []
    asyncio.run(of_tasks("terminate"))
    asyncio.run(of_tasks("close"))
    asyncio.run(of_psycopg())
    gc.collect()
    assert complaints == []


def test_a_refusal_by_pymysql_that_comes_late_is_an_answer() -> None:
    err = pytest.importorskip("pymysql").err

    def read() -> None:
        raise err.OperationalError(1205, "Lock wait timeout exceeded; try restarting transaction")

    dbapi = SimpleNamespace(
        _sock=None, _execute_command=lambda *_: None, _read_query_result=read, _read_timeout=60
    )
    channel = PyMySqlChannel(sa.create_engine("mysql+pymysql://").dialect, dbapi)
    with pytest.raises(sa.exc.OperationalError, match="Lock wait timeout"):
        channel.start(["XA PREPARE 'a'"], by(0.0))()
