"""One link to a peer: who may answer, what waits meanwhile, when it is dialed again. Without sockets."""

import asyncio
import random
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from troth.errors import DecodeError, Removed
from troth.ids import ClusterId, NodeId
from troth.runtime import links
from troth.runtime.links import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    PENDING_BYTES_MAX,
    DialedLink,
    InheritedConnection,
    InheritedLink,
    LinkConnection,
    TransportCounters,
)
from troth.runtime.transport import AcceptedPeer, PeerTransport
from troth.wire.frames import FrameSplitter
from troth.wire.handshake import VERSION, Greeting, Hello, Rejected, Welcome, decode_greeting

ME, PEER, OTHER = NodeId(11), NodeId(22), NodeId(33)
CLUSTER = ClusterId(7)


class Owner:
    """A transport as far as a link needs one, and the sink behind it."""

    def __init__(self, node_id: NodeId = ME) -> None:
        self.node_id, self.name, self.cluster_id = node_id, "me", CLUSTER
        self.counters = TransportCounters()
        self.sink = cast(Any, self)
        self.tls = None
        self.chance = cast(random.Random, SimpleNamespace(random=lambda: 1.0))
        self.is_open = True
        self.refusal: Rejected | None = None
        self.told: list[object] = []

    def greeting_refusal(self, hello: Hello) -> Rejected | None:
        return self.refusal

    def frame_received(self, sender: NodeId, bodies: list[bytes]) -> None:
        self.told.append((sender, *bodies))

    def garbage(self, origin: str, error: DecodeError) -> None: ...

    def warn_once(self, kind: str, text: str, *facts: object, reason: BaseException | None = None) -> None:
        self.told.append(kind)

    def calmed(self, kind: str) -> None: ...

    def on_suspect(self, peer: NodeId) -> None:
        self.told.append(("suspect", peer))

    def on_unreachable(self, peer: NodeId) -> None:
        self.told.append(("unreachable", peer))

    def on_removed(self, peer: NodeId, term: int, text: str) -> None:
        self.told.append(("removed", peer, term))


class Wire:
    """A transport of asyncio that keeps what is written."""

    def __init__(self, **extra: object) -> None:
        self.data = b""
        self.aborted = self.closed = False
        self._extra = extra

    def write(self, data: bytes) -> None:
        self.data += data

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.aborted or self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> object:
        return self._extra.get(name)

    @property
    def bodies(self) -> list[bytes]:
        return FrameSplitter().feed(self.data)

    @property
    def greetings(self) -> list[Greeting]:
        return [decode_greeting(body) for body in self.bodies]


def connected(connection: LinkConnection) -> Wire:
    wire = Wire()
    connection.transport = cast(asyncio.Transport, wire)
    connection.on_opened()
    return wire


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links do not dial by themselves."""

    async def nothing(link: DialedLink) -> None: ...

    monkeypatch.setattr(DialedLink, "_keep_connected", nothing)


# ---- who answers ----


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("greeting", "stands"),
    [
        (Welcome(VERSION, CLUSTER, PEER), True),
        (Welcome(VERSION, CLUSTER, OTHER), False),
        (Welcome(VERSION, ClusterId(8), PEER), False),
        (Rejected("overloaded", "not now"), False),
    ],
)
async def test_a_link_stands_when_the_very_server_that_is_meant_has_answered(
    greeting: Greeting, stands: bool
) -> None:
    link = DialedLink(Owner(), PEER, "b:1")
    connection = LinkConnection(link)
    wire = connected(connection)
    assert wire.greetings == [Hello("peer", cluster_id=CLUSTER, node_id=ME, to=PEER, name="me")]
    connection.on_greeting(greeting)
    assert link.is_established == stands
    assert wire.aborted != stands
    assert (connection.outcome.result() is None) == stands


@pytest.mark.usefixtures("idle")
async def test_an_older_connection_that_ends_is_not_the_link() -> None:
    link = DialedLink(Owner(), PEER, "b:1")
    older, newer = LinkConnection(link), LinkConnection(link)
    for connection in (older, newer):
        connected(connection)
        connection.on_greeting(Welcome(VERSION, CLUSTER, PEER))
    assert not link._down.is_set()
    older.on_closed(None)
    assert link.connection is newer and not link._down.is_set()
    newer.on_closed(None)
    assert link.connection is None and link._down.is_set()  # type: ignore[unreachable]
    again = LinkConnection(link)  # type: ignore[unreachable]
    connected(again)
    again.on_greeting(Welcome(VERSION, CLUSTER, PEER))
    assert not link._down.is_set()


# ---- what waits ----


@pytest.mark.usefixtures("idle")
async def test_so_much_waits_for_a_link_and_is_sent_once() -> None:
    link = DialedLink(Owner(), PEER, "b:1")
    half = bytes(PENDING_BYTES_MAX // 2)
    assert link.keep_pending(half) and link.keep_pending(half)
    assert not link.keep_pending(b"x")
    link._forget_pending()
    assert link.keep_pending(b"1") and link.keep_pending(b"2") and link.keep_pending(half)
    link._forget_pending()
    assert link.keep_pending(b"1") and link.keep_pending(b"2")
    for sent in ([b"1", b"2"], []):
        connection = LinkConnection(link)
        wire = connected(connection)
        wire.data = b""
        connection.on_greeting(Welcome(VERSION, CLUSTER, PEER))
        splitter = FrameSplitter(100)
        assert splitter.feed(wire.data) == sent


@pytest.mark.usefixtures("idle")
async def test_there_is_hope_until_an_attempt_has_failed_and_again_when_a_connection_was_lost() -> None:
    owner = Owner()
    link = DialedLink(owner, PEER, "b:1")
    assert link.keep_pending(b"1")
    link._on_dial_failed(TimeoutError())
    assert not link.keep_pending(b"2")
    assert ("unreachable", PEER) in owner.told
    link.on_lost(LinkConnection(link))
    assert link.keep_pending(b"3")


# ---- when it is dialed again ----


async def waits_of(
    monkeypatch: pytest.MonkeyPatch, owner: Owner, outcomes: list[BaseException | None]
) -> list[float]:
    """Dial with these *outcomes* (None: connected, and lost at once); how long each next attempt was waited for."""
    waits: list[float] = []
    left = list(outcomes)

    async def dial(link: DialedLink) -> BaseException | None:
        if not left:
            raise asyncio.CancelledError
        outcome = left.pop(0)
        if outcome is None:
            link._was_established = True
            link._down.set()
        return outcome

    async def wait_for(waiting: Coroutine[Any, Any, Any], seconds: float) -> None:
        waiting.close()
        waits.append(seconds)
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(DialedLink, "_dial", dial)
        patch.setattr(links, "asyncio", SimpleNamespace(**{**vars(asyncio), "wait_for": wait_for}))
        link = DialedLink(owner, PEER, "b:1")
        with pytest.raises(asyncio.CancelledError):
            await link._task
    return waits


async def test_the_pause_between_two_attempts_doubles_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = await waits_of(monkeypatch, Owner(), [TimeoutError()] * 12)
    assert waits == [min(BACKOFF_SECONDS_MIN * 2**n, BACKOFF_SECONDS_MAX) for n in range(12)]


async def test_a_connection_that_is_lost_at_once_is_not_made_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await waits_of(monkeypatch, Owner(), [None, None, None]) == [0.01, 0.02, 0.04]


async def test_a_death_is_told_once_when_a_peer_that_was_there_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()
    refused = ConnectionRefusedError()
    await waits_of(monkeypatch, owner, [refused, None, TimeoutError(), refused, refused, None, refused])
    assert owner.told.count(("suspect", PEER)) == owner.counters.suspicions == 2
    owner = Owner()
    await waits_of(monkeypatch, owner, [refused, refused])
    assert ("suspect", PEER) not in owner.told, "nobody knew it"


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("code", [Removed.code, "wrong_cluster", "unavailable"])
async def test_who_is_refused_because_it_was_removed_is_told_so_and_nobody_else(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner()
    link = DialedLink(owner, PEER, "127.0.0.1:1")

    async def open_connection(connection: LinkConnection, address: object, *, tls: object) -> None:
        connected(connection)
        connection.on_greeting(Rejected(code, "no", 5))

    monkeypatch.setattr(links, "open_connection", open_connection)
    assert await link._dial() is not None
    assert owner.told == ([("removed", PEER, 5)] if code == Removed.code else [])


# ---- socket pairs ----


async def test_of_a_pair_the_smaller_id_greets_and_the_other_answers() -> None:
    first, second = Owner(ME), Owner(PEER)
    here, there = InheritedLink(first, PEER), InheritedLink(second, ME)
    near, far = InheritedConnection(here), InheritedConnection(there)
    near_wire, far_wire = connected(near), connected(far)
    assert far_wire.greetings == []
    (hello,) = near_wire.greetings
    far.on_greeting(hello)
    assert there.is_established
    near.on_greeting(*far_wire.greetings)
    assert here.is_established


async def test_whoever_is_refused_at_a_pair_is_told_why() -> None:
    owner = Owner(PEER)
    owner.refusal = Rejected("wrong_cluster", "check the addresses")
    link = InheritedLink(owner, ME)
    connection = InheritedConnection(link)
    wire = connected(connection)
    connection.on_greeting(Hello("peer", cluster_id=CLUSTER, node_id=ME, to=PEER))
    assert wire.greetings == [owner.refusal] and wire.closed and not link.is_established
    assert owner.counters.refusals == 1


@pytest.mark.parametrize("is_open", [True, False])
async def test_the_end_of_a_pair_is_a_death_unless_it_is_ours(is_open: bool) -> None:
    owner = Owner()
    owner.is_open = is_open
    link = InheritedLink(owner, PEER)
    link.on_lost(InheritedConnection(link))
    assert owner.told == ([("suspect", PEER)] if is_open else [])


# ---- whoever calls ----


def called(**extra: object) -> tuple[AcceptedPeer, Wire]:
    transport = PeerTransport(node_id=ME, name="me", sink=cast(Any, Owner()), seed=1)
    transport.answer_probe = lambda: b"who I am"
    accepted, wire = AcceptedPeer(transport), Wire(**extra)
    accepted.transport = cast(asyncio.Transport, wire)
    accepted.on_opened()
    return accepted, wire


async def test_whoever_has_not_said_which_peer_it_is_is_not_heard() -> None:
    accepted, wire = called()
    accepted.on_greeting(Hello("probe"))
    welcome, answer = wire.bodies
    assert isinstance(decode_greeting(welcome), Welcome) and answer == b"who I am"
    with pytest.raises(DecodeError, match="only listens"):
        accepted.on_bodies([b"x"])
    accepted.connection_lost(None)


async def test_a_certificate_of_a_client_is_refused_at_the_peers_port() -> None:
    _, wire = called(peercert={"subject": ()})
    assert wire.closed
    (refusal,) = wire.greetings
    assert isinstance(refusal, Rejected) and "client" in refusal.text
    _, wire = called(peercert={"subjectAltName": (("DNS", "b"),)})
    assert not wire.closed and wire.data == b""


# ---- links that end ----


async def test_a_closed_link_dials_no_more_and_its_connection_ends() -> None:
    link = DialedLink(Owner(), PEER, "127.0.0.1:1")
    connection = LinkConnection(link)
    wire = connected(connection)
    connection.on_greeting(Welcome(VERSION, CLUSTER, PEER))
    link.close()
    await asyncio.wait([link._task], timeout=5)
    assert link._task.cancelled()
    assert wire.aborted and not link.is_established


async def test_a_newer_pair_takes_the_place_of_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    entrusted: list[object] = []

    async def entrust(connection: object, end: object) -> None:
        entrusted.append(connection)

    monkeypatch.setattr(links, "entrust", entrust)
    link = InheritedLink(Owner(), PEER)
    older = InheritedConnection(link)
    wire = connected(older)
    older.on_greeting(Welcome(VERSION, CLUSTER, PEER))
    assert link.is_established
    await link.adopt(cast(Any, SimpleNamespace(setblocking=lambda blocking: None)))
    assert wire.aborted and not link.is_established and len(entrusted) == 1
