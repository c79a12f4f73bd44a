"""Connections to acceptors: what may have arrived over one that broke, and when others are given up with it."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from unittest.mock import MagicMock

import pytest
from fake_server import asynchronous

from troth import aio
from troth.client.registers import aio_lines, lines, patience
from troth.client.registers.aio_lines import AsyncLine
from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.discovery import Discovery
from troth.client.registers.lines import Line, LineLost, may_have_arrived
from troth.client.registers.reach import Reach
from troth.client.registers.sync import PaxosClient
from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import decode_answer, decode_ask, encode_answer
from troth.core.register.messages import (
    ZERO,
    Accepted,
    Configuration,
    Describe,
    Described,
    ReplyMessage,
    Seat,
    founding,
    group_of,
)
from troth.ids import ClusterId, NodeId
from troth.wire.frames import first_frame, frame
from troth.wire.handshake import VERSION, Welcome, encode_greeting

LONG_AGO_S = 600.0
GIVEN = ("a1:1", "a2:1", "a3:1")
SET = founding(group_of(tuple(Seat(NodeId(number), address) for number, address in enumerate(GIVEN, 1))))

# ---- what has certainly not arrived ----


def test_only_what_was_handed_to_a_connection_may_have_arrived() -> None:
    assert may_have_arrived(OSError("broken"))
    assert may_have_arrived(LineLost("broken"))
    assert not may_have_arrived(LineLost("refused", sent=False))


def test_a_request_to_an_acceptor_that_is_down_has_not_arrived() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    line = Line(address, None)
    try:
        refused = [line.ask(Describe(), time.monotonic() + 5).exception(5) for _ in range(2)]
        assert [may_have_arrived(error) for error in refused if error is not None] == [False, False]
    finally:
        line.close()
    closed = line.ask(Describe(), time.monotonic() + 5).exception(5)
    assert closed is not None and not may_have_arrived(closed)


@asynchronous
async def test_an_asyncio_request_to_an_acceptor_that_is_down_has_not_arrived() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = AsyncLine(f"127.0.0.1:{taken.getsockname()[1]}", None)
    for _ in range(2):
        with pytest.raises(LineLost) as caught:
            await line.ask(Describe())
        assert not may_have_arrived(caught.value)
    line.close()


@asynchronous
async def test_a_request_on_an_asyncio_connection_that_has_ended_has_not_arrived() -> None:
    connection = greeted()
    connection.connection_lost(None)
    with pytest.raises(LineLost) as caught:
        await connection.ask(Describe())
    assert not may_have_arrived(caught.value)


def greeted() -> aio_lines._Connection:
    connection, transport = aio_lines._Connection(), MagicMock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = None
    transport.is_closing.return_value = False
    transport.get_write_buffer_size.return_value = 0
    connection.connection_made(transport)
    connection.data_received(frame(encode_greeting(Welcome(VERSION, ClusterId(0), NodeId(1)))))
    return connection


@asynchronous
async def test_bytes_that_have_not_left_take_up_room_as_requests_do() -> None:
    connection = greeted()
    assert not connection.is_full
    connection.transport.get_write_buffer_size.return_value = aio_lines.UNSENT_BYTES_MAX + 1  # type: ignore[attr-defined]
    assert connection.is_full
    connection.connection_lost(None)


# ---- connections of a process that has gone ----


class Restarts:
    """A port behind which an acceptor is that can be killed and started again in an instant."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepted: list[socket.socket] = []
        self.arrived = threading.Event()
        """A request is here."""
        self.together = threading.Barrier(2)
        """Answers wait until two requests are here, so that two connections are in use."""
        self.stale: ReplyMessage | None = None
        """Sent before each answer, under the number before."""
        self._acceptor = Acceptor(NodeId(1))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._accepted.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.sendall(frame(encode_greeting(Welcome(VERSION, ClusterId(0), NodeId(1)))))
            buffer, is_greeted = b"", False
            while data := connection.recv(65536):
                buffer += data
                while (body := first_frame(buffer, 1 << 20)) is not None:
                    buffer = buffer[len(frame(body)) :]
                    if not is_greeted:
                        is_greeted = True
                        continue
                    number, request = decode_ask(body)
                    self.arrived.set()
                    if not self.together.broken:
                        self.together.wait(30)
                    if self.stale is not None:
                        connection.sendall(frame(encode_answer(number - 1, self.stale)))
                    connection.sendall(frame(encode_answer(number, self._acceptor.on_request(request)[0])))
        except (OSError, threading.BrokenBarrierError):
            pass

    def restart(self) -> None:
        """All connections are gone, and the next request is answered at once."""
        self.together.abort()
        accepted, self._accepted = self._accepted, []
        for connection in accepted:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        self.restart()
        self._listener.close()


@pytest.fixture
def restarts() -> Iterator[Restarts]:
    made = Restarts()
    yield made
    made.close()


def test_one_request_at_most_is_lost_on_the_connections_of_a_process_that_has_gone(restarts: Restarts) -> None:
    """The others are as old as the one that broke: a restart costs one failure, not one for each thread."""
    line = Line(restarts.address, None)
    try:
        both = [line.ask(Describe(), time.monotonic() + 30) for _ in range(2)]
        assert all(answer.exception(30) is None for answer in both)
        restarts.restart()
        lost = [line.ask(Describe(), time.monotonic() + 30).exception(30) for _ in range(4)]
        assert [error is None for error in lost] == [False, True, True, True]
    finally:
        line.close()


def test_a_request_for_which_no_time_is_left_does_not_leave(restarts: Restarts) -> None:
    restarts.restart()
    line = Line(restarts.address, None)
    try:
        assert line.ask(Describe(), time.monotonic() + 30).exception(30) is None
        late = line.ask(Describe(), time.monotonic() - 1).exception(30)
        assert late is not None and not may_have_arrived(late)
    finally:
        line.close()


def test_an_answer_to_another_request_is_passed_over(restarts: Restarts) -> None:
    restarts.restart()
    restarts.stale = Accepted()
    line = Line(restarts.address, None)
    try:
        assert isinstance(line.ask(Describe(), time.monotonic() + 30).result(30), Described)
    finally:
        line.close()


def test_an_acceptor_that_was_reached_rests_no_longer_than_any_other(restarts: Restarts) -> None:
    restarts.restart()
    line = Line(restarts.address, None)
    try:
        for _ in range(8):
            line._rest.begin(time.monotonic() - LONG_AGO_S)
        assert line.ask(Describe(), time.monotonic() + 30).exception(30) is None
        line._rest.begin(0.0)
        assert line._rest.until_s == patience.REST_S
    finally:
        line.close()


@asynchronous
async def test_an_acceptor_that_asyncio_has_reached_rests_no_longer_than_any_other(restarts: Restarts) -> None:
    restarts.restart()
    line = AsyncLine(restarts.address, None)
    for _ in range(8):
        line._rest.begin(asyncio.get_running_loop().time() - LONG_AGO_S)
    assert isinstance(await line.ask(Describe()), Described)
    line._rest.begin(0.0)
    assert line._rest.until_s == patience.REST_S
    line.close()


def test_a_request_whose_connection_breaks_may_have_arrived(restarts: Restarts) -> None:
    line = Line(restarts.address, None)
    try:
        answer = line.ask(Describe(), time.monotonic() + 30)
        assert restarts.arrived.wait(30)
        restarts.restart()
        error = answer.exception(30)
        assert isinstance(error, LineLost) and may_have_arrived(error)
    finally:
        line.close()


@asynchronous
async def test_an_asyncio_request_whose_connection_breaks_may_have_arrived(restarts: Restarts) -> None:
    line = AsyncLine(restarts.address, None)
    answer = asyncio.create_task(line.ask(Describe()))
    await asyncio.to_thread(restarts.arrived.wait, 30)
    restarts.restart()
    with pytest.raises(LineLost) as caught:
        await answer
    assert may_have_arrived(caught.value)
    assert await line.ask(Describe()), "the next request has a connection of its own"
    line.close()


@pytest.mark.parametrize(("failure", "breaks"), [(TimeoutError("silent"), 0), (ConnectionError("reset"), 1)])
def test_silence_breaks_no_other_connection(
    restarts: Restarts, monkeypatch: pytest.MonkeyPatch, failure: OSError, breaks: int
) -> None:
    """The acceptor may be slow with one request; those that wait on its other connections are not given up."""

    def fails(*_: object) -> ReplyMessage:
        raise failure

    monkeypatch.setattr(lines._Socket, "ask", fails)
    line = Line(restarts.address, None)
    try:
        error = line.ask(Describe(), time.monotonic() + 30).exception(30)
        assert isinstance(error, LineLost) and may_have_arrived(error)
        assert line._generation == breaks
    finally:
        line.close()


def test_another_acceptor_than_the_one_meant_is_not_asked(restarts: Restarts) -> None:
    line = Line(restarts.address, None)
    try:
        error = line.ask(Describe(), time.monotonic() + 30, expect=7).exception(30)
        assert isinstance(error, LineLost) and "replaced" in str(error) and not may_have_arrived(error)
        assert not restarts.arrived.is_set()
    finally:
        line.close()


@asynchronous
async def test_another_acceptor_than_the_one_meant_is_not_asked_by_asyncio_either(restarts: Restarts) -> None:
    line = AsyncLine(restarts.address, None)
    with pytest.raises(LineLost, match="replaced") as caught:
        await line.ask(Describe(), expect=7)
    assert not may_have_arrived(caught.value)
    assert not restarts.arrived.is_set()
    line.close()


def test_answered_requests_leave_room_for_others(restarts: Restarts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "WAITING_MAX", 5)
    restarts.together.abort()
    line = Line(restarts.address, None)
    kept: list[Future[ReplyMessage]] = []
    try:
        for _ in range(20):
            kept.append(line.ask(Describe(), time.monotonic() + 30))
            assert kept[-1].exception(30) is None
    finally:
        line.close()


@pytest.mark.parametrize("has_queued", [False, True])
def test_who_is_interrupted_while_it_asks_leaves_its_room_to_others(
    restarts: Restarts, monkeypatch: pytest.MonkeyPatch, has_queued: bool
) -> None:
    """By Ctrl-C, or by a signal of whose handler something is raised; the line would be full one day."""
    restarts.together.abort()
    line = Line(restarts.address, None)
    submit = line._pool.submit
    queued: list[Future[None]] = []

    def interrupted(*given: object) -> None:
        if has_queued:
            queued.append(submit(*given))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    try:
        with monkeypatch.context() as signals:
            signals.setattr(line._pool, "submit", interrupted)
            with suppress(KeyboardInterrupt):
                line.ask(Describe(), time.monotonic() + 30)
        for job in queued:
            job.result(30)
        queued.clear()
        assert not line._waiting
    finally:
        line.close()


def test_a_line_that_is_closed_while_an_answer_arrives_keeps_no_connection(
    restarts: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is in it is to close it, since closing a socket would not wake the thread up."""
    restarts.together.abort()
    line = Line(restarts.address, None)
    used: list[lines._Socket] = []

    def decode(frame: bytes) -> tuple[int, ReplyMessage]:
        used.extend(line._sockets)
        line.close()
        return decode_answer(frame)

    monkeypatch.setattr(lines, "decode_answer", decode)
    assert line.ask(Describe(), time.monotonic() + 30).exception(30) is None
    assert [connection._socket.fileno() for connection in used] == [-1]
    assert not line._sockets


# ---- what a line complains of ----


@contextmanager
def hangs_up() -> Iterator[str]:
    """The address of a port that closes each connection before its greeting, as one that wants TLS does."""
    with socket.create_server(("127.0.0.1", 0)) as port:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    port.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{port.getsockname()[1]}"
        port.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_ends_before_its_greeting_may_want_tls() -> None:
    with hangs_up() as address:
        line = Line(address, None)
        with pytest.raises(LineLost, match="does it want TLS"):
            line.ask(Describe(), time.monotonic() + 5).result(5)
        assert line.complaint.startswith(f"{address}: the acceptor closed")
        line.close()


@asynchronous
async def test_an_asyncio_connection_that_ends_before_its_greeting_may_want_tls() -> None:
    with hangs_up() as address:
        line = AsyncLine(address, None)
        with pytest.raises(LineLost, match="does it want TLS"):
            await line.ask(Describe())
        assert line.complaint.startswith(f"{address}: the acceptor closed")
        line.close()


@asynchronous
async def test_a_tls_handshake_that_fails_is_told_as_by_other_clients() -> None:
    context = ssl.create_default_context()
    with hangs_up() as address:
        for line in (Line(address, context), AsyncLine(address, context)):
            asked = line.ask(Describe(), time.monotonic() + 5) if isinstance(line, Line) else line.ask(Describe())
            with pytest.raises(LineLost, match=r"the TLS handshake failed.*without TLS \(troth://\)"):
                await (asyncio.wrap_future(asked) if isinstance(asked, Future) else asked)
            line.close()


@asynchronous
async def test_a_line_complains_until_an_answer_comes(restarts: Restarts) -> None:
    restarts.together.abort()
    line, asyncio_line = Line(restarts.address, None), AsyncLine(restarts.address, None)
    try:
        with pytest.raises(LineLost, match="directory was emptied"):
            await asyncio.wrap_future(line.ask(Describe(), time.monotonic() + 30, expect=77))
        with pytest.raises(LineLost, match="directory was emptied"):
            await asyncio_line.ask(Describe(), expect=77)
        assert "acceptor 1 answers" in line.complaint and line.complaint == asyncio_line.complaint
        await asyncio.wrap_future(line.ask(Describe(), time.monotonic() + 30))
        await asyncio_line.ask(Describe())
        assert line.complaint == asyncio_line.complaint == ""
    finally:
        line.close()
        asyncio_line.close()


def test_an_acceptor_that_was_started_again_is_shown_as_well_at_once(
    restarts: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of before breaks with the first question, which can be asked again without harm."""
    restarts.together.abort()
    config = founding(group_of((Seat(NodeId(1), restarts.address),)))
    monkeypatch.setattr(Reach, "find", lambda reach, deadline: config)
    with PaxosClient([restarts.address]) as registers:
        for _ in range(3):
            assert [view.state for view in registers.acceptors()] == [""]
            restarts.restart()


@asynchronous
async def test_an_asyncio_client_shows_an_acceptor_that_was_started_again_as_well_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = founding(group_of((Seat(NodeId(1), "a1:1"),)))
    answers: list[Described | LineLost] = [LineLost("reset"), Described(NodeId(1), config, 0, 0, 0, ZERO)]

    async def find(reach: AsyncReach, deadline: float) -> Configuration:
        return config

    async def ask(line: AsyncLine, request: object) -> ReplyMessage:
        answer = answers.pop(0)
        if isinstance(answer, LineLost):
            raise answer
        return answer

    monkeypatch.setattr(AsyncReach, "find", find)
    monkeypatch.setattr(AsyncLine, "ask", ask)
    async with aio.PaxosClient(["a1:1"]) as registers:
        assert [view.state for view in await registers.acceptors()] == [""]
        answers[:] = [LineLost("refused", sent=False)]
        assert [view.state for view in await registers.acceptors()] == ["refused"]


# ---- who an acceptor is that has not answered yet ----


def test_an_acceptor_that_hangs_is_asked_who_it_is_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request that is meant for it finds that nobody knows it."""
    asked: list[Future[ReplyMessage]] = []

    def describe(*_: object) -> "Future[ReplyMessage]":
        asked.append(Future())
        return asked[-1]

    monkeypatch.setattr(Reach, "describe", describe)
    reach = Reach(GIVEN, None, Discovery(GIVEN, prepare=0, accept=0, found=None))
    for _ in range(3):
        reach.address_of(NodeId(1), SET)
    assert len(asked) == 3
    asked[0].set_exception(LineLost("no answer"))
    reach.address_of(NodeId(1), SET)
    assert len(asked) == 4, "whoever has not answered in its time is asked again"


@asynchronous
async def test_an_acceptor_that_hangs_is_asked_who_it_is_once_at_a_time_by_asyncio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[asyncio.Future[ReplyMessage]] = []

    async def describe(*_: object) -> ReplyMessage:
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    monkeypatch.setattr(AsyncReach, "describe", describe)
    reach = AsyncReach(GIVEN, None, Discovery(GIVEN, prepare=0, accept=0, found=None))
    reach.settle()
    for _ in range(3):
        reach.address_of(NodeId(1), SET)
        await asyncio.sleep(0)
    assert len(asked) == len(reach._background) == 3
    asked[0].set_exception(LineLost("no answer"))
    await asyncio.wait(reach._background, return_when=asyncio.FIRST_COMPLETED)
    reach.address_of(NodeId(1), SET)
    await asyncio.sleep(0)
    assert len(asked) == 4
    reach.close()
