"""Clients that watch everything that happens to all keys, from the beginning of a simulated run."""

import asyncio

from troth.client.aio import AsyncClient
from troth.errors import InvariantViolation, TrothError, WatchCompacted
from troth.kv.requests import Event as KeyEvent
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.record import Record, Seen


class Watcher:
    """A client that looks on, from the beginning."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self.seen = Seen(f"w{number}", 2)
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
        start = seen.from_revision
        while True:
            watch = self._client.watch(prefix="", start_revision=start)
            try:
                async for events in watch:
                    self._on_events(events)
                    seen.upto = max(seen.upto, watch.revision)
                return
            except WatchCompacted as error:
                gone_from = seen.events[-1][0] + 1 if seen.events else seen.from_revision
                gone_from = max(gone_from, watch.revision + 1, start)
                seen.gaps.append((gone_from, max(gone_from, error.compact_revision)))
                start = max(error.compact_revision, gone_from)
            except TrothError:
                start = max(start, watch.revision + 1)
                await asyncio.sleep(0.2)

    def _on_events(self, events: list[KeyEvent]) -> None:
        seen = self.seen
        for event in events:
            revision = event.kv.mod_revision
            if seen.events and revision < seen.events[-1][0]:
                self._cluster.violated(
                    InvariantViolation(f"a watch goes back: {seen.name} sees {event} after {seen.events[-1]}")
                )
            value = b"" if event.type.name == "DELETE" else event.kv.value
            seen.events.append((revision, event.kv.key, value))
