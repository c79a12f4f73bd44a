"""A snapshot keeps commits out for a moment, never for ever; and says so when they did not wait."""

import asyncio
import errno
import os
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from interrupting import Interrupted, everywhere

from troth.errors import Unavailable
from troth.transactions import barrier
from troth.transactions.barrier import Barrier

if TYPE_CHECKING:
    from troth.transactions.aio import AsyncTwoPhaseCommit


@pytest.fixture(params=["one process", "two processes"])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Barrier, Barrier]:
    """The reader's and the writer's barrier; two of them on one file stand for two processes."""
    reader = Barrier(tmp_path / "barrier")
    return reader, reader if request.param == "one process" else Barrier(tmp_path / "barrier")


def test_a_paused_reader_keeps_no_commit_waiting_for_ever(
    sides: tuple[Barrier, Barrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(barrier, "WAIT_MAX_S", 0.02)
    reader, writer = sides
    reader.enter_exclusive(1, "a snapshot")
    assert reader.is_whole()
    writer.enter_shared("a")
    assert not reader.is_whole(), "what the reader sees now may be half of a transaction"
    writer.leave_shared("a")
    assert not reader.is_whole()
    reader.leave_exclusive("a snapshot")
    reader.enter_exclusive(1, "a snapshot")
    assert reader.is_whole(), "it was whole for the next look"
    reader.leave_exclusive("a snapshot")


def test_tasks_that_wait_for_a_snapshot_leave_it_the_threads_to_be_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `snapshot` does: what it reads of the log, and the way out, go through the threads of all tasks."""
    from sqlalchemy.util.concurrency import greenlet_spawn

    from troth.transactions import aio_waiting

    async def main() -> None:
        commits = 3 * aio_waiting.THREADS
        waiting, gate = aio_waiting.InTasks(), Barrier(tmp_path / "barrier")
        place = Place(gate, waiting, commits)
        await greenlet_spawn(waiting.blocking, gate.enter_exclusive, 1.0, "a snapshot")
        tasks = [asyncio.ensure_future(greenlet_spawn(place.share)) for _ in range(commits)]
        await place.all_asked.wait()
        assert await greenlet_spawn(waiting.blocking, gate.is_whole), "the snapshot is not kept from being taken"
        await greenlet_spawn(waiting.blocking, gate.leave_exclusive, "a snapshot")
        await asyncio.gather(*tasks)
        assert len(gate._sharing) == commits
        waiting.end()

    asyncio.run(main())


class Place:
    """What `Core.share_barrier` needs of a core, until *commits* of them have come."""

    def __init__(self, gate: Barrier, waiting: object, commits: int) -> None:
        self.barrier = gate
        self.waiting = waiting
        self.all_asked = asyncio.Event()
        self._left = commits

    def share(self) -> None:
        from troth.transactions.core import Core

        self._left -= 1
        if not self._left:
            self.all_asked.set()
        Core.share_barrier(self, str(self._left))  # type: ignore[arg-type]


def test_who_has_waited_behind_others_does_not_wait_anew(
    sides: tuple[Barrier, Barrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(barrier, "WAIT_MAX_S", 3600.0)
    reader, writer = sides
    reader.enter_exclusive(1, "a snapshot")
    commit = threading.Thread(target=writer.enter_shared, args=("a", time.monotonic() - 1.0), daemon=True)
    commit.start()
    commit.join(10)
    assert not commit.is_alive()
    assert not reader.is_whole()


def test_a_commit_waits_for_a_reader_that_is_quick(
    sides: tuple[Barrier, Barrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer than for that."""
    monkeypatch.setattr(barrier, "WAIT_MAX_S", 3600.0)
    reader, writer = sides
    reader.enter_exclusive(1, "a snapshot")
    inside = threading.Event()

    def commit() -> None:
        writer.enter_shared("a")
        inside.set()
        writer.leave_shared("a")

    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    assert not inside.wait(0.05)
    assert reader.is_whole()
    reader.leave_exclusive("a snapshot")
    assert inside.wait(10)
    thread.join()


def test_a_reader_is_refused_while_a_commit_is_under_way(sides: tuple[Barrier, Barrier]) -> None:
    reader, writer = sides
    writer.enter_shared("a")
    for each in (writer, reader):  # a snapshot of the writer's own process gives up without letting others in
        with pytest.raises(Unavailable):
            each.enter_exclusive(0.01, "a snapshot")
    writer.enter_shared("b")  # the refused one keeps nobody out
    writer.leave_shared("a")
    writer.leave_shared("a")  # as one who was interrupted does, to be sure
    with pytest.raises(Unavailable):
        reader.enter_exclusive(0.01, "a snapshot")
    writer.leave_shared("b")
    reader.enter_exclusive(1, "a snapshot")
    reader.leave_exclusive("a snapshot")


def test_a_look_that_a_commit_did_not_wait_for_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is paused between its looks at two databases for longer than a commit waits."""
    sa = pytest.importorskip("sqlalchemy")
    from troth.transactions import core, snapshot
    from troth.transactions.coordinator import TwoPhaseCommit

    monkeypatch.setattr(core, "WAIT_MAX_S", 0.01)
    writer = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with writer.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("CREATE TABLE work (done INTEGER)")
    real, looks = snapshot._look, []
    with TwoPhaseCommit({"last": writer}, log=tmp_path / "log", recover_every=None) as tpc:

        def slow(*arguments: object) -> None:
            real(*arguments)  # type: ignore[arg-type]
            looks.append(1)
            if len(looks) == 1:
                with tpc.begin(key="order-1") as tx:
                    tx["last"].exec_driver_sql("INSERT INTO work VALUES (1)")

        monkeypatch.setattr(snapshot, "_look", slow)
        with tpc.snapshot() as opened:
            assert opened["last"].exec_driver_sql("SELECT count(*) FROM work").scalar_one() == 1
    assert len(looks) == 2


def test_a_snapshot_of_asyncio_lets_the_commits_of_its_loop_end(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("aiosqlite")
    asyncio.run(_snapshots(tmp_path))


async def _snapshots(tmp_path: Path) -> None:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import create_async_engine

    from troth.transactions.aio import AsyncTwoPhaseCommit

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
    async with AsyncTwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        held = tpc._started._core.barrier
        held.enter_shared("a")
        asyncio.get_running_loop().call_later(0.02, held.leave_shared, "a")
        async with tpc.snapshot(timeout=2) as opened:
            assert await opened["last"].scalar(sa.text("SELECT 1")) == 1
        held.enter_shared("a")
        waiting = asyncio.create_task(_open(tpc))
        await asyncio.sleep(0)
        waiting.cancel()
        held.leave_shared("a")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1):
            async with tpc.snapshot(timeout=0.5):
                pass  # the cancelled one keeps nobody out
    await engine.dispose()


async def _open(tpc: "AsyncTwoPhaseCommit") -> None:
    async with tpc.snapshot():
        raise AssertionError("it was cancelled")


def test_who_was_not_let_in_lets_nobody_else_out(sides: tuple[Barrier, Barrier]) -> None:
    """A snapshot that was interrupted, or waited in vain, says that it leaves while another one looks."""
    reader, writer = sides
    reader.enter_exclusive(1, "one")
    with pytest.raises(Unavailable):
        reader.enter_exclusive(0.001, "another")
    reader.leave_exclusive("another")
    assert not writer.try_enter_shared("a commit")
    reader.leave_exclusive("one")
    assert writer.try_enter_shared("a commit")
    writer.leave_shared("a commit")


def test_in_a_process_without_a_file_a_commit_that_did_not_wait_is_seen_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(barrier, "WAIT_MAX_S", 0.01)
    gate = Barrier(None)
    gate.enter_exclusive(1, "a snapshot")
    gate.enter_shared("a")
    gate.leave_shared("a")
    assert not gate.is_whole()
    gate.leave_exclusive("a snapshot")


def test_who_is_let_in_at_once_is_waited_for(sides: tuple[Barrier, Barrier]) -> None:
    reader, writer = sides
    assert writer.try_enter_shared("a")
    with pytest.raises(Unavailable):
        reader.enter_exclusive(0.01, "a snapshot")
    writer.leave_shared("a")
    reader.enter_exclusive(1, "a snapshot")
    reader.leave_exclusive("a snapshot")


def test_an_interrupt_anywhere_on_the_way_in_keeps_no_snapshot_waiting(sides: tuple[Barrier, Barrier]) -> None:
    reader, writer = sides
    for interruption in everywhere("troth.transactions.barrier"):
        with suppress(Interrupted):
            interruption.run(partial(writer.enter_shared, "a"))
        writer.leave_shared("a")
        reader.enter_exclusive(0.01, "a snapshot")
        reader.leave_exclusive("a snapshot")


def test_a_full_disk_keeps_no_second_phase_from_going_on_or_saying_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decided; and what says so has had its room in the file from the beginning."""
    monkeypatch.setattr(barrier, "WAIT_MAX_S", 0.0)
    reader, writer = Barrier(tmp_path / "barrier"), Barrier(tmp_path / "barrier")
    real = os.pwrite

    def full(descriptor: int, data: bytes, at: int) -> int:
        if at + len(data) > os.fstat(descriptor).st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    reader.enter_exclusive(1, "a snapshot")
    writer.enter_shared("a")
    assert not reader.is_whole()
    os.truncate(tmp_path / "barrier", 0)
    writer.enter_shared("b")
    writer.leave_shared("a")
    writer.leave_shared("b")
    reader.leave_exclusive("a snapshot")
    reader.close()
    writer.close()


def test_one_that_went_on_while_another_process_was_waited_for_is_waited_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a snapshot would be taken beside its second phase."""
    here, there = Barrier(tmp_path / "barrier"), Barrier(tmp_path / "barrier")
    there.enter_shared("b")
    now = [0.0]

    def meanwhile(_: float) -> None:
        here.enter_shared("a", until=0.0)  # it has waited long enough
        there.leave_shared("b")
        now[0] = 2.0

    monkeypatch.setattr(barrier, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=meanwhile))
    with pytest.raises(Unavailable, match="no moment without a commit under way"):
        here.enter_exclusive(1.0, "a snapshot")
    here.leave_shared("a")
    here.close()
    there.close()
