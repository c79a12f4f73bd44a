"""Said on standard error while a command waits for changes and there can be none."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from troth.cli.failures import advice_for, asked_of
from troth.errors import NotLeader

if TYPE_CHECKING:
    from troth.client.aio import AsyncClient
    from troth.client.sync import Client

PATIENCE_S = 2.0
"""Elections and fail-overs are shorter than this, and nobody's business."""

LOOKS = 4
"""How often one looks within the patience."""


async def tell_of_outages(
    client: "AsyncClient", say: Callable[[str], None], *, url: str = "", patience_s: float = PATIENCE_S
) -> None:
    """Say it when nobody has led for *patience_s*, and when somebody leads again; until cancelled."""
    advice = asked_of(advice_for(NotLeader())[1], url)
    looks_without_leader = 0
    while True:
        await asyncio.sleep(patience_s / LOOKS)
        if not client.leading_server:
            looks_without_leader += 1
            if looks_without_leader == LOOKS:
                say(
                    f"There is no leader, so nothing can change now; the watch goes on by itself.\nTry:   {advice}"
                )
        else:
            if looks_without_leader >= LOOKS:
                say(f"{client.leading_server} leads; the watch goes on.")
            looks_without_leader = 0


def begin_telling(client: "Client", url: str) -> None:
    """`tell_of_outages` on standard error, for as long as *client* is open."""

    async def begin() -> None:
        client.aio.keep_task(tell_of_outages(client.aio, lambda line: click.echo(line, err=True), url=url))

    client.background.run(begin)
