"""Connections outside the router: to a server that need not be of the cluster, or for what must hold up nobody else."""

import asyncio
from collections.abc import Callable

from troth.client.link import HANDSHAKE_TIMEOUT_S, Connection, open_connection
from troth.client.router import Router
from troth.errors import Unavailable
from troth.ids import ClusterId
from troth.replica.protocol import ServerMessage
from troth.wire.handshake import Hello, Welcome


async def probe(address: str, *, router: Router) -> Welcome:
    """Ask the server at *address* who it is; it need not be a member of any cluster.

    Raises:
        Unavailable: nobody answers there.
    """
    welcomes: list[Welcome] = []
    connection = await greet(address, router, "probe", on_welcome=lambda _, welcome: welcomes.append(welcome))
    connection.close()
    return welcomes[0]


async def greet(
    address: str,
    router: Router,
    kind: str,
    *,
    on_welcome: Callable[[Connection, Welcome], None] = lambda connection, welcome: None,
    on_message: Callable[[Connection, ServerMessage], None] = lambda connection, message: None,
    on_lost: Callable[[Connection], None] = lambda connection: None,
) -> Connection:
    """A connection outside the router, ready for use."""
    hello = Hello(kind=kind, cluster_id=router.cluster_id if kind == "client" else ClusterId(0))
    connection: Connection | None = None
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            connection = await open_connection(
                address, router.tls, hello, on_welcome=on_welcome, on_message=on_message, on_lost=on_lost
            )
            await connection.greeted
    except BaseException as error:
        if connection is not None:
            connection.abort(Unavailable("the handshake was given up"))  # nobody else knows of it
        if isinstance(error, OSError):
            raise Unavailable(f"{address}: {str(error) or 'no answer'}") from error
        raise
    return connection
