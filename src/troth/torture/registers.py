"""Leaderless registers behind the seam of torture: acceptor processes, killed, stopped, out of disk, exchanged.

There is no leader and no link between acceptors, so there is nothing to move and nothing to cut. What a client asks of
one key works; what needs several keys at one instant (``read``, ``swap`` of two) does not exist here.
"""

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import xxhash

from troth import aio
from troth.client.registers.lines import Line
from troth.client.registers.local import LocalAcceptors
from troth.client.registers.sync import PaxosClient
from troth.core.register.messages import Holding, Read, Scan, Scanned
from troth.errors import TrothError, UsageError
from troth.server.ending import EXIT_STORAGE
from troth.torture.client import outcome_of
from troth.torture.cluster import FULL_BYTES, limit_files
from troth.torture.system import Power, Unquiet

CLIENT_TIMEOUT_S = 5.0
CHANGE_SECONDS_MAX = 20.0
HEAL_SECONDS_MAX = 60.0
ACCEPTORS_MAX = 9
WORKLOADS = ("registers", "inserts", "counters")
"""Those that ask for one key at a time."""

_BUG_WORDS = ("Traceback", "InvariantViolation")


class _Acceptors(LocalAcceptors):
    """Acceptors that come and go."""

    def add(self) -> str:
        """Start one more."""
        numbers = [int(name.removeprefix("a")) for name in (*self.names, *self.former)]
        name = f"a{max(numbers) + 1}"
        self.start(name)
        self.names = (*self.names, name)
        return name

    def drop(self, name: str) -> None:
        """End it for good."""
        self.kill(name)
        self.names = tuple(other for other in self.names if other != name)
        self.former.add(name)

    @property
    def former(self) -> set[str]:
        known: set[str] = self.__dict__.setdefault("_former", set())
        return known


class RegisterSystem:
    """`SystemUnderTest` of *size* acceptors in *directory*."""

    def __init__(self, size: int, directory: Path) -> None:
        self.name = f"registers, {size} acceptors"
        self._size = size
        self._directory = directory
        self._acceptors: _Acceptors | None = None
        self._killed: set[int] = set()
        self._deaths: list[str] = []
        self._starved: set[str] = set()

    def powers(self) -> frozenset[Power]:
        import resource

        possible = {Power.KILL, Power.PAUSE, Power.MEMBERS}
        if hasattr(resource, "prlimit"):
            possible.add(Power.DISK)
        return frozenset(possible)

    @property
    def _running(self) -> _Acceptors:
        if self._acceptors is None:
            raise UsageError("the acceptors are not started")
        return self._acceptors

    def _client(self, timeout_s: float = CLIENT_TIMEOUT_S) -> PaxosClient:
        return PaxosClient(self._running.addresses, timeout=timeout_s)

    # ---- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._acceptors = _Acceptors(self._directory, self._size)
        with PaxosClient(self._running.addresses, timeout=HEAL_SECONDS_MAX, found=True):
            pass

    def stop(self) -> None:
        if self._acceptors is not None:
            self._acceptors.close()

    def servers(self) -> tuple[str, ...]:
        return self._running.names

    def leader(self) -> str | None:
        """Nobody leads. While most run one stands in: who asks wants to know whether the set can be changed."""
        running = [name for name in self._running.names if self._running.processes[name].poll() is None]
        return running[0] if 2 * len(running) > len(self._running.names) else None

    def kill(self, server: str) -> None:
        process = self._running.processes[server]
        if process.poll() is None:
            self._killed.add(process.pid)
            self._running.kill(server)

    def restart(self, server: str) -> None:
        process = self._running.processes[server]
        if server not in self._running.names or process.poll() is None:
            return
        self._note_death(server)
        self._starved.discard(server)
        self._running.start(server)

    def _note_death(self, server: str) -> None:
        process = self._running.processes[server]
        code = process.poll()
        if code is None or process.pid in self._killed:
            return
        self._killed.add(process.pid)
        if code != EXIT_STORAGE or server not in self._starved:
            self._deaths.append(f"{server} ended by itself with exit code {code}")

    def pause(self, server: str) -> None:
        if self._running.processes[server].poll() is None:
            self._running.pause(server)

    def resume(self, server: str) -> None:
        if self._running.processes[server].poll() is None:
            self._running.resume(server)

    def partition(self, cut: Collection[tuple[str, str]], *, reset: bool) -> None:
        raise UsageError("acceptors have no links between each other")

    def fill_disk(self, server: str) -> None:
        process = self._running.processes[server]
        if process.poll() is None:
            self._starved.add(server)
            limit_files(process.pid, FULL_BYTES)

    def free_disk(self, server: str) -> None:
        process = self._running.processes[server]
        if process.poll() is None:
            limit_files(process.pid, None)
            time.sleep(0.2)  # it may have met the limit just now and be on its way out
        if process.poll() is not None:
            self.restart(server)

    def move_leader(self, server: str) -> None:
        raise UsageError("there is no leader")

    # ---- the set of acceptors -----------------------------------------------------------------------------

    def add_server(self) -> None:
        if len(self._running.names) < ACCEPTORS_MAX:
            self._running.add()
            self._settle()

    def remove_server(self, server: str) -> None:
        kept = [self._running.address(name) for name in self._running.names if name != server]
        with self._client() as client:
            client.set_acceptors(kept, within_s=CHANGE_SECONDS_MAX)
        self._killed.add(self._running.processes[server].pid)
        self._running.drop(server)

    def _settle(self, *, accept: int = 0) -> None:
        """Make the set what runs."""
        with self._client() as client:
            count = len(self._running.names)
            prepare = count + 1 - accept if accept else 0
            client.set_acceptors(
                self._running.addresses, prepare=prepare, accept=accept, within_s=CHANGE_SECONDS_MAX
            )

    def heal(self) -> None:
        deadline_s = time.monotonic() + HEAL_SECONDS_MAX
        while True:
            for name in self._running.names:
                process = self._running.processes[name]
                if process.poll() is None:
                    self._running.resume(name)
                    limit_files(process.pid, None)
                else:
                    self.restart(name)
            try:
                self._settle()
                return
            except TrothError as error:
                if time.monotonic() > deadline_s:
                    raise Unquiet(f"the set of acceptors can not be settled: {error}") from error

    def quiesce(self, within_s: float) -> None:
        """With accept quorums of everybody, the rescan leaves the same state on every acceptor."""
        try:
            self._settle(accept=len(self._running.names))
        except TrothError as error:
            raise Unquiet(f"the acceptors do not come to rest within {within_s:g} s: {error}") from error

    def state_hashes(self) -> dict[str, str]:
        with self._client() as client:
            config = client.configuration
        hashes = {}
        for name in self._running.names:
            line = Line(self._running.address(name), None)
            try:
                check = xxhash.xxh3_64()
                after, more = b"", True
                while more:
                    scanned = line.ask(Scan(config.id, after, 500), time.monotonic() + 10).result()
                    if not isinstance(scanned, Scanned):
                        raise Unquiet(f"{name} does not list its registers: {scanned}")
                    for key, _ in scanned.keys:
                        held = line.ask(Read(config.id, key), time.monotonic() + 10).result()
                        state = held.state if isinstance(held, Holding) else None
                        if state is not None and state.value is not None:
                            check.update(repr((key, state.value, state.version)).encode())
                    more = scanned.more
                    after = scanned.keys[-1][0] if scanned.keys else after
                hashes[name] = f"{check.intdigest():x} at epoch {config.id.epoch}"
            finally:
                line.close()
        return hashes

    def complaints(self) -> list[str]:
        for name in self._running.names:
            self._note_death(name)
        found = list(self._deaths)
        for path in sorted(self._directory.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            found += [f"{path}: {line.strip()}" for line in lines if any(word in line for word in _BUG_WORDS)]
        return found

    async def client(self) -> "RegisterClient":
        return RegisterClient(await aio.PaxosClient(self._running.addresses, timeout=CLIENT_TIMEOUT_S).open())


class RegisterClient:
    """`TortureClient` over `troth.aio.PaxosClient`."""

    def __init__(self, client: aio.PaxosClient) -> None:
        self._client = client

    async def put(self, key: str, value: str) -> None:
        await outcome_of(self._client.put(key, value))

    async def get(self, key: str) -> str | None:
        reply = await outcome_of(self._client.get(key))
        return None if reply.value is None else reply.value.decode()

    async def swap(self, expected: Mapping[str, str | None], wanted: Mapping[str, str]) -> bool:
        ((key, value),) = wanted.items()
        reply = await outcome_of(self._client.cas(key, expected[key], value))
        return reply.succeeded

    async def read(self, keys: Sequence[str]) -> dict[str, str | None]:
        return {key: await self.get(key) for key in keys}

    async def scan(self, prefix: str) -> dict[str, tuple[str, int]]:
        found = {}
        for key in await outcome_of(self._client.keys(prefix)):
            reply = await outcome_of(self._client.get(key))
            if reply.value is not None:
                found[key.decode()] = (reply.value.decode(), reply.version)
        return found

    async def close(self) -> None:
        with contextlib.suppress(TrothError):
            await self._client.close()
