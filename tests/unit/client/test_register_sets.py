"""Registers' clients and the set of acceptors: addresses of another set, one that leaves, sizes of quorums."""

import asyncio
import time
from concurrent.futures import Future
from functools import partial

import pytest
from fake_server import asynchronous
from register_acceptors import ADDRESSES, CONFIG, LONG_S, OTHER, SEATS, Acceptors

from troth import aio
from troth.client.registers.aio_lines import AsyncLine
from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.lines import Line, LineLost
from troth.client.registers.patience import now_s
from troth.client.registers.reach import Reach
from troth.client.registers.sync import PaxosClient
from troth.core.register.messages import (
    ZERO,
    Configuration,
    Described,
    ReplyMessage,
)
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.task import Send
from troth.errors import UsageError, WrongCluster
from troth.ids import NodeId

# ---- acceptors of two sets ----


MEANT = ["a1:1", "a2:1", "a9:1"]
"""The third is mistyped: an acceptor of another set is there."""


def who(address: str) -> Described:
    number = int(address[1])
    return Described(NodeId(number), OTHER if number == 9 else CONFIG, 0, 0, 0, ZERO)


def test_a_mistyped_address_ends_the_change_of_acceptors_and_nothing_else(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(line: Line, request: object, deadline: float) -> "Future[ReplyMessage]":
        answer: Future[ReplyMessage] = Future()
        answer.set_result(who(line.address))
        return answer

    monkeypatch.setattr(Line, "ask", ask)
    with PaxosClient(ADDRESSES) as registers:
        with pytest.raises(WrongCluster, match="a9:1 belongs to another set"):
            registers.set_acceptors(MEANT)
        assert registers.put("k", "1").changed
        assert registers.configuration == CONFIG


@asynchronous
async def test_a_mistyped_address_ends_the_asyncio_change_of_acceptors_and_nothing_else(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(line: AsyncLine, request: object) -> ReplyMessage:
        return who(line.address)

    monkeypatch.setattr(AsyncLine, "ask", ask)
    async with aio.PaxosClient(ADDRESSES) as registers:
        with pytest.raises(WrongCluster, match="a9:1 belongs to another set"):
            await registers.set_acceptors(MEANT)
        assert (await registers.put("k", "1")).changed
        assert registers.configuration == CONFIG


def test_an_acceptor_of_another_set_at_an_address_that_became_free_does_no_harm(acceptors: Acceptors) -> None:
    """Its new process is asked who it is; a quorum of ours answers as before."""
    with PaxosClient(ADDRESSES) as registers:
        for address in ("a1:1", "a2:1"):
            registers._reach._learn(address, who(address))
        acceptors.away = {NodeId(3)}
        registers._reach._learn("a3:1", who("a9:1"))
        assert registers.put("k", "1").changed


# ---- an acceptor that leaves ----


TWO = {seat.acceptor: seat.address for seat in SEATS[:2]}


def test_who_leaves_the_set_is_told_though_nobody_waits_for_it(acceptors: Acceptors) -> None:
    """Its answer comes late; the telling is not called off when the change is complete, nor before it has begun."""
    acceptors.away = {NodeId(3)}
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        task = registers._begin(partial(Reconfiguration, seats=TWO))
        assert registers._fan.run(task, time.monotonic() + LONG_S).error is None
        assert registers.configuration.id.epoch == 3
        (told,) = [answer for answer in acceptors.unanswered if not answer.cancelled()]
        told.set_exception(LineLost("the connection broke"))


@asynchronous
async def test_asyncio_tells_who_leaves_the_set_though_nobody_waits_for_it(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = asyncio.Event()

    async def ask(reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        if send.to == 3:
            await slow.wait()
        return await acceptors.ask_aio(reach, send, config)

    monkeypatch.setattr(AsyncReach, "ask", ask)
    leaving = acceptors.acceptors[NodeId(3)]
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        assert (
            await registers._fan.run(Reconfiguration(registers._proposer, TWO), LONG_S + now_s())
        ).error is None
        assert leaving.config == CONFIG
        slow.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert leaving.config is not None and leaving.config.id.epoch == 3


# ---- sizes of quorums ----


@pytest.mark.parametrize("size", [2.0, True, "2", -1, None])
def test_sizes_that_are_none_are_refused_at_the_door(size: int, acceptors: Acceptors) -> None:
    for client in (PaxosClient, aio.PaxosClient):
        for sizes in ({"prepare": size}, {"accept": size}):
            with pytest.raises(UsageError, match="is a number of acceptors"):
                client(ADDRESSES, **sizes)  # type: ignore[arg-type]


def test_sizes_that_are_none_change_no_set(acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reach, "insist", lambda reach, address, deadline: who(address))
    with PaxosClient(ADDRESSES) as registers:
        with pytest.raises(UsageError, match="is a number of acceptors"):
            registers.set_acceptors(ADDRESSES, prepare=3.0, accept=1)  # type: ignore[arg-type]
        assert registers.set_acceptors(ADDRESSES, prepare=3, accept=1).groups[0].prepare == 3


@asynchronous
async def test_sizes_that_are_none_change_no_set_by_asyncio_either(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def insist(reach: AsyncReach, address: str, deadline: float) -> Described:
        return who(address)

    monkeypatch.setattr(AsyncReach, "insist", insist)
    async with aio.PaxosClient(ADDRESSES) as registers:
        with pytest.raises(UsageError, match="is a number of acceptors"):
            await registers.set_acceptors(ADDRESSES, prepare=True, accept=3)
        assert (await registers.set_acceptors(ADDRESSES, prepare=1, accept=3)).groups[0].prepare == 1
