"""Writing many rows through one asyncio client at full speed, with a bound on what is outstanding."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from troth.cli.rows import Row

if TYPE_CHECKING:
    from troth.client.aio import AsyncClient

OUTSTANDING = 512


async def feed(
    client: "AsyncClient",
    rows: Iterable[Row],
    *,
    outstanding: int = OUTSTANDING,
    acknowledged: Callable[[Row, int], None] = lambda _row, _revision: None,
) -> int:
    """Put all *rows*, *outstanding* at once; returns how many were acknowledged.

    Rows of one key are written one after the other: were they under way together, a retry could let the earlier win.

    *acknowledged* is called with each row and its revision as soon as its answer is here.

    Raises:
        TrothError: of the first row that failed; rows already acknowledged stay, nothing more is sent.
    """
    waiting = iter(rows)
    count = 0
    last: dict[bytes, asyncio.Future[None]] = {}
    """The newest row of each key that is under way."""
    loop = asyncio.get_running_loop()

    async def worker() -> None:
        nonlocal count
        for row in waiting:
            earlier = last.get(row.key)
            done = last[row.key] = loop.create_future()
            if earlier is not None:
                await earlier
            reply = await client.put(row.key, row.value)
            done.set_result(None)
            if last[row.key] is done:
                del last[row.key]
            count += 1
            acknowledged(row, reply.revision)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(outstanding):
                group.create_task(worker())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return count
