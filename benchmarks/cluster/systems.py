"""What a system under test must offer, and the processes, ports and signals that all of them share."""

import asyncio
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

START_TIMEOUT_S = 60.0
VALUE = bytes(range(256))


class Client(ABC):
    """One client connection in the benchmark's own process."""

    @abstractmethod
    async def put(self, key: bytes, value: bytes) -> None:
        """Return once a quorum has the value."""

    async def get(self, key: bytes) -> None:
        """A linearizable read."""
        raise LookupError("not offered")

    async def get_stale(self, key: bytes) -> None:
        """A read of whatever the connected server has."""
        raise LookupError("not offered")

    @abstractmethod
    async def close(self) -> None: ...


class System(ABC):
    """Three nodes on loopback with data directories under *directory*."""

    name: str
    reads = True
    """Whether `Client.get` and `Client.get_stale` are offered over the network."""
    client_follows = True
    """Whether a client finds the next leader by itself, so that one client sees all failures."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    async def start(self) -> None:
        """Start (or start again, on the same data) all nodes; they need not be ready yet."""

    @abstractmethod
    async def stop(self) -> None:
        """End all nodes; the data stays."""

    @abstractmethod
    async def client(self, *, avoid: int | None = None) -> Client:
        """A client, ready for `put`; *avoid*: where a client sticks to one node, not to this one."""

    @abstractmethod
    async def leader(self) -> int:
        """Which node leads (0, 1, 2)."""

    @abstractmethod
    def pids(self) -> list[int]: ...

    @abstractmethod
    async def restart(self, node: int) -> None:
        """Start a killed node again on its data."""

    def signal(self, node: int, number: signal.Signals) -> None:
        os.kill(self.pids()[node], number)


class Processes:
    """Child processes by node number, with their output in a file each."""

    def __init__(self, directory: Path, command: Callable[[int], Sequence[str]]) -> None:
        self._directory, self._command = directory, command
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, node: int) -> None:
        old = self._running.get(node)
        if old is not None:
            old.wait()
        with ExitStack() as stack:
            log = stack.enter_context((self._directory / f"node{node}.log").open("ab"))
            self._running[node] = subprocess.Popen(
                self._command(node), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def pids(self) -> list[int]:
        return [self._running[node].pid for node in sorted(self._running)]

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def free_ports(count: int) -> list[int]:
    """*count* ports of 127.0.0.1 that nobody has now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def until(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Repeat *attempt* until it returns True.

    Raises:
        TimeoutError: it did not within `START_TIMEOUT_S`.
    """
    async with asyncio.timeout(START_TIMEOUT_S):
        while not await attempt():
            await asyncio.sleep(0.005)


def rss_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} has no VmRSS")
