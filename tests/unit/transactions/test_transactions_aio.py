"""With asyncio nothing that blocks is done in the loop, and a cancellation leaves nothing open."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("aiosqlite")

import sqlalchemy as sa
from fake_server import Served
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util.concurrency import await_only
from typing_extensions import override

import troth
from troth.errors import UsageError
from troth.transactions import aio, aio_waiting, coordinator
from troth.transactions.aio import AsyncTransaction, AsyncTwoPhaseCommit
from troth.transactions.aio_waiting import InTasks
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.deadlocks import Detector
from troth.transactions.log.file import FileLog
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Begun
from troth.transactions.steps import nothing
from troth.transactions.transaction import Transaction

Calls = list[tuple[str, int]]


def recording(
    calls: Calls, *, told: Callable[[], None] = lambda: None, go_on: Callable[[], None] = lambda: None
) -> Any:
    """A `FileLog` that notes in which thread its methods are called; its opening says *told*, and waits for *go_on*."""

    class Recording(FileLog):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            calls.append(("open", threading.get_ident()))
            told()
            go_on()
            super().__init__(*arguments, **options)

        @override
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name.startswith("_") or not callable(found):
                return found

            def called(*arguments: Any, **options: Any) -> Any:
                calls.append((name, threading.get_ident()))
                return found(*arguments, **options)

            return called

    return Recording


def test_the_log_is_never_touched_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    monkeypatch.setattr(coordinator, "FileLog", recording(calls))

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
        async with AsyncTwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
            async with tpc.begin(key="order-1") as tx:
                await tx["last"].execute(sa.text("CREATE TABLE work (x INTEGER)"))
            assert await tpc.outcome(tx.gid) is Outcome.COMMITTED
            await tpc.recover()
        await engine.dispose()

    asyncio.run(main())
    assert {"open", "members", "register", "holder_of", "decide", "verdict", "note_applied", "close"} <= {
        name for name, _ in calls
    }
    assert [name for name, thread in calls if thread == threading.get_ident()] == []


def test_a_start_that_is_cancelled_gives_its_place_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop, opening, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        held = recording(
            [], told=lambda: loop.call_soon_threadsafe(opening.set), go_on=lambda: go_on.wait() and None
        )
        monkeypatch.setattr(coordinator, "FileLog", held)
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
        tpc = AsyncTwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None)
        starting = asyncio.create_task(tpc.start())
        await opening.wait()
        starting.cancel()
        loop.call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await starting
        await engine.dispose()

    asyncio.run(main())
    FileLog(tmp_path / "log", coordinator="0").close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


def test_a_cluster_is_never_waited_for_in_the_loop(served: Served, tmp_path: Path) -> None:
    threads: Calls = []

    async def main(client: Any) -> None:
        async with AsyncTwoPhaseCommit({"kv": client}, log=tmp_path / "log", recover_every=None) as tpc:
            async with tpc.begin() as tx:
                await tx["kv"].put("a", "1")
            async with tpc.begin(key="order-1") as tx:
                assert await tx["kv"].get("a") == b"1"
                await tx["kv"].put("a", "2")
            with pytest.raises(ZeroDivisionError):
                async with tpc.begin() as tx:
                    await tx["kv"].put("a", str(1 / 0))
            await tpc.recover()

    with troth.connect(served.cluster.url) as client:
        for name in ("get", "txn", "range", "status"):
            real = getattr(client, name)

            def noted(*arguments: Any, name: str = name, real: Any = real, **options: Any) -> Any:
                threads.append((name, threading.get_ident()))
                return real(*arguments, **options)

            setattr(client, name, noted)
        asyncio.run(main(client))
        assert client.get("a").kv.value == b"2"
        threads.pop()
    assert {name for name, _ in threads} == {"get", "txn", "range", "status"}
    assert [name for name, thread in threads if thread == threading.get_ident()] == []


class Slow:
    """A transaction all of whose work waits for the gate."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate
        self.done: list[str] = []

    def commit(self) -> None:
        await_only(self._gate.wait())
        self.done.append("commit")

    def rollback(self) -> None:
        await_only(self._gate.wait())
        self.done.append("rollback")

    def __getitem__(self, name: str) -> str:
        await_only(self._gate.wait())
        self.done.append("opened")
        return name

    def __exit__(self, *error: object) -> bool:
        self.commit()
        return False


@pytest.mark.parametrize(
    ("verb", "arguments", "done"),
    [
        ("commit", (), "commit"),
        ("rollback", (), "rollback"),
        ("connection", ("bank",), "opened"),
        ("__aexit__", (None, None, None), "commit"),
    ],
)
def test_a_cancelled_task_is_told_so_when_what_it_began_has_ended(
    verb: str, arguments: tuple[object, ...], done: str
) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        slow: Any = Slow(gate)
        transaction = AsyncTransaction(lambda: slow)
        await transaction.__aenter__()
        task = asyncio.ensure_future(getattr(transaction, verb)(*arguments))
        for _ in range(2):
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.done == [done]

    asyncio.run(main())


def test_the_end_waits_for_second_phases_that_go_on_as_tasks() -> None:
    async def main() -> None:
        order: list[str] = []
        gate = asyncio.Event()

        def work() -> None:
            await_only(gate.wait())
            order.append("second phase")

        tpc = AsyncTwoPhaseCommit([])
        sync: Any = SimpleNamespace(close=lambda: order.append("end"))
        tpc._sync = sync
        tpc._waiting.later(work)
        asyncio.get_running_loop().call_soon(gate.set)
        await tpc.close()
        assert order == ["second phase", "end"]
        tpc._waiting.end()

    asyncio.run(main())


def test_beyond_the_bound_a_second_phase_is_done_by_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_waiting, "LATER_MAX", 2)

    async def main() -> None:
        waiting = InTasks()
        done: list[int] = []
        for _ in range(2):
            for number in range(3):
                waiting.later(partial(done.append, number))
            assert done == [2], "the first two have tasks"
            await waiting.drained()
            assert done == [2, 0, 1]
            done.clear()
        waiting.end()

    asyncio.run(main())


class Opened(NamedTuple):
    """A branch that has nothing to do."""

    participant: Any
    number: int
    wrote: bool = False
    handle: str = "a handle"

    def roll_back(self) -> Callable[[], None]:
        return lambda: None

    def release(self, *, broken: bool) -> None: ...


class Pool(NamedTuple):
    """A participant whose connections are waited for."""

    name: str
    kind: str = "memory"
    can_prepare: bool = True

    @property
    def given(self) -> str:
        return self.name

    def open(self, number: int, begun: Begun) -> Opened:
        await_only(asyncio.sleep(0))
        return Opened(self, number)

    def close(self) -> None: ...


def test_branches_that_tasks_touch_at_once_are_opened_once_each_and_have_numbers_of_their_own(
    tmp_path: Path,
) -> None:
    log = FileLog(tmp_path)
    pools: list[Any] = [Pool("bank"), Pool("stock")]
    core = Core(pools, log, barrier=Barrier(None), on_step=nothing)

    async def main() -> None:
        async with AsyncTransaction(lambda: Transaction(core, timeout=None, key="", wait="applied")) as tx:
            await asyncio.gather(*(tx.connection(name) for name in ("bank", "stock", "bank", "stock")))
            opened = [(branch.participant.name, branch.number) for branch in tx.sync._branches]
            assert opened == [("bank", 0), ("stock", 1)]
            await tx.rollback()

    asyncio.run(main())
    log.close()


def run_beside(
    tmp_path: Path, work: Callable[[AsyncTwoPhaseCommit], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """*work* over one file, "last", with a table in it."""

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
        async with engine.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE work (x INTEGER)"))
        try:
            async with AsyncTwoPhaseCommit(
                {"last": engine}, log=tmp_path / "log", recover_every=None, **options
            ) as tpc:
                await asyncio.wait_for(work(tpc), 20)
        finally:
            await engine.dispose()

    asyncio.run(main())


def test_a_branch_is_entered_as_its_connection_would_be(tmp_path: Path) -> None:
    insert, select = sa.text("INSERT INTO work VALUES (1)"), sa.text("SELECT x FROM work")

    async def work(tpc: AsyncTwoPhaseCommit) -> None:
        async with tpc.begin() as tx:
            async with tx["last"].begin_nested():
                await tx["last"].execute(insert)
            with pytest.raises(ZeroDivisionError):
                async with tx["last"].begin_nested():
                    await tx["last"].execute(insert)
                    raise ZeroDivisionError
            async with tx["last"].stream(select) as rows:
                assert [row.x async for row in rows] == [1]
            assert [x async for x in await tx["last"].stream_scalars(select)] == [1]

    run_beside(tmp_path, work)


def test_what_a_branch_does_not_have_says_where_it_is(tmp_path: Path) -> None:
    async def work(tpc: AsyncTwoPhaseCommit) -> None:
        async with tpc.begin() as tx:
            for name in ("dialect", "in_transaction", "no_such_thing"):
                with pytest.raises(AttributeError, match=r"await tx.connection\(participant\)"):
                    getattr(tx["last"], name)
            assert (await tx.connection("last")).dialect.name == "sqlite"

    run_beside(tmp_path, work)


def test_one_that_was_closed_says_so_and_not_that_it_is_to_be_started(tmp_path: Path) -> None:
    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
        opened = AsyncTwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None)
        with pytest.raises(UsageError, match="start it first"):
            opened.begin()
        async with opened:
            pass
        with pytest.raises(UsageError, match="is closed"):
            opened.begin()
        await engine.dispose()

    asyncio.run(main())


def test_it_says_who_it_is(tmp_path: Path) -> None:
    async def work(tpc: AsyncTwoPhaseCommit) -> None:
        assert (tpc.coordinator, tpc.epoch) == ("0", 1)
        assert [participant.name for participant in tpc.participants] == ["last"]
        assert tpc.log.epoch.coordinator == "0"
        both = [{name for name in dir(each) if name[0] != "_"} for each in (tpc, tpc._started)]
        assert both[1] - both[0] == {"unreachable"}, "its twin has the same methods and attributes"

    run_beside(tmp_path, work)


def test_it_looks_for_deadlocks_again_and_again_where_drivers_can_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Detector] = []

    async def work(tpc: AsyncTwoPhaseCommit) -> None:
        seen = asyncio.Event()

        def look(detector: Detector) -> None:
            await_only(asyncio.sleep(0))
            looks.append(detector)
            if len(looks) == 1:
                raise ZeroDivisionError
            seen.set()

        monkeypatch.setattr(Detector, "look", look)
        await seen.wait()

    monkeypatch.setattr(aio, "LOOK_EVERY_S", 0.0)
    run_beside(tmp_path, work, detect_deadlocks=True)
    assert len(looks) > 1
