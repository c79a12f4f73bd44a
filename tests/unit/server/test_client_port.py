"""The client port without sockets: which answer leaves when, and who is cut off."""

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import msgspec
import pytest

from troth.core.interface import Member, MembershipChange
from troth.errors import DecodeError
from troth.ids import ClusterId, NodeId
from troth.kv.requests import Failure
from troth.models import LevelName
from troth.replica.effects import ClientId
from troth.replica.protocol import (
    ChangeMembers,
    ClientMessage,
    Done,
    Ping,
    ReadResults,
    ServerMessage,
    SnapshotPart,
)
from troth.server import clients as clients_module
from troth.server.clients import COPY_BYTES_MAX, STRANGERS_MAX, ClientConnection, ClientPort
from troth.wire.frames import ANSWER_BYTES_MAX, FrameSplitter
from troth.wire.handshake import VERSION, Hello, Rejected, Welcome, decode_greeting

_decode = msgspec.msgpack.Decoder(ServerMessage).decode
QUEUE_BYTES_MAX = 10_000
LARGE = bytes(COPY_BYTES_MAX + 1)


class Node:
    def __init__(self) -> None:
        self.node_id, self.name, self.cluster_id = NodeId(1), "n1", ClusterId(77)
        self.told: list[object] = []

    def client_opened(self, client: ClientId) -> None:
        self.told.append(("opened", client))

    def client_paused(self, client: ClientId, *, paused: bool) -> None:
        self.told.append(("paused", client, paused))

    def on_client(self, client: ClientId, message: ClientMessage, raw: bytes) -> None:
        self.told.append((client, message))

    def on_heard(self) -> None:
        self.told.append("heard")

    def client_gone(self, client: ClientId) -> None:
        self.told.append(("gone", client))


class Client:
    """A connection of which only what waits in it, and what is written, matters."""

    def __init__(self) -> None:
        self.client: ClientId = 0
        self.largest_bytes = 0
        self.origin = "here"
        self.data = b""
        self.waiting_bytes = 0
        self.aborted = self.closed = False
        self.transport = SimpleNamespace(
            get_write_buffer_size=lambda: self.waiting_bytes, abort=self._abort, close=self._close
        )

    def _abort(self) -> None:
        self.aborted = True

    def _close(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        self.data += data

    @property
    def heard(self) -> list[ServerMessage]:
        return [_decode(body) for body in FrameSplitter(ANSWER_BYTES_MAX).feed(self.data)]


def connection_of(client: Client) -> ClientConnection:
    return cast(ClientConnection, client)


class Bench:
    def __init__(self, clients: int = 1, connections_max: int = 9) -> None:
        self.node = Node()
        self.port = ClientPort(node=self.node, connections_max=connections_max, queue_bytes_max=QUEUE_BYTES_MAX)
        self.clients = [Client() for _ in range(clients)]
        self.admitted = [self.port.admit(connection_of(client), Hello("client")) for client in self.clients]


# ---- answers ----


def test_answers_go_to_whom_they_are_for_and_to_nobody_who_has_gone() -> None:
    bench = Bench(2)
    one, other = bench.clients
    bench.port.deliver([(one.client, Done(1)), (other.client, Done(2)), (99, Done(3)), (one.client, Done(4))])
    bench.port.deliver([(99, Done(5))])
    bench.port.deliver([(other.client, Done(6))])
    assert (one.heard, other.heard) == ([Done(1), Done(4)], [Done(2), Done(6)])
    counters = bench.port.counters
    assert (counters.frames_sent, counters.bytes_sent) == (4, len(one.data) + len(other.data))


def test_only_large_answers_to_reads_overtake_what_else_there_is() -> None:
    bench = Bench()
    (client,) = bench.clients
    part = SnapshotPart(1, LARGE, False)
    bench.port.deliver([(client.client, Done(1)), (client.client, part), (client.client, Done(2))])
    assert client.heard == [Done(1), part, Done(2)]
    client.data = b""
    large = ReadResults(1, LevelName.LINEARIZABLE, 5, [Failure("invalid", "x" * len(LARGE))])
    bench.port.deliver([(client.client, Done(1)), (client.client, large)])
    assert [type(message) for message in client.heard] == [ReadResults, Done]


def test_an_answer_that_no_frame_can_carry_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(2)
    client, other = bench.clients
    monkeypatch.setattr(clients_module, "ANSWER_BYTES_MAX", COPY_BYTES_MAX)
    bench.port.deliver([(client.client, SnapshotPart(1, LARGE, False)), (other.client, Done(1))])
    assert client.aborted and client.data == b""
    assert not other.aborted and other.heard == [Done(1)]
    assert bench.port.counters.cut_off == 1


# ---- who does not read ----


def test_what_may_wait_is_the_bound_and_the_largest_answer_since_nothing_waited() -> None:
    bench = Bench()
    (client,) = bench.clients
    bench.port.deliver([(client.client, SnapshotPart(1, bytes(5000), False))])
    largest = client.largest_bytes
    assert largest == len(client.data)
    client.waiting_bytes = QUEUE_BYTES_MAX + largest
    bench.port.deliver([(client.client, Done(1))])
    assert not client.aborted and client.largest_bytes == largest
    client.waiting_bytes = 0
    bench.port.deliver([(client.client, Done(2))])
    assert client.largest_bytes < 100, "the large one was read"
    before = client.data
    client.waiting_bytes = QUEUE_BYTES_MAX + largest
    bench.port.deliver([(client.client, Done(3))])
    assert client.aborted and client.data == before
    assert bench.port.counters.cut_off == 1
    assert bench.port.queued_bytes() == client.waiting_bytes


# ---- who comes and goes ----


def test_clients_have_numbers_of_their_own_and_only_known_ones_go() -> None:
    bench = Bench(3, connections_max=2)
    assert [client.client for client in bench.clients] == [1, 2, 0]
    assert bench.admitted[:2] == [None, None]
    assert isinstance(bench.admitted[2], Rejected) and bench.admitted[2].code == "overloaded"
    bench.port.gone(0)
    bench.port.gone(2)
    bench.port.gone(2)
    assert bench.node.told == [("gone", 2)]
    again = Client()
    assert bench.port.admit(connection_of(again), Hello("client")) is None
    assert again.client == 3


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello("client", version=1), "protocol"),
        (Hello("client", cluster_id=ClusterId(78)), "wrong_cluster"),
        (Hello("client", cluster_id=ClusterId(77)), None),
        (Hello("client"), None),
    ],
)
def test_a_client_comes_in_when_it_knows_no_other_cluster(hello: Hello, code: str | None) -> None:
    rejected = Bench(0).port.admit(connection_of(Client()), hello)
    assert (None if rejected is None else rejected.code) == code


def test_so_many_may_be_there_that_have_not_said_who_they_are() -> None:
    bench = Bench(0)
    strangers = [Client() for _ in range(STRANGERS_MAX + 1)]
    for stranger in strangers:
        bench.port.opened(connection_of(stranger))
    assert [stranger.aborted for stranger in strangers] == [False] * STRANGERS_MAX + [True]
    assert bench.port.counters.refused == 1
    bench.port.introduced(connection_of(strangers[0]))
    late = Client()
    bench.port.opened(connection_of(late))
    assert not late.aborted
    bench.port.close()
    assert late.closed and strangers[5].closed and not strangers[0].closed


def test_a_closed_port_closes_its_clients_too() -> None:
    bench = Bench(2)
    bench.port.close()
    assert all(client.closed for client in bench.clients)


def test_what_further_ones_of_a_kind_did_is_only_counted(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for _ in range(3):
        bench.port.warn_once("garbage", "a client broke the protocol", "here")
    bench.port.warn_once("cut off", "a client was cut off", "here")
    assert len(caplog.records) == 2


# ---- what clients say ----


def admitted() -> tuple[Bench, ClientConnection]:
    bench = Bench(0)
    connection = ClientConnection(bench.port)
    connection.transport = cast(Any, Client().transport)
    assert bench.port.admit(connection, Hello("client")) is None
    return bench, connection


def test_what_came_before_garbage_is_heard() -> None:
    bench, connection = admitted()
    body = msgspec.msgpack.encode(Ping(1))
    with pytest.raises(DecodeError, match="no message of the client protocol"):
        connection.on_bodies([body, b"\xc1", body])
    assert bench.node.told == [(1, Ping(1)), "heard"]
    assert bench.port.counters.frames_received == 2


def test_a_client_that_reads_slowly_is_paused_and_a_stranger_is_not() -> None:
    bench, connection = admitted()
    connection.pause_writing()
    connection.resume_writing()
    assert bench.node.told == [("paused", 1, True), ("paused", 1, False)]
    stranger = ClientConnection(bench.port)
    stranger.pause_writing()
    stranger.resume_writing()
    session = MagicMock()
    connection._session = session
    connection.pause_writing()
    connection.resume_writing()
    assert [call[0] for call in session.method_calls] == ["pause_writing", "resume_writing"]
    assert len(bench.node.told) == 2, "a proposer's own session sees to it"


def test_requests_of_each_kind_are_counted() -> None:
    bench, connection = admitted()
    connection.on_bodies([msgspec.msgpack.encode(Ping(number)) for number in range(3)])
    assert bench.port.counters.operations() == {"Ping": 3, "commands": 0}


def test_text_that_is_none_is_garbage_like_any_other() -> None:
    bench, connection = admitted()
    member = MembershipChange(add_learners={NodeId(9): Member("name", "", "")})
    body = msgspec.msgpack.encode(ChangeMembers(1, member)).replace(b"name", b"\xff\xff\xff\xff")
    with pytest.raises(DecodeError, match="no message of the client protocol"):
        connection.on_bodies([body])
    assert bench.node.told == ["heard"]


def test_a_client_of_a_newer_version_is_spoken_to_in_ours_and_the_replica_hears_of_it() -> None:
    bench = Bench(0)
    connection, client = ClientConnection(bench.port), Client()
    client.transport.write = client.write
    connection.transport = cast(Any, client.transport)
    connection.on_opened()
    connection.on_greeting(Hello("client", version=VERSION + 1))
    (body,) = FrameSplitter().feed(client.data)
    assert decode_greeting(body) == Welcome(VERSION, ClusterId(77), NodeId(1), "n1")
    assert bench.node.told == [("opened", 1)]
    connection.on_closed(None)
    assert bench.node.told == [("opened", 1), ("gone", 1)]


def test_strangers_that_go_leave_their_places() -> None:
    bench = Bench(0)
    for _ in range(STRANGERS_MAX + 1):
        connection = ClientConnection(bench.port)
        connection.transport = cast(Any, Client().transport)
        connection.on_opened()
        connection.on_closed(None)
    assert bench.port.counters.refused == 0


def test_who_only_asks_who_this_is_stays_a_stranger_and_says_nothing() -> None:
    """Strangers are few; clients may be many, and are heard."""
    bench = Bench(0)
    bench.port.introduce = lambda connection: connection.write(b"n1")
    probe, client = ClientConnection(bench.port), Client()
    client.transport.write = client.write
    probe.transport = cast(Any, client.transport)
    probe.on_opened()
    probe.on_greeting(Hello("probe"))
    assert (client.data, bench.port._strangers, bench.port.connections) == (b"n1", {probe}, {})
    with pytest.raises(DecodeError, match="a probe only listens"):
        probe.on_bodies([msgspec.msgpack.encode(Ping(1))])
    assert bench.node.told == []


def test_proposers_take_places_of_clients() -> None:
    bench = Bench(1, connections_max=1)
    bench.port.registers = cast(Any, object())
    connection, client = ClientConnection(bench.port), Client()
    client.transport.write = client.write
    connection.transport = cast(Any, client.transport)
    connection.on_greeting(Hello("register"))
    (body,) = FrameSplitter().feed(client.data)
    refusal = decode_greeting(body)
    assert isinstance(refusal, Rejected) and refusal.code == "overloaded"
    assert client.closed and bench.port.counters.refused == 1
