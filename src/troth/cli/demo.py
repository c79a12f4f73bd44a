"""demo: the main job on real data, with the leader killed in the middle, and every claim checked at the end.

The demo believes nobody: it keeps what was acknowledged to it, asks each server by itself for its revision, the hash
of its state and every row, and compares. What is not as claimed is printed, and the exit code is 1.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from troth.cli.exit_codes import EXIT_NO
from troth.cli.feed import feed
from troth.cli.inventory import inventory, often_enough
from troth.cli.numbers import Whole, counted
from troth.cli.progress import Progress
from troth.cli.rows import FORMATS, Row, format_of, read_rows
from troth.errors import TrothError, Unavailable, UsageError

if TYPE_CHECKING:
    from troth.client.aio import AsyncClient
    from troth.server.local import LocalCluster

ROWS_MIN = 50_000
ROWS_MAX = 150_000
REQUEST_TIMEOUT_S = 20.0
AGREE_TIMEOUT_S = 20.0
PAGE = 2_000


@dataclass(slots=True)
class Ledger:
    """What was acknowledged, and when: the demo's own record, to hold the cluster to."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    revisions: dict[bytes, int] = field(default_factory=dict)
    """Of each row. Of two rows with one key the later counts, and their answers may come in any order."""
    revision_max: int = 0
    times_s: list[float] = field(default_factory=list)

    def acknowledged(self, row: Row, revision: int) -> None:
        if revision > self.revisions.get(row.key, 0):
            self.rows[row.key], self.revisions[row.key] = row.value, revision
        self.revision_max = max(self.revision_max, revision)
        self.times_s.append(time.perf_counter())

    def gap_s(self, since_s: float) -> float:
        """The longest time without an acknowledgement that ended after *since_s*."""
        return max((later - earlier for earlier, later in pairwise(self.times_s) if later > since_s), default=0.0)


@click.command()
@click.option(
    "--input",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Load this CSV or JSONL file instead of the inventory.",
)
@click.option("--key", help="The column (field) of --input that is the key. Default: the first.")
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="Of --input. Default: by its name.")
@click.option(
    "--rows",
    type=Whole(min=1),
    default=ROWS_MAX,
    show_default=True,
    help="At most this many rows of the inventory.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the servers' data in this new directory.",
)
def demo(source: Path | None, key: str | None, file_format: str | None, rows: int, data: Path | None) -> None:
    """Load real data, kill the leader, check that nothing is lost.

    Three servers in three processes get an inventory of this machine's files (path -> size, time, package), or the
    rows of a file, as fast as one client can. In the middle the leader is killed, later started again. At the end
    each server is asked for all of it. Exit code 1 if anything is not as claimed. Nothing stays running.

    \b
    Examples:
      troth demo
      troth demo --input users.csv --key id
    """
    from troth.server.local import LocalCluster

    if data is not None and data.exists() and any(data.iterdir()):
        raise UsageError(f"{data} is not empty; the demo needs a new directory")
    began_s = time.perf_counter()
    cluster = LocalCluster(3, data_dir=data)  # what speaks against the directory is said before any work
    if source is not None:
        rows_in = list(read_rows(source, file_format=file_format or format_of(source), key=key))
        _say(f"read {counted(len(rows_in), 'row')} of {source}")
    else:
        files = inventory(rows_min=min(ROWS_MIN, rows), rows_max=rows)
        _say(
            f"made an inventory of {counted(len(files), 'file')} of this machine: path -> size, mtime, Debian package"
        )
        rows_in = often_enough(files, min(ROWS_MIN, rows))
        if len(rows_in) > len(files):
            _say(f"these are few, so each is written {len(rows_in) // len(files)} times: {len(rows_in):,} writes")
    if not rows_in:
        raise UsageError("there is nothing to load")
    with cluster:
        try:
            failures = asyncio.run(_perform(cluster, rows_in))
        except TrothError:
            _tell_of_the_dead(cluster)
            raise
        pids = [server.pid for server in cluster.servers.values()]
    failures += [f"process {pid} is still running" for pid in pids if Path(f"/proc/{pid}").exists()]
    if failures:
        click.secho(
            f"FAILED: {counted(len(failures), 'claim')} {'does' if len(failures) == 1 else 'do'} not hold",
            fg="red",
            bold=True,
        )
        for failure in failures[:20]:
            click.echo(f"  {failure}")
        raise SystemExit(EXIT_NO)
    click.secho(f"All of it holds; nothing is left running. ({time.perf_counter() - began_s:.0f} s)", fg="green")


def _say(line: str) -> None:
    click.echo(line)


def _tell_of_the_dead(cluster: "LocalCluster") -> None:
    """Why no server may be left to answer: their logs go with their directory."""
    for name, server in cluster.servers.items():
        if not server.is_alive and server.exitcode != -signal.SIGKILL:
            said = cluster.log_file(name).read_text(errors="replace").splitlines()[-1:]
            click.echo(f"{name} has ended (exit code {server.exitcode}): {''.join(said)}", err=True)


async def _perform(cluster: "LocalCluster", rows: list[Row]) -> list[str]:
    """The whole play; returns what is not as claimed."""
    from troth import aio

    leader = cluster.leader()
    servers = ", ".join(f"{name} pid {server.pid}" for name, server in cluster.servers.items())
    _say(f"three servers are up: {servers}; {leader} leads")
    ledger = Ledger()
    async with await aio.connect(cluster.url, timeout=REQUEST_TIMEOUT_S) as client:
        killer = Killer(cluster=cluster, client=client, at=len(rows) // 2, say=_say)
        started_s = time.perf_counter()
        with Progress("loading", total=len(rows), file=sys.stdout) as progress:
            killer.say = progress.say

            def acknowledged(row: Row, revision: int) -> None:
                ledger.acknowledged(row, revision)
                progress.advance()
                killer.acknowledged(len(ledger.times_s))

            await feed(client, rows, acknowledged=acknowledged)
        took_s = time.perf_counter() - started_s
        loaded = len(ledger.times_s)
        _say(f"loaded {counted(loaded, 'row')} in {took_s:.1f} s: {loaded / took_s:,.0f} writes/s")
        gap_s = ledger.gap_s(killer.killed_at_s)
        gap = f"no write succeeded for {gap_s:.3f} s" if gap_s else "that was the last"
        _say(f"{killer.killed} was killed after row {killer.at:,}; {gap}")
        if not killer.killed:
            return ["no leader was known to kill"]
        failures = [] if len(ledger.rows) == len({row.key for row in rows}) else ["not all rows were acknowledged"]
        cluster.restart(killer.killed)
        _say(f"{killer.killed} is started again, on the data it had")
        failures += await _compare_states(client, cluster, ledger)
    for name in cluster.names:
        failures += await _compare_rows(cluster, name, ledger)
    return failures


@dataclass(slots=True, kw_only=True)
class Killer:
    """Kills the leader once *at* rows have been acknowledged.

    Nothing here waits: the event loop that would wait is the one that measures the silence.
    """

    cluster: "LocalCluster"
    client: "AsyncClient"
    at: int
    say: Callable[[str], None]
    killed: str = ""
    killed_at_s: float = 0.0

    def acknowledged(self, count: int) -> None:
        if count < self.at or self.killed:
            return
        names = {self.cluster.node_id(name): name for name in self.cluster.names}
        leader = names.get(self.client.leader)
        if leader is not None:
            self.killed, self.at = leader, count
            self.killed_at_s = time.perf_counter()
            self.cluster.servers[leader].kill()
            self.say(f"SIGKILL to the leader {leader} (pid {self.cluster.servers[leader].pid})")


async def _compare_states(client: "AsyncClient", cluster: "LocalCluster", ledger: Ledger) -> list[str]:
    """Wait until all three say the same revision and hash; what differs after `AGREE_TIMEOUT_S` is a failure."""
    started_s = time.perf_counter()
    while True:
        try:
            hashes = await client.hash()
        except Unavailable:
            hashes = {}
        states = {(state.revision, state.hash) for state in hashes.values()}
        if len(hashes) == len(cluster.names) and len(states) == 1:
            break
        if time.perf_counter() - started_s > AGREE_TIMEOUT_S:
            seen = ", ".join(f"{name}: revision {s.revision} hash {s.hash:x}" for name, s in hashes.items())
            return [f"the replicas do not agree after {AGREE_TIMEOUT_S:.0f} s: {seen}"]
        await asyncio.sleep(0.05)
    ((revision, state_hash),) = states
    _say(f"all three replicas: revision {revision}, state hash {state_hash:016x}")
    if revision < ledger.revision_max:
        return [f"a write was acknowledged at revision {ledger.revision_max}, but the replicas are at {revision}"]
    return []


async def _compare_rows(cluster: "LocalCluster", name: str, ledger: Ledger) -> list[str]:
    """Read everything from the server *name* alone, as it stands there, and compare with the ledger."""
    from troth import aio, eventual

    found: dict[bytes, bytes] = {}
    failures: list[str] = []
    async with await aio.connect(cluster.url, read_from=name) as client:
        start = b"\x00"
        while True:
            page = await client.range(start, b"\x00", limit=PAGE, level=eventual)
            if page.server != name:
                return [f"{page.server} answered in the place of {name}"]
            found.update((kv.key, kv.value) for kv in page.kvs)
            if not page.more:
                break
            start = page.kvs[-1].key + b"\x00"
    for key, value in ledger.rows.items():
        if found.get(key) != value:
            failures.append(
                f"{name} has lost {key!r}" if key not in found else f"{name} has another value of {key!r}"
            )
    same = sum(found.get(key) == value for key, value in ledger.rows.items())
    _say(f"{name}: {same:,} of {len(ledger.rows):,} acknowledged rows read back from its own copy")
    return failures
