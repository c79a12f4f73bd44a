"""Clients that watch everything that happens to all keys: from the beginning of a simulated run, or from now on."""

import asyncio

from troth.client.aio import AsyncClient
from troth.errors import TrothError, WatchCompacted
from troth.kv.requests import Event as KeyEvent
from troth.kv.requests import EventType
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.record import Record, Seen
from troth.simulate.choices import OPERATION
from troth.simulate.rng import stream
from troth.verify.history import Fault
from troth.verify.watches import WATCH

READING_S = 0.2
"""How long a client looks at what a watch has shown, where there is little room for what comes meanwhile."""

PAUSES = 4
"""Pauses of the other clients between two watches from now on."""


class Watcher:
    """A client that looks on, from the beginning."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self._name = f"w{number}"
        self._cluster = cluster
        self._record = record
        self._seen = self._seen_from(self._name, 1)
        self._loop = cluster.client_loop(self._name)
        cluster.network.clients.append(self._name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._client = AsyncClient(self._cluster.url, timeout=5.0)
        self._task = self._loop.create_task(self._watch())
        self._task.add_done_callback(self._cluster.on_task_done)

    def _seen_from(self, name: str, upto: int) -> Seen:
        seen = Seen(name, upto)
        self._record.watches.append(seen)
        return seen

    async def _watch(self) -> None:
        while True:
            seen = self._seen
            watch = self._client.watch(prefix="", start_revision=seen.upto + 1)
            try:
                async for events in watch:
                    _show(seen, events, watch.revision)
                    if self._cluster.plan.tight:
                        await asyncio.sleep(READING_S)
                return
            except WatchCompacted as error:
                if (upto := error.compact_revision - 1) > seen.upto:
                    # What was compacted away is shown to nobody, so to whoever judges the rest is another watch.
                    seen.is_over = True
                    self._seen = self._seen_from(f"{self._name}.{upto}", upto)
            except TrothError:
                await asyncio.sleep(0.2)


class FreshWatcher:
    """A client that looks on from now on, again and again, at one server. It has just written: what that server has yet
    to apply is not news to it."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self.name = f"f{number}"
        self.stopped = False
        self._cluster = cluster
        self._record = record
        self._number = number
        self._loop = cluster.client_loop(self.name)
        cluster.network.clients.append(self.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        names = list(self._cluster.hosts)
        server = names[self._number % len(names)]
        self._client = AsyncClient(self._cluster.url, timeout=2.0, read_from=server)
        self._task = self._loop.create_task(self._work())
        self._task.add_done_callback(self._cluster.on_task_done)

    @property
    def is_idle(self) -> bool:
        return self._task.done()

    async def _work(self) -> None:
        number = 0
        while not self.stopped:
            rng = stream(self._cluster.plan.seed, "fresh watcher", self._number, number)
            number += 1
            await asyncio.sleep(rng.random() * 2 * PAUSES * self._cluster.plan.think_us / 1e6)
            if not self._cluster.choices.take(f"{OPERATION} {self.name}"):
                continue
            self._cluster.tell(self.name, "fresh watch")
            try:
                key, value = f"fresh/{self.name}", str(number)
                reply = await self._client.put(key, value)
                self._record.wrote(reply.revision, key, value)
                await self._watch(Seen(f"{self.name}.{number}", 0), rng.random())
            except TrothError as error:
                self._record.counts[f"fresh watch {type(error).__name__}"] += 1

    async def _watch(self, seen: Seen, for_s: float) -> None:
        """What happens *for_s* from now on."""
        async with self._client.watch(prefix="") as watch:
            seen.upto = watch.revision
            self._record.watches.append(seen)
            try:
                async with asyncio.timeout(for_s):
                    async for events in watch:
                        _show(seen, events, watch.revision)
            except TimeoutError:
                self._record.counts["fresh watches"] += 1
            finally:
                seen.is_over = True


def _show(seen: Seen, events: list[KeyEvent], upto: int) -> None:
    shown = tuple(
        (
            event.kv.mod_revision,
            event.kv.key.decode(),
            None if event.type is EventType.DELETE else event.kv.value.decode(),
        )
        for event in events
    )
    told = ("", "\0", seen.upto + 1, upto, shown)
    seen.handed.append(Fault(position=len(seen.handed) + 2, process=seen.name, f=WATCH, value=told))
    seen.upto = upto
