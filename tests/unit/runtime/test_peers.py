"""Which peers a transport has links to, and what becomes of a frame; without sockets."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typing_extensions import override

from troth.ids import ClusterId, NodeId
from troth.runtime import transport as transport_module
from troth.runtime.complaints import REASONS_MAX
from troth.runtime.links import QUEUE_BYTES_MAX, InheritedLink, Link, LinkConnection, LinkOwner
from troth.runtime.transport import ACCEPTED_MAX, AcceptedPeer, PeerTransport, refused_as_client
from troth.wire.frames import HEAD
from troth.wire.handshake import Hello, Rejected

A, B, C, D = (NodeId(number) for number in (11, 22, 33, 44))


class Dialed(Link):
    """A link that dials nobody."""

    made: list["Dialed"]

    def __init__(self, owner: LinkOwner, peer: NodeId, address_text: str) -> None:
        super().__init__(owner, peer)
        self.address_text = address_text
        self.closed = False
        self.hurried = 0
        self.pending: list[bytes] = []
        self.made.append(self)

    @override
    def keep_pending(self, body: bytes) -> bool:
        self.pending.append(body)
        return len(self.pending) < 3

    @override
    def on_lost(self, connection: LinkConnection) -> None: ...

    def hurry(self) -> None:
        self.hurried += 1

    @override
    def close(self) -> None:
        self.closed = True


class Sink:
    def __init__(self) -> None:
        self.told: list[object] = []

    def on_peer_frame(self, sender: NodeId, body: bytes) -> None:
        self.told.append((sender, body))
        if body == b"bad":
            raise ValueError

    def on_heard(self) -> None:
        self.told.append("heard")

    def on_suspect(self, peer: NodeId) -> None: ...

    def on_unreachable(self, peer: NodeId) -> None:
        self.told.append(peer)

    def on_removed(self, peer: NodeId, term: int, text: str) -> None: ...


class Socket:
    """A connection of which only what waits in it, and what was sent, matters."""

    def __init__(self, waiting_bytes: int = 0, sender: NodeId = B) -> None:
        self.sent: list[bytes] = []
        self.aborted = False
        self.sender = sender
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: waiting_bytes, abort=self._abort)

    def _abort(self) -> None:
        self.aborted = True

    def send(self, body: bytes) -> None:
        self.sent.append(body)


def accepted(socket: Socket) -> AcceptedPeer:
    return cast(AcceptedPeer, socket)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Dialed]:
    Dialed.made = []
    monkeypatch.setattr(transport_module, "DialedLink", Dialed)
    return Dialed.made


@pytest.fixture
def peers(made: list[Dialed]) -> PeerTransport:
    transport = PeerTransport(node_id=A, name="a", sink=Sink(), seed=1)
    transport.cluster_id, transport.accept_peers = ClusterId(7), True
    return transport


def told(peers: PeerTransport) -> list[object]:
    return cast(Sink, peers.sink).told


def connect(link: Link, socket: Socket) -> None:
    link.connection = cast(LinkConnection, socket)


# ---- who there is ----


def test_links_come_go_and_move_with_the_membership(peers: PeerTransport, made: list[Dialed]) -> None:
    peers.set_peers({A: "a:1", B: "b:1", C: "c:1"})
    assert [(link.peer, link.address_text) for link in made] == [(B, "b:1"), (C, "c:1")]
    b, c = made
    peers.set_peers({A: "a:1", B: "b:1", C: "c:2"})
    assert [(link.peer, link.address_text) for link in made[2:]] == [(C, "c:2")]
    assert (b.closed, c.closed) == (False, True)
    peers.set_peers({B: "b:1"})
    assert (b.closed, made[2].closed) == (False, True)
    assert set(peers.queued_bytes()) == {B}
    peers.set_peers({B: "", D: ""})
    assert b.closed is False and set(peers.queued_bytes()) == {B, D}
    assert isinstance(peers._links[D], InheritedLink)


def test_only_peers_whose_link_stands_are_connected(peers: PeerTransport, made: list[Dialed]) -> None:
    peers.set_peers({B: "b:1", C: "c:1"})
    connect(made[0], Socket())
    assert peers.connected() == {B}


def test_a_transport_that_closes_ends_its_links_and_whoever_has_called(
    peers: PeerTransport, made: list[Dialed]
) -> None:
    peers.set_peers({B: "b:1"})
    caller = Socket()
    assert peers.opened(accepted(caller)) and peers.is_open
    peers.close()
    assert made[0].closed and caller.aborted and not peers.is_open


# ---- frames that leave ----


def test_a_frame_is_sent_while_no_more_waits_than_may(peers: PeerTransport, made: list[Dialed]) -> None:
    peers.set_peers({B: "b:1"})
    fits, full = Socket(QUEUE_BYTES_MAX - 4), Socket(QUEUE_BYTES_MAX - 3)
    connect(made[0], fits)
    peers.send(B, b"body")
    assert fits.sent == [b"body"] and told(peers) == []
    connect(made[0], full)
    peers.send(B, b"body")
    assert full.sent == [] and told(peers) == [B]
    counters = peers.counters
    assert (counters.frames_sent, counters.bytes_sent, counters.frames_dropped) == (1, 4 + HEAD.size, 1)


def test_while_a_link_does_not_stand_a_caller_is_answered_where_it_called(
    peers: PeerTransport, made: list[Dialed]
) -> None:
    peers.set_peers({B: "b:1"})
    peers.send(B, b"kept")
    caller, slow = Socket(), Socket(QUEUE_BYTES_MAX)
    peers.peer_called(B, accepted(caller))
    peers.send(B, b"answer")
    assert (made[0].pending, caller.sent) == ([b"kept"], [b"answer"])
    peers.peer_called(B, accepted(slow))
    peers.send(B, b"too much")
    assert slow.sent == [] and told(peers) == [B]
    peers.lost(accepted(slow))
    for _ in range(2):
        peers.send(B, b"kept")
    assert told(peers) == [B, B], "the link keeps no more"
    peers.send(C, b"to nobody")
    assert told(peers) == [B, B, C]


# ---- frames and connections that come ----


def test_a_peer_that_calls_is_up_and_its_older_connection_is_over(
    peers: PeerTransport, made: list[Dialed]
) -> None:
    peers.set_peers({B: "b:1"})
    older, newer = Socket(), Socket()
    for caller in (older, newer, newer):
        peers.peer_called(B, accepted(caller))
    assert (older.aborted, newer.aborted, made[0].hurried) == (True, False, 3)
    peers.lost(accepted(older))
    peers.send(B, b"x")
    assert newer.sent == [b"x"], "its end says nothing of the newer one"


def test_frames_of_one_read_are_heard_together_also_when_one_of_them_is_none(peers: PeerTransport) -> None:
    peers.frame_received(B, [b"1", b"2"])
    with pytest.raises(ValueError):
        peers.frame_received(B, [b"3", b"bad", b"4"])
    assert told(peers) == [(B, b"1"), (B, b"2"), "heard", (B, b"3"), (B, b"bad"), "heard"]
    assert peers.counters.bytes_received == 4 * HEAD.size + 6


def test_so_many_connections_are_taken_and_those_that_end_make_room(peers: PeerTransport) -> None:
    sockets = [Socket() for _ in range(ACCEPTED_MAX)]
    assert all(peers.opened(accepted(socket)) for socket in sockets)
    assert not peers.opened(accepted(Socket()))
    assert peers.counters.refusals == 1
    peers.lost(accepted(sockets[0]))
    assert peers.opened(accepted(Socket()))


def test_strangers_are_shown_out_and_nobody_else(peers: PeerTransport) -> None:
    sockets = [Socket(sender=NodeId(number)) for number in (0, B, C)]
    for socket in sockets:
        peers.opened(accepted(socket))
    peers.refuse_stranger = lambda peer: Rejected("removed", "") if peer in (0, C) else None
    peers.close_strangers()
    assert [socket.aborted for socket in sockets] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda peers: None, None),
        (lambda peers: setattr(peers, "accept_peers", False), "unavailable"),
        (lambda peers: setattr(peers, "cluster_id", ClusterId(8)), "wrong_cluster"),
        (lambda peers: setattr(peers, "node_id", D), "wrong_cluster"),
        (lambda peers: setattr(peers, "refuse_stranger", lambda peer: Rejected("removed", f"{peer}")), "removed"),
    ],
)
def test_a_peer_comes_in_when_it_means_this_very_server(
    peers: PeerTransport, change: Callable[[Any], None], code: str | None
) -> None:
    change(peers)
    refusal = peers.greeting_refusal(Hello("peer", cluster_id=ClusterId(7), node_id=B, to=A))
    assert (None if refusal is None else refusal.code) == code
    old = peers.greeting_refusal(Hello("peer", version=1, cluster_id=ClusterId(7), node_id=B, to=A))
    assert old is not None and old.code == "protocol"


def test_a_warning_is_told_once_until_it_is_over(peers: PeerTransport, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        peers.warn_once("full", "it is full")
    assert len(caplog.records) == 1
    peers.calmed("full")
    peers.warn_once("full", "it is full")
    peers.warn_once("other", "something else")
    assert len(caplog.records) == 3


def test_another_reason_is_news(peers: PeerTransport, caplog: pytest.LogCaptureFixture) -> None:
    """A server that comes back with another wrong certificate is another fault, and its operator looks for a line."""
    for reason in (OSError("expired"), OSError("self-signed"), OSError("expired"), TimeoutError()):
        peers.warn_once("dial", "it can not be reached", "again", reason=reason)
    assert [record.message.split("; ")[1] for record in caplog.records] == [
        "expired)",
        "self-signed)",
        "TimeoutError)",
    ]
    for number in range(2 * REASONS_MAX):
        peers.warn_once("dial", "it can not be reached", reason=OSError(f"{number}"))
    assert len(caplog.records) == REASONS_MAX
    peers.calmed("dial")
    peers.warn_once("dial", "it can not be reached", reason=OSError("expired"))
    assert len(caplog.records) == REASONS_MAX + 1


@pytest.mark.parametrize(
    ("certificate", "refused"),
    [(None, False), ({}, False), ({"subject": ()}, True), ({"subjectAltName": (("DNS", "a"),)}, False)],
)
def test_a_certificate_that_names_no_host_opens_no_peer_port(certificate: object, refused: bool) -> None:
    transport = SimpleNamespace(get_extra_info=lambda name: certificate if name == "peercert" else None)
    assert bool(refused_as_client(cast(Any, transport))) == refused
