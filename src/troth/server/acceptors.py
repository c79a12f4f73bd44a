"""An acceptor behind the client port of a server.

A connection whose greeting is of the kind ``"register"`` speaks to the acceptor: numbered requests in, numbered
answers out, in any order (core/register/codec.py). The Welcome names the acceptor's id, which is not the server's: it
belongs to the directory ``registers`` and is drawn anew when that is.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from troth.core.register.codec import decode_ask, encode_answer
from troth.core.register.messages import Conflict, ReplyMessage
from troth.errors import DecodeError, StorageError
from troth.ids import ClusterId
from troth.runtime.acceptors import AcceptorNode
from troth.runtime.disk_machine import DiskMachine
from troth.wire.frames import head
from troth.wire.handshake import VERSION, Hello, Welcome

DIRECTORY = "registers"
"""Of a server's data directory."""

IN_FLIGHT_MAX = 4096
"""Requests of one connection that are not answered yet."""

QUEUE_BYTES_MAX = 64 << 20
"""Answers that one connection has not read."""


class AcceptorSession:
    """One connection's requests, and its answers gathered into one write a turn."""

    def __init__(self, node: AcceptorNode, transport: asyncio.Transport) -> None:
        self._node = node
        self._transport = transport
        self._in_flight = 0
        self._parts: list[bytes] = []

    def on_bodies(self, bodies: list[bytes]) -> None:
        """Frames have arrived.

        Raises:
            DecodeError: they are no requests, or far too many.
        """
        for body in bodies:
            number, request = decode_ask(body)
            self._in_flight += 1
            if self._in_flight > IN_FLIGHT_MAX:
                raise DecodeError(f"more than {IN_FLIGHT_MAX} requests of one connection are unanswered")
            self._node.on_request(request, self._answering(number))

    def _answering(self, number: int) -> Callable[[ReplyMessage], None]:
        def answer(reply: ReplyMessage) -> None:
            self._in_flight -= 1
            if isinstance(reply, Conflict):
                self._node.counters.conflicts += 1
            body = encode_answer(number, reply)
            if not self._parts:
                asyncio.get_running_loop().call_soon(self._flush)
            self._parts += head(body), body

        return answer

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > QUEUE_BYTES_MAX:
            self._transport.abort()  # it does not read its answers
            return
        self._transport.write(data)


def welcome(node: AcceptorNode, hello: Hello, name: str) -> Welcome:
    """What a proposer is greeted with: the acceptor's id, and the set that it belongs to (0: to none yet)."""
    config = node.acceptor.config
    cluster = ClusterId(0 if config is None else config.id.cluster)
    return Welcome(min(hello.version, VERSION), cluster, node.acceptor.id, name)


class Registers:
    """The acceptor of a server, opened when the first proposer comes, or at the start if it has been there before."""

    def __init__(
        self,
        data_dir: str,
        *,
        machine: DiskMachine,
        failed: Callable[[BaseException], None],
        bytes_max: int,
        came_late: bool = False,
    ) -> None:
        """*came_late*: the server joined a cluster that ran already.

        Raises:
            StorageError: the directory is there and can not be used.
        """
        self._machine = machine
        self._directory = Path(data_dir) / DIRECTORY
        self._failed = failed
        self._bytes_max = bytes_max
        self._came_late = came_late
        self.node: AcceptorNode | None = None
        self._failure: StorageError | None = None
        if self._directory.exists():
            self.opened()

    def opened(self) -> AcceptorNode:
        """The acceptor; its directory is made if need be.

        Raises:
            StorageError: it can not be used, or could not be made. The first is known at the start. After the second
                (a full disk) nothing was promised, and it is not tried again by this process, which may see in the page
                cache what the disk never got.
        """
        if self._failure is not None:
            raise self._failure
        if self.node is None:
            try:
                self.node = AcceptorNode(
                    str(self._directory), machine=self._machine, failed=self._failed, bytes_max=self._bytes_max
                )
            except StorageError as error:
                self._failure = error
                raise
            self.node.acceptor.came_late = self._came_late
        return self.node

    def numbers(self) -> dict[str, int]:
        """For the metrics; empty while there is no acceptor."""
        if self.node is None:
            return {}
        held, done = self.node.acceptor.describe(), self.node.counters
        return {
            "registers": held.registers,
            "tombstones": held.tombstones,
            "bytes": held.bytes,
            "epoch": 0 if held.config is None else held.config.id.epoch,
            "seats": int(held.config is not None and held.config.seat_of(held.acceptor) is not None),
            "requests": done.requests,
            "turns": done.turns,
            "conflicts": done.conflicts,
            "snapshots": done.snapshots,
        }

    def stop(self) -> None:
        if self.node is not None:
            self.node.stop()
