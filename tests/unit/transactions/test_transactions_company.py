"""A second phase that nobody waits for goes out behind the next votes, and waits no longer than a sync takes."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from memory_database import Database
from sqlalchemy.util.concurrency import greenlet_spawn
from typing_extensions import override

from troth.transactions.aio_waiting import InTasks
from troth.transactions.barrier import Barrier
from troth.transactions.company import WAIT_MAX_S, Company
from troth.transactions.core import Core
from troth.transactions.log.file import FileLog
from troth.transactions.steps import nothing
from troth.transactions.transaction import Transaction
from troth.transactions.waiting import Flag, InThreads


class Noted(threading.Event):
    """Waits until it is set, and says how long it might have waited."""

    was_set = False

    def __init__(self) -> None:
        super().__init__()
        self.bounds: list[float | None] = []

    @override
    def wait(self, timeout: float | None = None) -> bool:
        self.bounds.append(timeout)
        self.was_set = super().wait(5)
        return self.was_set


class Flags(InThreads):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Noted] = []

    @override
    def flag(self) -> Flag:
        self.made.append(Noted())
        return self.made[-1]


def run(core: Core, wait: str) -> None:
    with Transaction(core, timeout=None, key="", wait=wait) as tx:
        for name in ("bank", "stock"):
            tx[name]


def core_of(directory: Path, told: list[str], waiting: Flags) -> Core:
    databases: list[Any] = [Database("bank", told), Database("stock", told)]
    return Core(
        databases,
        FileLog(directory),
        barrier=Barrier(None),
        on_step=nothing,
        waiting=waiting,
    )


def test_a_second_phase_behind_the_callers_back_goes_out_behind_the_next_votes(tmp_path: Path) -> None:
    told: list[str] = []
    waiting = Flags()
    core = core_of(tmp_path, told, waiting)
    run(core, "decided")
    assert told == ["prepare 1.0", "prepare 1.1"], "nobody else is under way"
    run(core, "applied")
    core.close()  # waits for what goes on behind
    assert told[:4] == ["prepare 1.0", "prepare 1.1", "prepare 2.0", "prepare 2.1"]
    assert sorted(told[4:]) == ["commit 1.0", "commit 1.1", "commit 2.0", "commit 2.1"]
    (flag,) = waiting.made
    assert flag.was_set
    (bound,) = flag.bounds
    assert bound is not None
    assert 0 < bound <= WAIT_MAX_S


def test_the_wait_is_that_of_the_last_sync(tmp_path: Path) -> None:
    waiting = Flags()
    core = core_of(tmp_path, [], waiting)
    core._group.sync_s = 0.004
    flag = core.company_for("only this one")
    assert isinstance(flag, Noted)
    flag.set()
    core.await_company(flag)
    assert flag.bounds == [0.004]
    core.close()


def test_a_second_phase_goes_out_at_once_while_others_are_in_their_commit(tmp_path: Path) -> None:
    told: list[str] = []
    waiting = Flags()
    core = core_of(tmp_path, told, waiting)
    core.entered("somebody else")
    run(core, "decided")
    core.left("somebody else")
    core.close()
    assert not waiting.made
    assert sorted(told) == ["commit 1.0", "commit 1.1", "prepare 1.0", "prepare 1.1"]


def test_votes_that_were_sent_before_are_no_company() -> None:
    company = Company(Noted)
    company.votes_sent()
    flag = company.expect()
    assert isinstance(flag, Noted)
    assert not flag.is_set()
    company.votes_sent()
    assert flag.is_set()


@pytest.mark.parametrize(("asked", "waited"), [(0.001, 0.001), (WAIT_MAX_S, WAIT_MAX_S), (5.0, WAIT_MAX_S)])
def test_company_is_waited_for_as_long_as_a_sync_takes_and_never_long(asked: float, waited: float) -> None:
    company = Company(Noted)
    flag = company.expect()
    assert isinstance(flag, Noted)
    flag.set()
    company.wait(flag, asked)
    assert flag.bounds == [waited]


def test_nothing_is_kept_of_who_has_waited_in_vain() -> None:
    company = Company(threading.Event)
    company.wait(company.expect(), 0.0)
    assert not company._waiting


@pytest.mark.parametrize("is_set", [False, True])
def test_company_with_asyncio(is_set: bool) -> None:
    async def main() -> list[str]:
        waiting, order = InTasks(), list[str]()
        company = Company(waiting.flag)
        flag = company.expect()

        def wait() -> None:
            company.wait(flag, 5.0 if is_set else 0.0)
            order.append("waited")

        task = asyncio.ensure_future(greenlet_spawn(wait))
        await asyncio.sleep(0)
        order.append("votes" if is_set else "none")
        if is_set:
            company.votes_sent()
        await task
        waiting.end()
        return order

    order = asyncio.run(main())
    assert order == ["votes", "waited"] if is_set else sorted(order) == ["none", "waited"]


def test_votes_let_all_go_on_who_wait_for_company() -> None:
    company = Company(Noted)
    flags = [company.expect() for _ in range(3)]
    company.votes_sent()
    for flag in flags:
        company.wait(flag, 0)
    assert all(flag.was_set for flag in flags)  # type: ignore[attr-defined]
