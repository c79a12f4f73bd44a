"""`make bench-engines`: Raft and Multi-Paxos under the same workload and the same faults, in one run.

Two kinds of figures. *Timed*: real servers on loopback TCP and this disk, engines taking turns; only ratios within
one run mean something. *Counted*: the same pure cores moved by hand, message by message, with the wire's own encoding;
these are the same on every machine.

Writes benchmarks/results/engines.json, and the tables between the marks of docs/raft-or-paxos.md.

    python benchmarks/bench_engines.py            all of it, about four minutes
    python benchmarks/bench_engines.py --quick    one short round, prints, writes nothing
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster.phases import SETTLE_S
from cluster.systems import VALUE, Client
from cluster.troth import Troth
from cluster.troth_paxos import TrothPaxos
from cluster.workload import gap, measure

from troth.core.engines import ENGINES, EngineConfig
from troth.replica.peers import PeerCodec
from troth.simulate.actor import InFlight
from troth.simulate.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "engines.json"
PAGE = ROOT / "docs" / "raft-or-paxos.md"
BEGIN, END = "<!-- figures: written by make bench-engines -->", "<!-- figures: end -->"
MAKERS: dict[str, type[Troth]] = {"raft": Troth, "paxos": TrothPaxos}
COMMITS = 1000
WAYS: dict[str, dict[str, int]] = {
    "log": {"snapshot_entries": 1 << 40, "snapshot_log_bytes": 1 << 40},
    "snapshot": {"snapshot_entries": 100},
}
"""How a follower comes back -> the servers' settings that leave it no other way."""


def cpu_seconds(pids: list[int]) -> float:
    """What these processes have used so far, user and system."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# ---- timed ----


async def rates(directory: Path, rounds: int, seconds: float, outstanding: list[int]) -> dict[str, Any]:
    """Puts per second, latency, and the servers' CPU for each put: {engine: {outstanding: medians}}."""
    found: dict[str, dict[int, list[tuple[float, float, float]]]] = {name: {} for name in MAKERS}
    for number in range(rounds):
        for name in sorted(MAKERS, reverse=number % 2 == 0):
            with tempfile.TemporaryDirectory(dir=directory) as data:
                system = MAKERS[name](Path(data))
                await system.start()
                try:
                    client = await system.client()
                    await measure(lambda key, c=client: c.put(key, VALUE), outstanding=64, seconds=0.3)
                    for level in outstanding:
                        before = cpu_seconds(system.pids())
                        rate = await measure(
                            lambda key, c=client: c.put(key, VALUE), outstanding=level, seconds=seconds
                        )
                        used = cpu_seconds(system.pids()) - before
                        per_put = used * 1e6 / (rate.per_second * seconds)
                        found[name].setdefault(level, []).append((rate.per_second, rate.latency_ms_p50, per_put))
                        print(
                            f"round {number + 1}: {name:6}{level:4d} outstanding {rate.per_second:8.0f} puts/s  "
                            f"p50 {rate.latency_ms_p50:.2f} ms  {per_put:.0f} us of CPU a put on all servers"
                        )
                    await client.close()
                finally:
                    await system.stop()
    return {
        name: {
            str(level): dict(
                zip(
                    ("puts_per_second", "p50_ms", "server_cpu_us_per_put"),
                    (round(statistics.median(column), 3) for column in zip(*cells, strict=True)),
                    strict=True,
                )
            )
            for level, cells in levels.items()
        }
        for name, levels in found.items()
    }


async def failovers(directory: Path, kills: int) -> dict[str, Any]:
    """Seconds without a put around a leader that dies or stops."""
    found: dict[str, Any] = {}
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory(dir=directory) as data:
            system = make(Path(data))
            await system.start()
            try:
                client = await system.client()
                found[name] = {}
                for number in (signal.SIGKILL, signal.SIGSTOP):
                    gaps = []
                    for _ in range(kills):
                        leader = await system.leader()
                        one = await gap(
                            client,
                            lambda s=system, n=number, which=leader: s.signal(which, n),
                            settle_s=SETTLE_S,
                            watch_s=2.0,
                        )
                        gaps.append(one.load_s)
                        if number is signal.SIGSTOP:
                            system.signal(leader, signal.SIGCONT)
                        else:
                            await system.restart(leader)
                    found[name][f"gap_s_{number.name}"] = round(statistics.median(gaps), 3)
                    print(f"{name:6}{number.name}: {[round(each, 3) for each in gaps]} s without a put")
                await client.close()
            finally:
                await system.stop()
    return found


async def comebacks(directory: Path, repeats: int, puts: int) -> dict[str, Any]:
    """Seconds in which a follower that missed *puts* puts takes all of them in: from the log, and when the log before
    it is gone, from a snapshot. Which of the two it takes must not be left to chance: a snapshot holds everything."""
    found: dict[str, dict[str, float]] = {name: {} for name in MAKERS}
    for way, settings in WAYS.items():
        seconds: dict[str, list[float]] = {name: [] for name in MAKERS}
        for number in range(repeats):
            for name in sorted(MAKERS, reverse=number % 2 == 0):
                with tempfile.TemporaryDirectory(dir=directory) as data:
                    system = MAKERS[name](Path(data), **settings)
                    await system.start()
                    try:
                        seconds[name].append(await come_back(system, puts, snapshot=way == "snapshot"))
                    finally:
                        await system.stop()
        for name, each in seconds.items():
            found[name][f"back_by_{way}_s"] = round(statistics.median(each), 3)
            print(f"{name:6}a follower that missed {puts} puts is back by {way} after {each} s")
    return found


async def come_back(system: Troth, puts: int, *, snapshot: bool) -> float:
    """Stop a follower until *puts* puts are done (and, for a snapshot, its next entry is dropped); time its return."""
    client = await system.client()
    leader = await system.leader()
    follower = next(node for node in range(3) if node != leader)
    held = (await asyncio.to_thread(system.status, follower)).last_index
    system.signal(follower, signal.SIGSTOP)
    await put_many(client, puts)
    while (target := await asyncio.to_thread(system.status, leader)) and snapshot and target.first_index <= held:
        await put_many(client, 64, outstanding=1)
    system.signal(follower, signal.SIGCONT)
    begin = time.perf_counter()
    while (await asyncio.to_thread(system.status, follower)).applied_index < target.commit_index:
        await asyncio.sleep(0.005)
    await client.close()
    return round(time.perf_counter() - begin, 3)


async def put_many(client: Client, puts: int, *, outstanding: int = 64) -> None:
    """So many puts, *outstanding* at a time."""
    numbers = iter(range(puts))

    async def one() -> None:
        for number in numbers:
            await client.put(b"key%06d" % number, VALUE)

    await asyncio.gather(*(one() for _ in range(outstanding)))


# ---- counted ----


class Counted:
    """A stage on which every message is counted, with the bytes that it takes on the wire."""

    def __init__(self, consensus: str, *, servers: int = 3, config: EngineConfig | None = None) -> None:
        voters = range(1, servers + 1)
        self.stage = Stage(voters, config=config or EngineConfig(), consensus=consensus)
        self._codec = PeerCodec(ENGINES[consensus].messages)
        self.messages = self.bytes = 0

    def count(self, flying: list[InFlight]) -> None:
        self.messages += len(flying)
        self.bytes += sum(len(self._codec.encode([each.message])) for each in flying)

    def settle(self) -> None:
        stage = self.stage
        while stage.in_flight:
            self.count(stage.in_flight)
            stage.deliver()

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.stage.tick_all()
            self.settle()

    def taken(self) -> tuple[int, int]:
        """Messages and bytes since the last call."""
        found, self.messages, self.bytes = (self.messages, self.bytes), 0, 0
        return found

    def propose(self, count: int) -> None:
        leader = self.stage.leaders()[0]
        for _ in range(count):
            self.stage.propose(leader, VALUE)
            self.settle()


def counted(consensus: str) -> dict[str, float]:
    """What a commit, an election and a follower's return cost in messages, bytes and ticks."""
    one = Counted(consensus)
    one.stage.elect(1)
    one.run(20)
    one.taken()
    one.propose(COMMITS)
    messages, size = one.taken()
    found = {"messages_per_commit": messages / COMMITS, "bytes_per_commit": size / COMMITS}

    stage = one.stage
    began = stage.now
    stage.crash(1)
    for survivor in (2, 3):
        stage.suspect(survivor, 1)
    rounds = 0
    while stage.in_flight or not stage.leaders():
        one.count(stage.in_flight)
        rounds += stage.deliver() > 0
        if not stage.in_flight and not stage.leaders():
            stage.tick_all()
    stage.propose(stage.leaders()[0], VALUE)
    one.settle()
    found["election_messages"], found["election_bytes"] = map(float, one.taken())
    found["election_message_delays"] = float(rounds)
    found["election_ticks_death_seen"] = float(stage.now - began)

    stage.restart(1)
    one.run(20)
    stage.isolate(3)
    one.propose(COMMITS)
    stage.heal()
    one.run(40)
    one.taken()
    # A leader finds out with a heartbeat that somebody is back: the return is tried at each moment between two.
    messages, size, ticks = 0, 0, []
    for offset in range(EngineConfig().heartbeat_ticks):
        stage.isolate(3)
        one.propose(COMMITS)
        one.run(1000 + offset)
        one.taken()
        stage.heal()
        ticks.append(0)
        while stage.commit(3) < stage.commit(stage.leaders()[0]):
            one.run(1)
            ticks[-1] += 1
        more, bytes_more = one.taken()
        messages, size = messages + more, size + bytes_more
        one.run(40)
        one.taken()
    found["return_messages"], found["return_bytes"] = messages / len(ticks), size / len(ticks)
    found["return_ticks"] = statistics.mean(ticks)
    found["return_disturbs_leader"] = float(stage.leaders() != [2])
    return {name: round(value, 2) for name, value in found.items()}


# ---- the page ----


def table(title: str, rows: list[tuple[str, float, float]]) -> list[str]:
    lines = [f"| {title} | Raft | Multi-Paxos | Paxos / Raft |", "|---|---|---|---|"]
    for name, raft, paxos in rows:
        ratio = f"{paxos / raft:.2f}" if raft else "-"
        lines.append(f"| {name} | {raft:,.6g} | {paxos:,.6g} | {ratio} |")
    return [*lines, ""]


def page(result: dict[str, Any]) -> list[str]:
    """The tables of the document."""
    timed, faults, counts = result["rates"], result["failover"], result["counted"]
    rows = []
    for level in timed["raft"]:
        for field, text in (
            ("puts_per_second", "puts/s"),
            ("p50_ms", "p50, ms"),
            ("server_cpu_us_per_put", "CPU of all servers for a put, us"),
        ):
            rows.append(
                (f"{level} outstanding: {text}", timed["raft"][level][field], timed["paxos"][level][field])
            )
    labels = {
        "gap_s_SIGKILL": "leader killed: longest gap without a put, s",
        "gap_s_SIGSTOP": "leader stopped: longest gap without a put, s",
        "back_by_log_s": f"follower that missed {result['missed_puts']:,} puts: back by the log, s",
        "back_by_snapshot_s": "the same, when only a snapshot helps: back after, s",
    }
    rows += [(text, faults["raft"][name], faults["paxos"][name]) for name, text in labels.items()]
    names = {
        "messages_per_commit": "messages for a commit",
        "bytes_per_commit": "bytes for a commit (value of 256)",
        "election_message_delays": "death seen: message delays until somebody leads",
        "election_messages": "messages for an election and the first commit",
        "election_bytes": "bytes for them",
        "return_messages": f"follower back after {COMMITS} commits: messages",
        "return_bytes": "bytes for them",
        "return_ticks": "ticks until it has everything",
    }
    machine = result["machine"]
    return [
        f"Measured by `make bench-engines` at commit {machine['commit']}: {machine['cpus']} cores, Linux "
        f"{machine['kernel']}, Python {machine['python']}, three servers on loopback with fsync on.",
        "",
        *table("timed on real servers", rows),
        *table(
            "counted in the pure cores",
            [(text, counts["raft"][n], counts["paxos"][n]) for n, text in names.items()],
        ),
    ]


def write(result: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    text = PAGE.read_text()
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    PAGE.write_text(head + BEGIN + "\n\n" + "\n".join(page(result)) + END + tail)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute; prints, writes nothing")
    parser.add_argument("--counted", action="store_true", help="only what is counted, which needs no time")
    parser.add_argument("--outstanding", default="1,64,256")
    parser.add_argument("--dir", type=Path, help="where the data goes (a real disk; default: .cache here)")
    options = parser.parse_args()
    counts = {name: counted(name) for name in MAKERS}
    if options.counted:
        print(json.dumps(counts, indent=2))
        return 0
    directory = options.dir or ROOT / ".cache"
    directory.mkdir(exist_ok=True)
    missed = 5_000 if options.quick else 150_000
    levels = [int(level) for level in options.outstanding.split(",")]
    run: Callable[..., Any] = uvloop.run
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {
        "machine": {
            "commit": commit,
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "rates": run(rates(directory, 1 if options.quick else 5, 1.0 if options.quick else 4.0, levels)),
        "failover": run(failovers(directory, 1 if options.quick else 5)),
        "missed_puts": missed,
        "counted": counts,
    }
    for name, ways in run(comebacks(directory, 1 if options.quick else 5, missed)).items():
        result["failover"][name] |= ways
    print("\n".join(page(result)))
    if not options.quick:
        write(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
