"""What the store costs by itself: one process, one thread, no disk, no network.

    python benchmarks/bench_kv.py             a table, about half a minute
    python benchmarks/bench_kv.py --write     and benchmarks/results/kv.json with machine and commit

Times are processor time, and each figure is the best of several rounds: other work on the machine can only make a
round slower.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from troth.kv.requests import (
    Command,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    LeaseGrant,
    Put,
    Range,
    Txn,
)
from troth.kv.store import Store
from troth.kv.watch import WatchHub, WatchRequest

RESULTS = Path(__file__).resolve().parent / "results"
KEYS_COUNT = 100_000
VALUE_BYTES = 256
BATCH = 64
ROUNDS = 3


def keys() -> list[bytes]:
    return [b"/bench/key/%08d" % number for number in range(KEYS_COUNT)]


def puts(fill: bytes, names: list[bytes]) -> list[Command]:
    """As a server has them: decoded, so that no two share their bytes."""
    encoded = msgspec.msgpack.encode([Put(name, fill * VALUE_BYTES) for name in names])
    return list(msgspec.msgpack.decode(encoded, type=list[Put]))


def filled() -> Store:
    store = Store()
    store.apply_batch(puts(b"v", keys()))
    return store


def batches(commands: list[Command]) -> Iterator[list[Command]]:
    return (commands[start : start + BATCH] for start in range(0, len(commands), BATCH))


def each_us(work: Callable[[], object], count: int) -> float:
    gc.collect()
    started = time.process_time()
    work()
    return (time.process_time() - started) / count * 1e6


def apply_one_by_one(store: Store, commands: list[Command]) -> Callable[[], object]:
    def work() -> None:
        apply = store.apply
        for command in commands:
            apply(command)

    return work


def apply_in_batches(store: Store, commands: list[Command]) -> Callable[[], object]:
    def work() -> None:
        for batch in batches(commands):
            store.apply_batch(batch)

    return work


# ---- one function per line of the table; each returns microseconds per operation unless its name says else ----


def put_new_key() -> float:
    return each_us(apply_one_by_one(Store(), puts(b"v", keys())), KEYS_COUNT)


def put_new_key_in_batches_of_64() -> float:
    return each_us(apply_in_batches(Store(), puts(b"v", keys())), KEYS_COUNT)


def put_overwriting() -> float:
    return each_us(apply_one_by_one(filled(), puts(b"w", keys())), KEYS_COUNT)


def put_overwriting_in_batches_of_64() -> float:
    return each_us(apply_in_batches(filled(), puts(b"w", keys())), KEYS_COUNT)


def put_overwriting_and_compacting_each_10000() -> float:
    store = filled()
    commands = puts(b"w", keys())

    def work() -> None:
        for start in range(0, KEYS_COUNT, 10_000):
            for batch in batches(commands[start : start + 10_000]):
                store.apply_batch(batch)
            store.apply(Compact(store.revision))

    return each_us(work, KEYS_COUNT)


def put_with_prev_kv() -> float:
    commands: list[Command] = [Put(name, b"w" * VALUE_BYTES, prev_kv=True) for name in keys()]
    return each_us(apply_in_batches(filled(), commands), KEYS_COUNT)


def put_with_lease() -> float:
    store = filled()
    store.apply(LeaseGrant(1, 60))
    return each_us(apply_in_batches(store, [Put(name, b"w", 1) for name in keys()]), KEYS_COUNT)


def put_with_one_prefix_watched() -> float:
    store = filled()
    hub = WatchHub(store)
    hub.create(1, WatchRequest(key=b"/bench/", range_end=b"/bench0"))
    commands = puts(b"w", keys())

    def work() -> None:
        for batch in batches(commands):
            store.apply_batch(batch)
            hub.poll()

    return each_us(work, KEYS_COUNT)


def put_with_10000_other_keys_watched() -> float:
    store = filled()
    hub = WatchHub(store)
    for number in range(10_000):
        hub.create(1, WatchRequest(key=b"/other/%d" % number))
    commands = puts(b"w", keys())

    def work() -> None:
        for batch in batches(commands):
            store.apply_batch(batch)
            hub.poll()

    return each_us(work, KEYS_COUNT)


def range_of_one_key() -> float:
    store = filled()
    requests = [Range(name) for name in keys()]

    def work() -> None:
        read = store.range
        for request in requests:
            read(request)

    return each_us(work, KEYS_COUNT)


def range_of_one_key_in_the_past() -> float:
    store = filled()
    store.apply_batch(puts(b"w", keys()))
    requests = [Range(name, revision=KEYS_COUNT) for name in keys()]

    def work() -> None:
        for request in requests:
            store.range(request)

    return each_us(work, KEYS_COUNT)


def range_of_100_keys_by_prefix() -> float:
    store = filled()
    store.range(Range(b"\0", b"\0", count_only=True))
    count = 2000
    requests = [Range(b"/bench/key/%06d" % number, b"/bench/key/%06d:" % number) for number in range(1000)] * 2

    def work() -> None:
        for request in requests:
            store.range(request)

    return each_us(work, count)


def range_of_a_page_of_100_in_100000() -> float:
    store = filled()
    store.range(Range(b"\0", b"\0", count_only=True))
    requests = [Range(name, b"\0", limit=100) for name in keys()[::50]]

    def work() -> None:
        for request in requests:
            store.range(request)

    return each_us(work, len(requests))


def new_key_and_range_in_turn() -> float:
    store = filled()
    store.range(Range(b"\0", b"\0", count_only=True))
    count = 20_000

    def work() -> None:
        for number in range(count):
            store.apply(Put(b"/bench/new/%08d" % (number * 7919 % count), b""))
            store.range(Range(b"/bench/new/", b"/bench/new0", limit=1))

    return each_us(work, count)


def txn_compare_and_put() -> float:
    store = filled()
    commands: list[Command] = [
        Txn(
            (Compare(name, CompareTarget.MOD, CompareResult.EQUAL, number + 2),),
            (Put(name, b"w" * VALUE_BYTES),),
            (Range(name),),
        )
        for number, name in enumerate(keys())
    ]
    return each_us(apply_in_batches(store, commands), KEYS_COUNT)


def delete_one_key() -> float:
    return each_us(apply_in_batches(filled(), [DeleteRange(name) for name in keys()]), KEYS_COUNT)


def watch_from_the_past_per_event() -> float:
    store = filled()
    hub = WatchHub(store)
    hub.create(1, WatchRequest(key=b"/bench/", range_end=b"/bench0", start_revision=1))

    def work() -> None:
        while hub.has_work:
            hub.poll()

    return each_us(work, KEYS_COUNT)


def first_range_after_100000_new_keys_ms() -> float:
    store = filled()
    return each_us(lambda: store.range(Range(b"/bench/", b"\0", limit=1)), 1000)


def hash_of_100000_keys_ms() -> float:
    store = filled()
    return each_us(store.hash, 1000)


def snapshot_of_100000_keys_ms() -> float:
    store = filled()

    def work() -> None:
        with store.snapshot() as view:
            for _ in view:
                pass

    return each_us(work, 1000)


def restore_of_100000_keys_ms() -> float:
    with filled().snapshot() as view:
        chunks = list(view)
    return each_us(lambda: Store.restore(chunks), 1000)


def longest_step_while_compacting_a_million_ms() -> float:
    """The compaction itself and every batch of 64 puts after it, until all is freed."""
    store = Store(quota_bytes=1 << 40)
    names = keys()[:10_000]
    for _ in range(100):
        store.apply_batch([Put(name, b"") for name in names])
    steps_ms = [each_us(lambda: store.apply(Compact(store.revision)), 1000)]
    batch: list[Command] = [Put(b"x", b"")] * BATCH
    while store.space.scavenged_revision < store.compact_revision:
        started = time.process_time()
        store.apply_batch(batch)
        steps_ms.append((time.process_time() - started) * 1e3)
    return max(steps_ms)


def memory_mb() -> dict[str, float]:
    """Resident memory in fresh processes: bare, with 100 000 keys, with a second version of each."""
    found = {}
    for name, versions in (("interpreter_and_imports", 0), ("100000_keys", 1), ("100000_keys_twice", 2)):
        code = (
            "import bench_kv\n"
            "store = bench_kv.Store()\n"
            f"for _ in range({versions}):\n"
            "    for start in range(0, bench_kv.KEYS_COUNT, 1000):\n"
            "        store.apply_batch(bench_kv.puts(b'v', bench_kv.keys()[start:start + 1000]))\n"
            "print(open('/proc/self/statm').read().split()[1])\n"
        )
        here = Path(__file__).resolve().parent
        shown = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
        found[name] = int(shown.stdout) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return found


TIMINGS: tuple[Callable[[], float], ...] = (
    put_new_key,
    put_new_key_in_batches_of_64,
    put_overwriting,
    put_overwriting_in_batches_of_64,
    put_overwriting_and_compacting_each_10000,
    put_with_prev_kv,
    put_with_lease,
    put_with_one_prefix_watched,
    put_with_10000_other_keys_watched,
    txn_compare_and_put,
    delete_one_key,
    range_of_one_key,
    range_of_one_key_in_the_past,
    range_of_100_keys_by_prefix,
    range_of_a_page_of_100_in_100000,
    new_key_and_range_in_turn,
    watch_from_the_past_per_event,
    first_range_after_100000_new_keys_ms,
    hash_of_100000_keys_ms,
    snapshot_of_100000_keys_ms,
    restore_of_100000_keys_ms,
    longest_step_while_compacting_a_million_ms,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results/kv.json")
    parser.add_argument("--only", default="", help="only the lines whose name contains this")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for timing in TIMINGS:
        if arguments.only in timing.__name__:
            name = timing.__name__ if timing.__name__.endswith("_ms") else timing.__name__ + "_us"
            figures[name] = round(min(timing() for _ in range(ROUNDS)), 3)
            print(f"{name:52} {figures[name]:10.2f}", flush=True)
    if arguments.only in "memory":
        for name, megabytes in memory_mb().items():
            figures[f"memory_{name}_mb"] = round(megabytes, 1)
            print(f"{'memory_' + name + '_mb':52} {megabytes:10.1f}")
    if arguments.write:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
        record = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cpus, Python {platform.python_version()}",
            "commit": commit.stdout.strip(),
            "keys": KEYS_COUNT,
            "value_bytes": VALUE_BYTES,
            "figures": figures,
        }
        (RESULTS / "kv.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
