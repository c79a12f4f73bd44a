"""How fast the checkers are: microseconds an operation, the largest history within a second, and how it grows.

    python benchmarks/bench_verify.py                  a table
    python benchmarks/bench_verify.py --json FILE      the same numbers, with commit and machine

Times are of the check alone, on a history that has been read already, best of three, processor time; "file" adds
reading the text. Corpora are generated (`verify_corpora.py`), so anybody can repeat the run; the seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import verify_corpora as corpora
from bench_transactions import measure as measure_transactions
from bench_transactions import transactions
from cluster.plot import bars

from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.formats import read_history, write_jsonl
from troth.verify.history import Event, EventType, History

Row = dict[str, object]
PORCUPINE_MS_PER_LOG = 5.0
"""What Porcupine (Go, one core) took on average for such logs on another machine; only the order of size means much."""


def timed(work: Callable[[], object], *, repeat: int = 3) -> float:
    """Seconds of processor time, best of *repeat*."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def corpus(name: str, histories: Sequence[History], object: str, model: str = "linearizable") -> Row:
    """Check every history of a corpus."""
    seconds, verdicts = [], []
    for history in histories:
        verdicts.append(check(history, model, object).status.value)
        seconds.append(timed(lambda history=history: check(history, model, object)))
    operations = sum(len(history) for history in histories)
    ordered = sorted(seconds)
    return {
        "corpus": name,
        "logs": len(histories),
        "operations": operations,
        "us_per_log_mean": statistics.fmean(seconds) * 1e6,
        "us_per_log_median": statistics.median(seconds) * 1e6,
        "us_per_log_p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e6,
        "us_per_log_max": ordered[-1] * 1e6,
        "us_per_log_min": ordered[0] * 1e6,
        "us_per_operation": sum(seconds) / operations * 1e6,
        "illegal": verdicts.count("illegal"),
        "unknown": verdicts.count("unknown"),
    }


def growth(name: str, make: Callable[[int], History], object: str, sizes: Sequence[int]) -> list[Row]:
    """The same workload, larger and larger."""
    rows: list[Row] = []
    for size in sizes:
        history = make(size)
        seconds = timed(lambda history=history: check(history, object=object), repeat=3 if size < 300_000 else 1)
        rows.append(
            {
                "workload": name,
                "operations": size,
                "seconds": seconds,
                "us_per_operation": seconds / size * 1e6,
                "operations_in_one_second": int(size / seconds),
                "decided_by": ",".join(check(history, object=object).algorithms),
            }
        )
    return rows


def queue_like(seed: int, operations: int) -> History:
    """Enqueue and dequeue of one queue by four clients, never overlapping much."""
    rng = random.Random(seed)
    events: list[Event] = []
    queue: list[int] = []
    for number in range(operations):
        process = number % 4
        f = rng.choice(("enqueue", "dequeue"))
        value = number if f == "enqueue" else None
        if f == "enqueue":
            queue.append(number)
        elif queue:
            value = queue.pop(0)
        asked = number if f == "enqueue" else None
        events.append(Event(type=EventType.INVOKE, process=process, f=f, value=asked))
        events.append(Event(type=EventType.OK, process=process, f=f, value=value))
    return pair(events)


def file_to_verdict() -> Row:
    """Reading included."""
    texts = [write_jsonl(corpora.kv_like(seed)) for seed in range(10)]
    operations = sum(len(read_history(text)) for text in texts)
    seconds = sum(timed(lambda text=text: check(read_history(text))) for text in texts)
    return {
        "corpus": "kv-like, file to verdict",
        "operations": operations,
        "us_per_operation": seconds / operations * 1e6,
    }


def measure() -> dict[str, object]:
    """Everything."""
    few = range(30)
    rows = [
        corpus("etcd-like, legal", [corpora.etcd_like(seed, bug=0.0) for seed in range(100)], "cas-register"),
        corpus("etcd-like, some with bugs", [corpora.etcd_like(seed) for seed in range(100)], "cas-register"),
        corpus(
            "etcd-like, 5 % wrong answers",
            [corpora.etcd_like(seed, bug=0.05) for seed in range(100)],
            "cas-register",
        ),
        corpus("kv-like, some with bugs", [corpora.kv_like(seed) for seed in range(100)], "kv"),
        corpus("kv-like, in rounds", [corpora.kv_rounds(seed) for seed in range(100)], "kv"),
        corpus("register, 20 000 of 100 values", [corpora.few_values(seed) for seed in range(4)], "register"),
        corpus("kv-like, 2 % crashed", [corpora.kv_like(seed, crash=0.02) for seed in range(50)], "kv"),
        corpus(
            "etcd-like, one wrong read late",
            [corpora.wrong_read(corpora.etcd_like(s, bug=0), s) for s in range(100)],
            "cas-register",
        ),
        corpus(
            "60 % crashed, busy",
            [corpora.crowded(s, clients=5, operations=85, values=5, crash=0.6) for s in few],
            "cas-register",
        ),
        corpus(
            "20 clients, 5 values",
            [corpora.crowded(s, clients=20, operations=200, values=5, crash=0.15) for s in few],
            "cas-register",
        ),
        corpus(
            "the same, wrong read late",
            [
                corpora.wrong_read(corpora.crowded(s, clients=20, operations=200, values=5, crash=0.15), s)
                for s in few
            ],
            "cas-register",
        ),
        corpus(
            "10 clients, mostly cas",
            [corpora.crowded(s, clients=10, operations=120, values=4, crash=0.25, cas=6) for s in few],
            "cas-register",
        ),
        corpus(
            "kv, 50 clients, texts repeat",
            [corpora.repeating_kv(s, clients=50, operations=1000, keys=10, crash=0.0) for s in few],
            "kv",
        ),
        corpus(
            "one key, 20 clients, texts repeat",
            [corpora.repeating_kv(s, clients=20, operations=100, keys=1, crash=0.1) for s in few],
            "kv",
        ),
        corpus(
            "queue, crashes, found empty", [corpora.container(s, "queue", 1000, crash=0.03) for s in few], "queue"
        ),
        corpus(
            "queue, 4 elements over and over", [corpora.container(s, "queue", 200, values=4) for s in few], "queue"
        ),
        corpus(
            "the same, wrong dequeue late",
            [corpora.wrong_read(corpora.container(s, "queue", 200, values=4), s) for s in few],
            "queue",
        ),
        corpus("stack", [corpora.container(s, "stack", 150) for s in range(10)], "stack"),
        corpus("counter, crashes", [corpora.container(s, "counter", 500, crash=0.02) for s in few], "counter"),
        corpus("5 keys, causal", [corpora.register_keys(seed, 1000) for seed in range(10)], "kv", "causal"),
    ]
    grown = [
        *growth(
            "register, unique values", lambda n: corpora.register_unique(1, n), "register",
            (1_000, 10_000, 100_000, 1_000_000),
        ),
        *growth("cas-register, 5 values", lambda n: corpora.cas_register(1, n), "register", (1_000, 10_000, 100_000)),
        *growth("queue", lambda n: queue_like(1, n), "queue", (1_000, 10_000)),
    ]  # fmt: skip
    for size in (1_000, 10_000, 100_000):
        history = transactions(size)
        seconds, _ = measure_transactions(history, "list-append", "strict-serializable")
        grown.append(
            {
                "workload": "list-append, strict-serializable",
                "operations": size,
                "seconds": seconds,
                "us_per_operation": seconds / size * 1e6,
                "operations_in_one_second": int(size / seconds),
                "decided_by": "dependency graph; an operation is a transaction",
            }
        )
    return {"corpora": rows, "growth": grown, "file": file_to_verdict()}


def plot(grown: Sequence[Row]) -> str:
    """Nanoseconds an operation by size of the history, as SVG: bars of one length mean linear time."""
    table: dict[str, dict[str, float]] = {}
    for row in grown:
        cells = table.setdefault(str(row["workload"]), {})
        cells[f"{row['operations']:,}"] = float(str(row["us_per_operation"])) * 1e3
    return "".join(bars(f"{name}: ns an operation, by operations", {"": cells}) for name, cells in table.items())


def main() -> None:
    """Print a table, or write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an HTML page with how the time grows")
    arguments = parser.parse_args()
    results = measure()
    for row in results["corpora"]:
        print(
            f"{row['corpus']:30} {row['logs']:4} logs  {row['us_per_log_mean']:8.0f} us/log mean"
            f" {row['us_per_log_median']:7.0f} median {row['us_per_log_max']:8.0f} max"
            f" {row['us_per_operation']:6.2f} us/op  {row['illegal']} illegal {row['unknown']} unknown"
        )
    for row in results["growth"]:
        print(
            f"{row['workload']:30} {row['operations']:8} ops  {row['seconds']:8.3f} s"
            f" {row['us_per_operation']:6.2f} us/op {row['operations_in_one_second']:9} ops in a second"
            f"  ({row['decided_by']})"
        )
    print(f"{results['file']['corpus']:30} {results['file']['us_per_operation']:6.2f} us/op")
    for row in results["corpora"][:5]:
        ratio = PORCUPINE_MS_PER_LOG * 1e3 / row["us_per_log_mean"]
        print(
            f"{row['corpus']:30} {ratio:6.1f} times as fast as Porcupine's published-data mean of about 5 ms a log"
        )
    if arguments.plot is not None:
        pages = plot(results["growth"])
        arguments.plot.write_text(f"<!doctype html><title>How the checks grow</title>\n{pages}")
    if arguments.json is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        arguments.json.write_text(
            json.dumps({"commit": commit.stdout.strip(), "machine": machine, **results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
