"""The storage thread: what it does with what stands in its queue, and how it ends."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from troth.core.interface import HardState, Persist
from troth.errors import SyncFailed
from troth.ids import NodeId, Term
from troth.runtime import writer as writer_module
from troth.runtime.writer import StorageWriter


class Log:
    """Notes what is asked of it; *hangs* until the event is set, but not for ever."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.hangs: threading.Event | None = None

    def append(self, persists: Sequence[Persist]) -> None:
        if self.hangs is not None:
            self.hangs.wait(2)
        self.done += [
            f"append {persist.hard_state.term}" for persist in persists if persist.hard_state is not None
        ]

    def sync(self) -> None:
        self.done.append("sync")


class Bench:
    """A writer whose queue is filled before its thread begins, and what it has told."""

    def __init__(self) -> None:
        self.log = Log()
        self.durable: list[int] = []
        self.failed: list[Exception] = []
        self.writer = StorageWriter(
            log=self.log, post=self._post, on_durable=self.durable.append, on_failed=self.failed.append
        )

    def _post(self, callback: Callable[[object], None], argument: object) -> None:
        if callback == self.durable.append:
            self.log.done.append("told")
        callback(argument)

    def run(self) -> None:
        """Have it do all that is queued, and end."""
        self.writer._queue.put(None)
        self.writer.start()
        self.writer._thread.join(5)


def persist(term: int) -> Persist:
    return Persist(hard_state=HardState(Term(term), NodeId(0)))


def test_what_stands_in_front_of_the_end_is_durable_before_it() -> None:
    bench = Bench()
    for term in (1, 2, 3):
        bench.writer.submit(persist(term))
    bench.run()
    assert bench.log.done == ["append 1", "append 2", "append 3", "sync", "told"]
    assert bench.durable == [3]


def test_a_job_runs_between_the_writes_where_it_was_put() -> None:
    bench = Bench()
    bench.writer.submit(persist(1))
    bench.writer.call(lambda: bench.log.done.append("job"))
    bench.writer.call(lambda: bench.log.done.append("another"))
    bench.writer.submit(persist(2))
    bench.run()
    assert bench.log.done == ["append 1", "sync", "told", "job", "another", "append 2", "sync", "told"]
    assert bench.durable == [1, 1]


def test_a_job_that_fails_is_told_and_ends_the_thread() -> None:
    bench = Bench()

    def fail() -> None:
        raise SyncFailed("the disk")

    bench.writer.call(fail)
    bench.writer.submit(persist(1))
    bench.run()
    assert [type(error) for error in bench.failed] == [SyncFailed]
    assert bench.log.done == [] and bench.durable == []


def test_a_disk_that_hangs_is_not_waited_for_and_told() -> None:
    bench = Bench()
    bench.log.hangs = threading.Event()
    bench.writer.submit(persist(1))
    bench.writer.start()
    assert not bench.writer.stop(0.01)
    assert bench.durable == []
    bench.log.hangs.set()
    assert bench.writer.stop()
    assert bench.durable == [1]


def test_syncs_are_counted_with_how_much_they_covered_and_how_long_they_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times: Iterator[float] = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(writer_module.time, "perf_counter", lambda: next(times))
    bench = Bench()
    for count in (1, 4, 5):
        for term in range(1, count + 1):
            bench.writer.submit(persist(term))
        bench.writer.call(lambda: None)
    bench.run()
    counters = bench.writer.counters
    assert (counters.syncs, counters.writes, counters.seconds, counters.seconds_max) == (3, 10, 7.0, 4.0)
    assert counters.batch_sizes == {1: 1, 4: 1, 8: 1}
