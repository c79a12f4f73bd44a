"""Real servers, real processes, real disks.

`Load` writes from a thread of its own and remembers what was acknowledged; `verified` then demands every bit of it
from the cluster, and the same state from all replicas.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from troth import aio
from troth.errors import OutcomeUnknown, TrothError
from troth.server.local import LocalCluster


def until(condition: Callable[[], Any], *, within_s: float = 90.0, why: str = "the condition") -> Any:
    """Ask again and again, for at most *within_s*; what *condition* said when it was true. Errors count as "no"."""
    deadline = time.monotonic() + within_s
    pause_s, last = 0.005, None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except TrothError as error:
            last = error
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, 0.1)
    raise AssertionError(f"{why} did not come true within {within_s:g} s ({last})")


class Consensus:
    """The engine of clusters that a test starts without naming one (see the fixture `consensus`)."""

    name = os.environ.get("TROTH_CONSENSUS", "raft")


class Load:
    """Puts ``PREFIX-n`` -> ``n`` as fast as *outstanding* allows, until stopped."""

    def __init__(self, url: str, *, prefix: str = "load", outstanding: int = 16, timeout_s: float = 30.0) -> None:
        self.acked: dict[bytes, bytes] = {}
        self.unknown: set[bytes] = set()
        self.refused = 0
        self._url, self._prefix, self._outstanding, self._timeout_s = url, prefix, outstanding, timeout_s
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        self.wait_more(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the load does not end"
        if self._failure is not None:
            raise self._failure

    def wait_more(self, count: int, within_s: float = 90.0) -> None:
        """Return once *count* more writes are acknowledged."""
        wanted = len(self.acked) + count
        until(lambda: len(self.acked) >= wanted or self._failure, within_s=within_s, why=f"{count} more writes")

    def _run(self) -> None:
        try:
            uvloop.run(self._write())
        except BaseException as error:  # noqa: BLE001 - shown by __exit__
            self._failure = error

    async def _write(self) -> None:
        client = await aio.connect(self._url, timeout=self._timeout_s)
        numbers = iter(range(1 << 40))
        try:
            await asyncio.gather(*(self._worker(client, numbers) for _ in range(self._outstanding)))
        finally:
            await client.close()

    async def _worker(self, client: Any, numbers: Iterator[int]) -> None:
        while not self._stop.is_set():
            number = next(numbers)
            key, value = f"{self._prefix}-{number}".encode(), b"%d" % number
            try:
                await client.put(key, value)
            except OutcomeUnknown:
                self.unknown.add(key)
            except TrothError:
                self.refused += 1
                await asyncio.sleep(0.01)
            else:
                self.acked[key] = value


def replicas_agree(cluster: LocalCluster, *, within_s: float = 90.0) -> None:
    """Wait until all live servers have applied the same log, then demand the same state hash."""
    live = [name for name, server in cluster.servers.items() if server.is_alive]
    with cluster.connect() as client:

        def same() -> bool:
            statuses = [cluster.servers[name].status() for name in live]
            return len({(status.applied_index, status.revision) for status in statuses}) == 1

        until(same, within_s=within_s, why="equal revisions")
        hashes = until(lambda: len(found := client.hash()) == len(live) and found, why="a hash of each server")
        assert len({(each.hash, each.revision) for each in hashes.values()}) == 1, hashes


def verified(cluster: LocalCluster, *loads: Load) -> None:
    """Every acknowledged write is there with its value, and all replicas hold the same state."""
    assert loads
    with cluster.connect(timeout=30.0) as client:
        for load in loads:
            assert load.acked
            prefix = load._prefix.encode() + b"-"
            found = {each.key: each.value for each in client.range(prefix=prefix).kvs}
            missing = {key for key, value in load.acked.items() if found.get(key) != value}
            assert not missing, f"{len(missing)} acknowledged writes are lost, for example {min(missing)!r}"
            extra = found.keys() - load.acked.keys() - load.unknown
            assert not load.refused or len(extra) <= load.refused
    replicas_agree(cluster)


@contextlib.contextmanager
def cluster_of(size: int = 3, **options: Any) -> Iterator[LocalCluster]:
    """A cluster whose servers' logs are shown when the test fails; its engine is the test's (`consensus`)."""
    cluster = LocalCluster(size, **{"consensus": Consensus.name, **options})
    try:
        cluster.start()
        yield cluster
    except BaseException:
        for name in cluster.names:
            log: Path = cluster.log_file(name)
            if log.exists():
                print(f"--- {name}\n{log.read_text()[-4000:]}")
        raise
    finally:
        cluster.stop()
        cluster.close()
