"""What registers' clients do about deleted keys, behind the calls and in them."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from fake_server import asynchronous
from register_acceptors import ADDRESSES, LONG_S, Acceptors

from troth import aio
from troth.client.registers import aio as aio_registers
from troth.client.registers import aio_reach, backlog, turns
from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.backlog import COLLECTED_AT_ONCE, AsyncBacklog
from troth.client.registers.discovery import Discovery
from troth.client.registers.patience import COLLECT_WITHIN_S, now_s
from troth.client.registers.sync import PaxosClient
from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import (
    Ballot,
    Collect,
    Configuration,
    Conflict,
    Prepare,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
)
from troth.core.register.task import Send
from troth.errors import Unavailable
from troth.ids import NodeId

# ---- deletions while an acceptor is away ----


def test_a_collection_waits_for_its_clients_own_change_of_the_key(acceptors: Acceptors) -> None:
    """They would only refuse each other, and it would end as if others were changing the key."""
    with PaxosClient(ADDRESSES, collect=False) as registers, ThreadPoolExecutor(1) as pool:
        registers.put("k", "1")
        registers.delete("k")

        def change() -> "Future[int]":
            collecting = pool.submit(registers.collect, "k")
            with pytest.raises(TimeoutError):
                collecting.result(0.05)
            return collecting

        assert registers._turns.run(b"k", 0.0, change).result(30) == 1


def test_who_waits_for_the_turn_of_a_key_holds_no_place(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the turn waits for a place: if those that wait for its turn had all of them, it would for ever."""
    monkeypatch.setattr(turns, "CALLS_MAX", 1)
    with PaxosClient(ADDRESSES, collect=False) as registers, ThreadPoolExecutor(1) as pool:
        registers.put("k", "1")
        registers.delete("k")
        queues = registers._turns._queues._queues

        def change() -> "Future[int]":
            collecting = pool.submit(registers.collect, "k")
            deadline = time.monotonic() + 30
            while len(queues[b"k"]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0)
            assert registers.get("j", within_s=5).value is None
            return collecting

        assert registers._turns.run(b"k", 0.0, change).result(30) == 1


@asynchronous
async def test_which_task_waits_for_the_turn_of_a_key_holds_no_place(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "CALLS_MAX", 1)
    async with aio.PaxosClient(ADDRESSES, collect=False) as registers:
        await registers.put("k", "1")
        await registers.delete("k")
        async with registers._turns.of(b"k", now_s() + 1.0):
            collecting = asyncio.create_task(registers.collect("k"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert registers._turns._locks[b"k"][1] == 2
            assert (await registers.get("j", within_s=5)).value is None
        assert await collecting == 1


@asynchronous
async def test_an_asyncio_collection_waits_for_its_clients_own_change_of_the_key(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, collect=False) as registers:
        await registers.put("k", "1")
        await registers.delete("k")
        async with registers._turns.of(b"k", now_s() + 1.0):
            collecting = asyncio.create_task(registers.collect("k"))
            await asyncio.wait([collecting], timeout=0.05)
            assert not collecting.done()
        assert await collecting == 1


def test_a_change_behind_a_deletion_waits_for_no_acceptor_that_is_away(acceptors: Acceptors) -> None:
    """The collection of the tombstone does; but it holds the key's turn only when all acceptors are there."""
    acceptors.away = {NodeId(3)}
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        registers.put("k", "1")
        assert registers.delete("k").changed
        assert acceptors.looked.wait(30)
        assert registers.put("k", "2", within_s=COLLECT_WITHIN_S / 2).changed
        acceptors.let_go()


@asynchronous
async def test_an_asyncio_change_behind_a_deletion_waits_for_no_acceptor_that_is_away(
    acceptors: Acceptors,
) -> None:
    acceptors.away = {NodeId(3)}
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        await registers.put("k", "1")
        assert (await registers.delete("k")).changed
        assert await asyncio.to_thread(acceptors.looked.wait, 30)
        assert (await registers.put("k", "2", within_s=COLLECT_WITHIN_S / 2)).changed


@asynchronous
async def test_asyncio_collects_a_few_keys_at_a_time_and_in_the_end_all(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take half a second once it is begun: many at once would take longer together, and all end half-way. One
    that fails makes room for the next."""
    deleted, busy, collected = asyncio.Event(), asyncio.Event(), asyncio.Event()
    collecting: set[bytes] = set()

    async def ask(reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        if isinstance(send.request, Collect):
            collecting.add(send.request.key)
            if len(collecting) >= COLLECTED_AT_ONCE:
                busy.set()
            await deleted.wait()
        reply = await acceptors.ask_aio(reach, send, config)
        if not any(acceptor.slots for acceptor in acceptors.acceptors.values()):
            collected.set()
        return reply

    collect = aio.PaxosClient._collect

    async def fails_at_first(registers: aio.PaxosClient, key: bytes) -> None:
        await collect(registers, key)
        if len(failed) < COLLECTED_AT_ONCE:
            failed.add(key)
            raise Unavailable("what came of it is not known")

    failed: set[bytes] = set()
    monkeypatch.setattr(AsyncReach, "ask", ask)
    monkeypatch.setattr(aio.PaxosClient, "_collect", fails_at_first)
    monkeypatch.setattr(aio_registers, "COLLECT_HOLDS_S", LONG_S)
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers, asyncio.timeout(30):
        keys = [f"k{number}" for number in range(5 * COLLECTED_AT_ONCE)]
        await asyncio.gather(*(registers.put(key, "1") for key in keys))
        await asyncio.gather(*(registers.delete(key) for key in keys))
        await busy.wait()
        await registers.get("k0")  # time for more of them to begin, if they did
        assert len(collecting) == COLLECTED_AT_ONCE
        collected.clear()
        deleted.set()
        await collected.wait()


@asynchronous
async def test_collections_that_take_too_long_make_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that holds up its loop, say, leaves them no time."""
    for name in ("DESCRIBE_WITHIN_S", "COLLECT_WITHIN_S"):
        monkeypatch.setattr(aio_reach, name, 0.0)
    reach = AsyncReach(ADDRESSES, None, Discovery(ADDRESSES, prepare=0, accept=0, found=None))
    keys = {b"%d" % number for number in range(3 * COLLECTED_AT_ONCE)}
    begun: set[bytes] = set()
    all_begun = asyncio.Event()

    async def collect(key: bytes) -> None:
        begun.add(key)
        if begun == keys:
            all_begun.set()
        await asyncio.sleep(LONG_S)

    backlog = AsyncBacklog(reach, collect)
    for key in keys:
        backlog.add(key)
    async with asyncio.timeout(30):
        await all_begun.wait()


@asynchronous
async def test_nothing_is_collected_for_an_asyncio_client_that_is_closed(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those under way are called off, and no others are begun in their place: its loop may be about to end."""
    acceptors.silent = (Collect,)
    registers = await aio.PaxosClient(ADDRESSES, timeout=LONG_S).open()
    for number in range(2 * COLLECTED_AT_ONCE):
        await registers.put(f"k{number}", "1")
        await registers.delete(f"k{number}")
    await acceptors.asked_aio.wait()
    await registers.close()
    await asyncio.wait(registers._reach._background)
    assert len(registers._backlog._waiting) == COLLECTED_AT_ONCE


def test_a_collection_in_which_an_acceptor_falls_silent_gives_its_turn_back_soon(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES, collect=False) as registers:
        registers.put("k", "1")
        registers.delete("k")
        acceptors.silent = (Collect,)
        begin = time.monotonic()
        outcome = registers._collected(b"k", begin + 10, registers._fan.run, holds_s=0.01)
        assert isinstance(outcome.error, Unavailable) and time.monotonic() - begin < 5
        acceptors.let_go()


@asynchronous
async def test_an_asyncio_collection_in_which_an_acceptor_falls_silent_gives_its_turn_back_soon(
    acceptors: Acceptors,
) -> None:
    async with aio.PaxosClient(ADDRESSES, collect=False) as registers:
        await registers.put("k", "1")
        await registers.delete("k")
        acceptors.silent = (Collect,)
        begin = now_s()
        outcome = await registers._collected(b"k", begin + 10, registers._fan.run, holds_s=0.01)
        assert isinstance(outcome.error, Unavailable) and now_s() - begin < 5


# ---- what one acceptor has missed ----


def delete_while_away(acceptors: Acceptors) -> None:
    """`dead` is deleted and `used` is written and deleted, and acceptor 3 has heard of neither deletion."""
    with PaxosClient(ADDRESSES, timeout=LONG_S, collect=False) as registers:
        for key in ("dead", "live", "used"):
            registers.put(key, "1")
        acceptors.away = {NodeId(3)}
        registers.delete("dead")
        registers.delete("used")
    acceptors.away = set()


def test_a_key_whose_deletion_one_acceptor_has_missed_is_not_listed_and_is_collected(acceptors: Acceptors) -> None:
    delete_while_away(acceptors)
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        for away in (1, 2):
            acceptors.away = {NodeId(away)}
            assert registers.keys() == [b"live"]
        acceptors.away = set()
        assert registers.collect("live") == 0
        assert registers.collect() == 2
        assert registers.collect() == 0
    assert all(list(acceptor.slots) == [b"live"] for acceptor in acceptors.acceptors.values())


def in_use(acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever prepares `dead` finds that somebody else has prepared it at a higher ballot."""
    answer = Acceptor.on_request

    def on_request(acceptor: Acceptor, request: RequestMessage) -> tuple[ReplyMessage, RecordMessage | None]:
        if isinstance(request, Prepare) and request.key == b"dead":
            return Conflict(Ballot(request.ballot.round, request.ballot.client + 1)), None
        return answer(acceptor, request)

    monkeypatch.setattr(Acceptor, "on_request", on_request)


def test_a_key_in_use_does_not_keep_the_others_from_being_collected(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_while_away(acceptors)
    in_use(acceptors, monkeypatch)
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers, pytest.raises(Unavailable, match="dead"):
        registers.collect()
    assert list(acceptors.acceptors[NodeId(1)].slots) == [b"dead", b"live"]


@asynchronous
async def test_asyncio_collects_what_it_can_and_counts_what_was_removed(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_while_away(acceptors)
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        with monkeypatch.context() as patch:
            in_use(acceptors, patch)
            with pytest.raises(Unavailable, match="dead"):
                await registers.collect()
        assert list(acceptors.acceptors[NodeId(1)].slots) == [b"dead", b"live"]
        assert await registers.collect() == 1


# ---- keys that wait for collection ----


def test_a_key_that_was_collected_is_collected_again(acceptors: Acceptors) -> None:
    collected: list[bytes] = []
    with PaxosClient(ADDRESSES) as registers:
        for key in (b"k", b"k", b"k"):
            registers._backlog.add(key, collected.append)
            is_done = threading.Event()
            registers._backlog.add(b"next", lambda _, is_done=is_done: is_done.set())
            assert is_done.wait(30)
            registers._backlog._collector.submit(lambda: None).result(30)  # type: ignore[union-attr]
    assert collected == [b"k"] * 3


def test_keys_that_wait_for_collection_have_a_bound(acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "COLLECTIONS_MAX", 2)
    collected: list[bytes] = []
    go_on = threading.Event()

    def collect(key: bytes) -> None:
        go_on.wait(30)
        collected.append(key)

    with PaxosClient(ADDRESSES) as registers:
        for key in (b"a", b"b", b"c", b"b"):
            registers._backlog.add(key, collect)
        go_on.set()
        registers._backlog._collector.submit(lambda: None).result(30)  # type: ignore[union-attr]
    assert collected == [b"a", b"b"]
