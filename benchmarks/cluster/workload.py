"""The load: workers that each keep one request outstanding, in one event loop of one process."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise

from cluster.systems import VALUE, Client

KEYS = 1000
REQUEST_TIMEOUT_S = 5.0
"""After a failure of a server: PySyncObj never answers what the dead leader had, and etcd does after 7 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one cell of the table measured."""

    per_second: float
    latency_ms_p50: float
    latency_ms_p99: float


def quantile(ascending: list[float], fraction: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * fraction))]


async def measure(operation: Callable[[bytes], Awaitable[None]], *, outstanding: int, seconds: float) -> Rate:
    """Call *operation* with keys out of `KEYS` for *seconds*, always *outstanding* at once."""
    latencies: list[float] = []
    clock = time.perf_counter
    begin = clock()
    end = begin + seconds

    async def worker(number: int) -> None:
        turn = number
        while (start := clock()) < end:
            await operation(b"bench/%04d" % (turn % KEYS))
            turn += outstanding
            latencies.append(clock() - start)

    await asyncio.gather(*(worker(number) for number in range(outstanding)))
    took = clock() - begin
    latencies.sort()
    return Rate(
        per_second=len(latencies) / took,
        latency_ms_p50=quantile(latencies, 0.5) * 1000,
        latency_ms_p99=quantile(latencies, 0.99) * 1000,
    )


async def fill(client: Client, *, rows: int, outstanding: int) -> None:
    """Put *rows* different keys of `VALUE`'s size, each value different."""
    turn = iter(range(rows))

    async def worker() -> None:
        for row in turn:
            while not await _succeeds(client, b"fill/%08d" % row, b"%08d" % row + VALUE[8:]):
                pass

    await asyncio.gather(*(worker() for _ in range(outstanding)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How long no put succeeded around a failure: as 16 busy workers see it, and as a 20 ms probe does."""

    load_s: float
    probe_s: float


async def gap(client: Client, failure: Callable[[], None], *, settle_s: float, watch_s: float) -> Gap:
    """Load *client*, cause *failure* after *settle_s*, measure until *watch_s* later (longer if still silent)."""
    clock = time.perf_counter
    load, probe = [clock()], [clock()]
    over = asyncio.Event()

    async def worker(number: int) -> None:
        while not over.is_set():
            if await _succeeds(client, b"gap/%d" % number, VALUE):
                load.append(clock())

    async def one_probe() -> None:
        if await _succeeds(client, b"probe", VALUE):
            probe.append(clock())

    async def prober() -> None:
        waiting: set[asyncio.Task[None]] = set()
        while not over.is_set():
            task = asyncio.create_task(one_probe())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            await asyncio.sleep(0.02)
        await asyncio.gather(*waiting)

    tasks = [asyncio.create_task(worker(number)) for number in range(16)]
    tasks.append(asyncio.create_task(prober()))
    await asyncio.sleep(settle_s)
    failed = clock()
    failure()
    async with asyncio.timeout(60):
        while clock() < failed + watch_s or load[-1] < failed + 0.05 or probe[-1] < failed + 0.05:
            await asyncio.sleep(0.02)
    over.set()
    await asyncio.gather(*tasks)
    return Gap(load_s=_longest(load, failed), probe_s=_longest(probe, failed))


async def _succeeds(client: Client, key: bytes, value: bytes) -> bool:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await client.put(key, value)
    except Exception:  # whatever its makers chose to raise while a leader is away: no success
        await asyncio.sleep(0.005)
        return False
    return True


def _longest(successes: list[float], failed: float) -> float:
    """The longest silence that ends after *failed*."""
    return max((later - earlier for earlier, later in pairwise(successes) if later > failed), default=0.0)
