"""A network between servers that can be cut, made of one TCP proxy in front of each server's peer port.

::

    n1 --dials--> [proxy of n2] --dials--> n2's peer port
                       |
                  who is it? the first bytes that n1 sends say so

A cut direction is held: bytes stay where they are, connections stay open, as when packets are dropped and sent again.
When it is healed they go on, so that what was said long ago arrives late; or the connections are reset. New
connections over a cut pair are accepted and lead nowhere, as an unanswered SYN would.

A proxy whose server is down does not listen: whoever dials is refused, as by a machine whose process has died.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

CHUNK_BYTES = 64 << 10
GREETING_BYTES_MAX = 4096
GREETING_SECONDS_MAX = 10.0

Identify = Callable[[bytes], str | None]
"""Who dials, read from the first bytes of a connection: a name, "" for nobody in particular, None if more is needed."""


@dataclass(slots=True)
class _Front:
    """One server's proxy."""

    target: tuple[str, int]
    public: tuple[str, int]
    server: asyncio.Server | None = None
    connections: set["_Connection"] = field(default_factory=set)


class Network:
    """All proxies. Every method runs on the event loop."""

    def __init__(self, identify: Identify) -> None:
        self.identify = identify
        self._fronts: dict[str, _Front] = {}
        self._cut: frozenset[tuple[str, str]] = frozenset()
        self._changed = asyncio.Event()
        self.bytes_held = 0
        self.connections_reset = 0

    async def add(self, name: str, *, public: tuple[str, int], target: tuple[str, int]) -> None:
        """Stand in front of the server called *name*: listen on *public*, dial *target*."""
        self._fronts[name] = _Front(target=target, public=public)
        await self.up(name)

    async def remove(self, name: str) -> None:
        """The server is no more."""
        await self.down(name)
        front = self._fronts.pop(name, None)
        for connection in set() if front is None else front.connections:
            connection.abort()

    async def up(self, name: str) -> None:
        """Listen for the server called *name*."""
        front = self._fronts[name]
        if front.server is None:
            host, port = front.public

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connection = _Connection(self, name, front, reader, writer)
                front.connections.add(connection)
                connection.task.add_done_callback(lambda _: front.connections.discard(connection))

            front.server = await asyncio.start_server(accept, host, port, limit=CHUNK_BYTES)

    async def down(self, name: str) -> None:
        """Refuse new connections to the server called *name*; it is about to die."""
        front = self._fronts.get(name)
        if front is not None and front.server is not None:
            front.server.close()
            front.server = None

    def cut(self, pairs: Collection[tuple[str, str]], *, reset: bool) -> None:
        """Nothing gets from one to the other for each of *pairs*; what else was cut goes on, or is *reset*."""
        healed = self._cut - frozenset(pairs)
        self._cut = frozenset(pairs)
        if reset:
            for front in self._fronts.values():
                for connection in list(front.connections):
                    if connection.uses(healed):
                        self.connections_reset += 1
                        connection.abort()
        self._changed.set()
        self._changed = asyncio.Event()

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Whether nothing gets from *sender* to *receiver*."""
        return (sender, receiver) in self._cut

    async def wait_open(self, sender: str, receiver: str) -> None:
        """Return when bytes may go from *sender* to *receiver*."""
        while self.is_cut(sender, receiver):
            await self._changed.wait()

    async def close(self) -> None:
        """End all connections and listen no more."""
        for name, front in self._fronts.items():
            await self.down(name)
            tasks = [connection.task for connection in front.connections]
            for connection in front.connections:
                connection.abort()
                connection.task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Connection:
    """One connection from a server to another through that one's proxy."""

    def __init__(
        self,
        network: Network,
        receiver: str,
        front: _Front,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._network = network
        self._receiver = receiver
        self._front = front
        self._reader = reader
        self._writer = writer
        self._onward: asyncio.StreamWriter | None = None
        self._sender = ""
        self.task = asyncio.ensure_future(self.run(network.identify))

    def uses(self, pairs: Collection[tuple[str, str]]) -> bool:
        """Whether it connects one of *pairs*, in either direction."""
        return (self._sender, self._receiver) in pairs or (self._receiver, self._sender) in pairs

    def abort(self) -> None:
        """Reset both halves."""
        for writer in (self._writer, self._onward):
            if writer is not None:
                writer.transport.abort()

    async def run(self, identify: Identify) -> None:
        """Until either end has closed."""
        try:
            async with asyncio.timeout(GREETING_SECONDS_MAX):
                greeting = await self._greeting(identify)
            await self._network.wait_open(self._sender, self._receiver)
            reader, self._onward = await asyncio.open_connection(*self._front.target, limit=CHUNK_BYTES)
            self._onward.write(greeting)
            there = asyncio.ensure_future(self._pump(self._reader, self._onward, self._sender, self._receiver))
            back = asyncio.ensure_future(self._pump(reader, self._writer, self._receiver, self._sender))
            done, left = await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*done, *left, return_exceptions=True)
        except (OSError, TimeoutError, EOFError):
            pass  # either end has gone: so does the other
        finally:
            self.abort()

    async def _greeting(self, identify: Identify) -> bytes:
        """The bytes up to where they say who sends them."""
        seen = b""
        while len(seen) < GREETING_BYTES_MAX:
            part = await self._reader.read(GREETING_BYTES_MAX)
            if not part:
                raise EOFError
            seen += part
            sender = identify(seen)
            if sender is not None:
                self._sender = sender
                return seen
        return seen

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str, receiver: str
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._network.is_cut(sender, receiver):
                self._network.bytes_held += len(data)
                await self._network.wait_open(sender, receiver)
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
