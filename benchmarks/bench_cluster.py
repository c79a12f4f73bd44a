"""`make bench`: troth, etcd, PySyncObj and the bare ceiling under one workload, in one run, on one machine.

Writes benchmarks/results/cluster-*.{json,md,svg}. Only ratios within one run mean something; absolute figures belong
to one machine in one hour.

    python benchmarks/bench_cluster.py            all of it, about 20 minutes
    python benchmarks/bench_cluster.py --quick    one short round of everything, about a minute, nothing written
"""

import argparse
import importlib
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cluster import report
from cluster.etcd_program import executable
from cluster.phases import Maker, Say, Settings, failover, footprint, rates

RESULTS = Path(__file__).resolve().parent / "results"

SYSTEMS = {
    "troth": "Troth",
    "troth_paxos": "TrothPaxos",
    "troth_pipe": "TrothPipe",
    "etcd": "Etcd",
    "pysyncobj": "PySyncObj",
    "ceiling": "Ceiling",
}
"""Class by module; loaded when it is measured, so that one system's libraries are not needed for another's figures."""
PHASES: dict[
    str, tuple[Callable[[dict[str, Maker], Settings, Say], Awaitable[dict[str, Any]]], tuple[str, ...]]
] = {
    "rates": (rates, ("troth", "troth_paxos", "troth_pipe", "etcd", "pysyncobj", "ceiling")),
    # PySyncObj loses requests in flight without a word, so each of its failures costs a minute of waiting.
    "failover": (failover, ("troth", "troth_paxos", "etcd")),
    "footprint": (footprint, ("troth", "etcd", "pysyncobj")),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute; prints, writes nothing")
    parser.add_argument("--systems", default="troth,troth_paxos,troth_pipe,etcd,pysyncobj,ceiling")
    parser.add_argument("--phases", default="rates,failover,footprint")
    parser.add_argument("--outstanding", default="1,16,64,256")
    parser.add_argument("--rounds", type=int, help="rounds of each rate (3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="seconds of each rate (5; quick: 0.7)")
    parser.add_argument("--kills", type=int, help="failures of each kind (10; quick: 1)")
    parser.add_argument("--rows", type=int, help="keys for memory and restart (100000; quick: 5000)")
    parser.add_argument("--dir", type=Path, help="where the data goes (a real disk; default: .cache here)")
    parser.add_argument("--name", default=f"cluster-{time.strftime('%Y-%m-%d')}", help="name of the result files")
    return parser.parse_args()


def load(system: str) -> Maker:
    """The class of *system*."""
    maker: Maker = getattr(importlib.import_module(f"cluster.{system}"), SYSTEMS[system])
    return maker


async def run(
    options: argparse.Namespace, directory: Path, after_phase: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """All phases asked for; returns the results. *after_phase* gets them as far as they are."""
    quick = options.quick
    settings = Settings(
        directory=directory,
        rounds=options.rounds or (1 if quick else 3),
        seconds=options.seconds or (0.7 if quick else 5.0),
        outstanding=tuple(int(level) for level in options.outstanding.split(",")),
        kills=options.kills or (1 if quick else 10),
        rows=options.rows or (5000 if quick else 100_000),
    )
    wanted = options.systems.split(",")
    if "etcd" in wanted and executable() is None:
        print("etcd is left out: it is not installed and its package cannot be fetched", file=sys.stderr)
        wanted.remove("etcd")
    if quick and "pysyncobj" in wanted:
        print("quick: PySyncObj is left out of the footprint (it needs a minute)", file=sys.stderr)
    results = report.header(
        {name: getattr(settings, name) for name in ("rounds", "seconds", "outstanding", "kills", "rows")},
        directory,
    )
    for phase in options.phases.split(","):
        measured, systems = PHASES[phase]
        left_out = ("pysyncobj",) if quick and phase == "footprint" else ()
        makers = {name: load(name) for name in systems if name in wanted and name not in left_out}
        results[phase] = await measured(makers, settings, lambda line: print(line, flush=True))
        after_phase(results)
    return results


def main() -> None:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whoever ends us leaves no server behind
    parent = options.dir or RESULTS.parents[1] / ".cache" / "bench"
    parent.mkdir(parents=True, exist_ok=True)

    def save(results: dict[str, Any]) -> None:
        if not options.quick:
            report.write(results, RESULTS, options.name)

    with tempfile.TemporaryDirectory(dir=parent) as directory:
        results = uvloop.run(run(options, Path(directory), save))
    print("\n" + report.markdown(results, []))
    if not options.quick:
        print(f"written: {RESULTS / options.name}.md, .json, .svg")


if __name__ == "__main__":
    main()
