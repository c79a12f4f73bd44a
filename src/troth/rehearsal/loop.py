"""The event loop of one simulated process: asyncio's interface, virtual time.

The servers and clients that run in it are the real ones. asyncio asks little of a loop: a queue of callbacks, timers,
a clock, and somebody who makes connections (network.py). A process can be stopped and go on later (SIGSTOP: what
comes in meanwhile waits, timers that were due are late), and it can be killed: nothing of it runs again then, but for
the ``finally`` blocks of its coroutines, which find every socket and timer dead.

One process runs at a time, from one thing that happens to it until it waits again. That takes no virtual time.
"""

import asyncio
from asyncio import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec

from troth.simulate.world import World

if TYPE_CHECKING:
    from troth.rehearsal.network import Network

ROUNDS_MAX = 4
ROUND_US = 20
"""A process that has so often found more to do, called back by itself, lets the world go on for a moment: what arrives
meanwhile comes in between, as in a loop that polls its sockets each time round."""

TASKS_KEPT = 64


class Handle(msgspec.Struct, eq=False):
    """A callback that was asked for. (A Struct, since nothing is made as often, and it is made without Python code.)"""

    callback: Callable[..., object] | None
    arguments: tuple[Any, ...]
    context: Context | None
    when_us: int = 0

    def cancel(self) -> None:
        self.callback = None
        self.arguments = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.when_us / 1e6


class Clock:
    """A process's monotonic clock, in microseconds: it may run fast or slow, and leap ahead."""

    __slots__ = ("_base_world_us", "_permille", "_world", "ahead_us", "is_right")

    def __init__(self, world: World, offset_us: int = 0) -> None:
        self._world = world
        self.ahead_us = offset_us - world.now_us
        """How far it is ahead of the world's time; while it runs at another speed, how far it was when that began."""
        self.is_right = True
        """Whether it runs at the right speed. The most frequent question is answered by whoever asks, for that case."""
        self._base_world_us = 0
        self._permille = 1000

    def local_us(self) -> int:
        now_us = self._world.now_us
        if not self.is_right:
            passed_us = now_us - self._base_world_us
            now_us = self._base_world_us + passed_us * self._permille // 1000
        return now_us + self.ahead_us

    def world_us(self, local_us: int) -> int:
        """How much of the world's time passes until this clock has counted *local_us*."""
        return local_us if self.is_right else -(-local_us * 1000 // self._permille)

    def set_rate(self, permille: int) -> None:
        """Run at *permille* thousandths of the right speed from now on."""
        self.ahead_us = self.local_us() - self._world.now_us
        self._base_world_us = self._world.now_us
        self._permille = permille
        self.is_right = permille == 1000

    def jump(self, local_us: int) -> None:
        """Leap ahead, as a clock does that is read before and after a long sleep of the machine."""
        self.ahead_us += local_us


class ProcessLoop:
    """What `asyncio.get_running_loop` gives to the code of one simulated process."""

    def __init__(
        self, world: World, network: "Network", host: str, clock: Clock, on_error: Callable[[BaseException], None]
    ) -> None:
        """*on_error* hears what a callback raised: in a real loop that would be logged, here it is a finding."""
        self.world = world
        self.host = host
        self.clock = clock
        self.alive = True
        self.paused = False
        self.rounds_max = ROUNDS_MAX
        self.round_us = ROUND_US
        """A slow computer has other values."""
        self._network = network
        self._on_error = on_error
        self._ready: deque[Handle] = deque()
        self._armed = False
        self._running = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._as_loop = cast(asyncio.AbstractEventLoop, self)
        self.create_future: Callable[[], asyncio.Future[Any]] = partial(asyncio.Future, loop=self._as_loop)

    # ---- asyncio's side --------------------------------------------------------------------------------

    get_debug = staticmethod(bool)
    """False. Each future and task asks, and this answer takes no Python code."""

    def time(self) -> float:
        clock = self.clock
        return (self.world.now_us + clock.ahead_us if clock.is_right else clock.local_us()) / 1e6

    def call_soon(
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, arguments, context)
        if self.alive:
            self._ready.append(handle)
            if not self._running:
                self._arm()
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *arguments, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Handle:
        # Of a deadline less than a microsecond may be left; taken for nothing it would be asked for again for ever.
        local_us = int(delay * 1e6) or int(delay > 0)
        return self._call_in(local_us, self.clock.local_us() + local_us, callback, arguments, context)

    def call_at(
        self, when: float, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Handle:
        # One microsecond more: floats must not make a timer early by a hair, and be asked for again at once.
        when_us = int(when * 1e6) + 1
        return self._call_in(when_us - self.clock.local_us(), when_us, callback, arguments, context)

    def _call_in(
        self,
        local_us: int,
        when_us: int,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        context: Context | None,
    ) -> Handle:
        handle = Handle(callback, arguments, context, when_us)
        if self.alive:
            clock = self.clock
            delay_us = 0 if local_us <= 0 else local_us if clock.is_right else clock.world_us(local_us)
            self.world.after(delay_us, self._due, handle)
        return handle

    def create_task(
        self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coroutine, loop=self._as_loop, name=name, context=context)
        tasks = self._tasks
        if len(tasks) >= TASKS_KEPT:
            self._tasks = tasks = [each for each in tasks if not each.done()]
        tasks.append(task)
        return task

    def run_in_executor(
        self, executor: object, function: Callable[..., Any], *arguments: Any
    ) -> "asyncio.Future[Any]":
        """At once: there is no second thread."""
        del executor
        future = self.create_future()
        future.set_result(function(*arguments))
        return future

    async def create_server(
        self, factory: Callable[[], Any], host: str, port: int, *, start_serving: bool = True, **options: Any
    ) -> Any:
        del options
        listener = self._network.bind(self, factory, (host, port))
        if start_serving:
            await listener.start_serving()
        return listener

    async def create_connection(
        self, factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> tuple[Any, Any]:
        del options
        return await self._network.connect(self, factory, (host, port))

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return not self.alive

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.alive and error is not None:
            self._on_error(error)

    # ---- the world's side ------------------------------------------------------------------------------

    def enter(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Something happens to this process: *callback* runs in it as soon as it can."""
        if not self.alive:
            return
        if self._running or self.paused or self._ready:
            self._ready.append(Handle(callback, arguments, None))
            if not self._running and not self.paused:
                self._run()
        else:
            self._run(callback, arguments)

    def pause(self) -> None:
        """Stop it; `resume` lets it go on."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        if self.alive and self._ready:
            self._arm()

    def kill(self) -> None:
        """Nothing of it runs again. Not to be called from within."""
        self.alive = False
        self._ready.clear()
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self._as_loop)
        try:
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task)
        finally:
            asyncio._set_running_loop(before)
        self._tasks.clear()

    def _due(self, handle: Handle) -> None:
        callback = handle.callback
        if not self.alive or callback is None:
            return
        if self._running or self.paused or self._ready or handle.context is not None:
            self._ready.append(handle)
            if not self._running and not self.paused:
                self._run()
        else:
            self._run(callback, handle.arguments)

    def _arm(self, delay_us: int = 0) -> None:
        if not self._armed and not self.paused:
            self._armed = True
            self.world.after(delay_us, self._run_armed)

    def _run_armed(self) -> None:
        self._armed = False
        if self.alive and not self.paused:
            self._run()

    def _run(self, first: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()) -> None:
        """Call what is ready; *first*: what has just happened, when nothing else is."""
        ready = self._ready
        before = _get_running_loop()
        _set_running_loop(self._as_loop)
        self._running = True
        rounds = 0
        try:
            if first is not None:
                rounds = 1
                try:
                    first(*arguments)
                # As below.
                except Exception as error:  # noqa: BLE001
                    self._on_error(error)
            while ready and rounds < self.rounds_max:
                rounds += 1
                for _ in range(len(ready)):
                    handle = ready.popleft()
                    callback, context = handle.callback, handle.context
                    if callback is None:
                        continue
                    try:
                        if context is None:
                            callback(*handle.arguments)
                        else:
                            context.run(callback, *handle.arguments)
                    # As asyncio does, but for a finding instead of a line in a log.
                    except Exception as error:  # noqa: BLE001
                        self._on_error(error)
        finally:
            self._running = False
            _set_running_loop(before)
        if ready:
            self._arm(self.round_us)


def _close(task: "asyncio.Task[Any]") -> None:
    """Let the coroutine of *task* run its ``finally`` blocks now, not when the collector comes by."""
    coroutine = task.get_coro()
    try:
        coroutine.close()
    except (RuntimeError, asyncio.InvalidStateError):
        return  # It waits for something in such a block; nothing comes to it any more.
