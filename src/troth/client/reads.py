"""Reads: what one turn of the loop asks for under one level becomes one frame, and one answer.

A read changes nothing, so it is simply asked again when its answer was lost. Linearizable reads go to the leader,
weaker ones to where the client reads from (`read_from`).
"""

import asyncio
from typing import Any

from typing_extensions import override

from troth.client.link import Connection, checked_frame_of, frame_of
from troth.client.replies import GetReply, RangeReply
from troth.client.request import LEADER, CallRequest
from troth.client.retry import error_of
from troth.client.router import Router
from troth.client.writes import WritePipeline
from troth.errors import InvalidRequest, Overloaded, ProtocolError, TrothError, Unavailable, UsageError
from troth.kv.refusals import REQUEST_TOO_LARGE
from troth.kv.requests import Failure, Range
from troth.models import LevelName, ReadLevel, linearizable
from troth.replica.protocol import READS_REQUESTS_MAX, ReadResults, Reads
from troth.wire.frames import FRAME_BYTES_MAX

LONG_KEY_BYTES = 4096
"""A read with a key above this is submitted apart, so that no batch passes what a server takes."""

READ_BYTES_MAX = FRAME_BYTES_MAX - 1024
"""The keys of one read: room is left for the rest of its frame."""

_FLOORED = (LevelName.SESSION, LevelName.SEQUENTIAL)


class ReadBatch(CallRequest):
    """Ranges of one loop turn and one level. ``wanted[i]`` is the kind of reply that ``futures[i]`` waits for."""

    __slots__ = ("futures", "level", "pipeline", "requests", "seen_revision", "wanted")

    def __init__(self, pipeline: "ReadPipeline", call: int, target: str, level: ReadLevel) -> None:
        super().__init__(call, target, 0.0)
        self.pipeline = pipeline
        self.level = level
        self.requests: list[Range] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.wanted: list[type[GetReply] | type[RangeReply]] = []

    @override
    def frame(self) -> bytes:
        return frame_of(Reads(self.call, self.level, tuple(self.requests)))

    @override
    def fail(self, error: TrothError) -> None:
        self.pipeline.held -= len(self.futures)
        for future in self.futures:
            if not future.done():
                future.set_exception(error)

    @override
    def answer(self, connection: Connection, message: ReadResults) -> None:
        results = message.results
        if len(results) != len(self.futures):
            raise ProtocolError(f"{len(results)} results for {len(self.futures)} reads")
        self.pipeline.held -= len(results)
        self.pipeline.on_revision(message.revision)
        server, level, staleness_ms = connection.server, message.level, message.staleness_ms
        for future, wanted, result in zip(self.futures, self.wanted, results, strict=True):
            if future.done():
                continue  # The caller has given up.
            if isinstance(result, Failure):
                future.set_exception(error_of(result.code, result.text, compact_revision=result.compact_revision))
            elif wanted is GetReply:
                kvs = result.kvs
                future.set_result(GetReply(kvs[0] if kvs else None, result.revision, server, level, staleness_ms))
            else:
                future.set_result(
                    RangeReply(result.kvs, result.count, result.more, result.revision, server, level, staleness_ms)
                )


class ReadPipeline:
    """All reads of one client. `held` counts those under way; above `held_max` a read fails with `Overloaded`."""

    def __init__(self, router: Router, writes: WritePipeline, *, read_from: str, held_max: int = 65_536) -> None:
        self._router = router
        self._writes = writes
        self._loop = router.loop
        self._create_future = router.loop.create_future
        self._read_from = read_from
        self._held_max = held_max
        self.held = 0
        self._gathering: dict[ReadLevel, ReadBatch] = {}
        # The batch that the last read went into: most turns ask for one level only.
        self._level: ReadLevel | None = None
        self._checked_level = linearizable
        self._batch = ReadBatch(self, 0, LEADER, linearizable)

    def submit(
        self, request: Range, level: ReadLevel, wanted: type[GetReply] | type[RangeReply]
    ) -> "asyncio.Future[Any]":
        """Add *request*, whose key and range_end have `LONG_KEY_BYTES` at most, to this turn's batch of *level*."""
        future: asyncio.Future[Any] = self._create_future()
        if level is not self._level or len(self._batch.requests) >= READS_REQUESTS_MAX:
            if self.held >= self._held_max:
                future.set_exception(Overloaded(f"{self.held} reads of this client are waiting; await some first"))
                return future
            self._batch_for(level)
        batch = self._batch
        batch.requests.append(request)
        batch.futures.append(future)
        batch.wanted.append(wanted)
        self.held += 1
        return future

    def submit_apart(
        self, request: Range, level: ReadLevel, wanted: type[GetReply] | type[RangeReply], timeout_s: float | None
    ) -> "asyncio.Future[Any]":
        """`submit` of what may be too large for a batch with others, or for a caller whose patience is not the client's
        (*timeout_s*)."""
        if len(request.key) + len(request.range_end) > READ_BYTES_MAX:
            future: asyncio.Future[Any] = self._create_future()
            future.set_exception(InvalidRequest(REQUEST_TOO_LARGE.text))
            return future
        if timeout_s is not None and self._router.is_shorter(timeout_s):
            return self._router.limited(self._submit_alone(request, level, wanted), timeout_s, Unavailable)
        # What is patient for longer must not make others wait.
        return self._submit_alone(request, level, wanted, timeout_s or 0.0)

    def _submit_alone(
        self, request: Range, level: ReadLevel, wanted: type[GetReply] | type[RangeReply], within_s: float = 0.0
    ) -> "asyncio.Future[Any]":
        self._flush()
        future = self.submit(request, level, wanted)
        if not future.done():
            self._batch.within_s = within_s
            self._flush()
        return future

    def on_revision(self, revision: int) -> None:
        """An answer was read at *revision*: the floor of later session reads."""
        if revision > self._writes.seen_revision:
            self._writes.seen_revision = revision

    def _batch_for(self, level: ReadLevel) -> None:
        if not isinstance(level, ReadLevel):
            raise UsageError(f"level= takes troth.eventual, troth.bounded(seconds=2) and so on, not {level!r:.60}")
        if level is not self._checked_level:
            # Here, where its caller hears of it: what cannot be sent would take the other levels' reads along.
            checked_frame_of(Reads(0, level, ()))
            self._checked_level = level
        if not self._gathering:
            self._router.require_loop()
            self._loop.call_soon(self._flush)
        batch = self._gathering.get(level)
        if batch is None or len(batch.requests) >= READS_REQUESTS_MAX:
            if batch is not None:
                self._submit(batch)
            batch = ReadBatch(self, self._router.next_call(), self._target(level), level)
            self._gathering[level] = batch
        self._level, self._batch = level, batch

    def _target(self, level: ReadLevel) -> str:
        if level.name is LevelName.LINEARIZABLE and self._read_from == "any":
            return LEADER
        return self._read_from

    def _flush(self) -> None:
        batches = list(self._gathering.values())
        self._gathering.clear()
        self._level = None
        for batch in batches:
            self._submit(batch)

    def _submit(self, batch: ReadBatch) -> None:
        level = batch.level
        if level.name in _FLOORED and self._writes.seen_revision > level.seen_revision:
            # No older state than this client has seen, in writes and in reads.
            batch.level = ReadLevel(level.name, self._writes.seen_revision)
        batch.deadline_s = self._loop.time() + (batch.within_s or self._router.timeout_s)
        self._router.submit(batch)

    def close(self) -> None:
        """Hand over what is gathered, so that the router fails it with the rest."""
        self._flush()
