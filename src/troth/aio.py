"""The asyncio clients: ``client = await troth.aio.connect("troth://127.0.0.1:7001")``, and `PaxosClient`.

Replies and errors are those of ``troth`` itself; `Lease`, `Watch` and `Session` are asyncio's own.
"""

from troth.client.aio import AsyncClient, connect
from troth.client.lease import Lease
from troth.client.registers.aio import PaxosClient
from troth.client.session import Session
from troth.client.watch import Watch

__all__ = ["AsyncClient", "Lease", "PaxosClient", "Session", "Watch", "connect"]
