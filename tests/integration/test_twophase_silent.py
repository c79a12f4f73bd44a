"""Who never answers keeps no block from its end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from troth.errors import Aborted
from troth.torture.databases import PostgresServer
from troth.transactions.aio import AsyncTwoPhaseCommit

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_copy_whose_rows_nobody_takes_is_given_up_with_its_connection(
    given_up: bool, postgres: PostgresServer, tmp_path: Path
) -> None:
    """asyncpg reads nothing while they are not taken, and would wait for the answers of the block's end for ever."""
    engine = create_async_engine(postgres.url("asyncpg"))

    async def take(rows: bytes) -> None:
        is_asked.set()
        await asyncio.Event().wait()

    async def copied(tpc: AsyncTwoPhaseCommit) -> None:
        async with tpc.begin() as tx:
            connection: Any = await tx.connection(engine)
            raw = (await connection.get_raw_connection()).driver_connection
            copying.append(asyncio.create_task(raw.copy_from_query("SELECT 1", output=take)))
            await is_asked.wait()
            if given_up:
                copying[0].cancel()
                await asyncio.wait(copying)

    is_asked = asyncio.Event()
    copying: list[asyncio.Task[str]] = []
    async with AsyncTwoPhaseCommit([engine], log=str(tmp_path / "log"), recover_every=None) as tpc:
        ending = asyncio.create_task(copied(tpc))
        await asyncio.wait([ending], timeout=20)
        assert ending.done()
        with pytest.raises(Aborted, match="was left open"):
            ending.result()
    copying[0].cancel()
    await asyncio.gather(*copying, return_exceptions=True)
    await engine.dispose()
