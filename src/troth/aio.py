"""The asyncio client: ``client = await troth.aio.connect("troth://127.0.0.1:7001")``."""

from troth.client.aio import AsyncClient, connect

__all__ = ["AsyncClient", "connect"]
