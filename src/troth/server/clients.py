"""The port for native clients: connections in, batches of requests to the replica, answers out.

All requests of one read go to the replica together, and all answers of one turn of the loop leave in one write per
connection: with many requests outstanding, that is where the throughput comes from.

A client costs a bounded amount: so many connections, so large a frame, so many bytes of answers that it has not
read. Who goes over is cut off (it reconnects and asks again); nothing else is disturbed.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec
from typing_extensions import override

from troth.errors import DecodeError, Overloaded, ProtocolError, StorageError, Unavailable, WrongCluster
from troth.ids import ClusterId, NodeId
from troth.models import LevelName
from troth.replica.effects import ClientId
from troth.replica.pieces import LongAnswer
from troth.replica.protocol import WRITES_BYTES_MAX, ClientMessage, ReadResults, Reads, ServerMessage, Writes
from troth.runtime.acceptors import AcceptorNode
from troth.runtime.complaints import Complaints
from troth.runtime.streams import FrameConnection, origin_of, version_refusal
from troth.server.acceptors import REGISTER_FRAME_BYTES_MAX, AcceptorSession, Registers, welcome
from troth.wire.frames import ANSWER_BYTES_MAX, HEAD, frame, head, head_of
from troth.wire.handshake import VERSION, Greeting, Hello, Rejected, Welcome

CLIENT_FRAME_BYTES_MAX = 2 * WRITES_BYTES_MAX
"""A batch of writes may hold a single command above the batch's usual size; nothing a client says is larger."""

COPY_BYTES_MAX = 1 << 20
"""Larger answers to reads are not copied behind their head: very large ones would hold the loop."""

STRANGERS_MAX = 256
"""Connections that have not introduced themselves yet (they have a few seconds to)."""

_decode = msgspec.msgpack.Decoder(ClientMessage).decode
_encode = msgspec.msgpack.Encoder().encode

_log = logging.getLogger("troth.clients")


class ClientNode(Protocol):
    """What the port needs of the node."""

    node_id: NodeId
    name: str
    cluster_id: ClusterId

    def client_opened(self, client: ClientId) -> None: ...

    def on_client(self, client: ClientId, message: ClientMessage, raw: bytes) -> None: ...

    def on_heard(self) -> None: ...

    def client_paused(self, client: ClientId, *, paused: bool) -> None: ...

    def client_gone(self, client: ClientId) -> None: ...


class ClientCounters:
    """What the metrics show of clients."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
        self.garbage = 0
        self.cut_off = 0
        self.frames_received = 0
        self.frames_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.requests: dict[type, int] = {}
        self.reads: dict[LevelName, int] = {}
        self.commands = 0

    def operations(self) -> dict[str, int]:
        """Requests by kind: single commands and reads by level, the others by the name of their message."""
        counted = {f"read_{level.name.lower()}": count for level, count in self.reads.items()}
        counted.update({kind.__name__: count for kind, count in self.requests.items()})
        counted["commands"] = self.commands
        return counted


class ClientPort:
    """All client connections of one server."""

    def __init__(
        self, *, node: ClientNode, connections_max: int, queue_bytes_max: int, registers: Registers | None = None
    ) -> None:
        self.node = node
        self.registers = registers
        """The acceptor that proposers reach through this port, if there is one."""
        self.introduce: Callable[[FrameConnection], None] = FrameConnection.hang_up
        """Answers a probe: who is this server?"""
        self.counters = ClientCounters()
        self.connections: dict[ClientId, ClientConnection] = {}
        self._connections_max = connections_max
        self._queue_bytes_max = queue_bytes_max
        self._next: ClientId = 1
        self._strangers: set[ClientConnection] = set()
        self.warn_once = Complaints(_log).warn_once

    def accept(self) -> asyncio.Protocol:
        """Protocol factory of the client port's listening sockets."""
        return ClientConnection(self)

    def deliver(self, replies: Sequence[tuple[ClientId, ServerMessage | LongAnswer]]) -> None:
        """Send the answers of one turn: one write for each connection."""
        if len(replies) == 1 and type(replies[0][1]) is not LongAnswer:
            ((client, message),) = replies
            body, connection = _encode(message), self.connections.get(client)
            if len(body) > COPY_BYTES_MAX:
                self._deliver_long(client, [body])
            elif connection is not None:
                self._write(connection, frame(body))
                self.counters.frames_sent += 1
            return
        parts: dict[ClientId, list[bytes | bytearray]] = {}
        for client, message in replies:
            if type(message) is LongAnswer:
                self._deliver_long(client, message.pieces)
                continue
            body = _encode(message)
            # An answer to reads may overtake what else there is, others may not.
            if len(body) > (COPY_BYTES_MAX if type(message) is ReadResults else ANSWER_BYTES_MAX):
                self._deliver_long(client, [body])
                continue
            mine = parts.get(client)
            if mine is None:
                parts[client] = [head(body), body]
            else:
                mine.append(head(body))
                mine.append(body)
        for client, pieces in parts.items():
            connection = self.connections.get(client)
            if connection is not None:
                self._write(connection, b"".join(pieces))
                self.counters.frames_sent += len(pieces) // 2

    def _deliver_long(self, client: ClientId, pieces: list[bytes | bytearray]) -> None:
        """One frame, of which nothing is copied."""
        connection = self.connections.get(client)
        if sum(map(len, pieces)) > ANSWER_BYTES_MAX:
            self._cut_off(client, "a client asked for more than a frame can carry")
        elif connection is not None:
            self.counters.frames_sent += 1
            self._write(connection, head_of(pieces), *pieces)

    def _write(self, connection: "ClientConnection", *pieces: bytes | bytearray) -> None:
        transport = connection.transport
        waiting = transport.get_write_buffer_size()
        # What waits may be one large answer that is just being read; the bound is for what piles up behind it.
        if waiting > self._queue_bytes_max + connection.largest_bytes:
            self._cut_off(connection.client, "a client that does not read its answers was cut off")
            return
        size_bytes = sum(map(len, pieces))
        connection.largest_bytes = max(size_bytes, connection.largest_bytes if waiting else 0)
        self.counters.bytes_sent += size_bytes
        for piece in pieces:
            connection.write(piece)

    def _cut_off(self, client: ClientId, why: str) -> None:
        connection = self.connections.get(client)
        if connection is not None:
            self.counters.cut_off += 1
            self.warn_once("cut off", why, connection.origin)
            connection.transport.abort()

    def admit(self, connection: "ClientConnection", hello: Hello) -> Rejected | None:
        """Take *connection* in, or say why not."""
        if text := version_refusal(hello):
            return Rejected(ProtocolError.code, text)
        if hello.cluster_id and hello.cluster_id != self.node.cluster_id:
            return Rejected(
                WrongCluster.code,
                f"server {self.node.name} belongs to cluster {self.node.cluster_id:x}, the client talked to "
                f"{hello.cluster_id:x} before: check its addresses",
            )
        if len(self.connections) >= self._connections_max:
            return Rejected(
                Overloaded.code,
                f"server {self.node.name} has {len(self.connections)} clients, its limit (clients_max)",
            )
        connection.client = self._next
        self._next += 1
        self.connections[connection.client] = connection
        self.counters.accepted += 1
        return None

    def opened(self, connection: "ClientConnection") -> None:
        if len(self._strangers) >= STRANGERS_MAX:
            self.counters.refused += 1
            connection.transport.abort()
            return
        self._strangers.add(connection)

    def introduced(self, connection: "ClientConnection") -> None:
        self._strangers.discard(connection)

    def gone(self, client: ClientId) -> None:
        if self.connections.pop(client, None) is not None:
            self.node.client_gone(client)

    def queued_bytes(self) -> int:
        """Answers that wait for slow clients."""
        return sum(each.transport.get_write_buffer_size() for each in self.connections.values())

    def close(self) -> None:
        """Close all connections once what was sent has left."""
        for connection in [*self.connections.values(), *self._strangers]:
            connection.transport.close()


class ClientConnection(FrameConnection):
    """One client."""

    def __init__(self, port: ClientPort) -> None:
        super().__init__()
        self._port = port
        self.client: ClientId = 0
        self._session: AcceptorSession | None = None
        """When it is not a client but a proposer of registers."""
        self._is_proposer = False
        self.largest_bytes = 0
        """The largest write since nothing waited."""

    @property
    def origin(self) -> str:
        return origin_of(self.transport)

    @override
    def on_opened(self) -> None:
        self._port.opened(self)

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        if not isinstance(greeting, Hello) or self._is_proposer:
            raise DecodeError("the first frame must be a hello, and the only one")
        if greeting.kind == "probe":
            self._port.introduce(self)  # it stays a stranger, of whom there are not many
            return
        self._port.introduced(self)
        if greeting.kind == "register" and self._port.registers is not None:
            self._to_acceptor(greeting, self._port.registers)
            return
        if greeting.kind != "client":
            self.refuse(ProtocolError.code, "this is the port for clients; servers use the peer address")
            return
        rejected = self._port.admit(self, greeting)
        if rejected is not None:
            self._port.counters.refused += 1
            self.refuse(rejected.code, rejected.text)
            return
        node = self._port.node
        self.admit(CLIENT_FRAME_BYTES_MAX)
        self.greet(Welcome(min(greeting.version, VERSION), node.cluster_id, node.node_id, node.name))
        node.client_opened(self.client)

    def _to_acceptor(self, hello: Hello, registers: Registers) -> None:
        """A proposer: from now on it speaks to this server's acceptor (server/acceptors.py)."""
        rejected = self._port.admit(self, Hello("client", hello.version))
        if rejected is not None:
            self._port.counters.refused += 1
            self.refuse(rejected.code, rejected.text)
            return
        self._is_proposer = True
        registers.open(partial(self._on_acceptor, hello))

    def _on_acceptor(self, hello: Hello, acceptor: AcceptorNode | StorageError) -> None:
        if self.transport.is_closing():
            return
        if isinstance(acceptor, StorageError):
            # Without an acceptor this is a server still, and others are acceptors too.
            self._port.counters.refused += 1
            self._port.warn_once(
                "registers", "this server can not hold registers before it is started again", acceptor
            )
            self.refuse(Unavailable.code, f"server {self._port.node.name} can not hold registers: {acceptor}")
            return
        self.admit(REGISTER_FRAME_BYTES_MAX)
        self._session = AcceptorSession(acceptor, self.transport)
        self.greet(welcome(acceptor, hello, self._port.node.name))

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        if self._session is not None:
            self._session.on_bodies(bodies)
            return
        if not self.client:
            raise DecodeError("a probe only listens")
        counters, client, on_client = self._port.counters, self.client, self._port.node.on_client
        try:
            for body in bodies:
                counters.frames_received += 1
                counters.bytes_received += len(body) + HEAD.size
                try:
                    message = _decode(body)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise DecodeError(f"no message of the client protocol: {error}") from None
                kind = type(message)
                counters.requests[kind] = counters.requests.get(kind, 0) + 1
                if isinstance(message, Writes):
                    counters.commands += len(message.commands)
                elif isinstance(message, Reads):
                    level = message.level.name
                    counters.reads[level] = counters.reads.get(level, 0) + len(message.requests)
                on_client(client, message, body)
        finally:
            self._port.node.on_heard()

    @override
    def pause_writing(self) -> None:
        # Its watches wait while a client reads slowly; only answers to its own requests still pile up.
        if self._session is not None:
            self._session.pause_writing()
        elif self.client:
            self._port.node.client_paused(self.client, paused=True)

    @override
    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume_writing()
        elif self.client:
            self._port.node.client_paused(self.client, paused=False)

    @override
    def on_garbage(self, error: DecodeError) -> None:
        self._port.counters.garbage += 1
        self._port.warn_once("garbage", "closed a client connection that broke the protocol", self.origin, error)

    @override
    def on_visitor(self, error: DecodeError) -> None:
        self._port.counters.garbage += 1
        self._port.warn_once("visitor", "another protocol was spoken to the client port", reason=error)

    @override
    def on_closed(self, error: Exception | None) -> None:
        self._port.introduced(self)
        self._port.gone(self.client)
