"""One link to one other server: dialed over an address, or inherited as one end of a socket pair.

See runtime/transport.py for how links are used. A link is *established* between a welcome and the end of its
connection; what is sent in between attempts is kept for a moment when there is hope, else dropped.
"""

import asyncio
import random
import socket
import ssl
from abc import ABC, abstractmethod
from typing import Protocol

from typing_extensions import override

from troth.errors import DecodeError, Removed, TrothError, Unavailable, UsageError, WrongCluster
from troth.ids import ClusterId, NodeId
from troth.runtime.addresses import parse_address
from troth.runtime.streams import FrameConnection, entrust, is_refusal, open_connection
from troth.wire.frames import FRAME_BYTES_MAX
from troth.wire.handshake import VERSION, Greeting, Hello, Rejected, Welcome

QUEUE_BYTES_MAX = 64 << 20
"""Bytes that may wait for one peer's socket. The engine's own flow control stays well below in normal work."""

PENDING_BYTES_MAX = 4 << 20
"""Bytes that may wait while a link is being dialed for the first time, or at once after a loss."""

BACKOFF_SECONDS_MIN = 0.01
BACKOFF_SECONDS_MAX = 1.0
CONNECT_SECONDS_MAX = 2.0


class PeerSink(Protocol):
    """Who receives what peers say (the node)."""

    def on_peer_frame(self, sender: NodeId, body: bytes) -> None:
        """A frame from *sender*; `on_heard` follows. Raises DecodeError when it is no batch of messages."""

    def on_heard(self) -> None:
        """All frames that one read of a socket has brought were handed over."""

    def on_suspect(self, peer: NodeId) -> None:
        """The process of *peer* is gone."""

    def on_unreachable(self, peer: NodeId) -> None:
        """Something for *peer* was dropped."""

    def on_removed(self, peer: NodeId, term: int, text: str) -> None:
        """*peer*, which leads in *term*, says that this server is no member of the cluster any more."""


class TransportCounters:
    """What the metrics show of the peers' connections."""

    def __init__(self) -> None:
        self.frames_sent = 0
        self.bytes_sent = 0
        self.frames_received = 0
        self.bytes_received = 0
        self.frames_dropped = 0
        self.connects = 0
        self.suspicions = 0
        self.garbage = 0
        self.refusals = 0


class LinkOwner(Protocol):
    """What a link needs of the transport it belongs to."""

    node_id: NodeId
    name: str
    cluster_id: ClusterId
    counters: TransportCounters
    sink: PeerSink
    tls: ssl.SSLContext | None
    chance: random.Random

    @property
    def is_open(self) -> bool: ...

    def greeting_refusal(self, hello: Hello) -> Rejected | None: ...

    def frame_received(self, sender: NodeId, bodies: list[bytes]) -> None: ...

    def garbage(self, origin: str, error: DecodeError) -> None: ...

    def warn_once(self, kind: str, text: str, *facts: object, reason: BaseException | None = None) -> None: ...

    def calmed(self, kind: str) -> None: ...


def send_bounded(connection: FrameConnection, body: bytes) -> bool:
    """Queue one frame unless too many bytes wait already; False when it was dropped."""
    if connection.transport.get_write_buffer_size() + len(body) > QUEUE_BYTES_MAX:
        return False
    connection.send(body)
    return True


class Link(ABC):
    """What the transport needs of a way to one peer."""

    def __init__(self, owner: LinkOwner, peer: NodeId) -> None:
        self.owner = owner
        self.peer = peer
        self.connection: LinkConnection | None = None

    def refuse_more(self) -> bool:
        """What waits for the peer's socket is more than it may be: say so. False: it was dropped."""
        self.owner.warn_once(f"full {self.peer:x}", f"server {self.peer:x} does not read; messages are dropped")
        return False

    def keep_pending(self, body: bytes) -> bool:
        """Hold *body* until the connection stands; False when it must be dropped."""
        return False

    @property
    def is_established(self) -> bool:
        return self.connection is not None

    @property
    def queued_bytes(self) -> int:
        return 0 if self.connection is None else self.connection.transport.get_write_buffer_size()

    def on_established(self, connection: "LinkConnection") -> None:
        self.connection = connection

    @abstractmethod
    def on_lost(self, connection: "LinkConnection") -> None:
        """The connection has ended."""

    def close(self) -> None:
        if self.connection is not None:
            self.connection.transport.abort()
            self.connection = None


class LinkConnection(FrameConnection):
    """The dialing side: greets, waits for the welcome, then sends."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.outcome: asyncio.Future[Rejected | None] = asyncio.get_running_loop().create_future()
        """None once the peer has welcomed us. An OSError when the connection ends before."""

    @override
    def on_opened(self) -> None:
        owner, peer = self.link.owner, self.link.peer
        self.greet(
            Hello("peer", cluster_id=owner.cluster_id, node_id=owner.node_id, to=peer, name=owner.name),
        )

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        owner = self.link.owner
        match greeting:
            case Welcome() if greeting.node_id == self.link.peer and greeting.cluster_id == owner.cluster_id:
                self._established()
            case Welcome():
                self.settle(Rejected(WrongCluster.code, f"server {greeting.name} ({greeting.node_id:x}) answered"))
                self.transport.abort()
            case Rejected():
                self.settle(greeting)
                self.transport.abort()
            case Hello():
                raise DecodeError("both sides of a connection greet as the dialer")

    def _established(self) -> None:
        self.admit(FRAME_BYTES_MAX)
        self.settle(None)
        self.link.on_established(self)

    def settle(self, outcome: Rejected | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        # A peer that does not know our address yet answers where we called it.
        self.link.owner.frame_received(self.link.peer, bodies)

    @override
    def on_garbage(self, error: DecodeError) -> None:
        self.link.owner.garbage(f"server {self.link.peer:x}", error)

    @override
    def on_closed(self, error: Exception | None) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(ConnectionResetError("closed during the handshake"))
            # The dialer may have timed out already; nobody else asks.
            self.outcome.exception()
        elif self.link.connection is self:
            self.link.connection = None
            self.link.on_lost(self)


class DialedLink(Link):
    """A link over an address that can be dialed again."""

    def __init__(self, owner: LinkOwner, peer: NodeId, address_text: str) -> None:
        super().__init__(owner, peer)
        self.address_text = address_text
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._hopeful = True
        """Whether a first attempt is under way, so that messages are worth keeping for a moment."""
        self._wake = asyncio.Event()
        self._down = asyncio.Event()
        self._was_established = False
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    @override
    def keep_pending(self, body: bytes) -> bool:
        if not self._hopeful or self._pending_bytes + len(body) > PENDING_BYTES_MAX:
            return False
        self._pending.append(body)
        self._pending_bytes += len(body)
        return True

    def hurry(self) -> None:
        """Dial now instead of waiting for the end of the back-off."""
        self._wake.set()

    @override
    def on_established(self, connection: LinkConnection) -> None:
        super().on_established(connection)
        self._down.clear()
        self._was_established = True
        self.owner.counters.connects += 1
        self.owner.calmed(f"full {self.peer:x}")
        self.owner.calmed(f"dial {self.peer:x}")
        for body in self._pending:
            connection.send(body)
        self._forget_pending()

    @override
    def on_lost(self, connection: LinkConnection) -> None:
        self._hopeful = True
        self._down.set()

    def _forget_pending(self) -> bool:
        had = bool(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        return had

    async def _keep_connected(self) -> None:
        backoff_s = BACKOFF_SECONDS_MIN
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            began_s = loop.time()
            failure = await self._dial()
            if failure is None:
                await self._down.wait()
                if loop.time() - began_s > BACKOFF_SECONDS_MAX:
                    backoff_s = BACKOFF_SECONDS_MIN
                    continue
                # A peer that welcomes us and hangs up must not be dialed in a tight loop.
            else:
                self._on_dial_failed(failure)
            # Full jitter: servers that lost each other together do not meet again in lockstep.
            wait_s = backoff_s * (0.5 + 0.5 * self.owner.chance.random())
            backoff_s = min(backoff_s * 2, BACKOFF_SECONDS_MAX)
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
                backoff_s = BACKOFF_SECONDS_MIN
            except TimeoutError:
                pass

    async def _dial(self) -> BaseException | None:
        """One attempt; None when the link stands."""
        connection = LinkConnection(self)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await open_connection(connection, parse_address(self.address_text), tls=self.owner.tls)
                rejected = await connection.outcome
        except BaseException as error:
            connection.hang_up()
            if isinstance(error, OSError | UsageError):
                return error
            raise
        if rejected is not None:
            if rejected.code == Removed.code:
                self.owner.sink.on_removed(self.peer, rejected.term, rejected.text)
            return Unavailable(rejected.text) if rejected.code == Unavailable.code else TrothError(rejected.text)
        return None if self.connection is connection else ConnectionResetError("closed at once")

    def _on_dial_failed(self, failure: BaseException) -> None:
        self._hopeful = False
        if self._forget_pending():
            self.owner.sink.on_unreachable(self.peer)
        if self._was_established and is_refusal(failure):
            # Only the first refusal after a loss is news. Other failures may come before it: a dying process
            # closes its sockets one by one.
            self.owner.counters.suspicions += 1
            self.owner.sink.on_suspect(self.peer)
            self._was_established = False
        if not is_refusal(failure) and not isinstance(failure, Unavailable | ConnectionResetError):
            # (A server that is starting or ending is no news either.)
            self.owner.warn_once(
                f"dial {self.peer:x}",
                f"server {self.peer:x} at {self.address_text} can not be reached",
                reason=failure,
            )

    @override
    def close(self) -> None:
        self._task.cancel()
        super().close()


class InheritedLink(Link):
    """A link over socket pairs that the parent process hands out; only the parent can replace one that ended."""

    async def adopt(self, end: socket.socket) -> None:
        if self.connection is not None:
            self.connection.transport.abort()
            self.connection = None
        end.setblocking(False)
        await entrust(InheritedConnection(self), end)

    @override
    def on_lost(self, connection: LinkConnection) -> None:
        if self.owner.is_open:
            self.owner.counters.suspicions += 1
            self.owner.sink.on_suspect(self.peer)


class InheritedConnection(LinkConnection):
    """Both directions on one socket pair."""

    @property
    def _greets_first(self) -> bool:
        return self.link.owner.node_id < self.link.peer

    @override
    def on_opened(self) -> None:
        if self._greets_first:
            super().on_opened()

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        owner = self.link.owner
        if self._greets_first or not isinstance(greeting, Hello):
            super().on_greeting(greeting)
            return
        rejected = owner.greeting_refusal(greeting)
        if rejected is not None:
            owner.counters.refusals += 1
            self.settle(rejected)
            self.refuse(rejected.code, rejected.text)
            return
        self.greet(Welcome(min(greeting.version, VERSION), owner.cluster_id, owner.node_id, owner.name))
        self._established()
