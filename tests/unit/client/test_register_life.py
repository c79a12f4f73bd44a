"""The life of a registers' client: calls that run while it is closed, and forks."""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest
from fake_server import asynchronous
from register_acceptors import ADDRESSES, LONG_S, Acceptors

from troth import aio
from troth.client.registers import leaving
from troth.client.registers.aio_lines import AsyncLine
from troth.client.registers.lines import Line, LineLost
from troth.client.registers.reach import Reach
from troth.client.registers.sync import PaxosClient
from troth.core.register.messages import (
    Accept,
    Describe,
    Prepare,
)
from troth.errors import OutcomeUnknown, Unavailable, UsageError

# ---- closing while calls run ----


def test_a_call_that_runs_while_the_client_is_closed_ends(acceptors: Acceptors) -> None:
    """Its accept may have been done, so it is unknown; and nobody waits for the rest of the time-out."""
    registers = PaxosClient(ADDRESSES, timeout=LONG_S)
    registers.put("k", "1")
    acceptors.silent = (Accept,)
    errors: list[BaseException] = []

    def put() -> None:
        try:
            registers.put("k", "2")
        except OutcomeUnknown as error:
            errors.append(error)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    assert acceptors.asked.wait(30)
    registers.close()
    acceptors.let_go()
    thread.join(30)
    assert len(errors) == 1 and "closed during the call" in str(errors[0])


def test_a_client_is_not_closed_between_a_look_at_it_and_what_depends_on_that(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that has succeeded hands in its collection under the lock; the executor must not end in between."""
    registers = PaxosClient(ADDRESSES)
    owned: list[bool] = []
    close = Reach.close

    def closes(reach: Reach) -> None:
        owned.append(registers._lock._is_owned())  # type: ignore[attr-defined]
        close(reach)

    monkeypatch.setattr(Reach, "close", closes)
    assert registers.put("k", "1").changed and registers.delete("k").changed
    registers.close()
    registers._backlog.add(b"k", registers._collect)
    assert owned == [True]


@asynchronous
async def test_an_asyncio_call_that_runs_while_the_client_is_closed_ends(acceptors: Acceptors) -> None:
    registers = await aio.PaxosClient(ADDRESSES, timeout=LONG_S).open()
    await registers.put("k", "1")
    acceptors.silent = (Accept,)
    call = asyncio.create_task(registers.put("k", "2"))
    await acceptors.asked_aio.wait()
    await registers.close()
    with pytest.raises(OutcomeUnknown, match="closed during the call"):
        await asyncio.wait_for(call, 30)
    with pytest.raises(UsageError, match="closed"):
        await registers.get("k")


@asynchronous
async def test_an_asyncio_call_that_waits_for_its_turn_when_the_client_is_closed_has_not_happened(
    acceptors: Acceptors,
) -> None:
    """As the blocking client's, and as one whose time is over."""
    registers = await aio.PaxosClient(ADDRESSES, timeout=LONG_S).open()
    acceptors.silent = (Prepare,)
    calls = [asyncio.create_task(registers.put("k", value)) for value in "12"]
    await acceptors.asked_aio.wait()
    await registers.close()
    for call in calls:
        with pytest.raises(Unavailable, match="closed during the call"):
            await asyncio.wait_for(call, 30)


def test_what_nobody_has_closed_is_closed_when_the_program_ends(acceptors: Acceptors) -> None:
    """Threads of its lines may wait for an acceptor that hangs, and the interpreter would wait for them."""
    registers = PaxosClient(ADDRESSES)
    line = Line("a1:1", None)
    leaving._close_all()
    with pytest.raises(UsageError, match="closed"):
        registers.get("k")
    with pytest.raises(LineLost, match="closed"):
        line.ask(Describe(), time.monotonic() + LONG_S).result(30)


@asynchronous
async def test_an_asyncio_client_is_not_opened_again_once_it_is_closed(acceptors: Acceptors) -> None:
    registers = aio.PaxosClient(ADDRESSES)
    async with registers:
        pass
    with pytest.raises(UsageError, match="closed"):
        await registers.open()


def test_an_asyncio_client_belongs_to_the_event_loop_that_opened_it(acceptors: Acceptors) -> None:
    """Its connections do, so calls in another one would hear of nothing until their time is over."""
    registers = asyncio.run(aio.PaxosClient(ADDRESSES).open())

    async def calls() -> None:
        for call in (registers.get("k"), registers.put("k", "v"), registers.keys(), registers.acceptors()):
            with pytest.raises(UsageError, match="another event loop"):
                await call
        await registers.close()

    asyncio.run(calls())


# ---- forks ----


def test_a_forked_child_is_refused_though_a_thread_held_the_clients_lock(acceptors: Acceptors) -> None:
    """That thread does not exist in the child, so the lock would never be had."""
    registers = PaxosClient(ADDRESSES)
    registers._reach._pid = os.getpid() + 1
    held = [registers._lock, registers._turns._queues._lock, registers._reach._lock]
    refused: list[str] = []
    calls: tuple[Callable[[], object], ...] = (
        lambda: registers.get("k"),
        lambda: registers.put("k", "1"),
        lambda: registers.keys(),
        lambda: registers.collect(),
        lambda: registers.acceptors(),
        lambda: registers.configuration,
        lambda: registers.set_acceptors(ADDRESSES),
    )

    def child() -> None:
        for call in calls:
            with pytest.raises(UsageError, match="before a fork") as caught:
                call()
            refused.append(str(caught.value))

    for lock in held:
        lock.acquire()
    try:
        thread = threading.Thread(target=child, daemon=True)
        thread.start()
        thread.join(30)
        assert len(refused) == len(calls)
    finally:
        for lock in held:
            lock.release()


@asynchronous
async def test_a_forked_child_neither_uses_the_parents_ballots_nor_its_connections(acceptors: Acceptors) -> None:
    """Two processes with one proposer's ballots would propose two values at one of them."""
    registers = await aio.PaxosClient(ADDRESSES).open()
    await registers.put("k", "1")
    line = registers._reach._lines["a1:1"] = AsyncLine("a1:1", None)
    opening = line._opening = asyncio.create_task(asyncio.sleep(LONG_S))  # type: ignore[assignment]
    registers._reach._pid = os.getpid() + 1
    for call in (
        registers.put("k", "2"),
        registers.get("k"),
        registers.keys(),
        registers.set_acceptors(ADDRESSES),
    ):
        with pytest.raises(UsageError, match="before a fork"):
            await call
    await registers.close()
    await asyncio.sleep(0)
    assert not opening.cancelled(), "the connections are the parent's"
    registers._reach._pid = os.getpid()
    await registers.close()
    await asyncio.wait([opening])
    assert opening.cancelled()


@asynchronous
async def test_an_asyncio_client_made_before_a_fork_may_be_opened_behind_it(acceptors: Acceptors) -> None:
    registers = aio.PaxosClient(ADDRESSES)
    registers._reach._pid = os.getpid() + 1
    async with registers:
        assert (await registers.put("k", "1")).changed
