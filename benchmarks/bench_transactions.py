"""Speed of the transactional checkers: microseconds per operation, and how the time grows with the history.

    python benchmarks/bench_transactions.py [--quick]

Histories come from a simulated store with one true order (serializable in real time) and, for the second table, one in
which some reads are stale. Only the check is timed, not the reading of a file.
"""

from __future__ import annotations

import argparse
import gc
import random
import time

from troth.verify.history import FOREVER, EventType, History, Operation
from troth.verify.transactions import check_transactions


def transactions(
    count: int, *, workload: str = "list-append", processes: int = 20, stale: float = 0.0, seed: int = 1
) -> History:
    """*count* transactions of one to five micro-operations over keys that retire after 32 writes."""
    rng = random.Random(seed)
    store: dict[int, tuple[int, ...]] = {}
    versions: dict[int, list[tuple[int, ...]]] = {}
    active, next_key = list(range(10)), 10
    writes: dict[int, int] = {}
    element = 0
    operations: list[Operation | None] = []
    working: dict[int, tuple[int, int, tuple[tuple[str, int, object], ...]]] = {}
    position = 0
    timeline: list[int] = []
    while len(operations) < count or working:
        idle = processes - len(working)
        if len(operations) < count and idle and (not working or rng.random() < 0.52):
            process = next(p for p in range(processes) if p not in working)
            micros: list[tuple[str, int, object]] = []
            for _ in range(rng.randrange(1, 6)):
                at = min(int(rng.expovariate(0.35)), len(active) - 1)
                key = active[at]
                if rng.random() < 0.5:
                    element += 1
                    micros.append(("append" if workload == "list-append" else "w", key, element))
                    writes[key] = writes.get(key, 0) + 1
                    if writes[key] == 32:
                        active[at] = next_key
                        next_key += 1
                else:
                    micros.append(("r", key, None))
            index = len(operations)
            operations.append(None)
            working[process] = (index, position, tuple(micros))
            timeline.append(2 * index)
            position += 1
            continue
        process = rng.choice(list(working))
        index, invoked, asked = working.pop(process)
        done: list[tuple[str, int, object]] = []
        for f, key, value in asked:
            if f == "r":
                now = store.get(key, ())
                old = versions.get(key, [()])
                if stale and rng.random() < stale and len(old) > 2:
                    now = old[-3]
                done.append((f, key, now if workload == "list-append" else (now[-1] if now else None)))
            else:
                assert isinstance(value, int)
                store[key] = (*store.get(key, ()), value)
                if stale:
                    versions.setdefault(key, [()]).append(store[key])
                done.append((f, key, value))
        operations[index] = Operation(
            index=index,
            process=process,
            f="txn",
            key=None,
            argument=asked,
            result=tuple(done),
            outcome=EventType.OK,
            invoked=invoked,
            completed=position,
        )
        timeline.append(2 * index + 1)
        position += 1
    assert position < FOREVER
    return History([op for op in operations if op is not None], timeline=timeline, length=position)


def measure(history: History, workload: str, model: str) -> tuple[float, str]:
    """(seconds of processor time, verdict): the best of three."""
    best, said = float("inf"), ""
    for _ in range(3):
        gc.collect()
        begin = time.process_time()
        verdict = check_transactions(history, workload, model)
        best = min(best, time.process_time() - begin)
        said = verdict.status.value
    return best, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller histories")
    arguments = parser.parse_args()
    sizes = (1_000, 10_000) if arguments.quick else (1_000, 10_000, 30_000, 100_000)
    cases = [
        ("list-append", "strict-serializable", 10, 0.0),
        ("list-append", "strict-serializable", 50, 0.0),
        ("list-append", "strict-serializable", 20, 0.001),
        ("list-append", "snapshot-isolation", 20, 0.001),
        ("rw-register", "strict-serializable", 20, 0.0),
        ("rw-register", "causal", 20, 0.0),
        ("rw-register", "read-atomic", 20, 0.0),
        ("rw-register", "read-committed", 20, 0.0),
    ]
    columns = f"{'procs':>5} {'stale':>6} {'txns':>8} {'seconds':>8} {'us/txn':>7} {'us/op':>6}"
    print(f"{'workload':12} {'model':20} {columns}  verdict")

    for workload, model, processes, stale in cases:
        for size in sizes:
            history = transactions(size, workload=workload, processes=processes, stale=stale)
            operations = sum(len(op.result) for op in history.operations if isinstance(op.result, tuple))
            seconds, said = measure(history, workload, model)
            print(
                f"{workload:12} {model:20} {processes:5} {stale:6} {size:8} {seconds:8.3f} "
                f"{seconds / size * 1e6:7.1f} {seconds / operations * 1e6:6.2f}  {said}",
                flush=True,
            )


if __name__ == "__main__":
    main()
