"""The bank: clients move money between two databases while something dies; then everything is counted.

Each account is a row: a balance, which may not fall below zero, and `seen`, the transfers that touched it in the order
in which they did. So the databases themselves say which transfers they hold, and a client that reads `seen` after its
update knows all that came before: that is a list-append history, which `troth.verify` judges. Clients write down what
they ask for and what they are told, a line at a time in the format of `troth.verify`; what they wrote survives them.

The processes (the coordinator with its clients, recoveries) are forked from a warmed-up parent, so that one costs
milliseconds. `clients` and `recover` run in them; everything else runs in the test.
"""

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from troth import TwoPhaseCommit
from troth.errors import Aborted, OutcomeUnknown, StorageError, TrothError
from troth.verify.atomicity import check_atomic_commit
from troth.verify.formats import read_history
from troth.verify.history import History
from troth.verify.recorder import Recorder
from troth.verify.transactions import check_transactions

ACCOUNTS = 6
START = 40
AMOUNT_MAX = 12
CLIENTS = 8
SIDES = ("left", "right")

account = sa.Table(
    "account",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("balance", sa.Integer, sa.CheckConstraint("balance >= 0"), nullable=False),
    sa.Column("seen", sa.Text, nullable=False),
)

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "pytest",
        "sqlalchemy.orm",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.mysql.pymysql",
        "psycopg_binary",
        "pymysql",
        "troth.transactions.coordinator",
        "troth.transactions.snapshot",
        "troth.verify.atomicity",
        "troth.verify.formats",
        "troth.verify.transactions",
        "troth.server.local",
    ]
)


class ChangedMyMind(Exception):
    """A client's own reason not to go on with a transfer."""


@dataclass(frozen=True)
class Bank:
    """Where the money is. `left` and `right` are URLs, `log` is the decision log's."""

    left: str
    right: str
    log: str
    journal: str

    @property
    def stop(self) -> str:
        """The clients end when this file appears."""
        return self.journal + ".stop"

    def engines(self) -> dict[str, sa.Engine]:
        """New engines, one for each side."""
        return {side: engine_of(url) for side, url in zip(SIDES, (self.left, self.right), strict=True)}

    def coordinator(self, engines: dict[str, sa.Engine], **options: Any) -> TwoPhaseCommit:
        """A coordinator on this bank: every one of them has the same name, as a restarted service has."""
        return TwoPhaseCommit(dict(engines), log=self.log, name="bank", **options)

    def found(self) -> None:
        """Make the accounts anew."""
        for engine in self.engines().values():
            settle(engine.url.render_as_string(hide_password=False))
            with engine.begin() as connection:
                account.drop(connection, checkfirst=True)
                account.create(connection)
                rows = [{"id": number, "balance": START, "seen": ""} for number in range(ACCOUNTS)]
                connection.execute(account.insert(), rows)
            engine.dispose()


def engine_of(url: str) -> sa.Engine:
    """An engine as an application would make it; a database that is away is noticed."""
    if url.startswith("sqlite"):
        return sa.create_engine(url, connect_args={"timeout": 30})
    return sa.create_engine(url, pool_size=CLIENTS, max_overflow=CLIENTS, pool_pre_ping=True)


@dataclass(frozen=True)
class Load:
    """What a process does, and where it dies."""

    seed: int
    count: int = 60
    """So many transfers for each client; fewer if the file `Bank.stop` appears."""
    dies_at: str = ""
    after: int = 1
    """The process is killed when it comes to the step *dies_at* for this time."""
    with_signal: int = signal.SIGKILL
    clients: int = CLIENTS
    takes_over: bool = False
    """Whether a recovery fences off coordinators that seem to live."""


class Journal:
    """Lines that are written before anything depends on them, and that outlive the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, process: str, kind: str, value: object, error: str = "") -> None:
        line = {"process": process, "type": kind, "f": "txn", "value": value, "time": time.monotonic_ns()}
        if error:
            line["error"] = error
        os.write(self._file, json.dumps(line).encode() + b"\n")


def dying_at(load: Load) -> Callable[[str], None]:
    """The hook that ends this process (or stops it) in the middle of what it does."""
    lock, left = threading.Lock(), [load.after]

    def on_step(name: str) -> None:
        if name == load.dies_at:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), load.with_signal)

    return on_step


def clients(bank: Bank, load: Load) -> None:
    """The coordinator's process: clients in threads, all on one `TwoPhaseCommit`."""
    engines = bank.engines()
    journal = Journal(bank.journal)
    failures: list[BaseException] = []

    def client(number: int) -> None:
        try:
            serve(tpc, bank, engines, journal, load, number)
        except BaseException as failure:  # noqa: BLE001 - told to the test by the exit code
            failures.append(failure)

    with bank.coordinator(engines, on_step=dying_at(load)) as tpc:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(load.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def serve(
    tpc: TwoPhaseCommit, bank: Bank, engines: dict[str, sa.Engine], journal: Journal, load: Load, number: int
) -> None:
    """One client: transfer after transfer, each written down."""
    chance = random.Random(load.seed * 1000 + number)
    process = f"{os.getpid()}-{number}"
    for turn in range(load.count):
        if os.path.exists(bank.stop):
            return
        transfer = f"{process}-{turn}"
        keys = [f"{side}/{chance.randrange(ACCOUNTS)}" for side in SIDES]
        amount = chance.randint(1, AMOUNT_MAX) * chance.choice((1, -1))
        regret = chance.random() < 0.05
        micros = [["append", key, transfer] for key in keys] + [["r", key, None] for key in keys]
        journal.write(process, "invoke", micros)
        try:
            with tpc.begin(timeout=10) as tx:
                seen = []
                for side, key, change in zip(SIDES, keys, (-amount, amount), strict=True):
                    seen.append(move(tx[engines[side]], int(key.split("/")[1]), change, transfer))
                if regret:
                    raise ChangedMyMind
        except (Aborted, ChangedMyMind) as refusal:
            journal.write(process, "fail", micros, repr(refusal))
            time.sleep(chance.random() * 0.01)
        except OutcomeUnknown as doubt:
            journal.write(process, "info", micros, repr(doubt))
            process = f"{process}+"
        except StorageError as failure:
            journal.write(process, "info", micros, repr(failure))
            return
        except (sa.exc.DBAPIError, TrothError) as error:
            # Raised by the body, before anything was asked of the coordinator: nothing is left of it.
            journal.write(process, "fail", micros, repr(error))
            time.sleep(chance.random() * 0.01)
        else:
            micros[2][2], micros[3][2] = seen
            journal.write(process, "ok", micros)


def move(connection: sa.Connection, number: int, change: int, transfer: str) -> list[str]:
    """Change one account; the transfers that it has seen, this one included."""
    row = account.c.id == number
    values = {"balance": account.c.balance + change, "seen": account.c.seen + f" {transfer}"}
    connection.execute(account.update().where(row).values(values))
    return str(connection.scalar(sa.select(account.c.seen).where(row))).split()


def recover(bank: Bank, load: Load) -> None:
    """A process that does nothing but finish what others left; it may be told to die in the middle."""
    engines = bank.engines()
    # Under a name of its own: it takes nobody's place, but closes the epoch of the dead as any other process would.
    options = {"coordinator": f"rescuer-{os.getpid()}", "on_step": dying_at(load), "recover_every": None}
    with bank.coordinator(engines, **options) as tpc:
        tpc.recover(even_if_alive=load.takes_over)


started: list[ForkServerProcess] = []


def end_all() -> None:
    """Kill what a failed test has left running (or stopped, with its locks)."""
    while started:
        process = started.pop()
        process.kill()
        process.join()


def start(target: Callable[[Bank, Load], None], bank: Bank, load: Load) -> ForkServerProcess:
    """Run *target* in a process of its own."""
    process = context.Process(target=target, args=(bank, load), daemon=True)
    process.start()
    started.append(process)
    return process


def end_of(process: ForkServerProcess, within_s: float = 120.0) -> int:
    """The exit code, once the process has ended by itself."""
    process.join(within_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the process did not end within {within_s:g} s")
    return process.exitcode


def run(target: Callable[[Bank, Load], None], bank: Bank, load: Load) -> int:
    """Run *target* in a process of its own, to its end."""
    return end_of(start(target, bank, load))


def acknowledged(bank: Bank, count: int, process: ForkServerProcess, within_s: float = 120.0) -> None:
    """Return once *count* more transfers are acknowledged."""
    journal, deadline = Path(bank.journal), time.monotonic() + within_s

    def known() -> int:
        return journal.read_text().count('"type": "ok"') if journal.exists() else 0

    wanted = known() + count
    while known() < wanted:
        assert process.is_alive(), "the clients have ended"
        assert time.monotonic() < deadline, f"{count} more transfers were not acknowledged within {within_s:g} s"
        time.sleep(0.01)


def stopped(process: ForkServerProcess, within_s: float = 120.0) -> bool:
    """Whether the process comes to be stopped by SIGSTOP."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and process.is_alive():
        if ") T " in Path(f"/proc/{process.pid}/stat").read_text():
            return True
        time.sleep(0.002)
    return False


@dataclass
class Count:
    """What was found when everything was counted."""

    ok: int = 0
    failed: int = 0
    unknown: int = 0
    unknown_present: int = 0
    errors: dict[str, int] = field(default_factory=dict)


def prepared(url: str) -> list[str]:
    """Branches in doubt, as the database itself lists them."""
    engine = engine_of(url)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            names = connection.scalars(
                sa.text("select gid from pg_prepared_xacts where database = current_database()")
            ).all()
        elif engine.dialect.name == "sqlite":
            names = []
        else:
            names = [bytes(row[3]).decode() for row in connection.execute(sa.text("xa recover"))]
    engine.dispose()
    return list(names)


def settle(url: str) -> None:
    """Roll back whatever an earlier test has left prepared, so that no lock of it stands in the way."""
    engine = engine_of(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in prepared(url):
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"rollback prepared '{name}'")
    engine.dispose()


def audit(bank: Bank) -> Count:
    """Count everything, once all is recovered.

    Raises:
        AssertionError: money was made or lost, a branch is in doubt, a transfer is in one database only, an
            acknowledged one is missing, one that was reported aborted is there, or the history has no serial order.
    """
    for url in (bank.left, bank.right):
        assert prepared(url) == [], "branches are left in doubt"
    balances, lists = {}, {}
    for side, engine in bank.engines().items():
        with engine.connect() as connection:
            for row in connection.execute(sa.select(account)):
                balances[f"{side}/{row.id}"] = row.balance
                lists[f"{side}/{row.id}"] = row.seen.split()
        engine.dispose()
    assert sum(balances.values()) == 2 * ACCOUNTS * START, "money was made or lost"
    held = {side: [t for key, seen in lists.items() if key.startswith(side) for t in seen] for side in SIDES}
    for side, transfers in held.items():
        assert len(transfers) == len(set(transfers)), f"a transfer was applied twice on the {side}"
    torn = set(held["left"]) ^ set(held["right"])
    assert not torn, f"in one database only: {sorted(torn)}"
    there, count = set(held["left"]), Count()
    outcomes, requests = told(bank.journal)
    for transfer, outcome in outcomes.items():
        kind = outcome["type"]
        if kind == "ok":
            count.ok += 1
            assert transfer in there, f"{transfer} was acknowledged and is missing"
        elif kind == "fail":
            count.failed += 1
            assert transfer not in there, f"{transfer} was reported aborted and is there: {outcome['error']}"
        else:
            count.unknown += 1
            count.unknown_present += transfer in there
        name = outcome.get("error", "").split("(")[0]
        count.errors[name] = count.errors.get(name, 0) + 1
    assert there <= set(requests), "nobody asked for some of these transfers"
    judge(bank, lists, requests, there)
    return count


def told(journal: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """transfer -> the event that completed it (an info event if none did), and all transfers ever asked for."""
    open_, outcomes, requests = {}, {}, []
    for line in Path(journal).read_text().splitlines():
        event = json.loads(line)
        transfer = event["value"][0][2]
        if event["type"] == "invoke":
            open_[event["process"]] = transfer
            requests.append(transfer)
        else:
            outcomes[open_.pop(event["process"])] = event
    died = {transfer: {"type": "info", "error": "Died()"} for transfer in open_.values()}
    return {**outcomes, **died}, requests


def judge(bank: Bank, lists: dict[str, list[str]], requests: Sequence[str], there: set[str]) -> None:
    """Put the history to troth.verify: per database, over both, and as an atomic commitment."""
    final = [["r", key, seen] for key, seen in lists.items()]
    ending = [
        {"process": "auditor", "type": "invoke", "f": "txn", "value": [["r", key, None] for key in lists]},
        {"process": "auditor", "type": "ok", "f": "txn", "value": final},
    ]
    lines = [json.loads(line) for line in Path(bank.journal).read_text().splitlines()] + ending
    for part in (*SIDES, "/"):
        verdict = check_transactions(history_of(lines, part), "list-append", "strict-serializable")
        assert bool(verdict), f"{part}: {verdict.text()}"
    recorder = Recorder()
    recorder.fault("crash")
    for side in SIDES:
        held = {transfer for key, seen in lists.items() if key.startswith(side) for transfer in seen}
        for transfer in requests:
            recorder.invoke(side, "commit" if transfer in held else "abort", key=transfer)
            recorder.ok(side)
    verdict = check_atomic_commit(recorder.history())
    assert bool(verdict), verdict.text()


def history_of(lines: Sequence[dict[str, Any]], part: str) -> History:
    """The history as one database saw it (*part* is a side), or as a whole ("/")."""
    kept = [{**line, "value": [micro for micro in line["value"] if part in micro[1]]} for line in lines]
    return read_history("\n".join(['{"troth_history": 1}', *map(json.dumps, kept)]).encode())
