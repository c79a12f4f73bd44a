"""Peers: one link to each other server, and the port on which the others reach us.

Each server dials every peer and sends on the connection that it dialed itself. So two servers that start at the
same moment need no rule about whose connection survives, each end knows whether its own sending half is sound, and
a closed connection has one owner who dials again. The price, a second socket per pair, is paid once. Only while
its own connection does not stand does a server answer on the one that the peer dialed: a server that has just
joined does not know the others' addresses before the log has told them. (Inherited socket pairs, where nobody can
dial, carry both directions anyway.)

Death hint. When the process at the other end dies, the kernel closes its connections. A link that loses its
established connection therefore dials again at once: if that is *refused*, nobody listens there any more and the
replica is told to suspect the peer (it may then ask for votes instead of waiting for its election timeout). If it
succeeds, the connection merely flapped and nobody is told. For a socket pair, end-of-file itself is the hint.

Nothing here may block or grow: what can not be sent within `QUEUE_BYTES_MAX` is dropped and the replica hears
`unreachable`, which makes it probe instead of pipelining. Consensus is built for lost messages.
"""

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable, Mapping

from typing_extensions import override

from troth.errors import DecodeError, ProtocolError, Unavailable, WrongCluster
from troth.ids import ClusterId, NodeId
from troth.runtime.complaints import Complaints
from troth.runtime.links import (
    QUEUE_BYTES_MAX,
    DialedLink,
    InheritedLink,
    Link,
    PeerSink,
    TransportCounters,
    send_bounded,
)
from troth.runtime.streams import FrameConnection, origin_of, version_refusal
from troth.wire.frames import FRAME_BYTES_MAX, HEAD
from troth.wire.handshake import VERSION, Greeting, Hello, Rejected, Welcome

ACCEPTED_MAX = 1024
"""Connections on the peer port, strangers included; a cluster needs one per other server."""

_log = logging.getLogger("troth.peers")


class PeerTransport:
    """All links of one server. Addresses come from the membership in force (`set_peers`)."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        name: str,
        sink: PeerSink,
        tls: ssl.SSLContext | None = None,
        seed: int | None = None,
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.cluster_id = ClusterId(0)
        self.counters = TransportCounters()
        self.sink = sink
        self.tls = tls
        self.answer_probe: Callable[[], bytes] = lambda: b""
        """The frame that follows the Welcome of a probe (see runtime/genesis.py)."""
        self.refuse_stranger: Callable[[NodeId], Rejected | None] = lambda peer: None
        """Why a server that says it belongs to our cluster does not; None when it may."""
        self.called_early: Callable[[Hello], None] = lambda hello: None
        """A server that says it has us in its membership has called before `accept_peers`."""
        self.accept_peers = False
        """Off until this server knows its cluster; probes are answered all the same."""
        self.chance = random.Random(seed)
        self._links: dict[NodeId, Link] = {}
        self._accepted: set[AcceptedPeer] = set()
        self._callers: dict[NodeId, AcceptedPeer] = {}
        """The newest accepted connection of each peer that has one."""
        self._complaints = Complaints(_log)
        self.warn_once = self._complaints.warn_once
        self.calmed = self._complaints.calmed
        self._closing = False

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, peer: NodeId, body: bytes) -> None:
        """Send one frame, or drop it and say so."""
        link = self._links.get(peer)
        connection = None if link is None else link.connection
        size_bytes = len(body)
        if connection is not None and connection.transport.get_write_buffer_size() + size_bytes <= QUEUE_BYTES_MAX:
            connection.send(body)
            sent = True
        elif link is not None and connection is not None:
            sent = link.refuse_more()
        elif peer in self._callers:
            sent = send_bounded(self._callers[peer], body)
        else:
            sent = link is not None and link.keep_pending(body)
        if not sent:
            self.counters.frames_dropped += 1
            self.sink.on_unreachable(peer)
            return
        self.counters.frames_sent += 1
        self.counters.bytes_sent += size_bytes + HEAD.size

    def queued_bytes(self) -> dict[NodeId, int]:
        """Bytes that wait for each peer's socket."""
        return {peer: link.queued_bytes for peer, link in self._links.items()}

    def connected(self) -> frozenset[NodeId]:
        """Peers that we could send to at this moment."""
        return frozenset(peer for peer, link in self._links.items() if link.is_established)

    # -- who there is ----------------------------------------------------------------------------------------

    def set_peers(self, addresses: Mapping[NodeId, str]) -> None:
        """Keep a link to each of *addresses* (peer addresses by node), drop the others.

        An empty address means that the peer comes through an inherited socket (`adopt`).
        """
        for peer in [known for known in self._links if known not in addresses]:
            self._links.pop(peer).close()
        for peer, text in addresses.items():
            if peer == self.node_id:
                continue
            link = self._links.get(peer)
            if link is not None and isinstance(link, DialedLink) and link.address_text == text:
                continue
            if not text:
                self._links.setdefault(peer, InheritedLink(self, peer))
                continue
            if link is not None:
                link.close()
            self._links[peer] = DialedLink(self, peer, text)

    async def adopt(self, peer: NodeId, end: socket.socket) -> None:
        """Talk to *peer* over one *end* of a socket pair, both ways. Replaces an earlier one.

        The server with the smaller node id greets first.
        """
        link = self._links.get(peer)
        if not isinstance(link, InheritedLink):
            if link is not None:
                link.close()
            link = self._links[peer] = InheritedLink(self, peer)
        await link.adopt(end)

    # -- the port --------------------------------------------------------------------------------------------

    def accept(self) -> asyncio.Protocol:
        """Protocol factory of the peer port's listening sockets."""
        return AcceptedPeer(self)

    def close(self) -> None:
        """Close all connections; the listening sockets are their owner's."""
        self._closing = True
        for link in self._links.values():
            link.close()
        for accepted in list(self._accepted):
            accepted.transport.abort()

    # -- for links and accepted connections ------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return not self._closing

    def introduce(self, connection: FrameConnection) -> None:
        """Answer a probe that has come in on *connection*."""
        connection.admit(FRAME_BYTES_MAX)
        connection.greet(Welcome(VERSION, self.cluster_id, self.node_id, self.name))
        connection.send(self.answer_probe())
        connection.show_out()  # or idle probes would take the places of others

    def greeting_refusal(self, hello: Hello) -> Rejected | None:
        """Why *hello* may not come in as a peer; None when it may."""
        if text := version_refusal(hello):
            return Rejected(ProtocolError.code, text)
        if not self.accept_peers:
            if hello.to == self.node_id:
                self.called_early(hello)
            return Rejected(
                Unavailable.code, f"server {self.name} does not belong to a cluster yet; it is starting"
            )
        if hello.cluster_id != self.cluster_id:
            return Rejected(
                WrongCluster.code,
                f"server {self.name} belongs to cluster {self.cluster_id:x}, not {hello.cluster_id:x}: "
                "check the peer addresses of both",
            )
        if hello.to != self.node_id:
            return Rejected(
                WrongCluster.code,
                f"this address now belongs to server {self.name} ({self.node_id:x}), not to {hello.to:x}: "
                "the other was moved or its data directory was replaced",
            )
        return self.refuse_stranger(hello.node_id)

    def close_strangers(self) -> None:
        """End the connections of servers that would not be let in now; they hear why when they dial again."""
        for accepted in list(self._accepted):
            if accepted.sender and self.refuse_stranger(accepted.sender) is not None:
                accepted.transport.abort()

    def frame_received(self, sender: NodeId, bodies: list[bytes]) -> None:
        counters, sink = self.counters, self.sink
        try:
            for body in bodies:
                counters.frames_received += 1
                counters.bytes_received += len(body) + HEAD.size
                sink.on_peer_frame(sender, body)
        finally:
            sink.on_heard()

    def peer_called(self, peer: NodeId, connection: "AcceptedPeer") -> None:
        """*peer* has just connected to us, so it is up: do not sit out a back-off."""
        older = self._callers.get(peer)
        if older is not None and older is not connection:
            # It belongs to a process that is gone, or was given up. What still lies in it must not be heard after what
            # the new one says: a server that has lost a part of its log takes back what it had acknowledged.
            older.transport.abort()
        self._callers[peer] = connection
        link = self._links.get(peer)
        if isinstance(link, DialedLink):
            link.hurry()

    def garbage(self, origin: str, error: DecodeError) -> None:
        self.counters.garbage += 1
        self.warn_once("garbage", "closed a connection on the peer port that sent no troth frames", origin, error)

    def opened(self, connection: "AcceptedPeer") -> bool:
        """Whether there is room for one more."""
        if len(self._accepted) >= ACCEPTED_MAX:
            self.counters.refusals += 1
            return False
        self._accepted.add(connection)
        return True

    def lost(self, connection: "AcceptedPeer") -> None:
        self._accepted.discard(connection)
        if self._callers.get(connection.sender) is connection:
            del self._callers[connection.sender]


class AcceptedPeer(FrameConnection):
    """A connection on the peer port: a peer that sends to us, or a probe."""

    def __init__(self, owner: PeerTransport) -> None:
        super().__init__()
        self._owner = owner
        self.sender = NodeId(0)

    @override
    def on_opened(self) -> None:
        if not self._owner.opened(self):
            self.transport.abort()
            return
        if text := refused_as_client(self.transport):
            self.refuse(WrongCluster.code, text)

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        owner = self._owner
        match greeting:
            case Hello(kind="probe"):
                owner.introduce(self)
            case Hello(kind="peer"):
                rejected = owner.greeting_refusal(greeting)
                if rejected is not None:
                    owner.counters.refusals += 1
                    self.refuse(rejected.code, rejected.text, rejected.term)
                    return
                self.sender = greeting.node_id
                self.admit(FRAME_BYTES_MAX)
                self.greet(Welcome(min(greeting.version, VERSION), owner.cluster_id, owner.node_id, owner.name))
                owner.peer_called(greeting.node_id, self)
            case Hello():
                self.refuse(
                    ProtocolError.code, "this is the port for other servers; clients use the client address"
                )
            case _:
                raise DecodeError("the first frame must be a hello")

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        if not self.sender:
            raise DecodeError("a probe only listens")
        self._owner.frame_received(self.sender, bodies)

    @override
    def on_garbage(self, error: DecodeError) -> None:
        self._owner.garbage(origin_of(self.transport), error)

    @override
    def on_visitor(self, error: DecodeError) -> None:
        self._owner.counters.garbage += 1
        self._owner.warn_once("visitor", "another protocol was spoken to the peer port", reason=error)

    @override
    def on_closed(self, error: Exception | None) -> None:
        self._owner.lost(self)


def refused_as_client(transport: asyncio.Transport) -> str:
    """Why a TLS certificate that was made for a client does not open the peer port; empty when it is none.

    A server's certificate names the hosts it is reached under, as those who dial it demand; a client's names none.
    """
    certificate = transport.get_extra_info("peercert")
    if certificate and not certificate.get("subjectAltName"):
        return "this certificate names no host, so it is a client's; servers need one of their own (`troth certs`)"
    return ""
