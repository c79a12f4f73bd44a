"""The ceiling: how fast a batching replicated log can go in pure Python on this machine, in this hour.

Three processes and the same client process as everybody else. The leader writes what arrived in one turn of its
loop with one fdatasync while the followers do the same, and answers once its own disk and one follower have it.
There is no election, no log matching, no data model, no retry: all that troth adds costs the difference.
Run as a script this module is one node: ``ceiling.py FILE PORT [FOLLOWER_PORT FOLLOWER_PORT]``.
"""

import asyncio
import os
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop
from typing_extensions import override

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cluster.systems import Client, Processes, System, free_ports, until

LENGTH = struct.Struct("<I")
FILE_BYTES = 256 << 20
encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


class Frames(asyncio.Protocol):
    """Length-prefixed msgpack; *on_frame* is called with each decoded body and its raw bytes."""

    def __init__(self, on_frame: Callable[["Frames", Any, bytes], None]) -> None:
        self._on_frame = on_frame
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @override
    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            (size,) = LENGTH.unpack_from(buffer, at)
            if len(buffer) - at - 4 < size:
                break
            raw = bytes(buffer[at + 4 : at + 4 + size])
            at += 4 + size
            self._on_frame(self, decode(raw), raw)
        del buffer[:at]

    def send(self, raw: bytes) -> None:
        if self._transport is not None:
            self._transport.write(LENGTH.pack(len(raw)) + raw)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Disk:
    """One preallocated file; each batch is one write and one fdatasync, in a thread."""

    def __init__(self, path: str, on_written: Callable[[int], None]) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.posix_fallocate(self._fd, 0, FILE_BYTES)
        self._thread = ThreadPoolExecutor(1)
        self._loop = asyncio.get_running_loop()
        self._on_written = on_written
        self._waiting: list[bytes] = []
        self._offset = self._given = 0
        self._busy = False

    def append(self, raw: bytes) -> None:
        self._given += 1
        self._waiting.append(raw)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        self._loop.run_in_executor(self._thread, self._write, b"".join(batch)).add_done_callback(
            lambda _, upto=self._given: self._written(upto)
        )

    def _write(self, data: bytes) -> None:
        if self._offset + len(data) > FILE_BYTES:
            self._offset = 0
        os.pwrite(self._fd, data, self._offset)
        self._offset += len(data)
        os.fdatasync(self._fd)

    def _written(self, upto: int) -> None:
        if self._waiting:
            self._flush()
        else:
            self._busy = False
        self._on_written(upto)


async def run_leader(path: str, port: int, follower_ports: list[int]) -> None:
    """Number the batches that clients send, copy them to disk and followers, answer what two of three have."""
    data: dict[bytes, bytes] = {}
    batches: list[tuple[Frames, Any] | None] = []
    stored = [0, *(0 for _ in follower_ports)]
    answered = 0

    def advance(node: int, upto: int) -> None:
        nonlocal answered
        stored[node] = upto
        agreed = sorted(stored)[1]
        while answered < agreed:
            batch = batches[answered]
            batches[answered] = None
            answered += 1
            if batch is not None:
                client, (number, puts) = batch
                data.update(puts)
                client.send(encode((number, answered)))

    disk = Disk(path, lambda upto: advance(0, upto))

    def on_client(client: Frames, body: Any, raw: bytes) -> None:
        batches.append((client, body))
        disk.append(raw)
        for follower in followers:
            follower.send(raw)

    loop = asyncio.get_running_loop()
    followers = []
    for node, follower_port in enumerate(follower_ports, 1):
        followers.append(await connect(follower_port, lambda _, body, __, node=node: advance(node, body)))
    await loop.create_server(lambda: Frames(on_client), "127.0.0.1", port)
    await asyncio.Event().wait()


async def run_follower(path: str, port: int) -> None:
    """Write what the leader sends and say how much of it is durable."""
    data: dict[bytes, bytes] = {}
    leader: Frames | None = None

    def on_written(upto: int) -> None:
        if leader is not None:
            leader.send(encode(upto))

    disk = Disk(path, on_written)

    def on_leader(connection: Frames, body: Any, raw: bytes) -> None:
        nonlocal leader
        leader = connection
        disk.append(raw)
        data.update(body[1])

    await asyncio.get_running_loop().create_server(lambda: Frames(on_leader), "127.0.0.1", port)
    await asyncio.Event().wait()


async def connect(port: int, on_frame: Callable[[Frames, Any, bytes], None]) -> Frames:
    made: list[Frames] = []

    async def attempt() -> bool:
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(
                lambda: Frames(on_frame), "127.0.0.1", port
            )
        except OSError:
            return False
        made.append(protocol)
        return True

    await until(attempt)
    return made[0]


class CeilingClient(Client):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, bytes]] = []
        self._futures: list[asyncio.Future[None]] = []
        self._sent: dict[int, list[asyncio.Future[None]]] = {}
        self._number = 0
        self.connection: Frames | None = None

    def on_answer(self, _connection: Frames, body: Any, _raw: bytes) -> None:
        for future in self._sent.pop(body[0]):
            future.set_result(None)

    def _flush(self) -> None:
        self._number += 1
        self._sent[self._number] = self._futures
        if self.connection is not None:
            self.connection.send(encode((self._number, self._waiting)))
        self._waiting, self._futures = [], []

    @override
    async def put(self, key: bytes, value: bytes) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((key, value))
        self._futures.append(future)
        await future

    @override
    async def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class Ceiling(System):
    name = "ceiling"
    reads = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports = free_ports(3)
        self._processes = Processes(
            directory,
            lambda node: [
                sys.executable,
                os.path.abspath(__file__),
                f"{directory}/file{node}",
                str(self._ports[node]),
                *(str(port) for port in self._ports[1:] if node == 0),
            ],
        )

    @override
    async def start(self) -> None:
        for node in range(3):
            self._processes.start(node)

    @override
    async def stop(self) -> None:
        self._processes.stop()

    @override
    async def client(self, *, avoid: int | None = None) -> Client:
        client = CeilingClient()
        client.connection = await connect(self._ports[0], client.on_answer)
        await client.put(b"ready", b"")
        return client

    @override
    async def leader(self) -> int:
        return 0

    @override
    def pids(self) -> list[int]:
        return self._processes.pids()

    @override
    async def restart(self, node: int) -> None:
        raise LookupError("the ceiling does not survive anything")


if __name__ == "__main__":
    file, own_port, *others = sys.argv[1:]
    if others:
        uvloop.run(run_leader(file, int(own_port), [int(port) for port in others]))
    else:
        uvloop.run(run_follower(file, int(own_port)))
