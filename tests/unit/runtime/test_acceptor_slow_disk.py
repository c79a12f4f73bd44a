"""The acceptor's driver on a disk that writes when it is told to: what may be said meanwhile, and what a restart finds.

No threads: the writer and the snapshot's thread are queues here that a test works off, in whatever order it likes.
"""

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from typing_extensions import override

from troth.core.interface import Persist
from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    Ballot,
    ConfigId,
    Configure,
    Holding,
    Prepare,
    Promise,
    Read,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
    Seat,
    State,
    founding,
    group_of,
)
from troth.errors import StorageError
from troth.ids import LogIndex
from troth.runtime.acceptors import AcceptorNode, Home
from troth.runtime.disk_machine import Directory, DiskMachine
from troth.runtime.writer import DurableLog, LogWriter, WriterCounters
from troth.simulate.disk import SimulatedDisk
from troth.storage.acceptors import AcceptorStore, open_acceptor

SNAPSHOT_LOG_BYTES = 1000
TURNS = 8
"""Of the loop, more than anything here takes."""


class GatedDisk(SimulatedDisk):
    """A directory that can be given free."""

    def close(self) -> None:
        pass


class GatedWriter(LogWriter):
    """Makes durable what it is told to."""

    def __init__(self, log: DurableLog, on_durable: Callable[[int], None]) -> None:
        self.counters = WriterCounters()
        self.waiting: deque[Persist] = deque()
        self.jobs: list[Callable[[], None]] = []
        self._log = log
        self._on_durable = on_durable

    @override
    def start(self) -> None:
        pass

    @override
    def submit(self, persist: Persist) -> None:
        self.waiting.append(persist)

    @override
    def call(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    @override
    def stop(self, seconds_max: float = 5.0) -> bool:
        return True

    def write(self, writes: int) -> None:
        """The oldest *writes*, with one sync."""
        batch = [self.waiting.popleft() for _ in range(writes)]
        self._log.append(batch)
        self._log.sync()
        self._on_durable(len(batch))


class GatedWorker:
    """Does its jobs when it is told to."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], None]] = deque()

    def do(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def stop(self, seconds_max: float = 5.0) -> bool:
        return True


class GatedMachine(DiskMachine):
    """Its threads are `writers` and `worker`, its disk is `files`."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(1)
        self.files = GatedDisk(random.Random(1))
        self.worker_of_snapshots = GatedWorker()
        self.log: GatedWriter

    @override
    def directory(self, path: str) -> Directory:
        return self.files

    @override
    def writer(
        self,
        *,
        log: DurableLog,
        post: Callable[..., object],
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
    ) -> LogWriter:
        self.log = GatedWriter(log, on_durable)
        return self.log

    @override
    def worker(self, name: str, on_failed: Callable[[BaseException], object]) -> GatedWorker:
        return self.worker_of_snapshots


class Slow:
    """An acceptor in its first configuration, on a `GatedMachine`."""

    def __init__(self, machine: GatedMachine) -> None:
        self.machine = machine
        self.node = AcceptorNode.at(
            "a",
            machine=machine,
            failed=lambda error: pytest.fail(str(error)),
            bytes_max=1 << 20,
            snapshot_log_bytes=SNAPSHOT_LOG_BYTES,
        )
        self.log, self.snapshots = machine.log, machine.worker_of_snapshots
        self.replies: list[ReplyMessage] = []
        self._rounds = count(1)
        self.config: ConfigId

    @classmethod
    async def founded(cls) -> "Slow":
        slow = cls(GatedMachine())
        config = founding(group_of((Seat(slow.node.acceptor.id, "a:1"),)))
        slow.config = config.id
        await slow.ask(Configure(config))
        slow.log.write(1)
        slow.replies.clear()
        return slow

    async def ask(self, *requests: RequestMessage) -> None:
        """In one turn; `replies` get what is answered."""
        for request in requests:
            self.node.on_request(request, self.replies.append)
        await turns()

    def accept(self, key: bytes = b"k", size_bytes: int = 1) -> Accept:
        at = Ballot(next(self._rounds), 1)
        return Accept(self.config, key, at, State(bytes(size_bytes), 1, at, ZERO))

    async def fill(self) -> None:
        """The log, with one write, so far that a snapshot is due (twice the same: it outgrows the state)."""
        await self.ask(*(self.accept(b"large", SNAPSHOT_LOG_BYTES // 2) for _ in range(2)))

    async def save(self) -> None:
        """The snapshot that is due is written, and the log before it dropped."""
        self.snapshots.jobs.popleft()()
        await turns()
        while self.log.jobs:
            self.log.jobs.pop()()

    def after_power_loss(self) -> Acceptor:
        """What the next process finds."""
        self.machine.files.power_loss()
        return Home("a", machine=self.machine, bytes_max=1 << 20).acceptor


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_each_answer_waits_for_its_own_write() -> None:
    """And for no later one; what was answered is there after the power has failed."""
    slow = await Slow.founded()
    for key in (b"1", b"2", b"3"):
        await slow.ask(slow.accept(key))
    assert slow.replies == []
    slow.log.write(1)
    assert slow.replies == [Accepted()]
    slow.log.write(2)
    assert slow.replies == [Accepted()] * 3
    assert list(slow.after_power_loss().slots) == [b"1", b"2", b"3"]


async def test_nothing_is_told_that_is_not_durable_yet() -> None:
    """A read of what is being written waits for the write; else a power failure would take back what was read."""
    slow = await Slow.founded()
    accept = slow.accept()
    await slow.ask(accept)
    await slow.ask(Read(slow.config, b"k"))
    assert slow.replies == []
    slow.log.write(1)
    assert slow.replies == [Accepted(), Holding(accept.ballot, accept.state)]
    await slow.ask(Read(slow.config, b"k"))
    assert len(slow.replies) == 3, "with nothing under way it waits for nothing"


async def test_a_snapshot_is_written_behind_the_log_that_it_leans_on() -> None:
    """Else it would say after a power failure what nobody was told, of a log that ends before it."""
    slow = await Slow.founded()
    await slow.ask(slow.accept())
    await slow.fill()
    slow.log.write(1)
    await turns()
    assert not slow.snapshots.jobs
    slow.log.write(1)
    assert len(slow.snapshots.jobs) == 1


async def test_a_snapshot_is_of_the_moment_at_which_it_was_begun() -> None:
    """What was accepted while it was written is in the log behind it, and not dropped with what is before."""
    slow = await Slow.founded()
    await slow.fill()
    slow.log.write(1)
    await slow.ask(slow.accept(b"meanwhile"))
    slow.log.write(1)
    await slow.save()
    assert slow.node.counters.snapshots == 1
    await slow.ask(slow.accept(b"later"))
    slow.log.write(1)
    held = list(slow.node.acceptor.snapshot())
    again = slow.after_power_loss()
    assert list(again.slots) == [b"large", b"later", b"meanwhile"]
    assert list(again.snapshot()) == held


async def test_what_was_written_while_a_snapshot_was_stays_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it fills segments of its own, which could be dropped."""
    open_small = functools.partial(open_acceptor, segment_bytes=SNAPSHOT_LOG_BYTES // 4)
    monkeypatch.setattr("troth.runtime.acceptors.open_acceptor", open_small)
    slow = await Slow.founded()
    await slow.fill()
    slow.log.write(1)
    names = [b"%d" % number for number in range(4)]
    for name in names:
        await slow.ask(slow.accept(name, SNAPSHOT_LOG_BYTES // 4))
        slow.log.write(1)
    await slow.save()
    assert slow.node.counters.snapshots == 1
    assert list(slow.after_power_loss().slots) == [*names, b"large"]


async def test_one_snapshot_is_taken_at_a_time() -> None:
    """A second one would take the first one's moment from it (`Acceptor.snapshot_steps`)."""
    slow = await Slow.founded()
    await slow.fill()
    slow.log.write(1)
    await slow.fill()
    await slow.fill()
    slow.log.write(2)
    assert len(slow.snapshots.jobs) == 1
    await slow.save()
    assert (slow.node.counters.snapshots, list(slow.snapshots.jobs)) == (1, [])
    await slow.ask(slow.accept())
    slow.log.write(1)
    assert len(slow.snapshots.jobs) == 1, "the next one is due"


async def test_after_a_snapshot_the_next_waits_until_the_log_has_grown_again() -> None:
    slow = await Slow.founded()
    await slow.fill()
    slow.log.write(1)
    await slow.save()
    await slow.ask(slow.accept())
    slow.log.write(1)
    assert not slow.snapshots.jobs
    await slow.fill()
    slow.log.write(1)
    assert len(slow.snapshots.jobs) == 1


async def test_the_log_stays_when_its_snapshot_can_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(store: AcceptorStore, index: LogIndex, records: object) -> None:
        raise StorageError("the disk is full")

    slow = await Slow.founded()
    await slow.fill()
    slow.log.write(1)
    with monkeypatch.context() as patched:
        patched.setattr(AcceptorStore, "save", save)
        slow.snapshots.jobs.popleft()()
        await turns()
    assert (slow.node.counters.snapshots, slow.log.jobs) == (0, [])
    await slow.fill()
    slow.log.write(1)
    await slow.save()
    assert slow.node.counters.snapshots == 1, "it is tried again"
    assert list(slow.after_power_loss().slots) == [b"large"]


async def test_a_snapshot_that_could_not_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the log has grown as much again, as after one that could not be written; and the error is told."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def steps(acceptor: Acceptor) -> Iterator[list[RecordMessage]]:
        yield []
        raise MemoryError

    slow = await Slow.founded()
    with monkeypatch.context() as patched:
        patched.setattr(Acceptor, "snapshot_steps", steps)
        await slow.fill()
    slow.log.write(1)
    assert [type(error) for error in told] == [MemoryError]
    assert slow.replies[-1] == Accepted()
    await slow.fill()
    slow.log.write(1)
    await slow.save()
    assert slow.node.counters.snapshots == 1
    assert list(slow.after_power_loss().slots) == [b"large"]


async def test_a_log_of_promises_alone_is_dropped_like_any_other() -> None:
    """Questions about keys that never were fill neither the disk nor the memory: no register has to grow first."""
    slow = await Slow.founded()
    asked = [Prepare(slow.config, b"absent %d" % number, Ballot(number, 1)) for number in range(1, 60)]
    for each in asked:
        await slow.ask(each)
    slow.log.write(len(asked))
    assert all(isinstance(reply, Promise) for reply in slow.replies)
    await slow.save()
    acceptor, again = slow.node.acceptor, slow.after_power_loss()
    assert len(acceptor.idle) < len(asked)
    for each in asked:
        assert min(acceptor.promised(each.key), again.promised(each.key)) >= each.ballot


async def test_the_id_of_an_acceptor_is_never_drawn_again() -> None:
    """Configurations name acceptors by it, so a wiped directory must not come back as the one before."""
    drawn = {Slow(machine).node.acceptor.id for machine in _machines(20)}
    assert len(drawn) == 20
    assert max(drawn).bit_length() > 60


def _machines(number: int) -> list[GatedMachine]:
    machines = [GatedMachine() for _ in range(number)]
    for seed, machine in enumerate(machines):
        machine.chance = random.Random(seed)
    return machines
