"""The entry points of a server process: `serve` for ``troth serve``, `run_child` for `RaftServer`.

This is the one place that catches everything: a server that can not go on says why in one line and exits with a
code that says what kind of failure it was.
"""

import asyncio
import dataclasses
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from multiprocessing import reduction
from queue import Full
from time import time
from typing import Any

import uvloop

from troth.core.interface import Trace
from troth.errors import TrothError, UsageError
from troth.ids import NodeId
from troth.runtime import interrupts
from troth.runtime.genesis import Founding
from troth.server.config import ServerConfig
from troth.server.control import Control, ServerEvent
from troth.server.ending import (
    EXIT_FAILED,
    EXIT_OK,
    clients_that_fit,
    die_with_parent,
    exit_code,
    heed_hangup,
    stop_at_errors,
)
from troth.server.logs import set_up
from troth.server.server import Server

COMMIT_EVENT_SECONDS = 0.2
"""How often the events queue is told how far commits have come."""

_log = logging.getLogger("troth.server")


def serve(config: ServerConfig) -> None:
    """Run one server until SIGTERM or SIGINT, then exit the process. At SIGHUP it reads its certificates anew.

    Raises:
        SystemExit: always; the code is 0 after a graceful stop.
    """
    sys.exit(_run(config, None, {}, None))


def run_child(
    config: ServerConfig, founding: Founding | None, ends: Mapping[NodeId, socket.socket], control: Control
) -> int:
    """Run one server under a parent's control; the exit code."""
    interrupts.ignored()
    if control.die_with_parent and not die_with_parent(control.parent):
        return EXIT_FAILED
    if control.log_file:
        log = os.open(control.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)
        os.close(log)
    return _run(config, founding, ends, control)


def _run(
    config: ServerConfig,
    founding: Founding | None,
    ends: Mapping[NodeId, socket.socket],
    control: Control | None,
) -> int:
    set_up(name=config.name, level=config.log_level, form=config.log_format)
    fit = clients_that_fit(config.clients_max)
    if fit < config.clients_max:
        _log.warning("only %d clients fit into the files that may be open here (ulimit -Hn, LimitNOFILE)", fit)
        config = dataclasses.replace(config, clients_max=fit)
    try:
        uvloop.run(_serve(config, founding, ends, control))
    except KeyboardInterrupt:
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - the process's entry point
        _tell_failure(error, control)
        # A disk that hangs holds its thread for ever, and a normal exit would wait for it.
        sys.stderr.flush()
        os._exit(exit_code(error))
    return EXIT_OK


def _tell_failure(error: BaseException, control: Control | None) -> None:
    if isinstance(error, TrothError):
        _log.critical("this server stops: %s", error)
    else:
        _log.critical("this server stops because of a bug; please report it", exc_info=error)
    if control is not None:
        code = error.code if isinstance(error, TrothError) else "error"
        try:
            control.pipe.send(("failed", (code, str(error))))
        except OSError:
            pass


async def _serve(
    config: ServerConfig,
    founding: Founding | None,
    ends: Mapping[NodeId, socket.socket],
    control: Control | None,
) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    parent = None if control is None else _Parent(control, config.name)
    server = Server(config, founding=founding, ends=ends, on_event=None if parent is None else parent.on_event)
    broken: asyncio.Future[None] = loop.create_future()

    def fail(error: Exception) -> None:
        if server.has_node:
            server.node.fail(error)
        if not broken.done():
            broken.set_exception(error)

    stop_at_errors(loop, fail)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    heed_hangup(loop, stop=stopping.set, reload=server.reload)
    if control is None:
        loop.add_signal_handler(signal.SIGINT, stopping.set)
    stopped = loop.create_task(stopping.wait())
    starting = loop.create_task(server.start())
    try:
        first: set[asyncio.Future[Any]] = {starting, stopped, broken}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            broken.result()
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        if parent is not None:
            parent.attach(server)
        ends_it: set[asyncio.Future[Any]] = {server.failed, stopped}
        await asyncio.wait(ends_it, return_when=asyncio.FIRST_COMPLETED)
        if server.failed.done():
            server.failed.result()
    finally:
        stopped.cancel()
    await server.stop()


class _Parent:
    """The child's end of a `RaftServer`'s pipe, event and queue."""

    def __init__(self, control: Control, name: str) -> None:
        self._control = control
        self._name = name
        self._server: Server | None = None
        self._loop = asyncio.get_running_loop()
        self._commit_index = 0
        self._tasks: set[asyncio.Task[None]] = set()
        control.events.cancel_join_thread()  # or our end would wait until somebody has read what is in the queue
        # A thread of its own: the loop's poller would make the pipe non-blocking, and half a command an error.
        threading.Thread(target=self._listen, name="troth-control", daemon=True).start()

    def attach(self, server: Server) -> None:
        """*server* serves: tell the parent, and take its commands."""
        self._server = server
        self._control.pipe.send(("ready", server.node.node_id))
        self._control.ready.set()
        self._put("ready", {"node_id": server.node.node_id})
        self._watch_commits()

    def on_event(self, event: Trace) -> None:
        if event.name not in ("vote", "disregarded", "malformed"):
            self._put(event.name, {key: _plain(value) for key, value in event.facts.items()})

    def _put(self, name: str, facts: dict[str, Any]) -> None:
        try:
            self._control.events.put_nowait(ServerEvent(name, self._name, time(), facts))
        except Full:
            pass

    def _watch_commits(self) -> None:
        server = self._server
        if server is None:
            return
        index = server.node.replica.engine.commit_index
        if index != self._commit_index:
            self._commit_index = index
            self._put("commit", {"index": index, "revision": server.node.replica.machine.store.revision})
        self._loop.call_later(COMMIT_EVENT_SECONDS, self._watch_commits)

    def _listen(self) -> None:
        pipe = self._control.pipe
        try:
            while True:
                number, command, argument = pipe.recv()
                end = socket.socket(fileno=reduction.recv_handle(pipe)) if command == "adopt" else None
                self._loop.call_soon_threadsafe(self._on_command, number, command, argument, end)
        except (EOFError, OSError, RuntimeError):
            # The parent is gone, and with it whoever wanted this server (or the loop is closed, and we with it). What
            # was acknowledged is durable.
            os._exit(EXIT_FAILED)

    def _on_command(self, number: int, command: str, argument: Any, end: socket.socket | None) -> None:
        if end is not None:
            task = self._loop.create_task(self._adopt(number, argument, end))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        pipe = self._control.pipe
        try:
            value = self._execute(command, argument)
        except TrothError as error:
            pipe.send((number, (error.code, str(error)), None))
        else:
            pipe.send((number, None, value))

    async def _adopt(self, number: int, peer: NodeId, end: socket.socket) -> None:
        if self._server is not None:
            await self._server.adopt(peer, end)
        self._control.pipe.send((number, None, None))

    def _execute(self, command: str, argument: Any) -> object:
        server = self._server
        if server is None:
            raise UsageError(f"server {self._name} is not ready yet")
        match command:
            case "status":
                return server.status()
            case "transfer":
                server.transfer(argument)
                return None
            case "dump":
                return server.observed.dump()
            case _:
                raise UsageError(f"unknown command {command!r}")


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | bool | None) else str(value)
