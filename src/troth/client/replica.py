"""One holder of a replicated object, for asyncio: it follows the calls, makes its own, trims. See replicated.py."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import msgspec

from troth.client import request as requests
from troth.client.aio import AsyncClient
from troth.client.calls import call_body, commands_of, decode_call, decode_head, decode_state, encode, plain
from troth.client.operations import Delete, Get, Put, as_bytes, mod_revision, value
from troth.client.replies import RangeReply
from troth.errors import (
    DecodeError,
    OutcomeUnknown,
    RequestTimeout,
    TrothError,
    Unavailable,
    UsageError,
    WatchCompacted,
)
from troth.kv.requests import Event, EventType, KeyValue, SortOrder, SortTarget
from troth.models import LevelName, ReadLevel, linearizable

SNAPSHOT_EVERY = 1000
RETRY_PAUSE_S = 0.05
_CALLER_BITS = 64

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("troth.client")


class Replica(Generic[T]):
    """One holder of a replicated object, for asyncio: ``await replica.add(2)``, ``await replica.read(...)``."""

    def __init__(self, client: AsyncClient, kind: type[T], name: str) -> None:
        """Made by `open`."""
        prefix = name.rstrip("/") + "/"
        if prefix == "/":
            raise UsageError("a replicated object needs a name, for example counters/a")
        self._client = client
        self._kind = kind
        self._commands = commands_of(kind)
        self._class_name = kind.__qualname__
        self._prefix = prefix
        self._head_key = as_bytes(prefix + "head")
        self._state_key = as_bytes(prefix + "state")
        self._calls_prefix = prefix + "calls/"
        self._calls_key = as_bytes(self._calls_prefix)
        self._caller = f"{requests.draw_bits(_CALLER_BITS):016x}"
        self._count = 0
        self._object: T = kind()
        # The epoch that calls are written to, as far as we know, and the one that the object has come to.
        self._head_epoch = 0
        self._epoch = 0
        self._next_epoch = 0
        self._calls_in_epoch = 0
        self._state_mod_revision = 0
        self.applied_revision = 0
        """Everything up to this revision has been applied to the object here."""
        self._pending: dict[bytes, asyncio.Future[Any]] = {}
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._error: TrothError | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, client: AsyncClient, kind: type[T], name: str) -> "Replica[T]":
        """Begin to hold the object called *name*; what was called before is applied when this returns."""
        replica = cls(client, kind, name)
        plain(replica._state(), f"the state of {kind.__name__}", tuples=False)
        head = replica._head(0)
        await client.txn([mod_revision(replica._head_key) == 0], [Put(replica._head_key, head)])
        await replica._load()
        replica._task = client.router.loop.create_task(replica._follow(), name=f"troth object {name}")
        return replica

    async def close(self) -> None:
        """Stop following the object."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(Unavailable("this replica was closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- reading ---------------------------------------------------------------------------------------

    async def read(self, function: Callable[[T], R], *, level: ReadLevel = linearizable) -> R:
        """``function(object)`` on a state as new as *level* says. Return copies, not parts of the object.

        It must change nothing: that would be changed here alone, and the replicas agree no more.

        Levels below linearizable are served at once from the state here: it holds all calls of this replica and
        never goes back, which is sequential, session and eventual alike.

        Raises:
            UsageError: the level is bounded, which a replica cannot vouch for without asking.
        """
        if level.name in (LevelName.BOUNDED_TIME, LevelName.BOUNDED_REVISIONS):
            raise UsageError("a replicated object is read linearizable, sequential, session or eventual")
        if self._error is not None:
            raise self._error
        if level.name is LevelName.LINEARIZABLE:
            head = await self._client.get(self._head_key)
            if head.kv is None:
                raise UsageError(f"{self._prefix} was deleted")
            await self._wait_applied(head.kv.mod_revision)
        return function(self._object)

    async def _wait_applied(self, revision: int) -> None:
        if self.applied_revision >= revision:
            return
        future: asyncio.Future[None] = self._client.router.loop.create_future()
        self._waiters.append((revision, future))
        try:
            async with asyncio.timeout(self._client.router.timeout_s):
                await future
        except TimeoutError:
            raise Unavailable(
                f"{self._prefix} is at revision {self.applied_revision} here and has not reached {revision} in time"
            ) from None

    # ---- calling ---------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if name.startswith("_"):  # also of one that is being copied, and has nothing yet
            raise AttributeError(name)
        if name not in self._commands:
            raise AttributeError(
                f"{name!r} is not a command of {self._kind.__name__}; read the object with .read(lambda o: o.{name})"
            )

        def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            return self.call(name, *args, **kwargs)

        return call

    async def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Have *method* called on every replica; the value, or exception, of the call on this one.

        Raises:
            UsageError: no such command, or arguments that do not fit it or are not plain data; nothing was sent.
            NotApplied: it did not happen.
            OutcomeUnknown: it may have happened.
        """
        if self._error is not None:
            raise self._error
        body = self._body(method, args, kwargs)
        while True:
            epoch = self._head_epoch
            self._count += 1
            key = as_bytes(f"{self._calls_prefix}{epoch:016x}/{self._caller}.{self._count:x}")
            applied: asyncio.Future[Any] = self._client.router.loop.create_future()
            self._pending[key] = applied
            head = self._head(epoch)
            try:
                reply = await self._client.txn(
                    [value(self._head_key) == head],
                    [Put(key, body), Put(self._head_key, head)],
                    [Get(self._head_key)],
                )
                if reply.succeeded:
                    return await self._value(applied, reply.revision)
            finally:
                self._pending.pop(key, None)
            found = reply.responses[0]
            if not isinstance(found, RangeReply) or not found.kvs:
                raise UsageError(f"{self._prefix} was deleted")
            self._head_epoch = max(self._head_epoch, self._read_head(found.kvs[0]))

    async def _value(self, applied: "asyncio.Future[Any]", revision: int) -> Any:
        try:
            async with asyncio.timeout(self._client.router.timeout_s):
                await asyncio.wait([applied])
        except TimeoutError:
            raise RequestTimeout(
                f"the call stands at revision {revision} and happens on all replicas; its value has not come in time"
            ) from None
        return applied.result()

    def _body(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        function = self._commands.get(method)
        if function is None:
            raise UsageError(f"{method!r} is not a command of {self._kind.__name__}")
        return call_body(self._kind, method, function, args, kwargs)

    def _head(self, epoch: int) -> bytes:
        return encode([epoch, self._class_name])

    def _read_head(self, kv: KeyValue) -> int:
        epoch, class_name = decode_head(kv.value)
        if class_name != self._class_name:
            raise UsageError(f"{self._prefix} holds an object of class {class_name}, not {self._class_name}")
        return epoch

    # ---- following -------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Make the object what it is now: the last state written, and the calls after it."""
        reply = await self._client.range(
            prefix=self._prefix, sort_target=SortTarget.CREATE, sort_order=SortOrder.ASCEND
        )
        stored = {kv.key: kv for kv in reply.kvs}
        if self._head_key not in stored:
            raise UsageError(f"{self._prefix} was deleted")
        self._epoch = self._head_epoch = self._read_head(stored[self._head_key])
        self._object, self._calls_in_epoch, self._state_mod_revision = self._kind(), 0, 0
        state = stored.get(self._state_key)
        if state is not None:
            self._object = self._from_state(decode_state(state.value)[2])
            self._state_mod_revision = state.mod_revision
        for kv in reply.kvs:
            if kv.key.startswith(self._calls_key):
                self._apply(kv)
        self._advance(reply.revision)

    async def _follow(self) -> None:
        is_behind = False
        try:
            while True:
                try:
                    if is_behind:
                        await self._load()
                        is_behind = False
                    await self._watch()
                    return
                except WatchCompacted:
                    # We were away for so long that single calls are gone; the state that covers them is there.
                    is_behind = True
                except Unavailable:
                    if self._client.is_closed:
                        raise
                    await asyncio.sleep(RETRY_PAUSE_S)  # no quorum, no server: that passes
        except TrothError as error:
            self._fail(error)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._fail(DecodeError(f"{self._prefix} holds what is no call of an object: {error}"))
        except Exception as error:  # noqa: BLE001  (of the class's from_state)
            self._fail(UsageError(f"{self._prefix}: {self._class_name} does not take its state: {error!r}"))

    async def _watch(self) -> None:
        async with self._client.watch(prefix=self._prefix, start_revision=self.applied_revision + 1) as watch:
            async for events in watch:
                self._on_events(events)
                self._advance(watch.revision)

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            kv = event.kv
            if event.type is EventType.DELETE:
                if kv.key == self._head_key:
                    raise UsageError(f"{self._prefix} was deleted")
            elif kv.key == self._head_key:
                self._on_head(kv)
            elif kv.key == self._state_key:
                self._state_mod_revision = kv.mod_revision
            elif kv.key.startswith(self._calls_key):
                self._apply(kv)

    def _apply(self, kv: KeyValue) -> None:
        method, args, kwargs = decode_call(kv.value)
        function = self._commands.get(method)
        if function is None:
            raise UsageError(
                f"{self._prefix} was called with {method!r}, which this {self._class_name} does not have: replicas "
                "must learn a new command before anybody calls it"
            )
        pending = self._pending.get(kv.key)
        self._calls_in_epoch += 1
        try:
            outcome = function(self._object, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  (it belongs to the caller; all replicas had the same)
            if pending is not None and not pending.done():
                # No future holds a StopIteration; a generator makes the same of it (PEP 479).
                ended = (
                    RuntimeError(f"{method} raised StopIteration") if isinstance(error, StopIteration) else error
                )
                pending.set_exception(ended)
                pending.exception()  # marked as seen: the caller may have given up, or still wait for its transaction
        else:
            if pending is not None and not pending.done():
                pending.set_result(outcome)
        if pending is not None and self._calls_in_epoch >= SNAPSHOT_EVERY and self._next_epoch <= self._epoch:
            self._next_epoch = self._epoch + 1
            self._client.keep_task(self._begin_epoch(self._next_epoch))

    def _advance(self, revision: int) -> None:
        self.applied_revision = max(self.applied_revision, revision)
        if self._waiters:
            for wanted, future in self._waiters:
                if wanted <= self.applied_revision and not future.done():
                    future.set_result(None)
            self._waiters = [(wanted, future) for wanted, future in self._waiters if not future.done()]

    def _fail(self, error: TrothError) -> None:
        """The object cannot be followed any further."""
        self._error = self._error or error
        for future in [*self._pending.values(), *(future for _, future in self._waiters)]:
            if not future.done():
                future.set_exception(OutcomeUnknown(f"the call may happen; this replica has stopped: {error}"))
                future.exception()  # marked as seen: the caller may still wait for its transaction
        self._waiters.clear()

    # ---- trimming --------------------------------------------------------------------------------------

    def _on_head(self, kv: KeyValue) -> None:
        epoch = self._read_head(kv)
        if epoch <= self._epoch:
            return  # The head of a call.
        self._epoch, self._calls_in_epoch = epoch, 0
        self._head_epoch = max(self._head_epoch, epoch)
        if epoch == self._next_epoch:
            try:
                # Serialised here and now: this is the point of the order that the epoch begins at.
                state = encode([epoch, kv.mod_revision, plain(self._state(), "the state", tuples=False)])
            except Exception as error:  # noqa: BLE001  (of the class's to_state, too)
                _log.warning("%s cannot be trimmed: %r", self._prefix, error)
                return
            self._client.keep_task(self._write_state(epoch, state, self._state_mod_revision))

    async def _begin_epoch(self, epoch: int) -> None:
        try:
            await self._client.txn(
                [value(self._head_key) == self._head(epoch - 1)], [Put(self._head_key, self._head(epoch))]
            )
        except TrothError:
            self._next_epoch = 0  # The next call of ours tries again.

    async def _write_state(self, epoch: int, state: bytes, former: int) -> None:
        """*former*: when the state was written last, at that point of the order. One written since is of a later epoch,
        whose calls before it are gone."""
        try:
            await self._client.txn(
                [mod_revision(self._state_key) == former],
                [Put(self._state_key, state), Delete(self._calls_prefix, f"{self._calls_prefix}{epoch:016x}")],
            )
        except TrothError:
            pass  # The calls stay; the next epoch's state covers them.

    def _state(self) -> Any:
        to_state = getattr(self._object, "to_state", None)
        return to_state() if to_state is not None else dict(vars(self._object))

    def _from_state(self, state: Any) -> T:
        from_state = getattr(self._kind, "from_state", None)
        if from_state is not None:
            return cast(T, from_state(state))
        made = self._kind.__new__(self._kind)
        vars(made).update(state)
        return made
