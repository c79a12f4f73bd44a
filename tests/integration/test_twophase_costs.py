"""What a transaction costs in syncs, counted by the servers and in the log: no more than the protocol needs."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from troth import TwoPhaseCommit
from troth.torture.databases import PostgresServer

pytestmark = pytest.mark.integration

TRANSFERS = 40
STRAY = 6
"""Syncs of the servers' own background processes that a count may hold besides."""

row = sa.Table("cost", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
READ = sa.select(row.c.n).where(row.c.id == 1)
WRITE = row.update().where(row.c.id == 1).values(n=row.c.n + 1)


def wal_syncs(server: PostgresServer) -> int:
    """How often this server has synced its log. Sessions report what they did when they end, so none may be open."""
    engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
    others = sa.text(
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if not connection.scalar(others):
                return int(connection.scalar(sa.text("select wal_sync from pg_stat_wal")) or 0)
        time.sleep(0.01)
    raise AssertionError("sessions stay open")


@pytest.fixture
def engines(postgres: PostgresServer, postgres_other: PostgresServer) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    both = sa.create_engine(postgres.url(), pool_size=32), sa.create_engine(postgres_other.url(), pool_size=32)
    for engine in both:
        with engine.begin() as connection:
            row.drop(connection, checkfirst=True)
            row.create(connection)
            connection.execute(row.insert(), [{"id": number, "n": 0} for number in range(64)])
    yield both
    for engine in both:
        engine.dispose()


@pytest.fixture
def log_syncs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often this process has synced a file; each sync takes 2 ms, as on a disk that is not a toy."""
    count = [0]

    def slowed(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(file: int) -> None:
            count[0] += 1
            real(file)
            time.sleep(0.002)

        return sync

    monkeypatch.setattr(os, "fsync", slowed(os.fsync))
    monkeypatch.setattr(os, "fdatasync", slowed(os.fdatasync))
    return lambda: count[0]


Work = Callable[[sa.Connection, sa.Connection], object]


def both_write(left: sa.Connection, right: sa.Connection) -> None:
    left.execute(WRITE)
    right.execute(WRITE)


def one_writes(left: sa.Connection, right: sa.Connection) -> None:
    left.execute(WRITE)
    right.scalar(READ)


def both_read(left: sa.Connection, right: sa.Connection) -> None:
    left.scalar(READ)
    right.scalar(READ)


@pytest.mark.parametrize(
    ("work", "left_syncs", "right_syncs", "decisions"),
    [(both_write, 2, 2, 1), (one_writes, 1, 0, 0), (both_read, 0, 0, 0)],
    ids=["two writers", "a lone writer", "readers"],
)
def test_syncs_are_two_a_writing_branch_one_for_a_lone_writer_and_none_for_readers(
    work: Work,
    left_syncs: int,
    right_syncs: int,
    decisions: int,
    engines: tuple[sa.Engine, sa.Engine],
    postgres: PostgresServer,
    postgres_other: PostgresServer,
    log_syncs: Callable[[], int],
    tmp_path: Path,
) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        left.dispose()
        right.dispose()
        before = wal_syncs(postgres), wal_syncs(postgres_other), log_syncs()
        for _ in range(TRANSFERS):
            with tpc.begin() as tx:
                work(tx[left], tx[right])
        logged = log_syncs() - before[2]
        left.dispose()
        right.dispose()
        wal = wal_syncs(postgres) - before[0], wal_syncs(postgres_other) - before[1]
    for found, wanted in zip(wal, (left_syncs, right_syncs), strict=True):
        assert TRANSFERS * wanted <= found <= TRANSFERS * wanted + STRAY
    assert logged == TRANSFERS * decisions


def test_32_clients_share_their_decision_syncs(
    engines: tuple[sa.Engine, sa.Engine], log_syncs: Callable[[], int], tmp_path: Path
) -> None:
    left, right = engines
    failures: list[BaseException] = []

    def client(number: int) -> None:
        mine = row.update().where(row.c.id == number).values(n=row.c.n + 1)
        try:
            for _ in range(20):
                with tpc.begin() as tx:
                    tx[left].execute(mine)
                    tx[right].execute(mine)
        except BaseException as failure:  # noqa: BLE001 - shown below
            failures.append(failure)

    with TwoPhaseCommit([left, right], log=str(tmp_path / "log")) as tpc:
        before = log_syncs()
        threads = [threading.Thread(target=client, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert log_syncs() - before <= 0.5 * 32 * 20
    with left.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(row.c.n))) == 32 * 20


def test_recovery_does_nothing_about_transactions_that_are_just_ending(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    """Under load most of what a database lists is over when the list arrives. Each cost a connection, and was counted
    as recovered."""
    pending: list[tuple[str, ...]] = []

    def transfer(number: int) -> None:
        for _ in range(TRANSFERS):
            with tpc.begin() as tx:
                for engine in engines:
                    tx[engine].execute(row.update().where(row.c.id == number).values(n=row.c.n + 1))
            pending.append(tx.pending)

    with TwoPhaseCommit(engines, log=tmp_path, recover_every=None) as tpc:
        clients = [threading.Thread(target=transfer, args=(number,)) for number in range(8)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            report = tpc.recover()
            assert (report.committed, report.rolled_back) == ([], [])
        for client in clients:
            client.join()
        assert tpc.metrics.passes > 1
    assert pending == [()] * TRANSFERS * len(clients)
