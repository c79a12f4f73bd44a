"""The shortcut: two processes of one machine that were told a loopback address talk over a unix socket instead.

What goes over loopback TCP passes the whole network stack twice. So whoever listens on a loopback address, without TLS,
listens as well on a unix socket whose name is made of that address, and whoever dials such an address tries the name
first. The names are Linux's abstract ones: they belong to a network namespace, as loopback addresses do, lie in no
directory, and are gone with the process that listens. If nobody listens there, the dialer goes on over TCP, and finds
what it would have found anyway: another program, a proxy, a server that offers no shortcut, or nobody. So a refusal is
always TCP's, and means what it meant.

Trust. Anybody on the machine can take an abstract name before the server that it is meant for starts. But the kernel
tells each end whose process the other one is, and either end hangs up on another user's. Since the rule is the same
at both, whoever gets past the dialer is not shut out by the listener; different users talk over TCP, as ever.

The buffers are Linux's own: larger ones (SO_SNDBUF) were no faster.

Only numbers and `localhost` lead to a shortcut: no other name is looked up for it.
"""

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterable

from troth.runtime.addresses import Address, is_loopback

_PREFIX = b"\0troth/"
_CREDENTIALS = struct.Struct("3i")
"""Linux's ``struct ucred``: process, user, group."""

_log = logging.getLogger("troth.shortcut")


def beside(listening: Iterable[socket.socket]) -> list[socket.socket]:
    """Sockets, bound but not yet listening, that are shortcuts to the loopback ones of the TCP sockets *listening*."""
    found: list[socket.socket] = []
    for host, port, *_ in (each.getsockname() for each in listening):
        if not _leads_to(host):
            continue
        shortcut = socket.socket(socket.AF_UNIX)
        try:
            shortcut.bind(_name(host, port))
        except OSError as error:
            shortcut.close()
            _log.debug("no shortcut to %s port %d: %s", host, port, error)
        else:
            found.append(shortcut)
    return found


def dialed(host: str, port: int) -> socket.socket | None:
    """A connection to whoever listens at *port* of *host*, by the shortcut; None if there is none to be had.

    Never waits: a unix socket is connected at once or not at all.
    """
    for number in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        if not _leads_to(number):
            continue
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(_name(number, port))
            _, user = _other_end(connection)
        except OSError:  # nobody, or one whose queue is full
            user = -1
        if user == os.geteuid():
            return connection
        connection.close()
    return None


def is_foreign(transport: asyncio.BaseTransport) -> bool:
    """Whether an accepted connection has come by a shortcut from another user's process."""
    own = transport.get_extra_info("sockname")
    if not isinstance(own, bytes) or not own.startswith(_PREFIX):
        return False
    _, user = _other_end(transport.get_extra_info("socket"))
    return user != os.geteuid()


def process_of(connection: socket.socket) -> str:
    """Who is at the other end of a unix socket, for people to read."""
    process, user = _other_end(connection)
    return f"process {process} of user {user}"


def _leads_to(host: str) -> bool:
    return sys.platform == "linux" and is_loopback(host)


def _name(host: str, port: int) -> bytes:
    """An abstract name; ``ss -xl`` shows it as ``@troth/127.0.0.1:7001``."""
    return _PREFIX + str(Address(host=host, port=port)).encode()


def _other_end(connection: socket.socket) -> tuple[int, int]:
    """The process at the other end, and its user, as of its connect or listen."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(told)
    return process, user
