"""Second phases that go on behind the caller's back, and threads of our own that outlive what they cannot expect."""

import asyncio
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from memory_database import Database
from typing_extensions import override

from troth.errors import StorageError, Unavailable, UsageError
from troth.transactions import daemons as daemons_module
from troth.transactions import waiting as waiting_module
from troth.transactions.aio import AsyncTwoPhaseCommit
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.daemons import Daemons
from troth.transactions.deadlocks import Detector
from troth.transactions.log.file import FileLog
from troth.transactions.outcome import Outcome
from troth.transactions.recovery import Recovery
from troth.transactions.report import Report
from troth.transactions.steps import nothing
from troth.transactions.transaction import Transaction
from troth.transactions.waiting import InThreads


def core_of(tmp_path: Path, **options: Any) -> Core:
    return Core(
        [Database("bank"), Database("stock")],  # type: ignore[list-item]
        FileLog(tmp_path),
        **{"on_step": nothing, "barrier": Barrier(None), **options},
    )


class Behind(InThreads):
    """Goes on in a thread, and lets the caller go on when `reached` is set there."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.thread = threading.Thread()

    @override
    def later(self, work: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=work)
        self.thread.start()
        assert self.reached.wait(5)

    def on_step(self, step: str) -> None:
        if step == "between_commits":
            self.reached.set()
            assert self.go_on.wait(5)


def test_no_snapshot_is_taken_while_a_second_phase_goes_on_behind_the_callers_back(tmp_path: Path) -> None:
    waiting = Behind()
    core = core_of(tmp_path, on_step=waiting.on_step, waiting=waiting)
    with Transaction(core, timeout=None, key="", wait="decided") as tx:
        for name in ("bank", "stock"):
            tx[name]
    try:
        with pytest.raises(Unavailable):
            core.barrier.enter_exclusive(0.01, "a snapshot")
    finally:
        waiting.go_on.set()
        waiting.thread.join(5)
    core.barrier.enter_exclusive(5, "a snapshot")
    core.barrier.leave_exclusive("a snapshot")
    core.close()


def test_a_log_out_of_reach_does_not_end_the_thread_of_recovery(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, once as long as it lasts."""
    again = threading.Event()
    passes = iter(("away", "away", "", "away", "gone"))

    def once(self: Recovery) -> Report:
        why = next(passes, None)
        if why is None:
            again.set()
        elif why:
            raise StorageError(why)
        return Report()

    monkeypatch.setattr(Recovery, "run", once)
    recovery = Recovery(None)  # type: ignore[arg-type]
    recovery.start(lambda: 0.001)
    assert again.wait(5)
    recovery.stop()
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["away", "away", "gone"]


@pytest.mark.parametrize("kind", [Recovery, Detector])
def test_what_nobody_expected_does_not_end_a_thread(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again = threading.Event()
    passes = iter((False, True))

    def once(self: Any) -> Any:
        if not next(passes, True):
            raise ValueError("as asked")
        again.set()
        return Report() if kind is Recovery else []

    monkeypatch.setattr(Recovery, "run", once)
    monkeypatch.setattr(Detector, "look", once)
    core: Any = None
    if kind is Recovery:
        thread = Recovery(core)
        thread.start(lambda: 0.001)
    else:
        thread = Detector(core, every_s=0.001)
        thread.start()
    assert again.wait(5)
    assert thread._thread.daemon, "a program that does not stop it ends all the same"
    thread.stop()
    assert "as asked" in caplog.text


def test_what_nobody_expected_does_not_end_the_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        again = asyncio.Event()
        passes = iter((False, True))

        async def once() -> Report:
            if not next(passes, True):
                raise ValueError("as asked")
            again.set()
            return Report()

        tpc = AsyncTwoPhaseCommit([])
        monkeypatch.setattr(tpc, "recover", once)
        task = asyncio.ensure_future(tpc._recover_for_ever(0.001))
        async with asyncio.timeout(5):
            await again.wait()
        task.cancel()

    asyncio.run(main())
    assert "as asked" in caplog.text


def test_a_start_that_fails_leaves_no_threads_behind() -> None:
    async def main() -> None:
        for _ in range(2):  # a second try begins anew
            with pytest.raises(UsageError):
                await tpc.start()
            with pytest.raises(RuntimeError, match="shutdown"):
                tpc._waiting._threads.submit(lambda: None)

    tpc = AsyncTwoPhaseCommit([])
    asyncio.run(main())


def test_what_a_replayed_transaction_could_not_roll_back_is_left_under_its_own_name(tmp_path: Path) -> None:
    """Two under one key: the second finds at its decision that the first has committed, and loses its databases."""
    core = core_of(tmp_path)
    late = Transaction(core, timeout=None, key="order-1", wait="applied")
    with Transaction(core, timeout=None, key="order-1", wait="applied") as first:
        for name in ("bank", "stock"):
            first[name]

    def lost() -> Callable[[], None]:
        raise ConnectionError("as asked")

    own = late.gid
    for name in ("bank", "stock"):
        late[name]
        late._by_name[name].roll_back = lost  # type: ignore[method-assign]
    late.commit()
    assert (late.replayed, late.gid) == (True, first.gid)
    assert [core.decision(gid) for gid in (own, first.gid)] == [Outcome.ABORTED, Outcome.COMMITTED]
    core.close()


def test_the_end_waits_for_what_goes_on_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, is_ending, order = InThreads(), threading.Event(), list[str]()
    real = Daemons.end

    def end(pool: Daemons, within_s: float) -> None:
        is_ending.set()
        real(pool, within_s)

    def work() -> None:
        assert is_ending.wait(5)
        order.append("work")

    monkeypatch.setattr(Daemons, "end", end)
    waiting.later(work)
    waiting.close(lambda: order.append("end"))
    assert order == ["work", "end"]


def test_the_end_waits_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that hangs is no reason for a program to stay."""
    monkeypatch.setattr(waiting_module, "END_WITHIN_S", 0.02)
    core = core_of(tmp_path, barrier=Barrier(tmp_path / "barrier"))
    wakes, begun, raised = threading.Event(), threading.Event(), list[object]()
    monkeypatch.setattr(threading, "excepthook", raised.append)

    def second_phase() -> None:
        core.share_barrier("late")
        begun.set()
        assert wakes.wait(30)
        core.barrier.leave_shared("late")
        begun.clear()

    core.waiting.later(second_phase)
    assert begun.wait(5)
    core.close()
    wakes.set()
    core.waiting._pool.end(5)  # type: ignore[attr-defined]
    assert not begun.is_set() and not raised
    assert core.barrier._file < 0, "all that it had open is closed"


def test_python_waits_for_no_thread_that_a_database_may_keep() -> None:
    pool = Daemons(1, "of a test")
    kinds = [pool.submit(lambda: threading.current_thread().daemon).result(5)]
    waiting = InThreads()
    kinds.append(waiting.apart(lambda: threading.current_thread().daemon, 5)())
    pool.end(5)
    assert kinds == [True, True]


def test_python_itself_waits_for_the_background_of_who_closes_nothing() -> None:
    waiting = InThreads()
    waiting.later(lambda: None)
    drain = waiting._drain
    assert isinstance(drain, weakref.finalize) and drain.atexit
    assert drain.peek() == (waiting, waiting._pool.end, (waiting_module.END_WITHIN_S,), {})  # type: ignore[union-attr]
    waiting.close(lambda: None)
    assert not drain.alive, "once"


def test_the_end_does_not_wait_for_what_an_interrupt_kept_from_being_handed_over() -> None:
    class Interrupted(SimpleQueue[Any]):
        @override
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if item is not None:
                raise KeyboardInterrupt
            super().put(item)

    pool = Daemons(1, "of a test")
    pool._queue = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        pool.submit(lambda: None)
    assert not pool._unfinished
    pool.end(5)


def test_who_was_forked_neither_waits_for_threads_of_its_parent_nor_ends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, go_on, waited = Daemons(1, "of a test"), threading.Event(), list[object]()
    work = pool.submit(lambda: go_on.wait(5))
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        forked.setattr(daemons_module, "wait", lambda *given: waited.append(given))
        pool.end(5)
    go_on.set()
    assert not waited and work.result(5)
    assert pool.submit(lambda: True).result(5), "its thread has not been told to end"
    pool.end(5)


def test_a_second_phase_that_no_thread_can_be_had_for_is_done_by_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    core = core_of(tmp_path)
    with Transaction(core, timeout=None, key="", wait="decided") as tx:
        for name in ("bank", "stock"):
            tx[name]
    assert (tx.outcome, tx.pending, core.is_under_way(tx.gid)) == (Outcome.COMMITTED, (), False)
    core.close()


@pytest.mark.parametrize("is_taken", [False, True])
def test_an_interrupt_while_a_second_phase_is_handed_over_loses_it_not(is_taken: bool, tmp_path: Path) -> None:
    class Interrupted(InThreads):
        @override
        def later(self, work: Callable[[], None]) -> None:
            if is_taken:
                work()
            raise KeyboardInterrupt

    core = core_of(tmp_path, waiting=Interrupted())
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt), Transaction(core, timeout=None, key="", wait="decided") as tx:
        for name in ("bank", "stock"):
            tx[name]
            branch = tx._by_name[name]

            def commit(name: str = name) -> Callable[[], None]:
                told.append(name)
                return lambda: None

            branch.commit_prepared = commit  # type: ignore[method-assign]
    assert sorted(told) == ["bank", "stock"]
    assert not core.is_under_way(tx.gid), "or recovery would leave it to an owner that has gone"
    core.close()


def test_an_interrupt_does_not_do_again_what_another_thread_does_already(tmp_path: Path) -> None:
    class Interrupted(Behind):
        @override
        def later(self, work: Callable[[], None]) -> None:
            super().later(work)
            raise KeyboardInterrupt

    waiting = Interrupted()
    core = core_of(tmp_path, on_step=waiting.on_step, waiting=waiting)
    with pytest.raises(KeyboardInterrupt), Transaction(core, timeout=None, key="", wait="decided") as tx:
        for name in ("bank", "stock"):
            tx[name]
    assert core.is_under_way(tx.gid), "its connections are in use"
    waiting.go_on.set()
    waiting.thread.join(5)
    told = [word for database in core.participants.all for word in database.told]  # type: ignore[attr-defined]
    assert [word[:6] for word in told] == ["prepar", "commit"] * 2
    assert not core.is_under_way(tx.gid)
    core.close()


def test_a_place_in_the_background_is_free_again_when_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "LATER_MAX", 1)
    waiting, done = InThreads(), threading.Semaphore(0)
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())

    for _ in range(3):
        waiting.later(work)
        assert waiting._slots.acquire(timeout=5)  # its work is done
        waiting._slots.release()
    waiting.close(done.release)
    assert len(threads) == 3 and threading.current_thread() not in threads
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive(), "nobody gives it anything more to do"


def test_a_second_phase_that_finds_no_room_is_done_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "LATER_MAX", 1)
    waiting, go_on = InThreads(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        assert go_on.wait(30)

    waiting.later(work)
    waiting.later(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    go_on.set()
    waiting.close(lambda: None)


_HANGS = """
import threading, time
from troth.transactions import waiting
from troth.transactions.channels.blocking import in_thread
from troth.transactions.waiting import InThreads

waiting.END_WITHIN_S = 0.01
begun, background = threading.Semaphore(0), InThreads()

def hang():
    begun.release()
    time.sleep(60)

background.later(hang)
in_thread(hang)
begun.acquire()
begun.acquire()
if {closes}:
    background.close(lambda: None)
"""

_LATE = """
import threading
from troth.transactions.waiting import InThreads

background, is_ending = InThreads(), threading.Event()

def work():
    threading.main_thread().join()
    print("done", flush=True)

background.later(work)
"""

_FORKED = """
import os, sys, threading, time
from troth.transactions.waiting import InThreads

background, begun = InThreads(), threading.Event()
wakes, told = os.pipe()

def work():
    begun.set()
    os.read(wakes, 1)

background.later(work)
begun.wait()
child = os.fork()
if child:
    assert not os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(told, b".")
"""


@pytest.mark.parametrize("closes", [True, False])
def test_a_program_ends_though_a_database_hangs(closes: bool) -> None:
    assert (
        subprocess.run([sys.executable, "-c", _HANGS.format(closes=closes)], timeout=20, check=False).returncode
        == 0
    )


def test_a_program_that_closes_nothing_ends_when_its_second_phases_have() -> None:
    assert subprocess.run([sys.executable, "-c", _LATE], timeout=20, check=True, stdout=subprocess.PIPE).stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_does_not_wait_for_the_second_phases_of_its_parent() -> None:
    assert subprocess.run([sys.executable, "-c", _FORKED], timeout=9, check=False).returncode == 0


def test_the_block_of_a_replayed_transaction_ends_through_those_inside_of_it(tmp_path: Path) -> None:
    core = core_of(tmp_path)
    with Transaction(core, timeout=None, key="order-1", wait="applied") as first:
        for name in ("bank", "stock"):
            first[name]
    went_on = False
    with Transaction(core, timeout=None, key="order-1", wait="applied") as outer:
        with Transaction(core, timeout=None, key="", wait="applied") as inner:
            inner["stock"]
            outer["bank"]
        went_on = True
    assert (outer.replayed, outer.gid, went_on) == (True, first.gid, False)
    assert inner.outcome is Outcome.ABORTED
    core.close()
