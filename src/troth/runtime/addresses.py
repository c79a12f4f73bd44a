"""Addresses as people write them: ``host:port``, ``[v6]:port``, ``unix:/path``.

A name in an address is looked up anew at every connect (a server may come back elsewhere under its old name), so
nothing here resolves anything.
"""

import socket
from dataclasses import dataclass

from typing_extensions import override

from troth.errors import UsageError

UNIX_PATH_BYTES_MAX = 107
"""Linux's ``sockaddr_un``; a longer path fails in bind() with a message that nobody understands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens: a TCP `host` and `port`, or a unix socket's `path`."""

    host: str = ""
    port: int = 0
    path: str = ""

    @override
    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        return bool(self.path)


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        UsageError: not an address; says what one looks like.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise UsageError(f"{text!r} names no path; write unix:/run/troth/n1.sock")
        if len(path.encode()) > UNIX_PATH_BYTES_MAX:
            raise UsageError(f"{path!r} is longer than the {UNIX_PATH_BYTES_MAX} bytes a unix socket may have")
        return Address(path=path)
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{text!r} is not an address; write an IPv6 address as [::1]:7001")
    if not colon or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise UsageError(f"{text!r} is not an address; write host:port, for example 127.0.0.1:7001, or unix:/path")
    if not _is_host(host):
        raise UsageError(f"{text!r:.100} is not an address: no host can have that name; write host:port")
    return Address(host=host, port=int(port_text))


def _is_host(host: str) -> bool:
    """Whether a resolver can be asked for *host* at all (it would raise something else than OSError)."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and " " not in host


def is_loopback(ip: str) -> bool:
    """Whether *ip* (a number, not a name) can only be reached from this machine."""
    return ip.startswith(("127.", "::ffff:127.")) or ip == "::1"


def resolved(address: Address) -> list[str]:
    """The IP numbers that *address* means at this moment; empty for a unix socket. Blocks on the resolver.

    Raises:
        UsageError: the name is not known.
    """
    if address.is_unix:
        return []
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise UsageError(f"the name in {address} is not known here ({error})") from None
    return sorted({str(entry[4][0]) for entry in found})
