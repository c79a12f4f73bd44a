"""Leaderless registers beside Raft, on the same servers: latency of a put, and the gap when a server dies.

``make bench-paxos`` takes about two minutes (``ARGS=--quick``: half a minute, nothing is written). Both clients do one
request at a time. Rounds of the two alternate, so that whatever else the machine does meets both.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import troth
from troth.errors import TrothError

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cluster import report

ROOT = Path(__file__).resolve().parents[1]
KEYS = 16
VALUE = b"x" * 100
PUT_RATIO_MAX = 1.5
GAP_ROUND_TRIPS_MAX = 3
AROUND_S = 0.5
"""How long before and after a death completions are looked at."""


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def timed(put: Callable[[str], object], count: int) -> list[float]:
    """Milliseconds of *count* puts of 16 keys in turn, one at a time."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        put(f"bench/{number % KEYS}")
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def latencies(
    putters: dict[str, Callable[[str], object]], *, rounds: int, count: int
) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of each, over rounds that take turns; every key is warm."""
    for put in putters.values():
        timed(put, 2 * KEYS)
    taken: dict[str, list[float]] = {name: [] for name in putters}
    for _ in range(rounds):
        for name, put in putters.items():
            taken[name] += timed(put, count)
    return {
        name: {
            "p50_ms": round(statistics.median(values), 3),
            "p99_ms": round(quantile(values, 0.99), 3),
            "puts": len(values),
        }
        for name, values in taken.items()
    }


def gap_around(put: Callable[[str], object], kill: Callable[[], object]) -> dict[str, Any]:
    """Put without a pause while another thread kills. When puts completed, and the longest time without one."""
    completed: list[float] = []
    number = failed = 0
    killed: list[float] = []

    def strike() -> None:
        killed.append(time.perf_counter())
        kill()

    timer = threading.Timer(AROUND_S, strike)
    timer.start()
    end = time.perf_counter() + 30
    while not killed or (time.perf_counter() < killed[0] + AROUND_S and time.perf_counter() < end):
        number += 1
        try:
            put(f"bench/{number % KEYS}")
            completed.append(time.perf_counter())
        except TrothError:
            failed += 1
    timer.join()
    steps = [(later >= killed[0], later - earlier) for earlier, later in pairwise(completed)]
    return {
        "gap_ms": round(max((step for is_after, step in steps if is_after), default=float("inf")) * 1000, 3),
        "gap_before_ms": round(max((step for is_after, step in steps if not is_after), default=0.0) * 1000, 3),
        "failed": failed,
        "completed_s": [round(at - killed[0], 5) for at in completed],
    }


ALONE = "registers, acceptors alone"


def gaps(directory: Path, times: int) -> dict[str, list[dict[str, Any]]]:
    """The same with each of the three dying in turn: an acceptor (alone, or in a server) for the registers, the leader
    for Raft. Servers also hold an election when the acceptor that dies is their leader; acceptors alone do not."""
    found: dict[str, list[dict[str, Any]]] = {ALONE: [], "registers": [], "raft": []}
    for number in range(times):
        found[ALONE].append(gap_alone(directory / f"alone-{number}", number))
        in_server, raft = gaps_of_servers(directory / f"gap-{number}", number)
        found["registers"].append(in_server)
        found["raft"].append(raft)
    return found


def gap_alone(directory: Path, number: int) -> dict[str, Any]:
    with troth.PaxosClient.local(directory, 3) as registers:
        acceptors = registers.local_acceptors

        def put(key: str) -> None:
            registers.put(key, VALUE)

        timed(put, 20 * KEYS)
        return gap_around(put, lambda: acceptors.kill(acceptors.names[number % 3]))


def gaps_of_servers(directory: Path, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    with ExitStack() as stack:
        cluster = stack.enter_context(troth.LocalCluster(3, data_dir=directory))
        registers = stack.enter_context(troth.PaxosClient(cluster.url, timeout=10))
        client = stack.enter_context(cluster.connect(timeout=10))

        def put_register(key: str) -> None:
            registers.put(key, VALUE)

        def put_raft(key: str) -> None:
            client.put(key, VALUE)

        timed(put_register, 20 * KEYS)
        victim = cluster.names[number % 3]
        with_registers = gap_around(put_register, lambda: cluster.kill(victim))
        cluster.restart(victim)
        leader = cluster.leader()
        timed(put_raft, 20 * KEYS)
        return with_registers, gap_around(put_raft, lambda: cluster.kill(leader))


def plot(found: dict[str, list[dict[str, Any]]], title: str) -> str:
    """A line for each run: one tick for each put that completed, time from the death to the right."""
    width, left, window = 900, 150, 0.25
    rows = [(name, run) for name, runs in found.items() for run in runs]
    height = 60 + 34 * len(rows)

    def x(at_s: float) -> float:
        return left + (at_s + window) / (2 * window) * (width - left - 130)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        f'<line x1="{x(0):.1f}" y1="34" x2="{x(0):.1f}" y2="{height - 18}" stroke="#c8553d"/>',
        f'<text x="{x(0):.1f}" y="{height - 5}" text-anchor="middle">SIGKILL</text>',
        f'<text x="{x(-window):.1f}" y="{height - 5}">-{window * 1000:.0f} ms</text>',
        f'<text x="{x(window):.1f}" y="{height - 5}" text-anchor="end">+{window * 1000:.0f} ms</text>',
    ]
    for row, (name, run) in enumerate(rows):
        y = 44 + 34 * row
        what = "the leader dies" if name == "raft" else "an acceptor dies"
        parts.append(f'<text x="10" y="{y + 10}">{escape(name.replace("registers, ", ""))}</text>')
        parts.append(f'<text x="10" y="{y + 24}" fill="#777">{what}</text>')
        parts += [
            f'<line x1="{x(at):.2f}" y1="{y}" x2="{x(at):.2f}" y2="{y + 22}" stroke="#0b6e4f" stroke-width="0.6"/>'
            for at in run["completed_s"]
            if abs(at) <= window
        ]
        parts.append(f'<text x="{width - 120}" y="{y + 15}">gap {run["gap_ms"]:.1f} ms</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def markdown(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        "# Leaderless registers beside Raft",
        "",
        f"{results['date']}, commit {results['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['file_system']}, load before {machine['load_before']:.2f}. Three servers, fsync on, {KEYS} keys, "
        "one request at a time, values of 100 bytes. `make bench-paxos` renews this.",
        "",
        "| put | p50 ms | p99 ms | puts | p50 to Raft's |",
        "|---|---|---|---|---|",
    ]
    base = results["latency"]["raft"]["p50_ms"]
    for name, row in results["latency"].items():
        ratio = row["p50_ms"] / base
        lines.append(f"| {name} | {row['p50_ms']:.3f} | {row['p99_ms']:.3f} | {row['puts']} | {ratio:.2f} |")
    lines += [
        "",
        "| a server is killed | longest gap ms | the same in round trips | longest gap before ms | failed |",
    ]
    lines.append("|---|---|---|---|---|")
    for name, runs in results["gaps"].items():
        trip = results["latency"][name]["p50_ms"]
        lines += [
            f"| {name} | {run['gap_ms']:.1f} | {run['gap_ms'] / trip:.1f} "
            f"| {run['gap_before_ms']:.1f} | {run['failed']} |"
            for run in runs
        ]
    return "\n".join([*lines, "", f"Verdicts: {'; '.join(results['verdicts'])}.", ""])


def verdicts(results: dict[str, Any]) -> list[str]:
    latency, gaps_ms = results["latency"], {}
    for name, runs in results["gaps"].items():
        gaps_ms[name] = [run["gap_ms"] for run in runs]
    ratio = latency["registers"]["p50_ms"] / latency["raft"]["p50_ms"]
    said = "holds" if ratio <= PUT_RATIO_MAX else "DOES NOT HOLD"
    told = [f"p50 of a kept-ballot put is {ratio:.2f} times that of a Raft put (at most {PUT_RATIO_MAX}): {said}"]
    for name in (ALONE, "registers"):
        trips = [gap / latency[name]["p50_ms"] for gap in gaps_ms[name]]
        said = "holds" if max(trips) < GAP_ROUND_TRIPS_MAX else "DOES NOT HOLD"
        told.append(
            f"{name}: longest gap when one is killed {max(trips):.1f} round trips, median "
            f"{statistics.median(trips):.1f} (below {GAP_ROUND_TRIPS_MAX}): {said}"
        )
    told.append(f"Raft's gap when its leader is killed: median {statistics.median(gaps_ms['raft']):.0f} ms")
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run; results are printed and not kept")
    parser.add_argument("--directory", type=Path, help="where servers keep their data (default: a temporary one)")
    options = parser.parse_args()
    rounds, count, times = (3, 200, 1) if options.quick else (10, 400, 6)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-paxos-") as temporary:
        directory = Path(temporary)
        results: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": report.describe_commit(),
            "machine": report.describe_machine(directory),
            "settings": {"rounds": rounds, "count": count, "times": times},
        }
        with ExitStack() as stack:
            cluster = stack.enter_context(troth.LocalCluster(3, data_dir=directory / "servers"))
            registers = stack.enter_context(troth.PaxosClient(cluster.url))
            alone = stack.enter_context(troth.PaxosClient.local(directory / "acceptors", 3))
            client = stack.enter_context(cluster.connect())
            results["latency"] = latencies(
                {
                    "raft": lambda key: client.put(key, VALUE),
                    "registers": lambda key: registers.put(key, VALUE),
                    ALONE: lambda key: alone.put(key, VALUE),
                },
                rounds=rounds,
                count=count,
            )
        results["gaps"] = gaps(directory, times)
        results["verdicts"] = verdicts(results)
    text = markdown(results)
    print(text)
    if not options.quick:
        where = ROOT / "benchmarks" / "results"
        name = f"paxos-{results['date'][:10]}"
        title = "Puts, one at a time, while a server is killed: each tick is one that completed"
        (where / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (where / f"{name}.md").write_text(text)
        picture = plot(results["gaps"], title)
        (where / f"{name}.svg").write_text(picture)
        (ROOT / "docs" / "paxos-availability.svg").write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
