"""The acceptor's driver: one write a turn, answers only after it, bounded files, and no way on after a failed sync."""

import asyncio
import gc
import random
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from troth.core.register.messages import (
    Accept,
    Accepted,
    Ballot,
    Configure,
    Describe,
    Described,
    Full,
    Prepare,
    ReplyMessage,
    RequestMessage,
    Seat,
    State,
    founding,
    group_of,
)
from troth.errors import SyncFailed
from troth.ids import LogIndex, NodeId
from troth.runtime import acceptors
from troth.runtime.acceptors import AcceptorNode
from troth.runtime.disk_machine import Directory
from troth.runtime.machine import Machine
from troth.simulate.disk import SimulatedDisk
from troth.storage.acceptors import AcceptorStore


class InMemory(SimulatedDisk):
    """A directory that can be given free."""

    def close(self) -> None:
        pass


class OnDisk(Machine):
    def __init__(self, files: InMemory) -> None:
        super().__init__()
        self.files = files

    @override
    def directory(self, path: str) -> Directory:
        return self.files


def accept(config: object, number: int) -> Accept:
    return Accept(
        config, b"k%d" % (number % 7), Ballot(number + 1, 1), State(bytes(50), 1, Ballot(1, 1), Ballot())
    )  # type: ignore[arg-type]


async def ask(node: AcceptorNode, *requests: RequestMessage) -> list[ReplyMessage]:
    """All in one turn of the loop."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[ReplyMessage]] = [loop.create_future() for _ in requests]
    for request, future in zip(requests, futures, strict=True):
        node.on_request(request, future.set_result)
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*futures))


def test_requests_of_a_turn_share_a_sync_and_old_records_are_dropped(tmp_path: Path) -> None:
    async def run() -> None:
        failed: list[BaseException] = []

        def node() -> AcceptorNode:
            return AcceptorNode.at(
                str(tmp_path / "a"),
                machine=Machine(),
                failed=failed.append,
                bytes_max=1 << 20,
                snapshot_log_bytes=20_000,
            )

        first = node()
        config = founding(
            group_of((Seat(first.acceptor.id, "a:1"), Seat(NodeId(2), "b:1"), Seat(NodeId(3), "c:1")))
        )
        await ask(first, Configure(config))
        for number in range(0, 1000, 50):
            replies = await ask(first, *(accept(config.id, each) for each in range(number, number + 50)))
            assert replies == [Accepted()] * 50
        assert first.counters.turns == 21
        assert first.counters.requests == 1001
        deadline = asyncio.get_running_loop().time() + 20
        while not first.counters.snapshots and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert first.counters.snapshots
        held = list(first.acceptor.snapshot())
        first.stop()
        assert any(path.name.endswith(".snap") for path in (tmp_path / "a").iterdir())
        second = node()
        assert list(second.acceptor.snapshot()) == held
        assert second.acceptor.id == first.acceptor.id
        second.stop()
        assert not failed

    asyncio.run(run())


def test_a_snapshot_that_is_written_holds_no_value_any_more(tmp_path: Path) -> None:
    """A cycle would hold it until the collector comes, which in a server is rare: large values would pile up."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        node = AcceptorNode.at(
            str(tmp_path / "a"),
            machine=Machine(),
            failed=lambda error: pytest.fail(str(error)),
            bytes_max=1 << 20,
            snapshot_log_bytes=20_000,
        )
        config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
        await ask(node, Configure(config))
        value, alone = (random.Random(seed).randbytes(30_000) for seed in (1, 2))
        for turn in range(1, 5):
            state = State(value, turn, Ballot(1, 1), Ballot())
            await ask(node, Accept(config.id, b"k", Ballot(turn, 1), state))
        del state
        deadline = loop.time() + 5
        while not node.counters.snapshots and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert node.counters.snapshots
        await ask(node, Accept(config.id, b"k", Ballot(5, 1), State(b"other", 5, Ballot(1, 1), Ballot())))
        node.stop()
        assert sys.getrefcount(value) == sys.getrefcount(alone)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_what_stood_in_the_log_at_the_start_counts_for_the_next_snapshot() -> None:
    """Else the log of an acceptor that is often started again would grow for ever."""

    async def run() -> None:
        files = InMemory(random.Random(1))
        failed: list[BaseException] = []
        for start in range(6):
            node = AcceptorNode.at(
                "a", machine=OnDisk(files), failed=failed.append, bytes_max=1 << 20, snapshot_log_bytes=1000
            )
            config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
            await ask(node, Configure(config), *(accept(config.id, start * 3 + each) for each in range(3)))
            node.stop()
        assert any(name.endswith(".snap") for name in files.names())
        assert failed == []

    asyncio.run(run())


def test_a_large_state_is_not_saved_again_before_the_log_has_grown_as_much() -> None:
    async def run() -> None:
        node = AcceptorNode.at(
            "a",
            machine=OnDisk(InMemory(random.Random(1))),
            failed=lambda error: pytest.fail(str(error)),
            bytes_max=1 << 20,
            snapshot_log_bytes=100,
        )
        config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
        await ask(node, Configure(config), *(accept(config.id, number) for number in range(100)))
        state_bytes = node.acceptor.bytes
        assert 1_000 < state_bytes < 32 * 100
        node._log_bytes, node._saving, saved = 0, False, []
        node._save = lambda: saved.append(node._log_bytes)  # type: ignore[method-assign]
        for number in range(100, 400):
            await ask(node, accept(config.id, number))
            if saved:
                break
        assert saved[0] > state_bytes
        node.stop()

    asyncio.run(run())


def test_the_log_of_a_very_large_state_grows_to_its_bound_and_no_further() -> None:
    async def run() -> None:
        node = AcceptorNode.at(
            "a",
            machine=OnDisk(InMemory(random.Random(1))),
            failed=lambda error: pytest.fail(str(error)),
            bytes_max=1 << 20,
            snapshot_log_bytes=100,
        )
        bound = acceptors.LOG_GROWTH_MAX * 100
        config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
        large = State(bytes(10 * bound), 1, Ballot(1, 1), Ballot())
        await ask(node, Configure(config), Accept(config.id, b"large", Ballot(1, 1), large))
        node._log_bytes, node._saving, saved = 0, False, []
        node._save = lambda: saved.append(node._log_bytes)  # type: ignore[method-assign]
        for number in range(100):
            await ask(node, accept(config.id, number))
            if saved:
                break
        assert bound < saved[0] < 2 * bound
        node.stop()

    asyncio.run(run())


def test_after_a_failed_sync_nothing_is_answered_any_more() -> None:

    async def run() -> None:
        files = InMemory(random.Random(1))
        failed: list[BaseException] = []
        ended = asyncio.Event()

        def fail(error: BaseException) -> None:
            failed.append(error)
            ended.set()

        node = AcceptorNode.at("a", machine=OnDisk(files), failed=fail, bytes_max=1 << 20)
        config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
        await ask(node, Configure(config))
        files.fail_next_sync()
        answers: list[ReplyMessage] = []
        node.on_request(Prepare(config.id, b"k", Ballot(1, 1)), answers.append)
        async with asyncio.timeout(20):
            await ended.wait()
        node.on_request(Prepare(config.id, b"k", Ballot(2, 1)), answers.append)
        node.on_request(Describe(), answers.append)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answers
        assert len(failed) == 1
        node.stop()

    asyncio.run(run())


def test_a_snapshot_whose_sync_fails_ends_the_acceptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no full disk, with which the log could go on. Nothing is answered then, nor closed as if all were well."""

    def save(store: AcceptorStore, index: LogIndex, records: object) -> None:
        raise SyncFailed("the disk")

    async def run() -> None:
        failed: list[BaseException] = []
        ended = asyncio.Event()

        def fail(error: BaseException) -> None:
            failed.append(error)
            ended.set()

        files = InMemory(random.Random(1))
        node = AcceptorNode.at("a", machine=OnDisk(files), failed=fail, bytes_max=1 << 20, snapshot_log_bytes=1)
        config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
        await ask(node, Configure(config))
        async with asyncio.timeout(5):
            await ended.wait()
        assert [type(error) for error in failed] == [SyncFailed]
        answers: list[ReplyMessage] = []
        node.on_request(Describe(), answers.append)
        for _ in range(5):
            await asyncio.sleep(0)
        node.stop()
        assert not answers and not closed

    closed: list[AcceptorStore] = []
    monkeypatch.setattr(AcceptorStore, "save", save)
    monkeypatch.setattr(AcceptorStore, "close", closed.append)
    asyncio.run(run())


def test_a_question_that_writes_nothing_is_answered_in_the_same_turn(tmp_path: Path) -> None:
    async def run() -> None:
        node = AcceptorNode.at(
            str(tmp_path / "a"), machine=Machine(), failed=lambda error: None, bytes_max=1 << 20
        )
        (reply,) = await ask(node, Describe())
        assert isinstance(reply, Described)
        node.stop()

    asyncio.run(run())


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it accepts are refused, each with an answer; what was taken is durable all the same."""

    async def run() -> None:
        node = AcceptorNode.at(
            str(tmp_path / "a"), machine=Machine(), failed=lambda error: None, bytes_max=1 << 20
        )
        config = founding(group_of((Seat(node.acceptor.id, "a:1"),)))
        await ask(node, Configure(config))
        monkeypatch.setattr(acceptors, "WAITING_BYTES_MAX", -1)
        (refused,) = await ask(node, accept(config.id, 1))
        assert isinstance(refused, Full)
        monkeypatch.setattr(acceptors, "WAITING_BYTES_MAX", 0)
        assert await ask(node, accept(config.id, 1)) == [Accepted()]
        assert await ask(node, accept(config.id, 8)) == [Accepted()], "it has caught up"
        monkeypatch.setattr(acceptors, "WAITING_BYTES_MAX", 60)
        replies = await ask(node, *(accept(config.id, number) for number in (15, 16, 17)))
        assert [type(reply) for reply in replies] == [Accepted, Accepted, Full], "of one turn, 50 bytes each"
        node.stop()

    asyncio.run(run())
