"""Leaderless registers beside Raft, on the same servers: latency of a put, and the gap when a server dies.

``make bench-paxos`` takes about three minutes (``ARGS=--quick``: half a minute, nothing is written). Both clients do
one request at a time. Rounds of the two alternate, so that whatever else the machine does meets both.
"""

import argparse
import json
import os
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
APART_S = 0.5
WINDOW_S = 0.1
"""How long after a death the longest gap is looked for: some hundred round trips, in which a dead connection is met,
given up, dialed again and rested."""


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


def gaps_around(
    put: Callable[[str], object], strikes: dict[str, Callable[[], object]]
) -> dict[str, dict[str, Any]]:
    """Put without a pause while another thread does each of *strikes* in turn, `APART_S` apart.

    For each: the longest time without a completed put in the `WINDOW_S` behind it, also as a multiple of the median
    time of a put before the first strike. So what dies and what does not is measured in one run, by one rule.
    """
    completed: list[float] = []
    struck: dict[str, float] = {}
    failed = number = 0

    def strike() -> None:
        for name, do in strikes.items():
            time.sleep(APART_S)
            struck[name] = time.perf_counter()
            do()
        time.sleep(APART_S)

    thread = threading.Thread(target=strike)
    thread.start()
    while thread.is_alive():
        number += 1
        try:
            put(f"bench/{number % KEYS}")
            completed.append(time.perf_counter())
        except TrothError:
            failed += 1
    steps = list(pairwise(completed))
    first = min(struck.values())
    trip = statistics.median(later - earlier for earlier, later in steps if later < first)
    found = {}
    for name, at in struck.items():
        gap = max(
            (later - earlier for earlier, later in steps if later > at and earlier < at + WINDOW_S),
            default=float("inf"),
        )
        found[name] = {
            "gap_ms": round(gap * 1000, 3),
            "gap_trips": round(gap / trip, 2),
            "trip_ms": round(trip * 1000, 3),
            "failed": failed,
            "completed_s": [round(each - at, 5) for each in completed if abs(each - at) <= APART_S / 2],
        }
    return found


ALONE = "registers, acceptors alone"
APART = "registers, the victim on a core of its own"
NOTHING, LATER = "nothing happens", "nothing happens, one is dead"
BYSTANDER = "its like, of another set, dies"
VICTIMS = {
    ALONE: "an acceptor dies",
    APART: "an acceptor dies",
    "registers": "a server dies",
    "raft": "the leader dies",
}


def gaps(directory: Path, times: int) -> dict[str, list[dict[str, dict[str, Any]]]]:
    """The same with each of the three dying in turn: an acceptor (alone, or in a server) for the registers, the leader
    for Raft. Servers also hold an election when the acceptor that dies is their leader; acceptors alone do not.

    Beside each death stands a moment at which nothing happens; one at which a process of the same kind and size dies
    that has nothing to do with them, since the kernel clears a dead process away on a core that the others want, and
    what that does to puts is nobody's unavailability; and one half a second after the death: with two left both have
    to answer, and neither hides the other's stalls.

    Where acceptors have machines of their own nobody's core is taken. So acceptors alone are measured once more with
    those that die on one core and everybody else on another."""
    found: dict[str, list[dict[str, dict[str, Any]]]] = {ALONE: [], APART: [], "registers": [], "raft": []}
    for number in range(times):
        found[ALONE].append(gap_alone(directory / f"alone-{number}", number))
        found[APART].append(gap_alone(directory / f"apart-{number}", number, is_apart=True))
        in_server, raft = gaps_of_servers(directory / f"gap-{number}", number)
        found["registers"].append(in_server)
        found["raft"].append(raft)
    return found


def strikes_of(
    victim: str, kill: Callable[[], object], bystander: Callable[[], object]
) -> dict[str, Callable[[], object]]:
    """The strikes of one run: nothing, the death of the victim's like, and the victim's."""
    return {NOTHING: lambda: None, BYSTANDER: bystander, victim: kill, LATER: lambda: None}


def stay_on(core: int, *processes: int) -> None:
    """Keep *processes*, with all their threads, on one core."""
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def gap_alone(directory: Path, number: int, *, is_apart: bool = False) -> dict[str, dict[str, Any]]:
    with ExitStack() as stack:
        registers = stack.enter_context(troth.PaxosClient.local(directory / "acceptors", 3))
        acceptors = registers.local_acceptors
        beside = stack.enter_context(troth.PaxosClient.local(directory / "beside", 1)).local_acceptors

        def put(key: str) -> None:
            registers.put(key, VALUE)

        victim, bystander = acceptors.processes[acceptors.names[number % 3]], beside.processes[beside.names[0]]
        if is_apart:
            every = os.sched_getaffinity(0)
            ours, theirs = min(every), max(every)
            stack.callback(os.sched_setaffinity, 0, every)
            stay_on(ours, os.getpid(), *(each.pid for each in acceptors.processes.values()))
            stay_on(theirs, victim.pid, bystander.pid)
        timed(put, 20 * KEYS)
        return gaps_around(put, strikes_of(VICTIMS[ALONE], victim.kill, bystander.kill))


def gaps_of_servers(directory: Path, number: int) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    with ExitStack() as stack:
        cluster = stack.enter_context(troth.LocalCluster(3, data_dir=directory / "servers"))
        registers = stack.enter_context(troth.PaxosClient(cluster.url, timeout=10))
        client = stack.enter_context(cluster.connect(timeout=10))
        # Two clusters of one server each: one that dies beside each death.
        beside = [
            stack.enter_context(troth.LocalCluster(1, data_dir=directory / f"beside-{each}")) for each in range(2)
        ]
        deaths = [each.servers[each.names[0]].kill for each in beside]

        def put_register(key: str) -> None:
            registers.put(key, VALUE)

        def put_raft(key: str) -> None:
            client.put(key, VALUE)

        timed(put_register, 20 * KEYS)
        victim = cluster.names[number % 3]
        strikes = strikes_of(VICTIMS["registers"], cluster.servers[victim].kill, deaths[0])
        with_registers = gaps_around(put_register, strikes)
        cluster.kill(victim)
        cluster.restart(victim)
        leader = cluster.leader()
        strikes = strikes_of(VICTIMS["raft"], cluster.servers[leader].kill, deaths[1])
        timed(put_raft, 20 * KEYS)
        return with_registers, gaps_around(put_raft, strikes)


def plot(found: dict[str, list[dict[str, dict[str, Any]]]], title: str) -> str:
    """A line for each run: one tick for each put that completed, time from the death to the right."""
    width, left, window = 900, 150, 0.25
    rows = [(name, run[VICTIMS[name]]) for name, runs in found.items() for run in runs[:6]]
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
        what = VICTIMS[name]
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
        f"Longest time without a completed put in the {WINDOW_S * 1000:.0f} ms behind a moment, over "
        f"{results['settings']['times']} runs; a round trip is the median put of the same run.",
        "",
        "| puts to | at the moment | median, round trips | worst | median ms | worst ms | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results["gaps"].items():
        for moment in runs[0]:
            trips = [run[moment]["gap_trips"] for run in runs]
            millis = [run[moment]["gap_ms"] for run in runs]
            failed = max(run[moment]["failed"] for run in runs)
            lines.append(
                f"| {name} | {moment} | {statistics.median(trips):.1f} | {max(trips):.1f} "
                f"| {statistics.median(millis):.1f} | {max(millis):.1f} | {failed} |"
            )
    return "\n".join([*lines, "", f"Verdicts: {'; '.join(results['verdicts'])}.", ""])


def verdicts(results: dict[str, Any]) -> list[str]:
    latency = results["latency"]
    ratio = latency["registers"]["p50_ms"] / latency["raft"]["p50_ms"]
    said = "holds" if ratio <= PUT_RATIO_MAX else "DOES NOT HOLD"
    told = [f"p50 of a kept-ballot put is {ratio:.2f} times that of a Raft put (at most {PUT_RATIO_MAX}): {said}"]
    for name, victim in VICTIMS.items():
        trips = {
            moment: statistics.median(run[moment]["gap_trips"] for run in results["gaps"][name])
            for moment in (NOTHING, BYSTANDER, victim, LATER)
        }
        beside = "; ".join(f"{moment}: {trips[moment]:.1f}" for moment in (NOTHING, BYSTANDER, LATER))
        text = f"{name}, {victim}: longest gap {trips[victim]:.1f} round trips in the median run ({beside})"
        if name != "raft":
            said = "holds" if trips[victim] < GAP_ROUND_TRIPS_MAX else "DOES NOT HOLD"
            own = statistics.median(
                run[victim]["gap_trips"] - run[BYSTANDER]["gap_trips"] for run in results["gaps"][name]
            )
            text += f", below {GAP_ROUND_TRIPS_MAX}: {said}; {own:+.1f} to the death of its like in the same run"
        told.append(text)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run; results are printed and not kept")
    parser.add_argument("--directory", type=Path, help="where servers keep their data (default: a temporary one)")
    options = parser.parse_args()
    rounds, count, times = (3, 200, 2) if options.quick else (10, 400, 12)
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
