"""What is measured, one phase after the other, with the systems taking turns so that they share the hour."""

import asyncio
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.systems import VALUE, Client, System, rss_mib
from cluster.workload import Rate, fill, gap, measure

RESTART_MAX_S = 30.0
FILL_MAX_S = 120.0
SETTLE_S = 2.0
"""Load before each failure, so that the server of the last one is back in its place."""
Say = Callable[[str], None]
Maker = Callable[[Path], System]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured. `directory` must be on a real disk."""

    directory: Path
    rounds: int
    seconds: float
    outstanding: tuple[int, ...]
    kills: int
    rows: int


def _operations(client: Client, reads: bool) -> dict[str, Callable[[bytes], Awaitable[None]]]:
    operations: dict[str, Callable[[bytes], Awaitable[None]]] = {"put": lambda key: client.put(key, VALUE)}
    if reads:
        operations["get"] = client.get
        operations["stale_get"] = client.get_stale
    return operations


async def rates(makers: dict[str, Maker], settings: Settings, say: Say) -> dict[str, Any]:
    """Throughput and latency: {system: {operation: {outstanding: medians over the rounds, and each round}}}."""
    found: dict[str, dict[str, dict[int, list[Rate]]]] = {}
    for number in range(settings.rounds):
        for name, make in makers.items():
            with tempfile.TemporaryDirectory(dir=settings.directory) as directory:
                system = make(Path(directory))
                await system.start()
                try:
                    client = await system.client()
                    await measure(lambda key, c=client: c.put(key, VALUE), outstanding=64, seconds=0.3)
                    for operation, call in _operations(client, system.reads).items():
                        for outstanding in settings.outstanding:
                            rate = await measure(call, outstanding=outstanding, seconds=settings.seconds)
                            cell = found.setdefault(name, {}).setdefault(operation, {}).setdefault(outstanding, [])
                            cell.append(rate)
                            say(
                                f"round {number + 1}: {name:10} {operation:9} {outstanding:4d} outstanding "
                                f"{rate.per_second:9.0f}/s  p50 {rate.latency_ms_p50:.2f} ms  "
                                f"p99 {rate.latency_ms_p99:.2f} ms"
                            )
                    await client.close()
                finally:
                    await system.stop()
    return {
        name: {
            operation: {str(outstanding): _median_rate(cell) for outstanding, cell in cells.items()}
            for operation, cells in operations.items()
        }
        for name, operations in found.items()
    }


def _median_rate(cell: Sequence[Rate]) -> dict[str, Any]:
    return {
        **{
            field: round(statistics.median(getattr(rate, field) for rate in cell), 3)
            for field in ("per_second", "latency_ms_p50", "latency_ms_p99")
        },
        "rounds": [asdict(rate) for rate in cell],
    }


async def failover(makers: dict[str, Maker], settings: Settings, say: Say) -> dict[str, Any]:
    """Seconds without a successful put around the loss of the leader, *kills* times for each signal."""
    found: dict[str, Any] = {}
    for number in (signal.SIGKILL, signal.SIGSTOP):
        for name, make in makers.items():
            with tempfile.TemporaryDirectory(dir=settings.directory) as directory:
                system = make(Path(directory))
                await system.start()
                try:
                    gaps = []
                    client = await system.client()
                    for turn in range(settings.kills):
                        leader = await system.leader()
                        if not system.client_follows:
                            await client.close()
                            client = await system.client(avoid=leader)
                        one = await gap(
                            client,
                            lambda s=system, n=number, which=leader: s.signal(which, n),
                            settle_s=SETTLE_S,
                            watch_s=3.0,
                        )
                        gaps.append(one)
                        say(
                            f"{name:10} {number.name} {turn + 1}: {one.load_s:.3f} s without a put of the load, "
                            f"{one.probe_s:.3f} s of the probe"
                        )
                        if number is signal.SIGSTOP:
                            system.signal(leader, signal.SIGCONT)
                        else:
                            await system.restart(leader)
                    await client.close()
                finally:
                    await system.stop()
            found.setdefault(name, {})[number.name] = {
                "load_s_median": round(statistics.median(one.load_s for one in gaps), 3),
                "probe_s_median": round(statistics.median(one.probe_s for one in gaps), 3),
                "load_s_max": round(max(one.load_s for one in gaps), 3),
                "kills": [asdict(one) for one in gaps],
            }
    return found


async def footprint(makers: dict[str, Maker], settings: Settings, say: Say) -> dict[str, Any]:
    """Cold start to the first put, memory of each node with *rows* keys of 256 B, restart to the first put.

    What a system does not manage within `FILL_MAX_S` and `RESTART_MAX_S` is None.
    """
    found: dict[str, Any] = {}
    for name, make in makers.items():
        colds = []
        for _ in range(settings.rounds):
            with tempfile.TemporaryDirectory(dir=settings.directory) as directory:
                system = make(Path(directory))
                try:
                    colds.append(await _first_put_s(system))
                finally:
                    await system.stop()
        memory_mib, restart_s = await _filled(make, settings)
        found[name] = {
            "rows": settings.rows,
            "cold_start_s_median": round(statistics.median(colds), 3),
            "cold_starts_s": [round(cold, 3) for cold in colds],
            "memory_mib_each_node": memory_mib,
            "restart_s": restart_s,
        }
        memory = (
            "not filled in time" if memory_mib is None else f"{memory_mib[0]:.0f}-{memory_mib[-1]:.0f} MiB a node"
        )
        restart = "not in time" if restart_s is None else f"{restart_s:.2f} s"
        say(
            f"{name:10} cold start {statistics.median(colds):.2f} s; with {settings.rows} keys: {memory}, "
            f"restart {restart}"
        )
    return found


async def _filled(make: Maker, settings: Settings) -> tuple[list[float] | None, float | None]:
    """Memory of each node (MiB, ascending) with *rows* keys, and seconds to the first put after a restart."""
    with tempfile.TemporaryDirectory(dir=settings.directory) as directory:
        system = make(Path(directory))
        await system.start()
        try:
            client = await system.client()
            try:
                async with asyncio.timeout(FILL_MAX_S):
                    # PySyncObj answers five times a second whatever one does: only many at once fill it in time.
                    await fill(client, rows=settings.rows, outstanding=256 if system.reads else 4096)
            except TimeoutError:
                return None, None
            finally:
                await client.close()
            memory_mib = sorted(round(rss_mib(pid), 1) for pid in system.pids())
            await system.stop()
            return memory_mib, await _restart_s(system)
        finally:
            await system.stop()


async def _restart_s(system: System) -> float | None:
    """Seconds until a new client's first put succeeds; None if it does not within `RESTART_MAX_S`."""
    try:
        async with asyncio.timeout(RESTART_MAX_S):
            return round(await _first_put_s(system), 3)
    except TimeoutError:
        return None


async def _first_put_s(system: System) -> float:
    begin = time.perf_counter()
    await system.start()
    client = await system.client(avoid=0)
    took = time.perf_counter() - begin
    await client.close()
    return took
