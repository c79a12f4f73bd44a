"""Threads and tasks that share a registers' client: locks, places, and turns at a key."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

import pytest
from fake_server import asynchronous
from register_acceptors import ADDRESSES, CONFIG, LONG_S, OTHER, Acceptors
from typing_extensions import override

from troth import aio
from troth.client.registers import turns
from troth.client.registers.patience import now_s
from troth.client.registers.shared import SharedProposer
from troth.client.registers.sync import PaxosClient
from troth.client.registers.turns import CALLS_MAX, AsyncTurns
from troth.core.register import changes
from troth.core.register.messages import (
    ZERO,
    ConfigId,
    Prepare,
    State,
)
from troth.core.register.proposer import Proposer
from troth.core.register.round import Phase
from troth.core.register.task import PreparedBallot, ProposerState
from troth.errors import Overloaded, Unavailable

# ---- threads that share a client ----


def test_a_slow_change_function_keeps_no_other_thread_from_its_registers(acceptors: Acceptors) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(held: bytes | None) -> str:
        begun.set()
        assert may_end.wait(60)
        return "slow"

    with PaxosClient(ADDRESSES) as registers, ThreadPoolExecutor(2) as pool:
        changing = pool.submit(registers.change, "a", slow)
        assert begun.wait(30)
        try:
            assert pool.submit(registers.put, "b", "2").result(10).changed
            assert pool.submit(registers.get, "a").result(10).value is None
        finally:
            may_end.set()
        assert changing.result(30).value == b"slow"


def test_all_that_tasks_of_threads_share_is_taken_under_the_lock() -> None:
    """A method that is added to `ProposerState` and left out here would lose ballots, or use one twice."""
    lock = MagicMock()
    proposer = SharedProposer(1, CONFIG, lock)
    steps: dict[str, Callable[[], object]] = {
        "new_ballot": lambda: proposer.new_ballot(),
        "new_stamp": lambda: proposer.new_stamp(),
        "observe": lambda: proposer.observe(ZERO),
        "courtesy": lambda: proposer.courtesy(2),
        "met": lambda: proposer.met(2, served=False),
        "adopt": lambda: proposer.adopt(CONFIG),
        "take_prepared": lambda: proposer.take_prepared(b"k"),
        "remember": lambda: proposer.remember(b"k", PreparedBallot(OTHER.id, ZERO, State(None, 0, ZERO, ZERO))),
    }
    assert set(steps) == {name for name, each in vars(ProposerState).items() if callable(each) and name[0] != "_"}
    for name, step in steps.items():
        step()
        assert lock.__enter__.call_count == 1, name
        lock.reset_mock()


def test_a_ballot_kept_in_another_configuration_than_the_changes_own_is_not_used() -> None:
    """Another thread may learn of a newer one between the two looks: its acceptors promised, the older ones did not."""
    newer = ConfigId(CONFIG.id.cluster, 2)

    class Overtaken(Proposer):
        @override
        def take_prepared(self, key: bytes) -> PreparedBallot | None:
            return PreparedBallot(newer, self.new_ballot(), State(b"v", 1, ZERO, ZERO))

    change = Overtaken(1, CONFIG).change(b"k", changes.put(b"w"))
    assert change.phase is Phase.PREPARING


# ---- more calls at once than there are places ----


@asynchronous
async def test_an_asyncio_call_without_a_place_for_all_its_time_is_told_so(acceptors: Acceptors) -> None:
    acceptors.silent = (Prepare,)
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        calls = [asyncio.create_task(registers.put(f"k{number}", "v")) for number in range(CALLS_MAX)]
        await acceptors.asked_aio.wait()
        with pytest.raises(Overloaded, match="calls of this client"):
            await registers.get("k", within_s=0.01)
        calls[0].cancel()
        assert (await registers.get("k")).value is None
    await asyncio.wait(calls)


def test_a_call_without_a_place_for_all_its_time_is_told_so(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "CALLS_MAX", 1)

    def refused() -> None:
        with pytest.raises(Overloaded, match="calls of this client"):
            registers.get("k", within_s=0.01)

    with PaxosClient(ADDRESSES) as registers:
        registers._places.run(0.0, refused)
        assert registers.get("k").value is None


# ---- turns ----


@asynchronous
async def test_a_key_is_held_by_one_task_and_forgotten_when_none_wants_it() -> None:
    keys = AsyncTurns()
    async with keys.of(b"k", now_s() + LONG_S):
        with pytest.raises(Unavailable, match="used up the time"):
            async with keys.of(b"k", now_s()):
                pass
        assert set(keys._locks) == {b"k"}
    assert not keys._locks


def test_a_change_waits_for_its_turn(acceptors: Acceptors) -> None:
    """Two of one client would only refuse each other."""

    def refused() -> None:
        with pytest.raises(Unavailable, match="used up the time"):
            registers.put("k", "1", within_s=0.01)

    with PaxosClient(ADDRESSES) as registers:
        registers._turns.run(b"k", 0.0, refused)
        assert registers.put("k", "1").version == 1


@asynchronous
async def test_an_asyncio_change_waits_for_its_turn(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        async with registers._turns.of(b"k", now_s() + 1.0):
            with pytest.raises(Unavailable, match="used up the time"):
                await registers.put("k", "1", within_s=0.01)
        assert (await registers.put("k", "1")).version == 1
