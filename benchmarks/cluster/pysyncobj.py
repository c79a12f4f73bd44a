"""PySyncObj with its journal on: three node processes with a replicated dict, and the client as an observer.

An application talks to PySyncObj from inside a node; an observer (a node without a vote) is how a process that is
not one of the three takes part. Its journal is written and never synced; its reads are of the process's own copy.
Run as a script this module is one node: ``pysyncobj.py JOURNAL ADDRESS PARTNER PARTNER``.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path

if __name__ == "__main__":  # as a script, this file's own directory would hide the package of the same name
    sys.path.pop(0)

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.batteries import ReplDict


def run_node(journal: str, address: str, partners: list[str]) -> None:
    """Be one node until the process is ended."""
    SyncObj(address, partners, SyncObjConf(journalFile=journal), consumers=[ReplDict()])
    threading.Event().wait()


if __name__ == "__main__":
    run_node(sys.argv[1], sys.argv[2], sys.argv[3:])
    sys.exit()

import logging  # noqa: E402

from typing_extensions import override  # noqa: E402

from cluster.systems import START_TIMEOUT_S, Client, Processes, System, free_ports  # noqa: E402

# Under load its own thread fails now and then and goes on; its tracebacks would drown the figures.
logging.getLogger("pysyncobj").setLevel(logging.CRITICAL)


class PySyncObjClient(Client):
    def __init__(self, addresses: list[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._data = ReplDict()
        self.observer = SyncObj(None, addresses, SyncObjConf(), consumers=[self._data])

    @override
    async def put(self, key: bytes, value: bytes) -> None:
        answered: asyncio.Future[None] = self._loop.create_future()

        def settle(error: int) -> None:
            if answered.done():
                return
            if error == 0:
                answered.set_result(None)
            else:
                answered.set_exception(ConnectionError(f"PySyncObj's failure {error}"))

        def called(_result: object, error: int) -> None:
            self._loop.call_soon_threadsafe(settle, error)

        self._data.set(key, value, callback=called)
        await answered

    @override
    async def close(self) -> None:
        self.observer.destroy()


class PySyncObj(System):
    name = "pysyncobj"
    reads = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self._processes = Processes(
            directory,
            lambda node: [
                sys.executable,
                os.path.abspath(__file__),
                f"{directory}/journal{node}",
                self._addresses[node],
                *(address for address in self._addresses if address != self._addresses[node]),
            ],
        )
        self._client: PySyncObjClient | None = None

    @override
    async def start(self) -> None:
        for node in range(3):
            self._processes.start(node)

    @override
    async def stop(self) -> None:
        self._processes.stop()

    @override
    async def client(self, *, avoid: int | None = None) -> Client:
        self._client = PySyncObjClient(self._addresses)
        async with asyncio.timeout(START_TIMEOUT_S):
            await self._client.put(b"ready", b"")
        return self._client

    @override
    async def leader(self) -> int:
        if self._client is None:
            raise LookupError("PySyncObj's leader is known to a client only")
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                leader = self._client.observer.getStatus()["leader"]
                if leader is not None:
                    return self._addresses.index(leader.address)
                await asyncio.sleep(0.05)

    @override
    def pids(self) -> list[int]:
        return self._processes.pids()

    @override
    async def restart(self, node: int) -> None:
        self._processes.start(node)
        status_key = f"partner_node_status_server_{self._addresses[node]}"
        if self._client is None:
            raise LookupError("PySyncObj's state is known to a client only")
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._client.observer.getStatus().get(status_key) != 2:
                await asyncio.sleep(0.05)
