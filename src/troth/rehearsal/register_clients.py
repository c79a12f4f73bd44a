"""Clients of leaderless registers in a simulated run, beside those of the log."""

import asyncio
import random
from typing import Any

from troth.client.registers.aio import PaxosClient as AsyncPaxosClient
from troth.errors import TrothError
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.record import Record
from troth.simulate.choices import OPERATION
from troth.simulate.rng import stream

PAUSES = 4
"""Pauses of the other clients: what is asked of all acceptors costs more than what is asked of a leader."""


class Register:
    """A client of leaderless registers, straight against the acceptors in the servers: linearizable, key by key."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self.name = f"r{number}"
        self.stopped = False
        self._cluster = cluster
        self._record = record
        self._number = number
        self._value = 0
        self._loop = cluster.client_loop(self.name)
        cluster.network.clients.append(self.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work())
        self._task.add_done_callback(self._cluster.on_task_done)

    async def _work(self) -> None:
        addresses = [host.client_address for host in self._cluster.hosts.values()]
        client: AsyncPaxosClient | None = None
        number = 0
        while not self.stopped:
            rng = stream(self._cluster.plan.seed, "register client", self._number, number)
            number += 1
            await asyncio.sleep(rng.random() * 2 * PAUSES * self._cluster.plan.think_us / 1e6)
            if not self._cluster.choices.take(f"{OPERATION} {self.name}"):
                continue
            try:
                if client is None:
                    # The servers that begin the cluster become the acceptors, when all of them are up for a moment.
                    client = await AsyncPaxosClient(addresses, timeout=2.0).open()
                await self._do(client, rng)
            except TrothError as error:
                self._record.counts[f"register {type(error).__name__}"] += 1

    async def _do(self, client: AsyncPaxosClient, rng: random.Random) -> None:
        key = f"r{rng.randrange(2)}"
        what = rng.choice(("put", "get", "get", "cas", "delete"))
        self._cluster.tell(self.name, f"register {what}")
        self._value += 1
        value = f"{self.name}.{self._value}"
        cells = (self._record.cells,)
        match what:
            case "put":
                await self._record.operation(
                    cells, None, what, key, value, client.put(key, value), lambda _: value
                )
            case "get":
                await self._record.operation(cells, None, what, key, None, client.get(key), _held)
            case "delete":
                await self._record.operation(cells, None, what, key, None, client.delete(key), lambda _: None)
            case _:
                held = _held(await client.get(key))
                wanted = held, value
                await self._record.operation(
                    cells,
                    None,
                    what,
                    key,
                    wanted,
                    client.cas(key, held, value),
                    # A comparison that did not hold is an observation as well.
                    lambda reply: wanted if reply.succeeded else False,
                )
        self._record.counts["register"] += 1

    @property
    def is_idle(self) -> bool:
        return self._task.done()


def _held(reply: Any) -> str | None:
    return None if reply.value is None else reply.value.decode()
