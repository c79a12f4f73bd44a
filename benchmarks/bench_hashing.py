"""Compare troth.hashing with uhashring in one run on one machine, and print a table.

    python benchmarks/bench_hashing.py [--keys 200000] [--repeat 5] [--write] [--quick]

Both libraries get the same node names, 160 virtual nodes a node and the same keys. Each figure is the best of
`--repeat` runs or more, taken in turns (theirs, ours, theirs, ours), in seconds of CPU time: everything here runs in
one thread, and other work on the machine should not count. Batches have no counterpart in uhashring: they are compared
with its single look-ups in a loop, which is what a user of it has to write. Adding a node is timed up to and
including the first look-up in the new ring. Exit code 1: a ratio is below its target.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uhashring

from troth.hashing import ALGORITHMS, HashRing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "hashing.json"
PAGE = ROOT / "docs" / "hashing.md"

TARGETS = {
    "single, str keys": (3.5, (10, 100, 1000)),
    "batch, str keys": (6.0, (10, 100, 1000)),
    "batch, bytes keys": (8.0, (10, 100, 1000)),
    "batch, pre-hashed": (50.0, (10, 100, 1000)),
    "batch, pre-hashed, as indices": (50.0, (10, 100, 1000)),
    "3 replicas, single": (50.0, (1000,)),
    "3 replicas, batch pre-hashed": (50.0, (1000,)),
    "add one node": (10.0, (1000,)),
}
"""Least ratio to uhashring, and the numbers of nodes for which it is meant."""


def best_seconds(repeat: int, *actions: Callable[[], object]) -> list[float]:
    """Best time of each action, run in turns."""
    best = [float("inf")] * len(actions)
    for _ in range(repeat):
        for index, action in enumerate(actions):
            begin = time.process_time()
            action()
            best[index] = min(best[index], time.process_time() - begin)
    return best


def loop(function: Callable[[Any], object], keys: list[Any]) -> Callable[[], None]:
    """Call *function* for each key, as a user's loop would."""

    def run() -> None:
        for key in keys:
            function(key)

    return run


def compare(nodes: int, keys_count: int, repeat: int) -> dict[str, tuple[float, float]]:
    """(uhashring, troth) operations per second for each measure."""
    names = [f"node-{index}" for index in range(nodes)]
    keys = [f"user:{index}:profile" for index in range(keys_count)]
    encoded = [key.encode() for key in keys]
    theirs, ours = uhashring.HashRing(names), HashRing(names)
    hashes = ours.hash_batch(keys)
    many = np.tile(hashes, max(1, 1_000_000 // len(hashes)))
    assert ours.node_batch(keys).tolist() == [ours.node(key) for key in keys]
    # Short rounds, many of them: on a machine that others use, a long one never runs undisturbed.
    short = keys[: min(20_000, keys_count)]
    single, our_single, batch_str, batch_bytes, hashed, indices = best_seconds(
        5 * repeat,
        loop(theirs.get_node, short),
        loop(ours.node, short),
        lambda: ours.node_batch(keys),
        lambda: ours.node_batch(encoded),
        lambda: ours.node_batch(many),
        lambda: ours.index_batch(many),
    )
    few = keys[: max(200, 20_000 // nodes)]
    their_lists, our_lists, our_list_batch = best_seconds(
        repeat,
        loop(lambda key: list(theirs.range(key, 3)), few),
        loop(lambda key: ours.nodes(key, 3), short),
        lambda: ours.index_lists(hashes, 3),
    )

    def their_add() -> None:
        theirs.add_node("one more")
        theirs.get_node("key")

    def our_add() -> None:
        ours.add("one more")
        ours.node("key")

    added = [[], []]  # type: list[list[float]]
    for _ in range(3 * repeat):
        for times, action in zip(added, (their_add, our_add), strict=True):
            begin = time.process_time()
            action()
            times.append(time.process_time() - begin)
        theirs.remove_node("one more")
        ours.remove("one more")
    their_rate = len(short) / single
    their_list_rate = len(few) / their_lists
    return {
        "single, str keys": (their_rate, len(short) / our_single),
        "batch, str keys": (their_rate, keys_count / batch_str),
        "batch, bytes keys": (their_rate, keys_count / batch_bytes),
        "batch, pre-hashed": (their_rate, len(many) / hashed),
        "batch, pre-hashed, as indices": (their_rate, len(many) / indices),
        "3 replicas, single": (their_list_rate, len(short) / our_lists),
        "3 replicas, batch pre-hashed": (their_list_rate, keys_count / our_list_batch),
        "add one node": (1 / min(added[0]), 1 / min(added[1])),
    }


def algorithms(nodes: int, keys_count: int, repeat: int) -> dict[str, tuple[float, float, float]]:
    """(single look-ups/s, pre-hashed batch look-ups/s, ms to add a node) for every algorithm of troth."""
    names = [f"node-{index}" for index in range(nodes)]
    table = {}
    for name, kind in ALGORITHMS.items():
        ring = kind(names)
        keys = [f"user:{index}:profile" for index in range(min(keys_count, 2_000_000 // nodes))]
        hashes = ring.hash_batch([f"user:{index}:profile" for index in range(keys_count)])
        single, batch = best_seconds(repeat, loop(ring.node, keys), partial(ring.index_batch, hashes))
        times = []
        for _ in range(repeat):
            begin = time.process_time()
            ring.add("one more")
            times.append(time.process_time() - begin)
            ring.remove("one more")
        table[name] = (len(keys) / single, len(hashes) / batch, 1e3 * min(times))
    return table


def shown(rate: float) -> str:
    """A rate with three digits and a unit."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate:.3g}"


def table(head: str, rows: list[str]) -> str:
    """A table of the page, printed as it is made."""
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rows])


def write_page(tables: dict[str, str]) -> None:
    """Put each of *tables* between its marks in docs/hashing.md, with where they were measured."""
    text = PAGE.read_text()
    for name, figures in tables.items():
        begin, end = f"<!-- figures: {name} -->\n", f"\n<!-- figures: end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{figures}{end}{rest.partition(end)[2]}"
    PAGE.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--write", action="store_true", help=f"put the figures into {PAGE.name} and {RESULTS.name}"
    )
    parser.add_argument("--quick", action="store_true", help="few keys and repeats: does it run, not how fast")
    options = parser.parse_args()
    if options.quick:
        options.keys, options.repeat = 5_000, 2
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    )
    print(
        f"uhashring {uhashring.__dict__.get('__version__', '2.5')}, {options.keys} keys, best of {options.repeat}\n"
    )
    results: dict[str, Any] = {}
    missed = 0
    ratios: list[str] = []
    for nodes in (10, 100, 1000):
        for measure, (theirs, ours) in compare(nodes, options.keys, options.repeat).items():
            results[f"{nodes}: {measure}"] = {"uhashring": theirs, "troth": ours, "ratio": ours / theirs}
            target, meant_for = TARGETS[measure]
            wanted = f"{target:g}" if nodes in meant_for else "-"
            missed += nodes in meant_for and ours / theirs < target
            ratio = f"{ours / theirs:.1f}"
            ratios.append(f"| {nodes} | {measure} | {shown(theirs)} | {shown(ours)} | {ratio} | {wanted} |")
    compared = table("| nodes | measure | uhashring/s | troth/s | ratio | target |", ratios)
    print(compared, end="\n\n")
    rates: list[str] = []
    for nodes in (10, 100, 1000):
        for name, (single, batch, add_ms) in algorithms(nodes, options.keys, options.repeat).items():
            results[f"{nodes}: {name}"] = {"single": single, "batch": batch, "add_ms": add_ms}
            rates.append(f"| {nodes} | {name} | {shown(single)} | {shown(batch)} | {add_ms:.3g} |")
    every = table("| nodes | algorithm | single/s | pre-hashed batch/s | add a node, ms |", rates)
    print(every)
    if options.write:
        machine = f"{platform.machine()}, {os.cpu_count()} cpus, Python {platform.python_version()}"
        commit = subprocess.run(
            ("git", "rev-parse", "--short=12", "HEAD"), capture_output=True, text=True, cwd=ROOT
        )
        found = {"machine": machine, "commit": commit.stdout.strip(), "keys": options.keys, "figures": results}
        RESULTS.write_text(json.dumps(found, indent=1))
        write_page({"troth beside uhashring": compared, "every algorithm": every})
    if missed and not options.quick:
        sys.exit(f"{missed} ratios are below their targets")


if __name__ == "__main__":
    main()
