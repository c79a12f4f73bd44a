"""Results as JSON (everything), Markdown (medians and ratios) and SVG, with their machine and their commit."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import etcd_program
from cluster.plot import bars, strips

ROOT = Path(__file__).resolve().parents[2]
Results = dict[str, Any]


def describe_machine(directory: Path) -> dict[str, Any]:
    """What the figures depend on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    file_system = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(directory)], capture_output=True, text=True, check=False
    )
    return {
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": file_system.stdout.strip(),
        "load_before": os.getloadavg()[0],
    }


def describe_commit() -> str:
    """The commit measured, with ``+changes`` if the tree differs from it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "src"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"{commit or 'unknown'}{'+changes' if changed else ''}"


def header(settings: dict[str, Any], directory: Path) -> Results:
    """What every result file starts with."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "machine": describe_machine(directory),
        "etcd": etcd_program.version(),
        "settings": settings,
    }


def write(results: Results, directory: Path, name: str) -> list[Path]:
    """Write NAME.json, NAME.md and the plots; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.json", directory / f"{name}.md"]
    paths[0].write_text(json.dumps(results, indent=1) + "\n")
    plots = _plots(results)
    for plot, svg in plots.items():
        path = directory / f"{name}-{plot}.svg"
        path.write_text(svg)
        paths.append(path)
    paths[1].write_text(markdown(results, [f"{name}-{plot}.svg" for plot in plots]))
    return paths


def _plots(results: Results) -> dict[str, str]:
    plots: dict[str, str] = {}
    for operation, title in (("put", "puts per second"), ("get", "linearizable gets per second")):
        series = {
            system: {outstanding: cell["per_second"] for outstanding, cell in operations[operation].items()}
            for system, operations in results.get("rates", {}).items()
            if operation in operations
        }
        if series:
            plots[operation] = bars(f"{title}, by outstanding requests (log scale)", series)
    gaps = {
        f"{system} {number}": [kill["load_s"] for kill in facts["kills"]]
        for system, numbers in results.get("failover", {}).items()
        for number, facts in numbers.items()
    }
    if gaps:
        plots["failover"] = strips("seconds without a successful put (log scale), one dot for each failure", gaps)
    return plots


def markdown(results: Results, plots: list[str]) -> str:
    """The tables that people read."""
    machine = results["machine"]
    lines = [
        f"# Cluster benchmark, {results['date'][:10]}, commit {results['commit']}",
        "",
        f"{machine['cores']} cores of {machine['processor']}, kernel {machine['kernel']}, "
        f"Python {machine['python']}, {machine['file_system']}; etcd {results['etcd']}; one Python process "
        "as client, three nodes on loopback, 256-byte values, every acknowledged write synced (but PySyncObj's, "
        "whose journal never is). Medians of "
        f"{results['settings']['rounds']} rounds of {results['settings']['seconds']:g} s, the systems taking "
        "turns. `make bench` writes this anew.",
        "",
        f"Load average of the machine before the run: {machine['load_before']:.1f}. What it does beside this run slows "
        "all systems down, and not equally: a run with much above 0.5 says little.",
        "",
    ]
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    for operation, title in (
        ("put", "Puts"),
        ("get", "Linearizable gets"),
        ("stale_get", "Stale gets (any server, as it stands)"),
    ):
        lines += _rate_table(results.get("rates", {}), operation, title)
    lines += _failover_table(results.get("failover", {}))
    lines += _footprint_table(results.get("footprint", {}))
    return "\n".join(lines).rstrip() + "\n"


def _rate_table(rates: Results, operation: str, title: str) -> list[str]:
    systems = {system: cells[operation] for system, cells in rates.items() if operation in cells}
    if not systems:
        return []
    levels = list(next(iter(systems.values())))
    lines = [
        f"## {title}: per second (p50 / p99 ms)",
        "",
        f"| | {' | '.join(f'{level} outstanding' for level in levels)} |",
        f"|---|{'---|' * len(levels)}",
    ]
    for system, cells in systems.items():
        shown = [
            f"{cell['per_second']:,.0f} ({cell['latency_ms_p50']:.2f} / {cell['latency_ms_p99']:.2f})"
            for cell in (cells[level] for level in levels)
        ]
        lines.append(f"| {system} | {' | '.join(shown)} |")
    ours = systems.get("troth")
    if ours is not None:
        for other, cells in systems.items():
            if other == "troth":
                continue
            ratios = [f"{ours[level]['per_second'] / cells[level]['per_second']:.2f}" for level in levels]
            lines.append(f"| troth : {other} | {' | '.join(ratios)} |")
    etcd = systems.get("etcd")
    for system in ("troth", "troth_pipe") if etcd is not None else ():
        if system in systems:
            ratios = [
                f"{systems[system][level]['latency_ms_p50'] / etcd[level]['latency_ms_p50']:.2f}"
                for level in levels
            ]
            lines.append(f"| p50, {system} : etcd | {' | '.join(ratios)} |")
    return [*lines, ""]


def _failover_table(failover: Results) -> list[str]:
    if not failover:
        return []
    lines = [
        "## Loss of the leader: seconds without a successful put",
        "",
        "Median (longest) over the failures, as 16 busy workers see it; in brackets the median of a 20 ms probe.",
        "",
        "| | SIGKILL | SIGSTOP |",
        "|---|---|---|",
    ]
    for system, numbers in failover.items():
        shown = [
            f"{facts['load_s_median']:.3f} ({facts['load_s_max']:.3f}) [{facts['probe_s_median']:.3f}]"
            for facts in numbers.values()
        ]
        lines.append(f"| {system} | {' | '.join(shown)} |")
    return [*lines, ""]


def _footprint_table(footprint: Results) -> list[str]:
    if not footprint:
        return []
    rows = next(iter(footprint.values()))["rows"]
    lines = [
        "## Memory and start",
        "",
        f"| | cold start to the first put, s | memory of a node with {rows:,} keys, MiB | restart with them, s |",
        "|---|---|---|---|",
    ]
    for system, facts in footprint.items():
        each, restart_s = facts["memory_mib_each_node"], facts["restart_s"]
        memory = "not filled in time" if each is None else f"{each[0]:.0f}–{each[-1]:.0f}"
        restart = "not in time" if restart_s is None else f"{restart_s:.2f}"
        lines.append(f"| {system} | {facts['cold_start_s_median']:.2f} | {memory} | {restart} |")
    return [*lines, ""]
