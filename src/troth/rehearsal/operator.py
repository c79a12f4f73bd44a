"""An operator: a client that changes members, compacts, and looks after servers whose disk was replaced."""

import asyncio
from collections.abc import Awaitable, Callable

from troth.client.aio import AsyncClient
from troth.errors import InvalidRequest, TrothError
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.host import Host

AGAIN_S = 0.5
CALL_S = 4.0


class Operator:
    """Works in a process of its own, one piece of work after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self.done = 0
        self.before_removal: Callable[[Host], None] = lambda host: None
        """What happens just before a server is removed."""
        self._cluster = cluster
        self._waiting = 0
        self._loop = cluster.client_loop("operator")
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]]]
        self._client: AsyncClient
        cluster.network.clients.append("operator")
        self._loop.enter(self._start)

    @property
    def busy(self) -> bool:
        return self._waiting > 0

    def _start(self) -> None:
        self._jobs = asyncio.Queue()
        self._client = AsyncClient(self._cluster.url, timeout=CALL_S)
        self._task = self._loop.create_task(self._work())
        self._task.add_done_callback(self._cluster.on_task_done)

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            await job()
            self._waiting -= 1
            self.done += 1

    def _add(self, job: Callable[[], Awaitable[None]]) -> None:
        self._waiting += 1
        self._loop.enter(self._jobs.put_nowait, job)

    def compact(self, kept: int) -> None:
        """Give up the history of keys but for the newest *kept* revisions."""

        async def job() -> None:
            try:
                revision = max(status.revision for status in await self._client.status(within_s=1.0))
                await self._client.compact(max(1, revision - kept))
            except (TrothError, ValueError):
                return

        self._add(job)

    def replace(self, host: Host, *, after_us: int) -> None:
        """*host* has an empty disk: remove the server that it was, then start it as one that joins."""

        async def job() -> None:
            await asyncio.sleep(after_us / 1e6)
            await self._remove(host)
            host.joins, host.out_of_service = True, False
            self._cluster.tell(host.name, "joins anew")
            host.boot()

        self._add(job)

    def remove_and_replace(self, host: Host, *, after_us: int) -> None:
        """Remove the server on *host* while it runs; then give it an empty disk, and let it join."""

        async def job() -> None:
            await self._remove(host)
            host.leaving, host.out_of_service = False, True
            self._cluster.tell(host.name, "was removed")
            await asyncio.sleep(after_us / 1e6)
            host.kill()
            host.wipe()
            host.joins, host.out_of_service = True, False
            self._cluster.tell(host.name, "joins anew")
            host.boot()

        self._add(job)

    async def _remove(self, host: Host) -> None:
        """Until a leader has said that no member is the server that *host* was, nor called like it. What lists show may
        not be decided yet: a server that they no longer name, and that is wiped then, may be needed to decide it."""
        self.before_removal(host)
        while True:
            try:
                members = await self._client.members()
                called = {member.node_id for member in members if member.member.name == host.name}
                for node_id in sorted(called | {host.last_id} - {0}):
                    await self._remove_one(node_id)
                return
            except TrothError:
                await asyncio.sleep(AGAIN_S)

    async def _remove_one(self, node_id: int) -> None:
        try:
            await self._client.remove_member(node_id, within_s=CALL_S, despite_registers=True)
        except InvalidRequest as error:
            if "is not a member" not in str(error):
                raise
