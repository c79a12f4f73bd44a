"""A proposer's connection at an acceptor: what it may make the acceptor hold, and who is cut off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from troth.core.register.codec import (
    KEY_BYTES_MAX,
    NUMBER_MAX,
    VALUE_BYTES_MAX,
    decode_answer,
    decode_ask,
    encode_ask,
)
from troth.core.register.messages import (
    MARKS_KEPT,
    ZERO,
    Accept,
    Accepted,
    Ballot,
    ConfigId,
    Configure,
    Conflict,
    Holding,
    Mark,
    Prepare,
    Promise,
    Read,
    ReplyMessage,
    RequestMessage,
    Seat,
    State,
    founding,
    group_of,
)
from troth.errors import DecodeError
from troth.runtime.acceptors import AcceptorCounters, AcceptorNode
from troth.runtime.addresses import Address
from troth.runtime.disk_machine import DiskMachine
from troth.runtime.streams import Call, open_connection
from troth.server import acceptors
from troth.server.acceptor_process import AcceptorPort
from troth.server.acceptors import (
    IN_FLIGHT_MAX,
    REGISTER_FRAME_BYTES_MAX,
    UNREAD_BYTES_MAX,
    WRITE_BYTES_MAX,
    AcceptorSession,
)
from troth.wire.frames import FRAME_BYTES_MAX, FrameSplitter, frame
from troth.wire.handshake import Hello

LARGE = Holding(Ballot(1, 1), State(bytes(400_000), 1, Ballot(1, 1), ZERO))
A_READ = Read(ConfigId(1, 1), b"k")


class Node:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.counters = AcceptorCounters()
        self.asked: list[Callable[[ReplyMessage], None]] = []

    def on_request(self, request: RequestMessage, answer: Callable[[ReplyMessage], None]) -> None:
        self.asked.append(answer)

    def answer(self, *replies: ReplyMessage) -> None:
        for reply in replies:
            self.asked.pop(0)(reply)


class Socket:
    """A transport whose other side reads when it is told to: what is written waits from the first byte on."""

    def __init__(self) -> None:
        self.session: AcceptorSession
        self.writes: list[bytes] = []
        self.waiting_bytes = 0
        self.reading = True
        self.aborted = False
        self.room_bytes = 0

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.waiting_bytes += max(0, len(data) - self.room_bytes)
        if self.waiting_bytes:
            self.session.pause_writing()

    def read(self, size_bytes: int) -> None:
        """By the other side."""
        self.waiting_bytes = max(0, self.waiting_bytes - size_bytes)
        if not self.waiting_bytes:
            self.session.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def is_closing(self) -> bool:
        return self.aborted

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        assert self.reading and not self.aborted
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading and not self.aborted
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    @property
    def answers(self) -> list[tuple[int, ReplyMessage]]:
        return [decode_answer(body) for body in FrameSplitter(FRAME_BYTES_MAX).feed(b"".join(self.writes))]


class Bench:
    def __init__(self) -> None:
        self.node, self.socket = Node(), Socket()
        self.session = AcceptorSession(cast(AcceptorNode, self.node), cast(asyncio.Transport, self.socket))
        self.socket.session = self.session
        self._number = 0

    def ask(self, count: int) -> None:
        bodies = [encode_ask(self._number + each, A_READ) for each in range(count)]
        self._number += count
        self.session.on_bodies(bodies)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_answers_of_a_turn_leave_in_one_write() -> None:
    bench = Bench()
    bench.socket.room_bytes = 1000
    bench.ask(3)
    bench.node.answer(Conflict(ZERO), Holding(ZERO, None))
    assert not bench.socket.writes
    await turns()
    assert len(bench.socket.writes) == 1
    assert bench.socket.answers == [(0, Conflict(ZERO)), (1, Holding(ZERO, None))]
    assert bench.node.counters.conflicts == 1
    bench.node.answer(Conflict(ZERO))
    await turns()
    assert len(bench.socket.answers) == 3


async def test_answers_become_bytes_as_the_other_side_reads() -> None:
    """Small questions have large answers: all of them at once would be memory without bound. None of them is lost."""
    bench = Bench()
    bench.ask(10)
    bench.node.answer(*[LARGE] * 10)
    written = 0
    while written < 10:
        await turns()
        assert not bench.socket.reading, "nor is more taken that would have to be answered"
        assert bench.socket.waiting_bytes < 2 * WRITE_BYTES_MAX
        assert len(bench.socket.answers) > written
        written = len(bench.socket.answers)
        bench.socket.read(bench.socket.waiting_bytes - 1)
        await turns()
        assert len(bench.socket.answers) == written
        bench.socket.read(1)
    await turns()
    assert bench.socket.reading
    assert bench.socket.answers == [(number, LARGE) for number in range(10)]


async def test_what_waits_for_one_that_does_not_read_is_bounded() -> None:
    """Values that others overwrite would be held for it alone. What has no room is looked up once it has read."""
    bench = Bench()
    bench.ask(30)
    bench.node.answer(*[LARGE] * 30)
    now = Holding(Ballot(2, 1), State(bytes(400_000), 2, Ballot(2, 1), ZERO))
    bench.ask(1)
    bench.node.answer(Conflict(ZERO))
    while len(bench.socket.answers) < 31:
        await turns()
        assert len(bench.node.asked) * 400_000 < UNREAD_BYTES_MAX + 400_000
        assert not bench.socket.reading
        bench.node.answer(*[now] * len(bench.node.asked))
        await turns()
        bench.socket.read(bench.socket.waiting_bytes)
    await turns()
    assert bench.socket.reading
    answers = bench.socket.answers
    assert sorted(number for number, _ in answers) == list(range(31))
    at_once = sum(reply == LARGE for _, reply in answers) * 400_000
    assert UNREAD_BYTES_MAX <= at_once < UNREAD_BYTES_MAX + 400_000
    assert sum(reply == now for _, reply in answers) == 30 - at_once // 400_000


async def test_what_was_put_off_is_asked_anew_once_nothing_else_is_on_its_way() -> None:
    bench = Bench()
    bench.socket.room_bytes = 1 << 30
    bench.ask(21)
    bench.node.answer(*[LARGE] * 20)
    await turns(20)
    assert len(bench.node.asked) == 1 and not bench.socket.reading, "it waits for the one that is not answered"
    bench.node.answer(Conflict(ZERO))
    await turns(20)
    assert len(bench.socket.answers) + len(bench.node.asked) == 21
    assert bench.socket.reading
    bench.node.answer(*[LARGE] * len(bench.node.asked))
    await turns(20)
    assert sorted(number for number, _ in bench.socket.answers) == list(range(21))


async def test_nothing_more_is_made_into_bytes_once_what_was_has_to_wait() -> None:
    """Some transports tell a turn late that it waits."""
    bench = Bench()
    bench.ask(1)
    bench.node.answer(LARGE)
    bench.session.pause_writing()
    await turns()
    assert not bench.socket.writes
    bench.session.resume_writing()
    await turns()
    assert bench.socket.answers == [(0, LARGE)]


async def test_who_reads_fast_gets_large_answers_a_turn_each() -> None:
    """In between there are others to serve."""
    bench = Bench()
    bench.socket.room_bytes = 1 << 30
    bench.ask(10)
    bench.node.answer(*[LARGE] * 10)
    await turns(2)
    assert 0 < len(bench.socket.answers) < 10
    await turns(50)
    assert len(bench.socket.answers) == 10
    assert max(map(len, bench.socket.writes)) < 2 * WRITE_BYTES_MAX


async def test_who_reads_nothing_for_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptors, "UNREAD_SECONDS_MAX", 0)
    bench = Bench()
    bench.ask(1)
    bench.node.answer(LARGE)
    async with asyncio.timeout(20):
        while not bench.socket.aborted:  # noqa: ASYNC110
            await asyncio.sleep(0)
    bench.session.resume_writing()
    bench.ask(1)
    bench.node.answer(LARGE)
    await turns()
    assert len(bench.socket.writes) == 1


async def test_who_reads_slowly_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look(session: AcceptorSession, waiting_bytes: int) -> None:
        """Between two looks a little is read."""
        looks.append(waiting_bytes)
        bench.socket.read(1000)
        if bench.socket.waiting_bytes:
            looked(session, waiting_bytes)

    looked = AcceptorSession._cut_off_unless_read
    monkeypatch.setattr(acceptors, "UNREAD_SECONDS_MAX", 0)
    monkeypatch.setattr(AcceptorSession, "_cut_off_unless_read", look)
    bench = Bench()
    bench.ask(1)
    bench.node.answer(Holding(Ballot(1, 1), State(bytes(4000), 1, Ballot(1, 1), ZERO)))
    async with asyncio.timeout(20):
        while len(looks) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not bench.socket.aborted and bench.socket.reading


async def test_whoever_has_read_everything_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptors, "UNREAD_SECONDS_MAX", 0)
    bench = Bench()
    bench.socket.waiting_bytes = 1000
    bench.session.pause_writing()
    bench.socket.read(1000)
    await turns(20)
    assert not bench.socket.aborted


async def test_a_connection_has_so_many_requests_unanswered_and_not_more() -> None:
    """Those count whose answers wait for the other side to read."""
    bench = Bench()
    bench.ask(IN_FLIGHT_MAX)
    bench.node.answer(*[LARGE] * 10)
    await turns()
    left = len(bench.socket.answers)
    assert 0 < left < 10
    bench.ask(left)
    with pytest.raises(DecodeError, match="unanswered"):
        bench.ask(1)


@contextlib.asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[AcceptorPort]:
    """An acceptor at ``socket`` in *directory*."""
    loop = asyncio.get_running_loop()
    node = AcceptorNode.at(
        str(directory / "a"), machine=DiskMachine(), failed=lambda error: None, bytes_max=1 << 22
    )
    port = AcceptorPort(node)
    server = await loop.create_unix_server(port.accept, str(directory / "socket"))
    try:
        yield port
    finally:
        server.close()
        for connection in port.connections:
            connection.transport.abort()
        await loop.run_in_executor(None, node.stop)


async def test_whoever_asks_for_more_than_it_can_take_in_is_served(tmp_path: Path) -> None:
    """Over a socket: an acceptor that cut it off would be asked for all of it again."""

    async def ask(request: RequestMessage) -> ReplyMessage:
        proposer.send(encode_ask(0, request))
        return decode_answer(await proposer.next_body())[1]

    async with asyncio.timeout(20), serving(tmp_path) as port:
        proposer = Call(Hello("register"))
        await open_connection(proposer, Address(path=str(tmp_path / "socket")))
        await proposer.greeting
        config = founding(group_of((Seat(port.node.acceptor.id, "a:1"),)))
        await ask(Configure(config))
        large = State(bytes(1 << 20), 1, Ballot(1, 1), ZERO)
        assert await ask(Accept(config.id, b"k", Ballot(1, 1), large)) == Accepted()
        proposer.transport.pause_reading()
        proposer.transport.write(b"".join(frame(encode_ask(each, Read(config.id, b"k"))) for each in range(70)))
        (connection,) = port.connections
        while connection.transport.is_reading():  # noqa: ASYNC110 - the kernel tells when
            await asyncio.sleep(0)
        assert connection.transport.get_write_buffer_size() < 2 * WRITE_BYTES_MAX
        proposer.transport.resume_reading()
        for number in range(70):
            told, reply = decode_answer(await proposer.next_body())
            assert (told, reply) == (number, Holding(Ballot(1, 1), large))
        assert isinstance(await ask(Prepare(config.id, b"k", Ballot(2, 1))), Promise), "it is still heard"
        proposer.transport.abort()


def test_the_largest_request_that_is_legal_fits_into_a_frame() -> None:
    """The bound is the same for an acceptor in a server and for one alone."""
    most = Ballot(NUMBER_MAX - 1, NUMBER_MAX - 1)
    state = State(bytes(VALUE_BYTES_MAX), NUMBER_MAX - 1, most, most, (Mark(most, NUMBER_MAX - 1),) * MARKS_KEPT)
    body = encode_ask(1 << 62, Accept(ConfigId(1 << 62, 1 << 61), bytes(KEY_BYTES_MAX), most, state, most))
    assert decode_ask(body)[1] is not None
    assert len(body) <= REGISTER_FRAME_BYTES_MAX
