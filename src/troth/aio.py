"""The asyncio clients: ``client = await troth.aio.connect("troth://127.0.0.1:7001")``, and `PaxosClient`."""

from troth.client.aio import AsyncClient, connect
from troth.client.registers.aio import PaxosClient

__all__ = ["AsyncClient", "PaxosClient", "connect"]
