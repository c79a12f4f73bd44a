"""bench: what one Python process gets out of this cluster."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.numbers import COUNT, POSITIVE
from troth.errors import UsageError
from troth.models import eventual

if TYPE_CHECKING:
    from troth.client.aio import AsyncClient

_KEYS = 1000
_PREFIX = "troth-bench/"

Operation = Callable[["AsyncClient", str, bytes], Awaitable[object]]

_OPERATIONS: dict[str, Operation] = {
    "put": lambda client, key, value: client.put(key, value),
    "get": lambda client, key, value: client.get(key),
    "stale-get": lambda client, key, value: client.get(key, level=eventual),
}


class Rate(NamedTuple):
    operation: str
    outstanding: int
    per_second: float
    latency_ms_p50: float
    latency_ms_p99: float


@click.command()
@click.option(
    "--operation", "operations", multiple=True, type=click.Choice(list(_OPERATIONS)), help="Default: all."
)
@click.option(
    "--outstanding", default="1,16,64,256", show_default=True, help="Requests at once, one run for each."
)
@click.option("--seconds", type=POSITIVE, default=2.0, show_default=True, help="How long each run takes.")
@click.option("--value-bytes", type=COUNT, default=256, show_default=True, help="Size of a value.")
@cluster_options
def bench(
    operations: tuple[str, ...], outstanding: str, seconds: float, value_bytes: int, cluster: Cluster
) -> None:
    """Measure this cluster from this process.

    Writes 1000 keys under troth-bench/ and deletes them at the end. Put it beside `make bench` to compare with
    other systems.

    \b
    Examples:
      troth bench
      troth bench --operation put --outstanding 64 --seconds 10
    """
    try:
        levels = [int(text) for text in outstanding.split(",")]
    except ValueError:
        raise UsageError(
            f"--outstanding {outstanding!r}: write numbers with commas, for example 1,16,64"
        ) from None
    if min(levels) < 1:
        raise UsageError("--outstanding must be at least 1")
    rates = asyncio.run(_run(cluster, operations or tuple(_OPERATIONS), levels, seconds, bytes(value_bytes)))
    if cluster.json:
        output.print_json([rate._asdict() for rate in rates])
        return
    output.print_table(
        ("operation", "outstanding", "per second", "p50 ms", "p99 ms"),
        [
            (
                r.operation,
                r.outstanding,
                f"{r.per_second:,.0f}",
                f"{r.latency_ms_p50:.2f}",
                f"{r.latency_ms_p99:.2f}",
            )
            for r in rates
        ],
    )


async def _run(
    cluster: Cluster, operations: tuple[str, ...], levels: list[int], seconds: float, value: bytes
) -> list[Rate]:
    async with await cluster.connect_aio() as client:
        await asyncio.gather(*(client.put(f"{_PREFIX}{number}", value) for number in range(_KEYS)))
        try:
            return [
                await _measure(client, operation, level, seconds, value)
                for operation in operations
                for level in levels
            ]
        finally:
            await client.delete(prefix=_PREFIX)


async def _measure(client: "AsyncClient", name: str, outstanding: int, seconds: float, value: bytes) -> Rate:
    operation = _OPERATIONS[name]
    latencies_s: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds

    async def worker(turn: int) -> None:
        while (start := time.perf_counter()) < end or not latencies_s:
            await operation(client, f"{_PREFIX}{turn % _KEYS}", value)
            latencies_s.append(time.perf_counter() - start)
            turn += outstanding

    await asyncio.gather(*(worker(number) for number in range(outstanding)))
    took_s = time.perf_counter() - begin
    latencies_s.sort()
    return Rate(
        operation=name,
        outstanding=outstanding,
        per_second=len(latencies_s) / took_s,
        latency_ms_p50=latencies_s[len(latencies_s) // 2] * 1000,
        latency_ms_p99=latencies_s[len(latencies_s) * 99 // 100] * 1000,
    )
