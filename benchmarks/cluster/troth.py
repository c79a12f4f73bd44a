"""troth with its default settings: three server processes on loopback addresses, and its asyncio client."""

from pathlib import Path
from typing import Any

from typing_extensions import override

import troth
from cluster.systems import START_TIMEOUT_S, Client, System
from troth.client.aio import AsyncClient
from troth.server.local import LocalCluster


class TrothClient(Client):
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @override
    async def put(self, key: bytes, value: bytes) -> None:
        await self._client.put(key, value)

    @override
    async def get(self, key: bytes) -> None:
        await self._client.get(key)

    @override
    async def get_stale(self, key: bytes) -> None:
        await self._client.get(key, level=troth.eventual)

    @override
    async def close(self) -> None:
        await self._client.close()


class Troth(System):
    name = "troth"
    consensus = "raft"

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory)
        self._settings = {"consensus": self.consensus, **settings}
        self._cluster = LocalCluster(3, data_dir=directory, **self._settings)
        self._names = self._cluster.names

    @override
    async def start(self) -> None:
        if self._cluster.servers:  # a cluster object starts once; the directory knows the rest
            self._cluster = LocalCluster(data_dir=self.directory, **self._settings)
        self._cluster.start()

    @override
    async def stop(self) -> None:
        self._cluster.stop()
        self._cluster.close()

    @override
    async def client(self, *, avoid: int | None = None) -> Client:
        client = await troth.aio.connect(self._cluster.url, timeout=START_TIMEOUT_S)
        await client.put(b"ready", b"")
        return TrothClient(client)

    @override
    async def leader(self) -> int:
        return self._names.index(self._cluster.leader())

    @override
    def pids(self) -> list[int]:
        return [self._cluster.servers[name].pid for name in self._names]

    def status(self, node: int) -> Any:
        return self._cluster.servers[self._names[node]].status()

    @override
    async def restart(self, node: int) -> None:
        self._cluster.restart(self._names[node])
