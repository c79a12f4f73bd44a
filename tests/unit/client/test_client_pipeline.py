"""Writes on their way: numbered, bounded, and sent again, with the router and the loop in the test's hand."""

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from troth.client.link import Connection
from troth.client.request import Request
from troth.client.router import Router
from troth.client.writes import COMMAND_OVERHEAD_BYTES, WriteBatch, WritePipeline
from troth.errors import (
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    RequestTimeout,
    SessionExpired,
    Unavailable,
)
from troth.kv.requests import Put, PutResult
from troth.replica.protocol import WRITES_BYTES_MAX, CloseSession, Results, Writes, WritesRefused
from troth.wire.frames import FrameSplitter

HERE = cast(Connection, SimpleNamespace(server="n1"))


class Paths:
    """A router and a loop as far as a pipeline needs them; `sent` are the requests that were handed over."""

    def __init__(self, **bounds: int) -> None:
        self._loop = asyncio.new_event_loop()
        self.loop = self
        self.now_s = 100.0
        self.timeout_s = 5.0
        self.handlers: dict[type, Callable[[Connection, Any], None]] = {}
        self.on_tick: list[Callable[[float], None]] = []
        self.leader: SimpleNamespace | None = None
        self.sent: list[Request] = []
        self.forgotten: list[Request] = []
        self.refusals: list[str] = []
        self.limits: list[tuple[float, type]] = []
        self.due: list[Callable[[], None]] = []
        self.use_session = bool(bounds.pop("session", 0))
        self.pipeline = WritePipeline(cast(Router, self), use_session=self.use_session, **bounds)

    # ---- the loop ----

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> "asyncio.Future[Any]":
        return self._loop.create_future()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def turn(self) -> None:
        """The end of a turn of the loop."""
        due, self.due = self.due, []
        for callback in due:
            callback()

    # ---- the router ----

    def require_loop(self) -> None: ...

    def next_call(self) -> int:
        return 1

    def submit(self, request: Request) -> None:
        self.sent.append(request)

    def forget(self, request: Request) -> None:
        self.forgotten.append(request)

    def refused(self, request: Request, connection: Connection, code: str, text: str, hint: str) -> None:
        self.refusals.append(code)

    def is_shorter(self, timeout_s: float) -> bool:
        return timeout_s <= self.timeout_s

    def limited(self, future: "asyncio.Future[Any]", timeout_s: float, kind: type) -> "asyncio.Future[Any]":
        self.limits.append((timeout_s, kind))
        return future

    def describe(self) -> str:
        return "nobody is there"

    # ---- the test ----

    def put(self, key: str, size_bytes: int = 10, timeout_s: float | None = None) -> "asyncio.Future[Any]":
        return self.pipeline.submit(Put(key.encode(), b""), size_bytes - COMMAND_OVERHEAD_BYTES, timeout_s)

    @property
    def batches(self) -> list[WriteBatch]:
        return [request for request in self.sent if isinstance(request, WriteBatch)]

    @property
    def keys(self) -> list[list[str]]:
        return [[cast(Put, command).key.decode() for command in batch.commands] for batch in self.batches]

    def answer(self, batch: WriteBatch, *, session: int | None = None, revision: int = 7) -> None:
        session = batch.session if session is None else session
        results = [PutResult(revision + number) for number in range(len(batch.futures))]
        self.handlers[Results](HERE, Results(session, batch.first_seq, cast(Any, results)))

    def refuse(self, batch: WriteBatch, code: str, *, session: int | None = None) -> None:
        session = batch.session if session is None else session
        self.handlers[WritesRefused](HERE, WritesRefused(session, batch.first_seq, code, "no"))


@pytest.fixture
def paths() -> Iterator[Callable[..., Paths]]:
    made: list[Paths] = []

    def make(**bounds: int) -> Paths:
        made.append(Paths(**bounds))
        return made[-1]

    yield make
    for each in made:
        each._loop.close()


Make = Callable[..., Paths]


def message_of(frame: bytes) -> Writes:
    (body,) = FrameSplitter(1 << 20).feed(frame)
    return msgspec.msgpack.decode(body, type=Writes)


# ---- batches ----


def test_what_one_turn_asks_for_is_one_batch_and_its_numbers_go_on(paths: Make) -> None:
    route = paths()
    for key in "abc":
        route.put(key)
    assert route.sent == []
    route.turn()
    route.put("d")
    route.turn()
    assert route.keys == [["a", "b", "c"], ["d"]]
    assert [(batch.first_seq, batch.acked_below) for batch in route.batches] == [(1, 1), (4, 1)]
    route.answer(route.batches[0])
    route.put("e")
    route.turn()
    assert (route.batches[2].first_seq, route.batches[2].acked_below) == (5, 4)


def test_a_batch_holds_so_many_bytes_and_the_next_begins_with_none(paths: Make) -> None:
    route = paths()
    route.put("a", WRITES_BYTES_MAX - 100)
    route.put("b", 100)
    route.put("c", 100)
    route.turn()
    route.put("d", 100)
    route.put("e", WRITES_BYTES_MAX - 100)
    route.turn()
    assert route.keys == [["a", "b"], ["c"], ["d", "e"]]


def test_who_is_patient_for_longer_waits_alone(paths: Make) -> None:
    route = paths()
    route.put("a")
    route.put("b", timeout_s=60.0)
    route.put("c")
    route.put("d", timeout_s=2.0)
    route.turn()
    assert route.keys == [["a"], ["b"], ["c", "d"]]
    assert [batch.deadline_s - route.now_s for batch in route.batches] == [5.0, 60.0, 5.0]
    assert route.limits == [(2.0, RequestTimeout)]


def test_what_was_given_up_before_it_was_sent_is_left_out_and_its_number_is_used_by_nobody(paths: Make) -> None:
    route = paths()
    futures = [route.put(key) for key in "abc"]
    futures[1].cancel()
    route.turn()
    (batch,) = route.batches
    assert not batch.is_given_up()
    sealed = batch.frame()
    assert [cast(Put, command).key for command in message_of(sealed).commands] == [b"a", b"c"]
    futures[0].cancel()
    assert batch.frame() is sealed
    route.put("d")
    route.turn()
    assert route.batches[1].first_seq == 4
    for future in futures:
        future.cancel()
    assert batch.is_given_up()


# ---- bounds ----


def test_so_many_commands_and_bytes_are_under_way(paths: Make) -> None:
    for route in (paths(window_commands=4), paths(window_bytes=40)):
        for key in "abc":
            route.put(key)
        route.turn()
        for key in "de":
            route.put(key)
        route.turn()
        assert route.keys == [["a", "b", "c"]]
        route.answer(route.batches[0])
        assert route.keys[1:] == [["d", "e"]], "the answer has let it in"
        route.put("f")
        route.turn()
        assert len(route.keys) == 3


def test_a_batch_larger_than_all_that_may_be_under_way_goes_alone(paths: Make) -> None:
    route = paths(window_commands=2, window_bytes=15)
    for key in "abc":
        route.put(key)
    route.turn()
    assert route.keys == [["a", "b", "c"]]


def test_so_many_writes_wait_and_answers_make_room(paths: Make) -> None:
    route = paths(queue_commands_max=2)
    route.put("a")
    route.put("b")
    assert isinstance(route.put("c").exception(), Overloaded)
    route.turn()
    route.answer(route.batches[0])
    assert not route.put("d").done()


def test_a_write_that_no_batch_can_hold_is_refused(paths: Make) -> None:
    route = paths()
    assert isinstance(route.put("a", WRITES_BYTES_MAX + 1).exception(), InvalidRequest)
    assert not route.put("a", WRITES_BYTES_MAX).done()


def test_a_batch_that_failed_makes_room_and_one_that_goes_into_another_session_does_not(paths: Make) -> None:
    route = paths(session=1, queue_commands_max=1)
    future = route.put("a")
    route.turn()
    route.pipeline.on_session(33)
    (batch,) = route.batches
    batch.open_sends = 1
    route.refuse(batch, SessionExpired.code)
    assert isinstance(route.put("b").exception(), Overloaded)
    route.pipeline.on_session(34)
    route.batches[1].fail(Unavailable("time is over"))
    assert isinstance(future.exception(), Unavailable)
    assert not route.put("b").done()


# ---- answers ----


def test_answers_are_of_the_session_and_as_many_as_was_asked(paths: Make) -> None:
    route = paths()
    futures = [route.put(key) for key in "ab"]
    route.turn()
    (batch,) = route.batches
    route.answer(batch, session=9)
    assert not any(future.done() for future in futures)
    with pytest.raises(ProtocolError):
        route.handlers[Results](HERE, Results(batch.session, batch.first_seq, [PutResult(5)]))
    futures[0].cancel()
    route.answer(batch)
    assert futures[1].result().revision == 8
    assert route.pipeline.seen_revision == 8 and route.forgotten == [batch]
    route.answer(batch, revision=90)
    assert route.pipeline.seen_revision == 8, "an answer that comes twice is nobody's"


def test_refusals_are_of_the_session_and_the_routers_affair(paths: Make) -> None:
    route = paths()
    route.put("a")
    route.turn()
    route.refuse(route.batches[0], "not_leader", session=9)
    assert route.refusals == []
    route.refuse(route.batches[0], "not_leader")
    assert route.refusals == ["not_leader"]


def test_what_has_waited_too_long_fails_and_is_never_sent(paths: Make) -> None:
    route = paths(window_commands=1)
    route.put("a")
    route.turn()
    patient, late = route.put("b", timeout_s=60.0), route.put("c")
    route.turn()
    route.now_s += 5.0
    for tick in route.on_tick:
        tick(route.now_s)
    assert isinstance(late.exception(), Unavailable) and not patient.done()
    for batch in (0, 1):
        route.answer(route.batches[batch])
    assert route.keys == [["a"], ["b"]]


# ---- the session ----


def test_the_first_write_opens_one_session_and_waits_for_it(paths: Make) -> None:
    route = paths(session=1)
    route.put("a")
    route.turn()
    route.put("b")
    route.turn()
    assert len(route.sent) == 1 and route.batches == []
    route.pipeline.on_session(33)
    assert route.keys == [["a"], ["b"]]
    assert [(batch.session, batch.is_idempotent) for batch in route.batches] == [(33, True)] * 2


def test_every_client_asks_for_a_session_of_its_own_and_again_for_the_same(paths: Make) -> None:
    routes = [paths(session=1), paths(session=1)]
    for route in routes:
        route.put("a")
        route.turn()
    (one,), (other,) = (route.sent for route in routes)
    assert one.frame() == one.frame() != other.frame()


def test_without_sessions_what_may_have_been_applied_is_not_sent_again(paths: Make) -> None:
    route = paths()
    route.put("a")
    route.turn()
    assert not route.batches[0].is_idempotent


def test_without_a_session_all_that_waits_fails_and_the_next_write_asks_again(paths: Make) -> None:
    route = paths(session=1)
    waiting = []
    for key in "ab":
        waiting.append(route.put(key))
        route.turn()
    route.pipeline.on_session_failed(Unavailable("no"))
    assert all(isinstance(future.exception(), Unavailable) for future in waiting)
    route.put("c")
    route.turn()
    assert len(route.sent) == 2


@pytest.mark.parametrize("first", ["a", "b"])
def test_when_the_session_has_expired_what_was_not_applied_goes_first_in_another(paths: Make, first: str) -> None:
    route = paths(session=1, window_commands=2)
    futures = [route.put("a")]
    route.turn()
    route.pipeline.on_session(33)
    for key in "bc":
        futures.append(route.put(key))
        route.turn()
    assert route.keys == [["a"], ["b"]]
    a, b = route.batches
    a.open_sends, b.open_sends = 1, 1
    route.now_s += 1.0
    for batch in (a, b) if first == "a" else (b, a):
        route.refuse(batch, SessionExpired.code)
    assert len(route.sent) == 4, "one session is asked for"
    route.pipeline.on_session(34)
    assert route.keys[2:] == [["a"], ["b"]]
    assert [(batch.session, batch.deadline_s) for batch in route.batches[2:]] == [(34, 105.0)] * 2
    for batch in route.batches[2:]:
        route.answer(batch)
    route.answer(route.batches[-1])
    assert route.keys[4:] == [["c"]]
    assert all(future.done() for future in futures)


def test_what_may_have_been_applied_in_a_session_that_has_expired_is_in_doubt(paths: Make) -> None:
    route = paths(session=1)
    future = route.put("a")
    route.turn()
    route.pipeline.on_session(33)
    route.batches[0].open_sends = 2
    route.refuse(route.batches[0], SessionExpired.code)
    assert isinstance(future.exception(), OutcomeUnknown)


def test_a_refusal_from_an_older_session_leaves_the_present_one(paths: Make) -> None:
    route = paths(session=1)
    for key in "ab":
        route.put(key)
        route.turn()
    route.pipeline.on_session(33)
    for batch in route.batches:
        batch.open_sends = 1
    a, b = route.batches
    route.refuse(a, SessionExpired.code)
    route.pipeline.on_session(34)
    route.refuse(b, SessionExpired.code)
    assert [batch.session for batch in route.batches] == [33, 33, 34, 34]


def test_the_end_fails_what_was_not_sent_and_lets_the_cluster_forget_the_session(paths: Make) -> None:
    route = paths(session=1, window_commands=1)
    route.put("a")
    route.turn()
    route.pipeline.on_session(33)
    queued = route.put("b")
    route.turn()
    gathered = route.put("c")
    frames: list[bytes] = []
    route.leader = SimpleNamespace(connection=SimpleNamespace(send=frames.append))
    route.pipeline.close()
    assert [type(future.exception()) for future in (queued, gathered)] == [Unavailable] * 2
    (body,) = FrameSplitter().feed(frames[0])
    assert msgspec.msgpack.decode(body, type=CloseSession).session == 33
