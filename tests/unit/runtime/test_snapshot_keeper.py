"""Snapshot work beside the loop: what a disk that has no room does to it."""

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest

from troth.core.interface import EntryId, Membership, SnapshotMeta
from troth.errors import SyncFailed
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.replica.effects import StoreChunk
from troth.replica.replica import Replica
from troth.runtime.snapshots import SnapshotKeeper
from troth.runtime.writer import LogWriter
from troth.simulate.disk import SimulatedDisk
from troth.storage import names
from troth.storage.log import WriteAheadLog
from troth.storage.snapshots import SnapshotStore

META = SnapshotMeta(EntryId(Term(1), LogIndex(9)), Membership(voters=(NodeId(1),)))


class AtOnce:
    """A worker that does each job in the caller's own time."""

    def do(self, job: Callable[[], None]) -> None:
        job()

    def stop(self, seconds_max: float = 5.0) -> bool:
        return True


class Told:
    """In place of a replica: what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, bool]] = []

    def chunk_stored(self, work: StoreChunk, offset: int, complete: bool, now: Tick) -> None:
        self.heard.append(("stored", offset, complete))

    def chunk_refused(self, work: StoreChunk) -> None:
        self.heard.append(("refused", 0, False))


def keeper_of(files: SimulatedDisk, told: Told) -> SnapshotKeeper:
    return SnapshotKeeper(
        replica=cast(Replica, told),
        store=SnapshotStore.open(files),
        log=cast(WriteAheadLog, None),
        writer=cast(LogWriter, None),
        worker=AtOnce(),
        now=lambda: Tick(0),
        wake=lambda: None,
        fail=lambda error: pytest.fail(str(error)),
        after_turn=lambda step, *arguments: step(*arguments),
    )


def whole() -> bytes:
    files = SimulatedDisk(random.Random(1))
    store = SnapshotStore.open(files)
    store.write(META, [random.Random(1).randbytes(3000)])
    return store.read(META, 0, 10_000)


def chunks(data: bytes) -> list[StoreChunk]:
    offsets = range(0, len(data), 500)
    return [
        StoreChunk(
            sender=NodeId(2),
            term=Term(1),
            meta=META,
            offset=offset,
            data=data[offset : offset + 500],
            last=offset == offsets[-1],
        )
        for offset in offsets
    ]


async def test_a_disk_that_fills_up_while_a_snapshot_comes_refuses_that_and_is_given_its_room_back() -> None:
    told, files, data = Told(), SimulatedDisk(random.Random(2), capacity_bytes=1700), whole()
    keeper = keeper_of(files, told)
    for work in chunks(data)[:4]:
        keeper.start(work)
    await asyncio.sleep(0)
    assert told.heard == [
        ("stored", 500, False),
        ("stored", 1000, False),
        ("stored", 1500, False),
        ("refused", 0, False),
    ]
    assert files.names() == []
    files.capacity_bytes = None
    for work in chunks(data):
        keeper.start(work)
    await asyncio.sleep(0)
    assert told.heard[-1] == ("stored", len(data), True)
    assert keeper.store.newest() == META


async def test_a_sync_that_fails_while_a_snapshot_comes_still_ends_the_process() -> None:
    files, data = SimulatedDisk(random.Random(2)), whole()
    keeper = keeper_of(files, Told())
    works = chunks(data)
    for work in works[:-1]:
        keeper.start(work)
    files.fail_next_sync()
    with pytest.raises(SyncFailed):
        keeper.start(works[-1])


async def test_a_last_chunk_that_was_repeated_while_all_was_checked_finds_the_snapshot_whole() -> None:
    told, files, data = Told(), SimulatedDisk(random.Random(2)), whole()
    keeper = keeper_of(files, told)
    works = chunks(data)
    for work in (*works, works[-1]):
        keeper.start(work)
    await asyncio.sleep(0)
    assert told.heard[-2:] == [("stored", len(data), True), ("stored", works[-1].offset, True)]
    assert files.names() == [names.snapshot_name(META.last)]
