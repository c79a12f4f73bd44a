"""Connections outside the router, for what must hold up nobody else."""

import asyncio
from collections.abc import Callable

from troth.client.link import HANDSHAKE_TIMEOUT_S, Connection, open_connection
from troth.client.router import Router
from troth.errors import Unavailable
from troth.replica.protocol import ServerMessage
from troth.wire.handshake import Hello


async def greet(
    address: str,
    router: Router,
    *,
    on_message: Callable[[Connection, ServerMessage], None],
    on_lost: Callable[[Connection], None],
) -> Connection:
    """A connection outside the router, ready for use."""
    hello = Hello(kind="client", cluster_id=router.cluster_id)
    connection: Connection | None = None
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            connection = await open_connection(
                address,
                router.tls,
                hello,
                on_welcome=lambda connection, welcome: None,
                on_message=on_message,
                on_lost=on_lost,
            )
            await connection.greeted
    except BaseException as error:
        if connection is not None:
            connection.abort(Unavailable("the handshake was given up"))  # nobody else knows of it
        if isinstance(error, OSError):
            raise Unavailable(f"{address}: {str(error) or 'no answer'}") from error
        raise
    return connection
