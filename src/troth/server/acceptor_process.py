"""An acceptor alone in its process: ``troth acceptor``, and what `PaxosClient.local` starts."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import uvloop
from typing_extensions import override

from troth.errors import DecodeError, Overloaded, ProtocolError, TrothError, UsageError
from troth.runtime import interrupts
from troth.runtime.acceptors import AcceptorNode
from troth.runtime.complaints import Complaints
from troth.runtime.disk_machine import DiskMachine
from troth.runtime.streams import FrameConnection, version_refusal
from troth.server.acceptors import REGISTER_FRAME_BYTES_MAX, AcceptorSession, welcome
from troth.server.ending import (
    EXIT_FAILED,
    EXIT_OK,
    clients_that_fit,
    die_with_parent,
    exit_code,
    heed_hangup,
    stop_at_errors,
)
from troth.server.listener import Port, refuse_plain_text
from troth.server.logs import set_up, with_facts
from troth.server.tls import Certificates, require_whole
from troth.wire.handshake import Greeting, Hello

CONNECTIONS_MAX = 4096
QUOTA_BYTES = 1 << 30

_log = logging.getLogger("troth.acceptor")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptorConfig:
    """Settings of an acceptor that runs alone."""

    data_dir: str
    listen: str
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False
    tcp_only: bool = False
    quota_bytes: int = QUOTA_BYTES
    log_level: str = "info"
    log_format: str = "text"
    ends_with_stdin: bool = False
    """Stop when standard input ends: whoever holds its other end is gone."""

    def __post_init__(self) -> None:
        require_whole(self)

    @property
    def has_tls(self) -> bool:
        return bool(self.tls_ca)


class _Connection(FrameConnection):
    """A proposer at an acceptor that runs alone."""

    def __init__(self, port: "AcceptorPort") -> None:
        super().__init__()
        self._port = port
        self._session: AcceptorSession | None = None

    @override
    def on_opened(self) -> None:
        if len(self._port.connections) >= self._port.connections_max:
            self.refuse(Overloaded.code, f"this acceptor has {self._port.connections_max} connections, its limit")
            return
        self._port.connections.add(self)

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        if not isinstance(greeting, Hello):
            raise DecodeError("the first frame must be a hello")
        if text := version_refusal(greeting):
            self.refuse(ProtocolError.code, text)
            return
        if greeting.kind != "register":
            self.refuse(
                ProtocolError.code,
                "this is an acceptor: use PaxosClient or `troth paxos`; `troth serve` has the rest",
            )
            return
        self.admit(REGISTER_FRAME_BYTES_MAX)
        self._session = AcceptorSession(self._port.node, self.transport)
        self.greet(welcome(self._port.node, greeting, "acceptor"))

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        if self._session is not None:
            self._session.on_bodies(bodies)

    @override
    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.pause_writing()

    @override
    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume_writing()

    @override
    def on_garbage(self, error: DecodeError) -> None:
        self._port.warn_once("garbage", "closed a connection that broke the protocol", reason=error)

    @override
    def on_visitor(self, error: DecodeError) -> None:
        self._port.warn_once("visitor", "another protocol was spoken to this acceptor", reason=error)

    @override
    def on_closed(self, error: Exception | None) -> None:
        self._port.connections.discard(self)


class AcceptorPort:
    """All connections of an acceptor that runs alone."""

    def __init__(self, node: AcceptorNode) -> None:
        self.node = node
        self.connections_max = clients_that_fit(CONNECTIONS_MAX)
        self.connections: set[_Connection] = set()
        self.warn_once = Complaints(_log).warn_once

    def accept(self) -> asyncio.Protocol:
        return _Connection(self)


async def _serve(config: AcceptorConfig) -> None:
    if not config.insecure and not config.has_tls:
        refuse_plain_text("listen", config.listen)
    certificates = Certificates.of(config)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def fail(error: BaseException) -> None:
        if not ended.done():
            ended.set_exception(error)

    def stop() -> None:
        if not ended.done():
            ended.set_result(None)

    def reload() -> None:
        if certificates is not None:
            certificates.reload()

    machine = DiskMachine()
    node = AcceptorNode.at(config.data_dir, machine=machine, failed=fail, bytes_max=config.quota_bytes)
    stop_at_errors(loop, fail)
    port = AcceptorPort(node)
    listening: Port | None = None
    try:
        listening = await Port.bind(
            port.accept,
            config.listen,
            setting="listen",
            tls=None if certificates is None else certificates.entrance("acceptor's"),
            shortcuts=not config.tcp_only,
        )
        listening.open()
        loop.add_signal_handler(signal.SIGTERM, stop)
        heed_hangup(loop, stop=stop, reload=reload)
        if not config.ends_with_stdin:
            loop.add_signal_handler(signal.SIGINT, stop)
        else:
            threading.Thread(target=_wait_for_end, args=(loop, stop), name="troth-parent", daemon=True).start()
        machine.settle()
        _log.info("serving", extra=with_facts({"acceptor": f"{node.acceptor.id:x}", "listen": config.listen}))
        await ended
    finally:
        if listening is not None:
            listening.close()
        for connection in list(port.connections):
            connection.transport.abort()
        await loop.run_in_executor(None, node.stop)
    _log.info("stopped")


def run_acceptor(config: AcceptorConfig) -> int:
    """Run one acceptor until SIGTERM or SIGINT; the exit code (as of `troth serve`)."""
    set_up(name="acceptor", level=config.log_level, form=config.log_format)
    try:
        uvloop.run(_serve(config))
    except Exception as error:  # noqa: BLE001 - the process's entry point
        _log.critical("this acceptor stops: %s", error, exc_info=not isinstance(error, TrothError | OSError))
        sys.stderr.flush()
        if not isinstance(error, UsageError | OSError):
            os._exit(exit_code(error))  # a disk that hangs holds its thread for ever
        return exit_code(error)
    return EXIT_OK


def _wait_for_end(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is over already
        loop.call_soon_threadsafe(stop)


def main() -> None:
    """``python -m troth.server.acceptor_process DIRECTORY ADDRESS``: what `PaxosClient.local` starts."""
    parser = argparse.ArgumentParser(description="One acceptor that ends with its standard input.")
    parser.add_argument("directory")
    parser.add_argument("address")
    parser.add_argument(
        "--parent", type=int, help="its process id: be killed when the thread that started us ends"
    )
    options = parser.parse_args()
    interrupts.ignored()
    # Reaches also one that is paused, which would not notice the end of its standard input.
    if options.parent is not None and not die_with_parent(options.parent):
        sys.exit(EXIT_FAILED)
    sys.exit(
        run_acceptor(AcceptorConfig(data_dir=options.directory, listen=options.address, ends_with_stdin=True))
    )


if __name__ == "__main__":
    main()
