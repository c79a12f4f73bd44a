"""Each level of reads keeps its promise while leaders are killed: what clients saw is recorded and judged.

The judge is `troth verify`, which knows nothing of the servers; the model that it checks has the level's name.
"""

import asyncio
import contextlib
import random
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from real_cluster import cluster_of, until

import troth
from troth.cli.main import cli
from troth.errors import TrothError
from troth.models import ReadLevel
from troth.server.local import LocalCluster

pytestmark = pytest.mark.integration

CLIENTS = 3
STALENESS_MS = 2_000

LEVELS: dict[str, tuple[ReadLevel, list[list[str]]]] = {
    "linearizable": (troth.linearizable, [["--model", "linearizable"]]),
    "sequential": (troth.sequential, [["--model", "sequential"], ["--model", "causal"]]),
    "session": (troth.session, [["--model", "session-guarantees"], ["--model", "read-your-writes"]]),
    "bounded": (
        troth.bounded(seconds=STALENESS_MS / 1000),
        [["--model", "bounded", "--staleness-ms", str(STALENESS_MS)]],
    ),
    "bounded_revisions": (troth.bounded(revisions=3), [["--model", "bounded", "--versions-behind", "3"]]),
    "eventual": (troth.eventual, [["--model", "eventual"]]),
}


async def work(url: str, keys: tuple[str, ...], level: ReadLevel, stop: threading.Event, done: list[int]) -> None:
    """Clients that each do one thing at a time: write what nobody else writes, and read at *level* at any server."""

    async def client(number: int) -> None:
        chance = random.Random(number)
        async with await troth.aio.connect(url, timeout=5) as connected:
            while not stop.is_set():
                key = chance.choice(keys)
                with contextlib.suppress(TrothError):
                    if chance.random() < 0.4:
                        await connected.put(key, f"{number}-{done[0]}")
                    else:
                        await connected.get(key, level=level)
                done[0] += 1
                await asyncio.sleep(0.002)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))


def record(cluster: LocalCluster, keys: tuple[str, ...], level: ReadLevel, path: Path) -> None:
    """What clients of *cluster* see while its leader is killed, into *path*."""
    stop, done = threading.Event(), [0]
    with troth.recording(path):
        thread = threading.Thread(target=lambda: asyncio.run(work(cluster.url, keys, level, stop, done)))
        thread.start()
        try:
            until(lambda: done[0] > 150)
            victim = cluster.leader()
            cluster.kill(victim)
            before = done[0]
            until(lambda: done[0] > before + 150)
            cluster.restart(victim)
            before = done[0]
            until(lambda: done[0] > before + 100)
        finally:
            stop.set()
            thread.join()
        # All has come to rest: what is read now is what everybody agrees about in the end.
        with cluster.connect() as client:
            for key in keys:
                client.get(key)


@pytest.fixture(scope="module")
def cluster() -> "LocalCluster":  # type: ignore[misc]
    with cluster_of(3) as running:
        yield running


@pytest.mark.parametrize("name", LEVELS)
def test_reads_keep_what_their_level_promises_while_the_leader_is_killed(
    cluster: LocalCluster, tmp_path: Path, name: str
) -> None:
    level, models = LEVELS[name]
    path = tmp_path / "run.jsonl"
    record(cluster, (f"{name}/x", f"{name}/y"), level, path)
    for model in models:
        result = CliRunner().invoke(cli, ["verify", str(path), *model, "--no-html"])
        assert result.exit_code == 0, f"{model}: {result.output}"
