"""A system under test without processes: one dictionary, and bugs that can be planted in it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from troth.torture.system import Definite, Indefinite, Power, Unquiet


class MemoryStore:
    """What all servers of the fake hold together. Nothing awaits in the middle of an operation, so all are atomic."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.writes = 0
        self.not_yet_seen: dict[str, str | None] = {}
        """What a torn reader still finds in place of the last value that the last transaction wrote."""

    def write(self, key: str, value: str) -> None:
        self.values[key] = value
        self.versions[key] = self.versions.get(key, 0) + 1
        self.writes += 1


class MemoryClient:
    """`TortureClient`. Every so many operations the answer is lost (the outcome is unknown), or it is refused."""

    def __init__(self, system: "MemorySystem") -> None:
        self._system = system
        self._store = system.store
        self._count = 0

    async def _answer(self, *, changed: bool = False) -> None:
        """*changed*: something was done, so that who is told nothing cannot take it for refused."""
        await asyncio.sleep(0)
        self._count += 1
        if self._system.down:
            raise Indefinite("the leader is gone") if changed else Definite("nobody leads")
        if self._count % 17 == 0:
            raise Indefinite("the answer was lost")

    async def put(self, key: str, value: str) -> None:
        await self._change({key: value})
        await self._answer(changed=True)

    async def _change(self, wanted: Mapping[str, str]) -> None:
        if self._system.down:
            raise Definite("nobody leads")
        bug = self._system.bug
        if bug == "tears a transaction" and len(wanted) > 1:
            last = list(wanted)[-1]
            self._store.not_yet_seen = {last: self._store.values.get(last)}
        for key, value in wanted.items():
            number = self._store.writes
            if bug == "loses a write" and number % 5 == 4:
                self._store.writes += 1
                continue
            self._store.write(key, value)
            if bug == "applies twice" and number % 5 == 4:
                self._store.write(key, value)

    async def get(self, key: str) -> str | None:
        await self._answer()
        if self._system.bug == "reads stale" and self._count % 5 == 0:
            return self._system.stale.get(key)
        self._system.stale.setdefault(key, self._store.values.get(key) or "")
        return self._store.values.get(key)

    async def swap(self, expected: Mapping[str, str | None], wanted: Mapping[str, str]) -> bool:
        held = all(self._store.values.get(key) == value for key, value in expected.items())
        if held:
            await self._change(wanted)
        await self._answer(changed=held)
        return held

    async def read(self, keys: Sequence[str]) -> dict[str, str | None]:
        await self._answer()
        return {key: self._store.not_yet_seen.get(key, self._store.values.get(key)) for key in keys}

    async def scan(self, prefix: str) -> dict[str, tuple[str, int]]:
        found = {key: value for key, value in self._store.values.items() if key.startswith(prefix)}
        return {key: (value, self._store.versions[key]) for key, value in found.items()}

    async def close(self) -> None:
        """Nothing to close."""


class MemorySystem:
    """`SystemUnderTest`: servers are names; while more than half of them are dead it refuses everything."""

    name = "a dictionary"

    def __init__(self, bug: str = "") -> None:
        self.bug = bug
        self.store = MemoryStore()
        self.stale: dict[str, str] = {}
        self.dead: set[str] = set()
        self.calls: list[str] = []
        self._servers = ["n1", "n2", "n3"]

    @property
    def down(self) -> bool:
        return 2 * len(self.dead) > len(self._servers)

    def powers(self) -> frozenset[Power]:
        return frozenset(Power) - {Power.DISK}

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def servers(self) -> tuple[str, ...]:
        return tuple(self._servers)

    def leader(self) -> str | None:
        return None if self.down else next(name for name in self._servers if name not in self.dead)

    def kill(self, server: str) -> None:
        self.dead.add(server)
        self.calls.append(f"kill {server}")

    def restart(self, server: str) -> None:
        self.dead.discard(server)
        self.calls.append(f"restart {server}")

    def pause(self, server: str) -> None:
        self.calls.append(f"pause {server}")

    def resume(self, server: str) -> None:
        self.calls.append(f"resume {server}")

    def partition(self, cut: Collection[tuple[str, str]], *, reset: bool) -> None:
        self.calls.append(f"partition {len(cut)}")

    def fill_disk(self, server: str) -> None:
        raise AssertionError("it has no disk")

    def free_disk(self, server: str) -> None:
        raise AssertionError("it has no disk")

    def move_leader(self, server: str) -> None:
        self.calls.append(f"transfer {server}")

    def add_server(self) -> None:
        self._servers.append(f"n{len(self.calls) + 10}")
        self.calls.append("add")

    def remove_server(self, server: str) -> None:
        self._servers.remove(server)
        self.dead.discard(server)
        self.calls.append(f"remove {server}")

    def heal(self) -> None:
        self.calls.append("heal")
        if self.bug == "stays down":
            raise Unquiet("nobody leads")
        self.dead.clear()

    def quiesce(self, within_s: float) -> None:
        self.calls.append("quiesce")

    def state_hashes(self) -> dict[str, str]:
        odd = {"n1": "other"} if self.bug == "diverges" else {}
        return {**dict.fromkeys(self._servers, "same"), **odd}

    def complaints(self) -> list[str]:
        return ["n2 ended by itself"] if self.bug == "dies" else []

    async def client(self) -> MemoryClient:
        return MemoryClient(self)
