"""Real etcd (Debian's etcd-server) through aetcd, with etcd's default settings."""

import asyncio
from pathlib import Path

import aetcd
import grpc
from typing_extensions import override

from cluster.etcd_program import executable
from cluster.systems import START_TIMEOUT_S, Client, Processes, System, free_ports, until


class EtcdClient(Client):
    def __init__(self, port: int) -> None:
        self._client = aetcd.Client(port=port)

    @override
    async def put(self, key: bytes, value: bytes) -> None:
        await self._client.put(key, value)

    @override
    async def get(self, key: bytes) -> None:
        await self._client.get(key)

    @override
    async def get_stale(self, key: bytes) -> None:
        await self._client.get(key, serializable=True)

    @override
    async def close(self) -> None:
        await self._client.close()


class Etcd(System):
    name = "etcd"
    client_follows = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        program = executable()
        if program is None:
            raise FileNotFoundError("etcd is not installed: apt-get install etcd-server")
        ports = free_ports(6)
        self._client_ports, peer_ports = ports[:3], ports[3:]
        cluster = ",".join(f"n{node}=http://127.0.0.1:{peer_ports[node]}" for node in range(3))
        self._processes = Processes(
            directory,
            lambda node: [
                program,
                f"--name=n{node}",
                f"--data-dir={directory}/n{node}",
                f"--listen-client-urls=http://127.0.0.1:{self._client_ports[node]}",
                f"--advertise-client-urls=http://127.0.0.1:{self._client_ports[node]}",
                f"--listen-peer-urls=http://127.0.0.1:{peer_ports[node]}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_ports[node]}",
                f"--initial-cluster={cluster}",
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
        if avoid is None:
            node = await self.leader()
        else:
            node = (avoid + 1) % 3
        client = EtcdClient(self._client_ports[node])
        await until(lambda: self._answers(client))
        return client

    @staticmethod
    async def _answers(client: EtcdClient) -> bool:
        try:
            await asyncio.wait_for(client.put(b"ready", b""), 1)
        except (aetcd.ClientError, grpc.RpcError, TimeoutError, OSError):
            return False
        return True

    @override
    async def leader(self) -> int:
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                for node, port in enumerate(self._client_ports):
                    status = await self._status(port)
                    if status is not None and status.leader and status.leader.name == f"n{node}":
                        return node
                await asyncio.sleep(0.01)

    @staticmethod
    async def _status(port: int) -> aetcd.client.Status | None:
        client = aetcd.Client(port=port)
        try:
            return await asyncio.wait_for(client.status(), 1)
        except (aetcd.ClientError, grpc.RpcError, TimeoutError, OSError):
            return None
        finally:
            await client.close()

    @override
    def pids(self) -> list[int]:
        return self._processes.pids()

    @override
    async def restart(self, node: int) -> None:
        self._processes.start(node)
        await until(lambda: self._caught_up(node))

    async def _caught_up(self, node: int) -> bool:
        status = await self._status(self._client_ports[node])
        return status is not None and status.leader is not None
