"""Clients that watch everything that happens to all keys, from the beginning of a simulated run."""

import asyncio

from troth.client.aio import AsyncClient
from troth.errors import TrothError, WatchCompacted
from troth.kv.requests import Event as KeyEvent
from troth.kv.requests import EventType
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.record import Record, Seen
from troth.verify.history import Fault
from troth.verify.watches import WATCH


class Watcher:
    """A client that looks on, from the beginning."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self.seen = Seen(f"w{number}", 1)
        record.watches.append(self.seen)
        self._cluster = cluster
        self._loop = cluster.client_loop(self.seen.name)
        cluster.network.clients.append(self.seen.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._client = AsyncClient(self._cluster.url, timeout=5.0)
        self._task = self._loop.create_task(self._watch())
        self._task.add_done_callback(self._cluster.on_task_done)

    async def _watch(self) -> None:
        seen = self.seen
        while True:
            watch = self._client.watch(prefix="", start_revision=seen.upto + 1)
            try:
                async for events in watch:
                    self._on_events(events, watch.revision)
                return
            except WatchCompacted as error:
                seen.upto = max(seen.upto, error.compact_revision - 1)
            except TrothError:
                await asyncio.sleep(0.2)

    def _on_events(self, events: list[KeyEvent], upto: int) -> None:
        seen = self.seen
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
