"""A thread with an event loop of its own, for callers that have none; and the blocking twins of what lives in it."""

import asyncio
import concurrent.futures
import functools
import inspect
import os
import re
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

import uvloop
from typing_extensions import override

from troth.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

_WRAPPED = re.compile(r"^(?:asyncio\.)?(?:Future|Awaitable)\[(.*)\]$")


class Background:
    """Runs coroutines for threads that block until these are done. One per synchronous client."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._ending = threading.Lock()
        self._is_over = False
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="troth client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            while not self._over.is_set():
                try:
                    runner.run(self._until_over())
                except (SystemExit, KeyboardInterrupt) as error:
                    # Of a caller's function. Here it would end no program, only leave all who wait without an answer.
                    context = {"message": "a function ran in the client's thread and raised", "exception": error}
                    self._loop.call_exception_handler(context)

    async def _until_over(self) -> None:
        await self._over.wait()

    @property
    def is_running(self) -> bool:
        """Whether `run` works, in this process."""
        return not self._is_over and os.getpid() == self._pid

    def run(self, function: "Callable[P, Awaitable[T]]", *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* in the loop and wait for what it returns.

        Raises:
            UsageError: from inside the loop itself, after `stop`, or in a forked child (the thread is not there).
        """
        if threading.current_thread() is self._thread:
            raise UsageError("a blocking call from the client's own thread would wait for itself")
        if os.getpid() != self._pid:
            raise UsageError("this client was made before a fork; make one in each process")
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        started: list[asyncio.Future[T]] = []

        def start() -> None:
            try:
                future = asyncio.ensure_future(function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  (handed to the thread that asked)
                done.set_exception(error)
                return
            started.append(future)
            future.add_done_callback(finish)

        def finish(future: "asyncio.Future[T]") -> None:
            if future.cancelled():
                done.cancel()
                return
            error = future.exception()
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(future.result())

        with self._ending:
            # What is handed to the loop after `stop` would never run, and the caller would wait for ever.
            if self._is_over:
                raise UsageError("this client is closed")
            self._loop.call_soon_threadsafe(start)
        try:
            return done.result()
        except concurrent.futures.CancelledError:
            if self._is_over:
                raise UsageError("this client was closed while the call was under way") from None
            raise
        except BaseException:
            # Ctrl-C, or what another signal handler raises here: nobody waits any more.
            if not done.done():
                self._loop.call_soon_threadsafe(_cancel_all, started)
            raise

    def stop(self) -> None:
        """End the loop and the thread. Raises UsageError from inside the loop itself."""
        if threading.current_thread() is self._thread:
            raise UsageError("a blocking call from the client's own thread would wait for itself")
        if os.getpid() != self._pid:
            return
        with self._ending:
            if not self._is_over:
                self._is_over = True
                self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


def _cancel_all(futures: "list[asyncio.Future[Any]]") -> None:
    for future in futures:
        future.cancel()


class Twin(Generic[A_co]):
    """What a thread holds of *aio*, which lives in the loop of *background*."""

    def __init__(self, aio: A_co, background: Background) -> None:
        self.aio = aio
        """The asyncio object underneath; to be used in its own loop only."""
        self.background = background

    @override
    def __init_subclass__(cls) -> None:
        """What `blocking` has made of asyncio's methods are methods of this class: `help` says so."""
        super().__init_subclass__()
        for name, each in vars(cls).items():
            if inspect.isfunction(each) and hasattr(each, "__wrapped__"):
                each.__module__, each.__qualname__ = cls.__module__, f"{cls.__qualname__}.{name}"


def blocking(call: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[Twin[A], P], T]:
    """The twin of the method *call*: the same arguments, and the answer itself, which the thread waits for."""

    @functools.wraps(call)
    def wait(self: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.background.run(call, self.aio, *args, **kwargs)

    # The answer itself, where the twin says in what it is wrapped.
    signature = inspect.signature(call)
    answer = _WRAPPED.sub(r"\1", str(signature.return_annotation))
    wait.__annotations__ = {**call.__annotations__, "return": answer}
    setattr(wait, "__signature__", signature.replace(return_annotation=answer))  # noqa: B010 - unknown to mypy
    return wait


class _Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class ClosingTwin(Twin[C]):
    """One that is a context manager, too."""

    def close(self) -> None:
        """End it. Twice is no error."""
        if self.background.is_running:
            self.background.run(self.aio.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
