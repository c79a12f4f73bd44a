"""Who never answers keeps no block from its end."""

import asyncio
import inspect
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bank import prepared, settle
from sqlalchemy.ext.asyncio import create_async_engine

from troth import TwoPhaseCommit
from troth.errors import Aborted, RequestTimeout, TransactionInDoubt
from troth.torture.databases import DatabaseServer, PostgresServer
from troth.transactions import core, fan
from troth.transactions.aio import AsyncTwoPhaseCommit
from troth.transactions.outcome import Outcome
from troth.transactions.participants.mysql import MySqlBranch
from troth.transactions.participants.postgresql import PostgresBranch
from troth.transactions.steps import OnStep, nothing

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_copy_whose_rows_nobody_takes_is_given_up_with_its_connection(
    given_up: bool, postgres: PostgresServer, tmp_path: Path
) -> None:
    """asyncpg reads nothing while they are not taken, and would wait for the answers of the block's end for ever."""
    engine = create_async_engine(postgres.url("asyncpg"))

    async def take(rows: bytes) -> None:
        is_asked.set()
        await asyncio.Event().wait()

    async def copied(tpc: AsyncTwoPhaseCommit) -> None:
        async with tpc.begin() as tx:
            connection: Any = await tx.connection(engine)
            raw = (await connection.get_raw_connection()).driver_connection
            copying.append(asyncio.create_task(raw.copy_from_query("SELECT 1", output=take)))
            await is_asked.wait()
            if given_up:
                copying[0].cancel()
                await asyncio.wait(copying)

    is_asked = asyncio.Event()
    copying: list[asyncio.Task[str]] = []
    async with AsyncTwoPhaseCommit([engine], log=str(tmp_path / "log"), recover_every=None) as tpc:
        ending = asyncio.create_task(copied(tpc))
        await asyncio.wait([ending], timeout=20)
        assert ending.done()
        with pytest.raises(Aborted, match="was left open"):
            ending.result()
    copying[0].cancel()
    await asyncio.gather(*copying, return_exceptions=True)
    await engine.dispose()


# ---- servers that answer nothing ---------------------------------------------------------------------------

SILENT = [
    *(("psycopg", False), ("psycopg2", False), ("psycopg", True), ("asyncpg", True)),
    *(("pymysql", False), ("mysqldb", False), ("aiomysql", True), ("asyncmy", True)),
]
TIMEOUT_S = 20.0
BOUND_S = 0.5

entry = sa.Table("entry", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


class Pair:
    """Two databases, of which one can be kept from answering."""

    def __init__(self, server: DatabaseServer, other: PostgresServer, driver: str, *, is_async: bool) -> None:
        make: Any = create_async_engine if is_async else sa.create_engine
        well = other.url("asyncpg" if is_async else "psycopg")
        self.engines = {
            name: make(url, pool_size=1, max_overflow=0, pool_timeout=5)
            for name, url in (("silent", server.url(driver)), ("well", well))
        }
        self._server = server
        self._is_async = is_async
        self._urls = [server.url(), other.url()]
        self._session = 0
        self._looks = [sa.create_engine(url, poolclass=sa.NullPool) for url in self._urls]
        for url, engine in zip(self._urls, self._looks, strict=True):
            settle(url)
            entry.metadata.drop_all(engine)
            entry.metadata.create_all(engine)

    @asynccontextmanager
    async def coordinated(self, log: Path, on_step: OnStep = nothing) -> AsyncIterator[Any]:
        options: dict[str, Any] = {"log": str(log), "recover_every": None, "on_step": on_step}
        try:
            if self._is_async:
                async with AsyncTwoPhaseCommit(self.engines, **options) as tpc:
                    yield tpc
            else:
                with TwoPhaseCommit(self.engines, **options) as several:
                    yield several
        finally:
            self.resume()
            for engine in self.engines.values():
                await got(engine.dispose())

    @asynccontextmanager
    async def begun(self, tpc: Any, *names: str) -> AsyncIterator[Any]:
        """A transaction that has written in *names*, of which one may be silent from now on."""
        async with AsyncExitStack() as stack:
            begun = tpc.begin(timeout=TIMEOUT_S)
            tx = await stack.enter_async_context(begun) if self._is_async else stack.enter_context(begun)
            for name in names:
                await got(tx[name].execute(sa.text("INSERT INTO entry VALUES (1)")))
            which = "pg_backend_pid()" if self.is_postgres else "connection_id()"
            self._session = await got(tx["silent"].scalar(sa.text(f"SELECT {which}")))
            yield tx

    @property
    def is_postgres(self) -> bool:
        return isinstance(self._server, PostgresServer)

    def silence(self) -> None:
        if self.is_postgres:
            os.kill(self._session, signal.SIGSTOP)
        else:
            self._server.pause()
        threads = Path(f"/proc/{self._session if self.is_postgres else self._server.pid}/task").glob("*/stat")
        for each in list(threads):
            while each.read_text().rpartition(")")[2].split()[0] != "T":  # each stops when it is its turn to run
                os.sched_yield()

    def resume(self) -> None:
        if not self.is_postgres:
            self._server.resume()
        elif self._session:
            with suppress(ProcessLookupError):
                os.kill(self._session, signal.SIGCONT)

    def wake(self) -> None:
        """And wait until its session has done what it was told, and ended: its connection was given up."""
        self.resume()
        if self.is_postgres:
            listed = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {self._session}"
        else:
            listed = f"SELECT count(*) FROM information_schema.processlist WHERE id = {self._session}"
        with self._looks[0].connect() as connection:
            while connection.exec_driver_sql(listed).scalar():
                connection.rollback()

    async def rows(self) -> tuple[int, ...]:
        """How many each holds, also as the application's own connections see them."""
        assert [prepared(url) for url in self._urls] == [[], []]
        count = sa.select(sa.func.count()).select_from(entry)
        found = []
        for engine, look in zip(self.engines.values(), self._looks, strict=True):
            connection = await got(engine.connect())
            found.append(await got(connection.scalar(count)))
            await got(connection.close())
            with look.connect() as outside:
                assert outside.scalar(count) == found[-1]
        return tuple(found)


async def got(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=SILENT, ids=lambda found: f"{found[0]}{'-async' * found[1]}")
def pair(request: pytest.FixtureRequest, postgres_other: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Pair:
    driver, is_async = request.param
    server = request.getfixturevalue("postgres" if driver in PostgresServer.drivers else "mariadb")
    monkeypatch.setattr(fan, "ANSWER_WITHIN_S", BOUND_S - TIMEOUT_S)  # so that the work has its time
    made = Pair(server, postgres_other, driver, is_async=is_async)
    return made


async def test_a_vote_that_is_not_answered_is_a_no(pair: Pair, tmp_path: Path) -> None:
    async with pair.coordinated(tmp_path / "log") as tpc:
        with pytest.raises(Aborted, match="silent could not be told, and is rolled back by recovery") as caught:
            async with pair.begun(tpc, "silent", "well") as tx:
                pair.silence()
        assert isinstance(caught.value.__cause__, RequestTimeout) and caught.value.participant == "silent"
        assert tx.pending == ("silent",)
        pair.wake()
        report = await got(tpc.recover())
        assert report.in_doubt == 0
        assert await pair.rows() == (0, 0)


async def test_a_commit_that_is_not_answered_is_pending(pair: Pair, tmp_path: Path) -> None:
    def on_step(name: str) -> None:
        if name == "after_decision":
            pair.silence()

    async with pair.coordinated(tmp_path / "log", on_step) as tpc:
        async with pair.begun(tpc, "silent", "well") as tx:
            pass
        assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ("silent",))
        pair.wake()
        report = await got(tpc.recover())
        assert report.in_doubt == 0
        assert await pair.rows() == (1, 1)


async def test_the_only_commit_is_in_doubt_if_it_is_not_answered(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(branch: Any) -> Any:
        pair.silence()
        return said(branch)

    kind: Any = PostgresBranch if pair.is_postgres else MySqlBranch
    said = kind.commit_alone
    monkeypatch.setattr(kind, "commit_alone", silent)
    monkeypatch.setattr(core, "PROVE_WITHIN_S", 0.1)
    async with pair.coordinated(tmp_path / "log") as tpc:
        with pytest.raises(TransactionInDoubt, match="has not answered in time"):
            async with pair.begun(tpc, "silent") as tx:
                pass
        pair.wake()
        known = await got(tpc.outcome(tx.gid, wait=5))
        assert known is (Outcome.COMMITTED if pair.is_postgres else Outcome.UNRECORDED)
        # Drivers that send one statement after the other were not answered before the last.
        assert await pair.rows() in ([(1, 0)] if pair.is_postgres else [(1, 0), (0, 0)])


async def test_a_rollback_that_is_not_answered_keeps_no_block_from_its_end(pair: Pair, tmp_path: Path) -> None:
    async with pair.coordinated(tmp_path / "log") as tpc:
        with pytest.raises(ValueError, match="as asked"):
            async with pair.begun(tpc, "silent", "well"):
                pair.silence()
                raise ValueError("as asked")
        pair.wake()
        assert await pair.rows() == (0, 0)


async def test_who_is_silent_once_all_is_answered_keeps_no_block_from_its_end(pair: Pair, tmp_path: Path) -> None:
    """Drivers that do not know that a transaction has ended roll it back once more."""

    def on_step(name: str) -> None:
        if name == "after_commits":
            pair.silence()
            late.start()

    def wake() -> None:
        woken.append(True)
        pair.resume()

    woken: list[bool] = []
    late = threading.Timer(10, wake)
    async with pair.coordinated(tmp_path / "log", on_step) as tpc:
        async with pair.begun(tpc, "silent", "well") as tx:
            pass
        late.cancel()
        assert not woken, "its end has waited for the silent one"
        assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ())
        pair.resume()
        assert await pair.rows() == (1, 1)
