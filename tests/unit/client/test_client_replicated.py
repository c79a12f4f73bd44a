"""Replicated objects: the same calls in the same order on every holder."""

import asyncio
import copy
import gc
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fake_server import FakeCluster, Served, asynchronous, running, until

import troth
from troth import aio
from troth.client import calls
from troth.client import replica as module
from troth.errors import OutcomeUnknown, Unavailable, UsageError, WatchCompacted
from troth.kv.requests import RangeResult


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


@troth.replicated
class Ledger:
    """A list of everything that was said to it."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    @troth.command
    def add(self, line: Any, *, times: int = 1) -> int:
        """Note *line*."""
        self.lines += [line] * times
        return len(self.lines)

    @troth.command
    def fail(self) -> None:
        """Change something, then fail."""
        self.lines.append("failed")
        raise ValueError("as asked")


class Tally(troth.Replicated):
    """A typed one, with a state that is not plain."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    @troth.command
    def add(self, name: str) -> int:
        """Count *name*."""
        self.names.add(name)
        return len(self.names)

    def to_state(self) -> list[str]:
        return sorted(self.names)

    @classmethod
    def from_state(cls, state: list[str]) -> "Tally":
        made = cls()
        made.names = set(state)
        return made


class Board(troth.Replicated):
    """As users of PySyncObj write it: a class that derives, and methods that are marked."""

    def __init__(self) -> None:
        self.scores: dict[str, int] = {}

    @troth.replicated
    def score(self, name: str, points: int = 1) -> int:
        self.scores[name] = self.scores.get(name, 0) + points
        return self.scores[name]

    def best(self) -> int:
        return max(self.scores.values())


@asynchronous
async def test_a_method_is_marked_as_a_command_by_replicated_too() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        here, there = [await Board.on(client, "boards/1") for _ in range(2)]
        assert await here.score("ann", points=2) == 2
        assert await there.score("ann") == 3
        assert await here.read(Board.best) == 3
    with pytest.raises(UsageError, match="above a class, or above a method"):
        troth.replicated(property(lambda self: 1))  # type: ignore[type-var]


@asynchronous
async def test_every_holder_sees_the_same_calls_in_the_same_order() -> None:
    async with running(3) as cluster:
        clients = [await aio.connect(cluster.url) for _ in range(3)]
        holders = [await Ledger.on(client, "ledgers/a") for client in clients]  # type: ignore[attr-defined]
        values = await asyncio.gather(
            *(holder.add(f"{n}.{m}") for m in range(20) for n, holder in enumerate(holders))
        )
        assert sorted(values) == list(range(1, 61)), "each value is that of the call's own place in the order"
        states = [await holder.read(lambda ledger: list(ledger.lines)) for holder in holders]
        assert states[0] == states[1] == states[2] and len(states[0]) == 60
        for client in clients:
            await client.close()


@asynchronous
async def test_a_read_sees_every_call_that_had_returned_anywhere() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as one, await aio.connect(cluster.url) as two:
        first, second = await Ledger.on(one, "l"), await Ledger.on(two, "l")  # type: ignore[attr-defined]
        for count in range(1, 20):
            assert await first.add("x") == count
            assert await second.read(lambda ledger: len(ledger.lines)) == count
        assert await first.read(lambda ledger: len(ledger.lines), level=troth.eventual) == 19
        with pytest.raises(UsageError, match="linearizable, sequential"):
            await first.read(len, level=troth.bounded(seconds=1))


@asynchronous
async def test_an_exception_reaches_the_caller_and_the_replicas_stay_alike() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        first, second = await Ledger.on(client, "l"), await Ledger.on(client, "l")  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="as asked"):
            await first.fail()
        await first.add("after", times=2)
        assert await second.read(lambda ledger: ledger.lines) == ["failed", "after", "after"]


@asynchronous
async def test_an_exception_that_nobody_waits_for_any_more_is_not_complained_of() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        replica = await Ledger.on(client, "l")  # type: ignore[attr-defined]
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        txn, answer = client.txn, asyncio.get_running_loop().create_future()

        def answered_later(*parts: Any) -> "asyncio.Future[Any]":
            txn(*parts)
            return answer

        client.txn = answered_later  # type: ignore[method-assign,assignment]
        call = asyncio.ensure_future(replica.fail())
        await until(lambda: "failed" in replica._object.lines)
        call.cancel()
        await asyncio.wait([call])
        del call
        gc.collect()
        assert complaints == []


@asynchronous
async def test_a_copy_of_a_replica_can_be_made() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        replica = await Ledger.on(client, "l")  # type: ignore[attr-defined]
        assert copy.copy(replica).applied_revision == replica.applied_revision
        with pytest.raises(AttributeError, match="not a command of Ledger"):
            replica.lines  # noqa: B018


@asynchronous
async def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        ledger = await Ledger.on(client, "l")  # type: ignore[attr-defined]
        revision = cluster.store.revision
        loop: list[Any] = []
        loop.append(loop)
        for bad in (object(), {1, 2}, {"deep": [len]}, 1 << 70, 1j, loop):
            with pytest.raises(UsageError, match=r"Ledger\.add"):
                await ledger.add(bad)
        for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"wrong": 1})):
            with pytest.raises(UsageError, match=r"Ledger\.add"):
                await ledger.call("add", *args, **kwargs)
        with pytest.raises(AttributeError, match=r"\.read\(lambda o: o\.lines\)"):
            _ = ledger.lines
        with pytest.raises(UsageError, match="not a command"):
            await ledger.call("lines")
        assert cluster.store.revision == revision
        await ledger.add((1, ("a", b"b", None, 1.5, {"k": [True]})))
        assert await ledger.read(lambda ledger: ledger.lines[0]) == [1, ["a", b"b", None, 1.5, {"k": [True]}]]


@asynchronous
async def test_wrong_classes_are_told_at_once() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await Ledger.on(client, "l")  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match="of class Ledger, not Tally"):
            await Tally.on(client, "l")
        with pytest.raises(UsageError, match="needs a name"):
            await Tally.on(client, "/")

        class Odd(troth.Replicated):
            def __init__(self) -> None:
                self.lock = threading.Lock()

            @troth.command
            def go(self) -> None:
                pass

        with pytest.raises(UsageError, match="define to_state and from_state"):
            await Odd.on(client, "odd")
        with pytest.raises(UsageError, match="marks no method"):
            troth.replicated(type("Empty", (), {}))
        with pytest.raises(UsageError, match="choose another name"):
            troth.replicated(type("Clash", (), {"read": troth.command(lambda self: None)}))


@asynchronous
async def test_calls_are_trimmed_and_late_joiners_start_from_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 10)
    async with running() as cluster, await aio.connect(cluster.url) as client:
        holders = [await Tally.on(client, "tally") for _ in range(2)]
        for number in range(50):
            await asyncio.gather(*(holder.add(f"{number}.{n}") for n, holder in enumerate(holders)))
        await until(lambda: calls_stored(cluster) < 30)
        state = cluster.store.range(troth.Get("tally/state"))
        assert not isinstance(state, troth.errors.TrothError)
        async with await aio.connect(cluster.url) as late_client:
            late = await Tally.on(late_client, "tally")
            assert await late.read(lambda tally: len(tally.names)) == 100
            assert await late.add("one more") == 101
        assert await holders[0].read(lambda tally: len(tally.names)) == 101


@asynchronous
async def test_a_holder_that_missed_compacted_calls_goes_on_from_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 10)
    async with running(2) as cluster, await aio.connect(cluster.url) as one:
        cluster.servers[1].forwards = True
        async with await aio.connect(f"troth://{cluster.servers[1].address}", read_from="n2") as two:
            first, second = await Tally.on(one, "t"), await Tally.on(two, "t")
            # The second one's server is away while calls are made, trimmed and compacted.
            cluster.servers[1].kill()
            for number in range(35):
                await first.add(str(number))
            await until(lambda: calls_stored(cluster) < 10)
            await one.compact(cluster.store.revision)
            await cluster.servers[1].start()
            assert await second.read(lambda tally: len(tally.names)) == 35


@asynchronous
async def test_calls_survive_fail_over_and_happen_once() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        ledger = await Ledger.on(client, "l")  # type: ignore[attr-defined]
        for number in range(30):
            server = cluster.servers[number % 3]
            if number % 5 == 0:
                cluster.elect(server)
            if number % 7 == 0:
                server.lose_replies = 1
            assert await ledger.add(number) == number + 1
        assert await ledger.read(lambda ledger: ledger.lines) == list(range(30))


@asynchronous
async def test_a_deleted_or_spoilt_object_is_told() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        ledger = await Ledger.on(client, "l")  # type: ignore[attr-defined]
        await client.delete(prefix="l/")
        with pytest.raises(UsageError, match="was deleted"):
            await ledger.add(1)
        with pytest.raises(UsageError, match="was deleted"):
            await ledger.read(len)
        spoilt = await Ledger.on(client, "s")  # type: ignore[attr-defined]
        await client.put("s/calls/x", b"\xc1")
        with pytest.raises((troth.errors.DecodeError, OutcomeUnknown)):
            await spoilt.add(1)
        newer = await Ledger.on(client, "n")  # type: ignore[attr-defined]
        await client.put("n/calls/x", calls.encode(["not yet known", [], {}]))
        with pytest.raises((UsageError, OutcomeUnknown), match=r"new command|has stopped"):
            await newer.add(1)


@asynchronous
async def test_a_closed_replica_says_so() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with await Tally.on(client, "t") as tally:
            await tally.add("a")
        with pytest.raises(Unavailable, match="closed"):
            await tally.add("b")


@asynchronous
async def test_a_holder_that_was_away_puts_no_old_state_over_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 10)
    async with running(2) as cluster, await aio.connect(cluster.url) as one:
        away = cluster.servers[1]
        away.forwards = True
        async with await aio.connect(cluster.url, read_from="n2") as two:
            first, second = await Tally.on(one, "t"), await Tally.on(two, "t")
            for number in range(10):
                await second.add(f"second {number}")
            away.kill()  # the second one has asked for an epoch, and does not see it begin
            await until(lambda: epoch_of(cluster, "t/head") == 1)
            for number in range(12):
                await first.add(f"first {number}")
            await until(lambda: epoch_of(cluster, "t/state") == 2)
            await away.start()
            assert await second.read(lambda tally: len(tally.names)) == 22
            await second.add("one more")  # after this what it wanted to write has arrived
        async with await aio.connect(cluster.url) as late_client:
            late = await Tally.on(late_client, "t")
            assert await late.read(lambda tally: len(tally.names)) == 23


class Sick(troth.Replicated):
    """One whose state cannot be had, or not be taken."""

    takes = True

    def __init__(self) -> None:
        self.count = 0

    @troth.command
    def add(self) -> int:
        """Count."""
        self.count += 1
        return self.count

    def to_state(self) -> int:
        if self.count == 5:
            raise KeyError("sick")
        return self.count

    @classmethod
    def from_state(cls, state: int) -> "Sick":
        if not cls.takes:
            raise KeyError("sick")
        made = cls()
        made.count = state
        return made


@asynchronous
async def test_a_state_that_cannot_be_had_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 5)
    async with running() as cluster, await aio.connect(cluster.url) as client:
        sick = await Sick.on(client, "t")
        assert [await sick.add() for _ in range(12)] == list(range(1, 13))
        await until(lambda: epoch_of(cluster, "t/state") == 2)


@asynchronous
async def test_a_state_that_cannot_be_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 10)
    monkeypatch.setattr(Sick, "takes", False)
    async with running(2) as cluster, await aio.connect(cluster.url) as one:
        cluster.servers[1].forwards = True
        async with await aio.connect(f"troth://{cluster.servers[1].address}", read_from="n2") as two:
            first, second = await Sick.on(one, "t"), await Sick.on(two, "t")
            cluster.servers[1].kill()
            for _ in range(15):
                await first.add()
            await until(lambda: epoch_of(cluster, "t/state") == 1)
            await one.compact(cluster.store.revision)
            await cluster.servers[1].start()
            with pytest.raises((UsageError, OutcomeUnknown), match="does not take its state"):
                await second.read(lambda sick: sick.count)


def test_without_a_cluster_it_is_an_ordinary_object() -> None:
    tally = Tally()
    assert tally.add("a") == 1
    assert tally.read(lambda t: len(t.names)) == 1
    tally.close()


def calls_stored(cluster: FakeCluster) -> int:
    """How many calls stand in the store."""
    reply = cluster.store.range(troth.Get(prefix="t", count_only=True))
    assert hasattr(reply, "count")
    return int(reply.count) - 2


def epoch_of(cluster: FakeCluster, key: str) -> int:
    """The epoch that the head or the state names; -1 if it is not there."""
    reply = cluster.store.range(troth.Get(key))
    assert isinstance(reply, RangeResult)
    return int(msgspec.msgpack.decode(reply.kvs[0].value)[0]) if reply.kvs else -1


@troth.replicated
class Queue:
    """Hands out what was put into it."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    @troth.command
    def add(self, item: Any) -> int:
        self.items.append(item)
        return len(self.items)

    @troth.command
    def first(self) -> Any:
        return next(iter(self.items))


@asynchronous
async def test_a_call_that_ends_an_iteration_stops_no_replica() -> None:
    """A future cannot hold StopIteration; its caller gets what a generator makes of one (PEP 479)."""
    async with running() as cluster, await aio.connect(cluster.url) as client:
        queue = await Queue.on(client, "q")  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="StopIteration"):
            await queue.first()
        await queue.add("a")
        assert await queue.first() == "a"


@asynchronous
async def test_a_holder_whose_state_cannot_be_read_just_now_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as cluster, await aio.connect(cluster.url) as one, await aio.connect(cluster.url) as two:
        first, second = await Ledger.on(one, "l"), await Ledger.on(two, "l")
        load, failures = second._load, 2

        async def fails_first() -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise Unavailable("no quorum for a moment")
            await load()

        async def compacted() -> None:
            monkeypatch.setattr(second, "_watch", watch)
            raise WatchCompacted("gone", 5)

        watch = second._watch
        monkeypatch.setattr(second, "_load", fails_first)
        monkeypatch.setattr(second, "_watch", compacted)
        second._task.cancel()
        second._task = asyncio.ensure_future(second._follow())
        await first.add("one")
        assert await second.read(lambda ledger: ledger.lines) == ["one"] and failures == 0
        await two.close()
        await second._task
        with pytest.raises(Unavailable, match="closed"):
            await second.read(lambda ledger: ledger.lines, level=troth.eventual)


def test_the_holder_of_a_thread_says_how_far_it_is(served: Served) -> None:
    with troth.connect(served.cluster.url) as client, Tally.on(client, "t") as tally:
        tally.add("a")
        assert tally.applied_revision == client.seen_revision  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match="read the object"):
            tally.names_of  # type: ignore[attr-defined]  # noqa: B018
        assert copy.copy(tally).read(lambda each: len(each.names)) == 1
