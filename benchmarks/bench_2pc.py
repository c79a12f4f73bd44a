"""Transfers between two PostgreSQL servers: `TwoPhaseCommit`, beside two unsafe commits and Session(twophase=True).

    python benchmarks/bench_2pc.py             tables, about six minutes
    python benchmarks/bench_2pc.py --write     and benchmarks/results/2pc.json and .md with machine and commit
    python benchmarks/bench_2pc.py --quick     a few seconds, to see that it runs

All systems run in turns within one process, so that what else the machine does meets all of them; medians of the
rounds. Once on the disk as it is, once with 2 ms added to every sync of both servers and of the decision log
(slow_sync.c), where the number of syncs that a transfer waits for shows. What each system is worth:

unsafe    two engines, two independent commits, one after the other: a crash between them makes or loses money
stock     Session(twophase=True): no log, so a crash leaves branches in doubt for ever (test_twophase_stock.py)
troth     TwoPhaseCommit with its durable log, through tx[engine]; it returns when both databases have committed
decided   the same with wait="decided": it returns when the decision is durable, so that nothing can undo it; the
          databases are told behind the caller's back, and a reader may see the old state for a moment
session   the same through tx.session(), the ORM session that stock uses
floor     what the protocol itself adds to unsafe, written straight at libpq with nothing around it (two votes with
          the transactions' ids, one line written and synced, by one thread for all that wait, two COMMIT PREPARED):
          no names that survive a restart, no fencing, no recovery. The coordinator's own CPU is troth - unsafe;
          floor - unsafe is the part of it that no code of ours can save, troth - floor what our code adds.
"""

import argparse
import itertools
import json
import mmap
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cluster.report import describe_commit, describe_machine
from psycopg import generators, waiting
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from troth import TwoPhaseCommit
from troth.torture.databases import PostgresServer
from troth.transactions.log.group import GroupCommit

HERE = Path(__file__).resolve().parent
ACCOUNTS = 10_000
SYSTEMS = ("unsafe", "stock", "troth", "decided", "session", "floor")
DISKS = {"this disk": 0, "+2 ms a sync": 2000}
Transfer = Callable[[int, int], None]


class Base(DeclarativeBase):
    pass


class Left(Base):
    __tablename__ = "left_account"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


class Right(Base):
    __tablename__ = "right_account"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


TAKE = sa.update(Left).values(balance=Left.balance - 1).where(Left.id == sa.bindparam("number"))
GIVE = sa.update(Right).values(balance=Right.balance + 1).where(Right.id == sa.bindparam("number"))
ON_LEFT, ON_RIGHT = {"mapper": Left}, {"mapper": Right}


class Syncs:
    """How often the programs that share a file of slow_sync.c have synced."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
            path.chmod(0o666)
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> int:
        return int(struct.unpack("Q", self._shared[:8])[0])


def transfers(
    left: sa.Engine, right: sa.Engine, tpc: TwoPhaseCommit, plain: tuple[sa.Engine, sa.Engine]
) -> dict[str, Transfer]:
    """The five ways to do one transfer; those without `TwoPhaseCommit` through engines that it has never seen."""
    binds = {Left: left, Right: right}
    plain_binds = dict(zip((Left, Right), plain, strict=True))
    plain_left, plain_right = plain

    def unsafe(a: int, b: int) -> None:
        with plain_left.connect() as on_left, plain_right.connect() as on_right:
            on_left.execute(TAKE, {"number": a})
            on_right.execute(GIVE, {"number": b})
            on_left.commit()
            on_right.commit()

    def stock(a: int, b: int) -> None:
        with Session(binds=plain_binds, twophase=True) as session:
            session.connection(bind_arguments=ON_LEFT).execute(TAKE, {"number": a})
            session.connection(bind_arguments=ON_RIGHT).execute(GIVE, {"number": b})
            session.commit()

    def troth(a: int, b: int) -> None:
        with tpc.begin() as tx:
            tx[left].execute(TAKE, {"number": a})
            tx[right].execute(GIVE, {"number": b})

    def decided(a: int, b: int) -> None:
        with tpc.begin(wait="decided") as tx:
            tx[left].execute(TAKE, {"number": a})
            tx[right].execute(GIVE, {"number": b})

    def session(a: int, b: int) -> None:
        with tpc.begin() as tx, tx.session(binds=binds) as bound:
            bound.connection(bind_arguments=ON_LEFT).execute(TAKE, {"number": a})
            bound.connection(bind_arguments=ON_RIGHT).execute(GIVE, {"number": b})

    return {"unsafe": unsafe, "stock": stock, "troth": troth, "decided": decided, "session": session}


def told(connections: list[Any], statement: str) -> None:
    """*statement* to all, then all answers."""
    for connection in connections:
        connection.pgconn.send_query(statement.encode())
    for connection in reversed(connections):
        for result in waiting.wait(generators.execute(connection.pgconn), connection.pgconn.socket, 1.0):
            if result.error_message:
                raise RuntimeError(result.error_message)


def protocol_alone(left: sa.Engine, right: sa.Engine, log: Path) -> Transfer:
    """See "floor" above."""
    numbers = itertools.count()
    file = os.open(log, os.O_RDWR | os.O_CREAT)
    os.pwrite(file, bytes(1 << 24), 0)
    os.fsync(file)

    class Lines:
        def decide(self, numbers: list[int]) -> list[int]:
            os.pwrite(file, b"".join([b"%0199d\n" % number for number in numbers]), 200 * numbers[0] % (1 << 23))
            os.fdatasync(file)
            return numbers

    lines: Any = GroupCommit(Lines(), lambda size: None)  # type: ignore[arg-type]

    def floor(a: int, b: int) -> None:
        with left.connect() as on_left, right.connect() as on_right:
            on_left.execute(TAKE, {"number": a})
            on_right.execute(GIVE, {"number": b})
            raw = [each.connection.driver_connection for each in (on_left, on_right)]
            number = next(numbers) + 1
            told(raw, f"SELECT pg_current_xact_id_if_assigned(); PREPARE TRANSACTION 'floor.{number}'")
            lines.decide(number)
            told(raw, f"COMMIT PREPARED 'floor.{number}'")

    return floor


WARM_UP = 10
"""Transfers of each client before a round: by then it has its connections, and drivers have prepared its statements."""


def one_round(transfer: Transfer, threads: int, seconds: float, syncs: dict[str, Syncs]) -> dict[str, float]:
    """*threads* clients in a closed loop for *seconds*: transfers/s, ms, CPU and syncs per transfer."""
    waits: list[list[float]] = [[] for _ in range(threads)]
    failures: list[BaseException] = []
    gate = threading.Barrier(threads + 1)
    end = [0.0]

    def client(number: int) -> None:
        chance, mine, clock = random.Random(number), waits[number], time.perf_counter
        # No two clients meet on a row: what is measured is the commit, not the waiting for locks.
        share = ACCOUNTS // threads
        low, high = number * share, (number + 1) * share - 1
        try:
            for _ in range(WARM_UP):
                transfer(low, low)
            gate.wait()
            now = clock()
            while now < end[0]:
                transfer(chance.randint(low, high), chance.randint(low, high))
                now, before = clock(), now
                mine.append(now - before)
        except BaseException as failure:
            failures.append(failure)
            gate.abort()

    workers = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    end[0] = time.perf_counter() + 3600
    while gate.n_waiting < threads and not failures:
        time.sleep(0.001)
    before = {name: count() for name, count in syncs.items()}
    cpu, started = time.process_time(), time.perf_counter()
    end[0] = started + seconds
    if not failures:
        gate.wait()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    every = sorted(wait for mine in waits for wait in mine)
    done = len(every)
    return {
        "tps": done / took,
        "p50_ms": 1e3 * every[done // 2],
        "p99_ms": 1e3 * every[min(done - 1, done * 99 // 100)],
        "cpu_us": 1e6 * cpu / done,
        **{f"syncs_{name}": (count() - before[name]) / done for name, count in syncs.items()},
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds on one disk, in this process. Figures are medians over rounds."""
    directory = Path(options.dir)
    with ExitStack() as stack:
        syncs, servers = {}, []
        for name in ("left", "right"):
            syncs[name] = Syncs(directory / name)
            words = {"SLOW_SYNC_COUNT": str(directory / name)}
            servers.append(stack.enter_context(PostgresServer(environment=words)))
        syncs["log"] = Syncs(Path(os.environ["SLOW_SYNC_COUNT"]))
        size = max(options.threads)
        # Twice as many as clients: with "decided" a client begins anew while its last connections are still in use.
        engines = [sa.create_engine(server.url(), pool_size=2 * size) for server in [*servers, *servers]]
        left, right, *plain = engines
        for engine, kind in ((left, Left), (right, Right)):
            Base.metadata.create_all(engine, tables=[kind.__table__])  # type: ignore[list-item]
            with engine.begin() as connection:
                rows = [{"id": number, "balance": 1000} for number in range(ACCOUNTS)]
                connection.execute(sa.insert(kind), rows)
        tpc = stack.enter_context(TwoPhaseCommit([left, right], log=str(directory / "decisions")))
        ways = transfers(left, right, tpc, (plain[0], plain[1]))
        ways["floor"] = protocol_alone(plain[0], plain[1], directory / "floor")
        rounds: dict[tuple[int, str], list[dict[str, float]]] = {}
        for _ in range(options.rounds):
            for threads in options.threads:
                for name in SYSTEMS:
                    print(".", end="", file=sys.stderr, flush=True)
                    # A pool hands out its connections in turn, so it makes use of all that whoever came before needed;
                    # each costs the servers a process with caches of its own.
                    for engine in engines:
                        engine.dispose()
                    figures = one_round(ways[name], threads, options.seconds, syncs)
                    rounds.setdefault((threads, name), []).append(figures)
        for engine in engines:
            engine.dispose()
    print(file=sys.stderr)
    found: dict[str, Any] = {}
    for (threads, name), kept in rounds.items():
        medians = {figure: statistics.median(one[figure] for one in kept) for figure in kept[0]}
        found.setdefault(str(threads), {})[name] = medians
    return found


@contextmanager
def slow_sync() -> Iterator[Path]:
    """slow_sync.c, compiled, in a directory that every user can read."""
    with tempfile.TemporaryDirectory(prefix="troth-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        library = directory / "slow_sync.so"
        words = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "slow_sync.c"), "-ldl"]
        subprocess.run(words, check=True)
        yield library


def on_disk(delay_us: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a process whose syncs, and whose servers' syncs, are counted and slowed down."""
    with slow_sync() as library:
        directory = library.parent
        Syncs(directory / "log")
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "SLOW_SYNC_US": str(delay_us),
            "SLOW_SYNC_COUNT": str(directory / "log"),
        }
        words = [sys.executable, str(Path(__file__).resolve()), "--dir", str(directory)]
        words += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
        words += ["--threads", ",".join(map(str, options.threads))]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return dict(json.loads(done.stdout))


def ratios(disks: dict[str, Any]) -> list[tuple[str, float, str]]:
    """(what, how much, what was asked): the comparisons that carry over to other machines."""
    slow = disks["+2 ms a sync"]
    one, many = slow[min(slow, key=int)], slow[max(slow, key=int)]
    p50 = one["troth"]["p50_ms"]

    clients = sorted(slow, key=int)

    def over(base: str, name: str, threads: Iterable[str]) -> float:
        """ms of this process's CPU; median of both disks and of *threads*."""
        found = [d[t][name]["cpu_us"] - d[t][base]["cpu_us"] for d in disks.values() for t in threads]
        return statistics.median(found) / 1e3

    def cpu(base: str, name: str, asked: str) -> list[tuple[str, float, str]]:
        rows = [(f"CPU per transfer, {name} - {base}, ms (median of all)", over(base, name, clients), asked)]
        return rows + [(f"  {count} client(s)", over(base, name, [count]), "-") for count in clients]

    return [
        ("one client, +2 ms: median wait, troth : unsafe", p50 / one["unsafe"]["p50_ms"], "at most 1.5"),
        *(
            (
                f"one client, +2 ms: median wait, {name} : unsafe",
                one[name]["p50_ms"] / one["unsafe"]["p50_ms"],
                "-",
            )
            for name in ("decided", "floor")
        ),
        ("one client, +2 ms: median wait, troth : stock", p50 / one["stock"]["p50_ms"], "below 1"),
        (
            "most clients, +2 ms: transfers/s, troth : stock",
            many["troth"]["tps"] / many["stock"]["tps"],
            "at least 1.2",
        ),
        *(
            (f"most clients, +2 ms: transfers/s, {name} : stock", many[name]["tps"] / many["stock"]["tps"], "-")
            for name in ("decided", "session", "floor")
        ),
        ("most clients, +2 ms: syncs of the log per transfer", many["troth"]["syncs_log"], "at most 0.5"),
        *cpu("unsafe", "troth", "below 0.15"),
        *cpu("unsafe", "floor", "-"),
        *cpu("floor", "troth", "-"),
        *cpu("unsafe", "stock", "-"),
    ]


def tables(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    machine = results["machine"]
    lines = [
        f"# Two-phase commit, {results['date']}, commit {results['commit']}",
        "",
        f"Two PostgreSQL servers and one Python process on {machine['cores']} cores of {machine['processor']}; "
        f"medians of {results['rounds']} interleaved rounds of {results['seconds']:g} s. `make bench-2pc` repeats it.",
    ]
    for disk, by_threads in results["disks"].items():
        lines += ["", f"## On {disk}" if disk == "this disk" else f"## {disk}", ""]
        lines += ["| clients | system | transfers/s | p50 ms | p99 ms | CPU µs | syncs left / right / log |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for threads, systems in by_threads.items():
            for name, one in systems.items():
                syncs = " / ".join(f"{one[f'syncs_{which}']:.2f}" for which in ("left", "right", "log"))
                lines.append(
                    f"| {threads} | {name} | {one['tps']:.0f} | {one['p50_ms']:.2f} | {one['p99_ms']:.1f} "
                    f"| {one['cpu_us']:.0f} | {syncs} |"
                )
    lines += ["", "## Ratios", "", "| | measured | asked |", "|---|---|---|"]
    lines += [f"| {what} | {value:.2f} | {asked} |" for what, value, asked in results["ratios"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/results")
    parser.add_argument("--dir", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dir:
        print(json.dumps(measure(options)))
        return
    if options.quick:
        options.rounds, options.seconds, options.threads = 1, 0.3, [1, 8]
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": describe_commit(),
        "machine": describe_machine(Path(tempfile.gettempdir())),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "disks": {disk: on_disk(delay_us, options) for disk, delay_us in DISKS.items()},
    }
    results["ratios"] = ratios(results["disks"])
    print(tables(results))
    if options.write:
        (HERE / "results" / "2pc.json").write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "results" / "2pc.md").write_text(tables(results) + "\n")


if __name__ == "__main__":
    main()
