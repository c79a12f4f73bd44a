"""Calls of a registers' client whose time ends: what may have happened by then, what is said, and pauses."""

import asyncio
import time
from unittest.mock import MagicMock

import pytest
from fake_server import asynchronous
from register_acceptors import ADDRESSES, CONFIG, LONG_S, NO_TIME_S, Acceptors

from troth import aio
from troth.client.registers import aio_fan, fan
from troth.client.registers.aio_reach import CALLED_OFF, AsyncReach
from troth.client.registers.discovery import Discovery
from troth.client.registers.lines import LineLost
from troth.client.registers.patience import WITHIN_MAX_S, now_s, pause_s, seconds
from troth.client.registers.sync import PaxosClient
from troth.core.register.messages import (
    Accept,
    Accepted,
    Describe,
    Prepare,
    Read,
)
from troth.core.register.task import Outcome, Send
from troth.errors import OutcomeUnknown, Unavailable, UsageError
from troth.ids import NodeId

# ---- errors say why ----


def test_a_call_whose_time_is_over_says_what_its_connections_complain_of(acceptors: Acceptors) -> None:
    acceptors.silent = (Prepare, Read)
    with PaxosClient(ADDRESSES) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: its directory was emptied"
        for call in (registers.get, lambda key, within_s: registers.put(key, "v", within_s=within_s)):
            with pytest.raises(Unavailable, match="a2:1: its directory was emptied"):
                call("k", within_s=0.01)


@asynchronous
async def test_an_asyncio_call_whose_time_is_over_says_what_its_connections_complain_of(
    acceptors: Acceptors,
) -> None:
    acceptors.silent = (Read,)
    async with aio.PaxosClient(ADDRESSES) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: its directory was emptied"
        with pytest.raises(Unavailable, match="a2:1: its directory was emptied"):
            await registers.get("k", within_s=0.01)


def test_a_call_that_needs_all_names_the_acceptor_that_is_gone(acceptors: Acceptors) -> None:
    """It ends by itself, as soon as one is silent, and not because its time is over."""
    with PaxosClient(ADDRESSES, timeout=LONG_S, collect=False) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: refused"
        acceptors.lost = {NodeId(2)}
        for key in (None, "k"):
            with pytest.raises(Unavailable, match=r"not every acceptor answers.*; a2:1: refused"):
                registers.collect(key)


@asynchronous
async def test_an_asyncio_call_that_needs_all_names_the_acceptor_that_is_gone(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S, collect=False) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: refused"
        acceptors.lost = {NodeId(2)}
        for key in (None, "k"):
            with pytest.raises(Unavailable, match=r"not every acceptor answers.*; a2:1: refused"):
                await registers.collect(key)


# ---- functions that raise, and time-outs ----


class Stop(BaseException):
    """What no handler of errors takes."""


def stops(held: bytes | None) -> bytes | None:
    raise Stop


@asynchronous
async def test_whatever_a_change_function_raises_ends_the_asyncio_call(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        with pytest.raises(Stop):
            await asyncio.wait_for(registers.change("k", stops), 30)
        assert (await registers.put("k", "1")).changed, "the key is free again"


def test_whatever_a_change_function_raises_ends_the_call(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        with pytest.raises(Stop):
            registers.change("k", stops)
        assert registers.put("k", "1").changed


def test_a_time_out_is_a_number_and_for_ever_is_a_long_time(acceptors: Acceptors) -> None:
    assert seconds(3.5) == 3.5
    assert seconds(float("inf")) == WITHIN_MAX_S
    for wrong in (float("nan"), 0, -1.0, "1", None):
        with pytest.raises(UsageError, match="number of seconds"):
            seconds(wrong)
        with pytest.raises(UsageError, match="number of seconds"):
            PaxosClient(ADDRESSES, timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="number of seconds"):
            PaxosClient.local("nowhere", timeout=wrong)  # type: ignore[arg-type]
    with PaxosClient(ADDRESSES, timeout=float("inf")) as registers:
        assert registers.put("k", "1").changed
        with pytest.raises(UsageError, match="number of seconds"):
            registers.put("k", "2", within_s=float("nan"))


@asynchronous
async def test_an_asyncio_time_out_is_a_number_and_for_ever_is_a_long_time(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, timeout=float("inf")) as registers:
        assert (await registers.put("k", "1")).changed
        with pytest.raises(UsageError, match="number of seconds"):
            await registers.put("k", "2", within_s=float("nan"))


# ---- what has not left ----


def test_a_change_whose_time_is_over_before_it_leaves_is_not_applied(acceptors: Acceptors) -> None:
    """With a ballot kept its accept is the first thing to leave; all the same nothing can have happened."""
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        with pytest.raises(Unavailable):
            registers.put("k", "2", within_s=NO_TIME_S)
        assert registers.get("k").value == b"1"


@asynchronous
async def test_an_asyncio_change_whose_time_is_over_before_it_leaves_is_not_applied(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        with pytest.raises(Unavailable):
            await registers.put("k", "2", within_s=NO_TIME_S)
        assert (await registers.get("k")).value == b"1"


def test_a_change_that_has_found_no_room_on_its_way_is_not_applied(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.stuck = (Accept,)
        with pytest.raises(Unavailable):
            registers.put("k", "2", within_s=0.01)


@asynchronous
async def test_an_asyncio_change_that_has_found_no_room_on_its_way_is_not_applied(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        acceptors.stuck = (Accept,)
        with pytest.raises(Unavailable):
            await registers.put("k", "2", within_s=0.01)


@asynchronous
async def test_an_asyncio_request_that_is_called_off_says_whether_it_has_left() -> None:
    reach = AsyncReach(ADDRESSES, None, Discovery(ADDRESSES, prepare=0, accept=0, found=None))
    asked = asyncio.Event()
    line, leaves = MagicMock(address="a1:1"), asyncio.get_running_loop().create_future()

    async def ready(*, expect: int) -> object:
        asked.set()
        return await leaves

    async def answer(connection: object, request: object) -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    line.ready, line.answer = ready, answer
    reach._lines["a1:1"] = line
    reach._discovery.addresses[NodeId(1)] = "a1:1"
    send = Send(NodeId(1), Describe(), 1)
    waits = asyncio.create_task(reach.ask(send, CONFIG))
    await asked.wait()
    waits.cancel(CALLED_OFF)
    with pytest.raises(LineLost) as caught:
        await waits
    assert not caught.value.sent
    asked.clear()
    leaves = asyncio.get_running_loop().create_future()
    ends = asyncio.create_task(reach.ask(send, CONFIG))
    await asked.wait()
    ends.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ends  # asyncio.run would report any other error at the end of its loop
    leaves = asyncio.get_running_loop().create_future()
    leaves.set_result(object())
    asked.clear()
    left = asyncio.create_task(reach.ask(send, CONFIG))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left


def test_a_change_of_which_no_request_has_left_is_not_applied(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a kept ballot its first request is the accept; nobody is there to take it. Two that are lost are enough for a
    pause, in which the time ends before the third is looked at."""
    monkeypatch.setattr(fan, "pause_s", lambda tries, chance: LONG_S)
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.lost = set(acceptors.acceptors)
        with pytest.raises(Unavailable):
            registers.put("k", "2", within_s=0.02)


@pytest.mark.parametrize("broken", [True, False])
def test_a_change_of_which_a_request_has_left_is_in_doubt_though_nobody_looks_what_came_of_it(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Two have not left, so there is a pause. In it the third one is answered, or its connection breaks."""

    def paused_s(tries: int, chance: float) -> float:
        if broken:
            acceptors.let_go()
        else:
            acceptors.unanswered[0].set_result(Accepted())
        return LONG_S

    monkeypatch.setattr(fan, "pause_s", paused_s)
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.lost = {NodeId(1), NodeId(2)}
        acceptors.away = {NodeId(3)}
        with pytest.raises(OutcomeUnknown):
            registers.put("k", "2", within_s=0.02)
        assert acceptors.unanswered[0].done()


def test_a_change_one_of_whose_connections_breaks_is_in_doubt(acceptors: Acceptors) -> None:
    """Its other requests are called off before they leave."""
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.broken = {NodeId(2)}
        acceptors.away = {NodeId(1), NodeId(3)}
        with pytest.raises(OutcomeUnknown):
            registers.put("k", "2", within_s=0.02)


@asynchronous
async def test_an_asyncio_change_whose_connections_break_is_in_doubt(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        acceptors.broken = set(acceptors.acceptors)
        with pytest.raises(OutcomeUnknown):
            await registers.put("k", "2", within_s=0.02)


@asynchronous
async def test_an_asyncio_change_of_which_no_request_has_left_is_not_applied(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        acceptors.lost = set(acceptors.acceptors)
        with pytest.raises(Unavailable):
            await registers.put("k", "2", within_s=0.02)


# ---- pauses ----


class Refused:
    """A task that pauses until it is resumed."""

    config = CONFIG
    has_sends = False
    outcome: Outcome | None = None
    pause = 8

    def take(self) -> list[Send]:
        return []

    def resume(self) -> None:
        self.outcome = Outcome()


@pytest.mark.parametrize(("chance", "left_s"), [(0.25, LONG_S), (0.75, LONG_S), (0.75, 0.05)])
def test_a_pause_is_drawn_and_ends_with_the_call(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch, chance: float, left_s: float
) -> None:
    """Proposers that duel must come back at different moments."""
    slept: list[float] = []
    with PaxosClient(ADDRESSES) as registers:
        monkeypatch.setattr(registers._fan, "_chance", MagicMock(random=lambda: chance))
        monkeypatch.setattr(time, "sleep", slept.append)
        registers._fan.run(Refused(), time.monotonic() + left_s)  # type: ignore[arg-type]
        monkeypatch.undo()
    assert all(each < left_s + 0.01 for each in slept), slept
    assert left_s < 1 or slept == [pause_s(Refused.pause, chance)]


@asynchronous
@pytest.mark.parametrize(("chance", "left_s"), [(0.25, LONG_S), (0.75, LONG_S), (0.75, 0.05)])
async def test_an_asyncio_pause_is_drawn_and_ends_with_the_call(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch, chance: float, left_s: float
) -> None:
    slept: list[float] = []

    async def sleep(for_s: float) -> None:
        slept.append(for_s)

    async with aio.PaxosClient(ADDRESSES) as registers:
        with monkeypatch.context() as patch:
            patch.setattr(registers._fan, "_chance", MagicMock(random=lambda: chance))
            patch.setattr(asyncio, "sleep", sleep)
            await registers._fan.run(Refused(), now_s() + left_s)  # type: ignore[arg-type]
    assert all(each < left_s + 0.01 for each in slept), slept
    assert left_s < 1 or slept == [pause_s(Refused.pause, chance)]


def test_a_change_function_that_takes_all_the_time_is_not_the_acceptors_silence(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    clock = MagicMock(wraps=time, monotonic=lambda: time.monotonic() + late_s)
    monkeypatch.setattr(fan, "time", clock)

    def slow(held: bytes | None) -> bytes:
        nonlocal late_s
        late_s = LONG_S
        return b"2"

    with PaxosClient(ADDRESSES) as registers:
        for key in ("new", "kept"):  # without a ballot kept the acceptors have promised one before
            late_s = 0.0
            if key == "kept":
                registers.put(key, "1")
            with pytest.raises(Unavailable, match="no time was left") as caught:
                registers.change(key, slow)
            assert "no quorum" not in str(caught.value)


@asynchronous
async def test_a_change_function_that_takes_all_the_time_is_not_the_acceptors_silence_for_asyncio(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    monkeypatch.setattr(aio_fan, "now_s", lambda: now_s() + late_s)

    def slow(held: bytes | None) -> bytes:
        nonlocal late_s
        late_s = LONG_S
        return b"2"

    async with aio.PaxosClient(ADDRESSES) as registers:
        with pytest.raises(Unavailable, match="no time was left") as caught:
            await registers.change("k", slow)
        assert "no quorum" not in str(caught.value)
