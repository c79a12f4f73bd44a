"""Listening sockets, and the rule that no plain text leaves the machine by accident."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TypeAlias

from troth.errors import UsageError
from troth.runtime import shortcut
from troth.runtime.addresses import is_loopback, parse_address, resolved
from troth.runtime.streams import HANDSHAKE_SECONDS_MAX
from troth.server.tls import Certificates

if TYPE_CHECKING:
    from troth.server.config import (
        ServerConfig,  # names all engines, which an acceptor that runs alone has no use for
    )

BACKLOG = 512


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


class Port:
    """An address that is bound, with its shortcuts; nobody gets in before `open`, and who dials is refused."""

    def __init__(self, setting: str, text: str, servers: list[asyncio.Server]) -> None:
        self._setting = setting
        self._text = text
        self.servers = servers

    @classmethod
    async def bind(
        cls,
        accept: Callable[[], asyncio.BaseProtocol],
        text: str,
        *,
        setting: str,
        tls: ssl.SSLContext | None,
        shortcuts: bool = False,
    ) -> Self:
        """Take the address *text* (the value of *setting*), and its shortcuts if it may have *shortcuts*.

        Raises:
            UsageError: the address is taken, or is not this machine's.
        """
        address = parse_address(text)
        loop = asyncio.get_running_loop()

        async def beside(listening: socket.socket) -> asyncio.Server:
            return await loop.create_unix_server(accept, sock=listening, backlog=BACKLOG, start_serving=False)

        try:
            if address.is_unix:
                server = await loop.create_unix_server(accept, address.path, backlog=BACKLOG, start_serving=False)
                return cls(setting, text, [server])
            server = await loop.create_server(
                accept,
                address.host,
                address.port,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_SECONDS_MAX,
                start_serving=False,
            )
            near = shortcut.beside(server.sockets) if shortcuts and tls is None else []
            return cls(setting, text, [server, *[await beside(each) for each in near]])
        except OSError as error:
            raise _not_ours(setting, text, error) from None

    async def open(self) -> None:
        """Let connections in.

        Raises:
            UsageError: somebody else who had bound the address at the same moment listens there now.
        """
        try:
            for server in self.servers:
                for each in server.sockets:
                    # uvloop keeps to itself that the kernel refuses this, and would serve nobody.
                    with socket.socket(fileno=os.dup(each.fileno())) as listening:
                        listening.listen(BACKLOG)
                await server.start_serving()
        except OSError as error:
            raise _not_ours(self._setting, self._text, error) from None

    def close(self) -> None:
        """Give the address free; connections that stand go on."""
        for server in self.servers:
            server.close()


Accept: TypeAlias = Callable[[], asyncio.BaseProtocol]


async def bind_all(
    config: "ServerConfig", certificates: Certificates | None, *, peers: Accept, clients: Accept, metrics: Accept
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
                ports[setting] = await Port.bind(accept, text, setting=setting, tls=tls, shortcuts=shortcuts)
    except BaseException:
        for port in ports.values():
            port.close()
        raise
    return ports


def _not_ours(setting: str, text: str, error: OSError) -> UsageError:
    taken = "; stop what listens there, or give another port" if error.errno == errno.EADDRINUSE else ""
    return UsageError(f"{setting}: {text} can not be listened on ({error.strerror or error}){taken}")
