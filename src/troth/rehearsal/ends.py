"""One end of a simulated connection, as the protocol that owns it sees it: an asyncio transport."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from troth.rehearsal.loop import ProcessLoop
    from troth.rehearsal.network import Network

HIGH_BYTES = 64 << 10
SOCKET_BYTES = 128 << 10
"""What the kernels at both ends hold; only what is behind that waits in the process."""

Address = tuple[str, int]
EOF = b""
"""What arrives last when the other side has closed."""


class Listener:
    """What `create_server` gives: an address that is bound, where nobody is let in before `start_serving`."""

    sockets = ()

    def __init__(
        self, network: "Network", loop: "ProcessLoop", factory: Callable[[], Any], address: Address
    ) -> None:
        self._network = network
        self._there = (loop, factory)
        self._address = address

    async def start_serving(self) -> None:
        self.open()

    def open(self) -> None:
        self._network.listeners[self._address] = self._there

    def close(self) -> None:
        self._network.listeners.pop(self._address, None)


class End:
    """One end of a connection; a transport to the protocol that owns it."""

    def __init__(self, network: "Network", loop: "ProcessLoop", number: int) -> None:
        self.network = network
        self.loop = loop
        self.number = number
        self.protocol: Any = None
        self.peer: End
        self.last_arrival_us = 0
        self.pipe: deque[bytes | None] = deque()
        """What has left this end and not arrived yet, oldest first. An arrival takes the oldest, whichever it was
        meant for, so that bytes never overtake each other."""
        self.stalled = 0
        """Arrivals that met a cut link; they happen when it is whole again."""
        self.unread_bytes = 0
        self._closing = False
        self._gone = False
        self._held: list[bytes | None] | None = None
        self._blocked = False

    # ---- asyncio's side --------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self.unread_bytes += len(data)
        self.network.carry(self, bytes(data))
        if not self._blocked and self.unread_bytes > SOCKET_BYTES + HIGH_BYTES:
            self._blocked = True
            self.loop.call_soon(self.protocol.pause_writing)

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.network.carry(self, EOF)
            self.loop.call_soon(self._finish, None)

    def abort(self) -> None:
        if not self._gone:
            already, self._closing = self._closing, True
            self.network.carry(self, None)
            if not already:
                self.loop.call_soon(self._finish, None)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._held is None

    def pause_reading(self) -> None:
        if self._held is None:
            self._held = []

    def resume_reading(self) -> None:
        held, self._held = self._held or [], None
        for item in held:
            self.loop.call_soon(self.take, item)

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes - SOCKET_BYTES if self.unread_bytes > SOCKET_BYTES else 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self.peer.loop.host, self.number) if name == "peername" else default

    # ---- the network's side ----------------------------------------------------------------------------

    def take(self, item: bytes | None) -> None:
        """*item* has arrived (in this end's process): bytes, an end of file, or a reset."""
        if self._gone:
            return
        if self._held is not None:
            self._held.append(item)
        elif item is None:
            self._closing = True
            self._finish(reset())
        elif item == EOF:
            if not self._closing:
                self.protocol.eof_received()
                self._closing = True
                self._finish(None)
        else:
            peer = self.peer
            peer.unread_bytes -= len(item)
            if peer._blocked:
                peer.was_read()
            if not self._closing:
                self.protocol.data_received(item)

    def was_read(self) -> None:
        """The other side has taken in some of what kept this one from writing."""
        if self.unread_bytes <= SOCKET_BYTES + HIGH_BYTES // 4:
            self._blocked = False
            if not self._closing:
                self.loop.call_soon(self.protocol.resume_writing)

    def time_out(self, since: int) -> None:
        """What was sent at *since* has not been acknowledged for so long that the kernel gives up."""
        if self.stalled and since == self.last_arrival_us and not self._gone:
            self._closing = True
            self.loop.enter(self._finish, TimeoutError("the other side does not answer (simulated)"))

    def _finish(self, error: Exception | None) -> None:
        if not self._gone:
            self._gone = True
            self.network.forget(self)
            if self.protocol is not None:
                self.protocol.connection_lost(error)


def reset() -> ConnectionResetError:
    return ConnectionResetError("the connection was reset by the other side (simulated)")
