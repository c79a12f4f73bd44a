"""`RaftServer`: one server in an operating system process of its own.

The process is spawned, not forked (a forked copy of a program with threads and open sockets is a trap), and does
not import the caller's ``__main__``: it needs nothing of it, so scripts work without an ``if __name__ ==
"__main__"`` guard, and a program with heavy imports does not pay for them once per server.

Three ways lead in and out: a pipe for commands and answers, an event that is set once the server serves, and a queue
that tells what happens to it. The queue is bounded and lossy; a slow reader never slows the server.

A server ends with its parent: it watches the pipe for end-of-file, and on Linux asks the kernel to be killed, which
also reaches a paused process.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping
from multiprocessing import reduction
from queue import Empty
from typing import Any, cast

from troth.errors import TrothError, Unavailable, UsageError
from troth.ids import NodeId
from troth.replica.protocol import ServerStatus
from troth.runtime import interrupts
from troth.runtime.genesis import Founding
from troth.server.config import ServerConfig
from troth.server.control import Control, ServerEvent, rebuilt

EVENTS_MAX = 1000
READY_SECONDS_MAX = 30.0
CALL_SECONDS_MAX = 5.0
UNANSWERED_MAX = 16
"""Commands that a server owes us answers to (it is paused, say). One more is not sent: it, or the answers when it goes
on, would fill the pipe, and whoever writes to a full pipe waits for ever."""
STOP_SECONDS_MAX = 10.0

_spawn = multiprocessing.get_context("spawn")
_main_lock = threading.Lock()


class RaftServer:
    """One server process.

    >>> server = RaftServer(name="n1", data_dir="/tmp/n1")  # doctest: +SKIP
    >>> server.start(); server.wait_ready(); server.status().role  # doctest: +SKIP
    'leader'

    Usable as a context manager, which starts it, waits until it is ready, and stops it at the end.
    """

    def __init__(
        self,
        config: ServerConfig | None = None,
        *,
        founding: Founding | None = None,
        ends: Mapping[NodeId, socket.socket] | None = None,
        log_file: str = "",
        **settings: Any,
    ) -> None:
        """Give either a *config* or its *settings*. *ends*: inherited socket ends to peers, closed here by `start`.
        *log_file*: where its log goes instead of our standard error.

        Raises:
            UsageError: a setting is wrong.
        """
        if config is not None and settings:
            raise UsageError("give either a ServerConfig or its settings, not both")
        try:
            self.config = config or ServerConfig(**settings)
        except TypeError as error:
            raise UsageError(f"RaftServer: {error}") from None
        self.ready = _spawn.Event()
        """Set once the server accepts clients."""
        self.events: Any = _spawn.Queue(EVENTS_MAX)
        """`ServerEvent` objects; when nobody reads, the newest are dropped."""
        self._founding = founding
        self._log_file = log_file
        self._ends = dict(ends or {})
        self._pipe, self._child_pipe = _spawn.Pipe()
        self._lock = threading.Lock()
        self._last_command = 0
        self._unanswered: set[int] = set()
        self._process: Any = None
        self._greeted = False
        self.node_id = NodeId(0) if founding is None else founding.node_id

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def pid(self) -> int:
        """Raises UsageError before `start`."""
        return cast(int, self._started().pid)

    @property
    def exitcode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._process is None else cast("int | None", self._process.exitcode)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Spawn the process; `wait_ready` says when it serves.

        Raises:
            UsageError: started already.
        """
        if self._process is not None:
            raise UsageError(f"server {self.name} was started before; make a new RaftServer to start it again")
        control = Control(
            pipe=self._child_pipe,
            ready=self.ready,
            events=self.events,
            # The kernel's signal comes when the *thread* that spawned us ends, so only the main thread may ask for it.
            die_with_parent=threading.current_thread() is threading.main_thread(),
            parent=os.getpid(),
            log_file=self._log_file,
        )
        self._process = _spawn.Process(
            target=_main,
            args=(self.config, self._founding, self._ends, control),
            name=f"troth-{self.name}",
            daemon=True,
        )
        with _without_main(), interrupts.held_back():
            self._process.start()
        self._child_pipe.close()
        for end in self._ends.values():
            end.close()

    def wait_ready(self, timeout_s: float = READY_SECONDS_MAX) -> None:
        """Return once the server accepts clients.

        Raises:
            TrothError: it could not start; of the class, and with the text, that it failed with.
            Unavailable: it takes longer than *timeout_s*.
        """
        process = self._started()
        deadline = time.monotonic() + timeout_s
        late = Unavailable(f"server {self.name} is not ready after {timeout_s:g} s; {self._told}")
        # There is one greeting for all threads that wait for it.
        if not self._lock.acquire(timeout=max(0, timeout_s)):
            raise late
        try:
            while not self._greeted:
                left_s = deadline - time.monotonic()
                found = multiprocessing.connection.wait([self._pipe, process.sentinel], max(0, left_s))
                if self._pipe in found:
                    self._take_greeting()
                elif found:
                    raise self._ended("before it was ready")
                elif left_s <= 0:
                    raise late
        finally:
            self._lock.release()

    def _take_greeting(self) -> None:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended("before it was ready") from None
        if kind == "failed":
            self._started().join(STOP_SECONDS_MAX)
            raise rebuilt(*value)
        self.node_id = value
        self._greeted = True

    def stop(self, timeout_s: float = STOP_SECONDS_MAX) -> None:
        """Stop gracefully: hand leadership over, let writes become durable, exit. Kills it after *timeout_s*."""
        if self._process is None or not self._process.is_alive():
            return
        self.terminate()
        self.resume()
        self._process.join(timeout_s)
        if self._process.is_alive():
            self.kill()
            self._process.join()

    def terminate(self) -> None:
        """SIGTERM: ask for a graceful stop, and do not wait."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: as a crash."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: the process stands still, its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: undo `pause`."""
        self._signal(signal.SIGCONT)

    def join(self, timeout_s: float | None = None) -> int | None:
        """Wait for the process to end; its exit code, or None when *timeout_s* is over."""
        self._started().join(timeout_s)
        return self.exitcode

    def close(self) -> None:
        """Kill the process if it runs, and release pipe and queue."""
        if self._process is not None and self._process.is_alive():
            self.kill()
            self._process.join()
        self._pipe.close()
        self._child_pipe.close()
        self.events.cancel_join_thread()
        self.events.close()
        for end in self._ends.values():
            end.close()

    def _signal(self, number: signal.Signals) -> None:
        process = self._started()
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def _started(self) -> Any:
        if self._process is None:
            raise UsageError(f"server {self.name} is not started; call start() first")
        return self._process

    def _ended(self, when: str) -> TrothError:
        process = self._started()
        process.join(STOP_SECONDS_MAX)
        return Unavailable(f"server {self.name} ended {when} (exit code {process.exitcode}); {self._told}")

    @property
    def _told(self) -> str:
        return f"see its log, {self._log_file or 'on standard error'}"

    def __enter__(self) -> "RaftServer":
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.close()

    # -- commands --------------------------------------------------------------------------------------------

    def status(self, timeout_s: float = CALL_SECONDS_MAX) -> ServerStatus:
        """What the server knows. Raises Unavailable when it does not answer (paused, dead)."""
        return cast(ServerStatus, self._call("status", None, timeout_s))

    def transfer(self, target: NodeId = NodeId(0), timeout_s: float = CALL_SECONDS_MAX) -> None:
        """Hand leadership to *target* (0: whoever is most up to date).

        Raises:
            NotLeader: this server does not lead.
            Unavailable: it does not answer.
        """
        self._call("transfer", target, timeout_s)

    def dump(self, timeout_s: float = CALL_SECONDS_MAX) -> dict[str, Any]:
        """All counters and queues of the server, for looking into it."""
        return cast("dict[str, Any]", self._call("dump", None, timeout_s))

    def adopt(self, peer: NodeId, end: socket.socket) -> None:
        """Give the running server *end* of a new socket pair to *peer*. Closes it here.

        Waits until the server serves: before, it has nowhere to put it.

        Raises:
            TrothError: it does not answer, or could not start.
        """
        try:
            self._call("adopt", peer, CALL_SECONDS_MAX, end)
        finally:
            end.close()

    def _call(self, command: str, argument: object, timeout_s: float, end: socket.socket | None = None) -> object:
        if not self._greeted:
            self.wait_ready(READY_SECONDS_MAX if end is not None else timeout_s)
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=max(0, timeout_s)):
            raise self._silent()
        try:
            while len(self._unanswered) >= UNANSWERED_MAX:
                self._next_answer(deadline)
            self._last_command = number = self._last_command + 1
            self._unanswered.add(number)
            self._pipe.send((number, command, argument))
            if end is not None:
                reduction.send_handle(self._pipe, end.fileno(), self.pid)
            while True:
                answered, failure, value = self._next_answer(deadline)
                if answered == number:
                    break
        except (OSError, EOFError):
            raise self._ended("unexpectedly") from None
        finally:
            self._lock.release()
        if failure is not None:
            raise rebuilt(*failure)
        return value

    def _silent(self) -> Unavailable:
        return Unavailable(f"server {self.name} does not answer; is it paused?")

    def _next_answer(self, deadline: float) -> tuple[int, tuple[str, str] | None, object]:
        """The next answer to any command: it may be a late one, to a command that was given up."""
        if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
            raise self._silent()
        answer: tuple[int, tuple[str, str] | None, object] = self._pipe.recv()
        self._unanswered.discard(answer[0])
        return answer

    def next_event(self, timeout_s: float = 0.0) -> ServerEvent | None:
        """The next event, or None when there is none within *timeout_s*."""
        try:
            return cast(ServerEvent, self.events.get(timeout=timeout_s) if timeout_s else self.events.get_nowait())
        except Empty:
            return None


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide ``__main__`` while a process is spawned, so that the child does not run it."""
    with _main_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _main(
    config: ServerConfig, founding: Founding | None, ends: Mapping[NodeId, socket.socket], control: Control
) -> None:
    """Entry point of the spawned process."""
    from troth.server.serve import run_child

    sys.exit(run_child(config, founding, ends, control))
