"""Listening sockets, and the rule that no plain text leaves the machine by accident."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeAlias, cast

from typing_extensions import override

from troth.errors import AddressTaken, UsageError
from troth.runtime import shortcut
from troth.runtime.addresses import Address, is_loopback, parse_address, resolved
from troth.runtime.streams import HANDSHAKE_SECONDS_MAX
from troth.server.tls import Certificates

if TYPE_CHECKING:
    from troth.server.config import (
        ServerConfig,  # names all engines, which an acceptor that runs alone has no use for
    )

BACKLOG = 512

Accept: TypeAlias = Callable[[], asyncio.BaseProtocol]


def refuse_plain_text(setting: str, text: str) -> None:
    """Refuse an address that other machines can reach.

    Raises:
        UsageError: *text* (the value of *setting*) is neither loopback nor a unix socket.
    """
    outside = [ip for ip in resolved(parse_address(text)) if not is_loopback(ip)]
    if outside:
        raise UsageError(
            f"{setting} {text} can be reached from other machines ({', '.join(outside)}), and without TLS "
            "everybody there could read and write all data. Either give tls_ca, tls_cert and tls_key "
            "(`troth certs` makes them), or bind 127.0.0.1, or say insecure if you trust that network"
        )


def check_addresses(config: "ServerConfig") -> None:
    """Apply `refuse_plain_text` to the two ports that carry data (/metrics, always plain, tells only numbers).

    Raises:
        UsageError: an address would serve plain text to other machines.
    """
    if config.insecure:
        return
    if not config.has_tls:
        refuse_plain_text("client_listen", config.client_listen or config.client_address)
        if peer := config.peer_listen or config.peer_address:
            refuse_plain_text("peer_listen", peer)


class TurnedAway(asyncio.Protocol):
    """Whoever dials too early."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


class Port:
    """An address that nobody else can have, with its shortcuts; who dials before `open` is *early*.

    It is listened on from the start: what is only bound somebody else can bind as well, and both are told too late.
    """

    def __init__(self, accept: Accept, early: Accept) -> None:
        self._accept = accept
        self._early = early
        self._is_open = False
        self.servers: list[asyncio.Server] = []

    @classmethod
    async def bind(
        cls,
        accept: Accept,
        text: str,
        *,
        setting: str,
        tls: ssl.SSLContext | None,
        shortcuts: bool = False,
        early: Accept = TurnedAway,
    ) -> Self:
        """Take the address *text* (the value of *setting*), and its shortcuts if it may have *shortcuts*.

        Raises:
            AddressTaken: somebody else listens there.
            UsageError: the address is not this machine's.
        """
        port = cls(accept, early)
        try:
            await port._bind(parse_address(text), tls, shortcuts=shortcuts)
        except OSError as error:
            port.close()
            raise _not_ours(setting, text, error) from None
        return port

    async def _bind(self, address: Address, tls: ssl.SSLContext | None, *, shortcuts: bool) -> None:
        loop = asyncio.get_running_loop()
        met = self._met
        if address.is_unix:
            await self._listen(
                await loop.create_unix_server(met, address.path, backlog=BACKLOG, start_serving=False)
            )
            return
        server = await loop.create_server(
            met,
            address.host,
            address.port,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_SECONDS_MAX,
            start_serving=False,
        )
        await self._listen(server)
        for near in shortcut.beside(server.sockets) if shortcuts and tls is None else []:
            await self._listen(await loop.create_unix_server(met, sock=near, backlog=BACKLOG, start_serving=False))

    async def _listen(self, server: asyncio.Server) -> None:
        self.servers.append(server)
        for each in server.sockets:
            # uvloop keeps to itself that the kernel refuses this, and would serve nobody.
            with socket.socket(fileno=os.dup(each.fileno())) as listening:
                listening.listen(BACKLOG)
        await server.start_serving()

    def _met(self) -> asyncio.BaseProtocol:
        return self._accept() if self._is_open else self._early()

    def open(self) -> None:
        """Let connections in."""
        self._is_open = True

    def close(self) -> None:
        """Give the address free; connections that stand go on."""
        for server in self.servers:
            server.close()


async def bind_all(
    config: "ServerConfig",
    certificates: Certificates | None,
    *,
    peers: Accept,
    clients: Accept,
    early_clients: Accept,
    metrics: Accept,
) -> dict[str, Port]:
    """Take every address of a server, or none; by the setting that says where.

    Raises:
        UsageError: as `Port.bind`.
    """

    def entrance(port: str) -> ssl.SSLContext | None:
        return None if certificates is None else certificates.entrance(port)

    wanted = {
        "peer_listen": (peers, config.peer_listen or config.peer_address, entrance("peer")),
        "client_listen": (clients, config.client_listen or config.client_address, entrance("client")),
        "metrics_address": (metrics, config.metrics_address, None),
    }
    ports: dict[str, Port] = {}
    try:
        for setting, (accept, text, tls) in wanted.items():
            if text:
                shortcuts = not config.tcp_only and accept is not metrics
                early = early_clients if accept is clients else TurnedAway
                ports[setting] = await Port.bind(
                    accept, text, setting=setting, tls=tls, shortcuts=shortcuts, early=early
                )
    except BaseException:
        for port in ports.values():
            port.close()
        raise
    return ports


def _not_ours(setting: str, text: str, error: OSError) -> UsageError:
    said = f"{setting}: {text} can not be listened on ({error.strerror or error})"
    if error.errno == errno.EADDRINUSE:
        return AddressTaken(f"{said}; stop what listens there, or give another port")
    return UsageError(said)
