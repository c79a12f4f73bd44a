"""Group commit: everybody hears of his own decision, first come first written, and nobody waits for ever."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import pytest

pytest.importorskip("sqlalchemy")

from troth.core.twophase.cells import Verdict
from troth.core.twophase.records import Commit
from troth.errors import NotApplied, Overloaded, StorageError, TrothError
from troth.transactions.log import group
from troth.transactions.log.group import GroupCommit
from troth.transactions.log.interface import Decided, DecisionLog


class Gate:
    """A log whose every write waits for `open`; a commit whose key is "no" is refused, "silent" fails its batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered: deque[threading.Event] = deque()
        self.arrived = threading.Semaphore(0)
        self.changed = threading.Event()

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        self.batches.append([commit.gid for commit in commits])
        gate = threading.Event()
        self.entered.append(gate)
        self.arrived.release()
        assert gate.wait(30)
        if any(commit.key == "silent" for commit in commits):
            raise StorageError("the disk is gone")
        return [
            NotApplied(f"not {commit.gid}") if commit.key == "no" else Decided(Verdict.COMMIT, commit.gid)
            for commit in commits
        ]

    def open(self) -> None:
        """Let the batch that is being written end."""
        assert self.arrived.acquire(timeout=30)
        self.entered.popleft().set()


class Crowd:
    """Threads that decide, each known to wait in the queue before the next one comes."""

    def __init__(self) -> None:
        self.log = Gate()
        self.sizes: list[int] = []
        self.group = GroupCommit(cast(DecisionLog, self.log), self.sizes.append)
        self.answers: dict[str, Any] = {}
        self.threads: list[threading.Thread] = []

    def come(self, gid: str, key: str = "") -> None:
        def decide() -> None:
            try:
                self.answers[gid] = self.group.decide(Commit(gid, (), key))
            except TrothError as error:
                self.answers[gid] = error

        thread = threading.Thread(target=decide, daemon=True)
        thread.start()
        self.threads.append(thread)
        while not self._is_in(gid):
            self.log.changed.wait(0.001)

    def _is_in(self, gid: str) -> bool:
        """Whether it waits in the queue, or is being written."""
        queued = [waiting.commit.gid for waiting in list(self.group._queue)]
        return gid in queued or any(gid in batch for batch in self.log.batches)

    def end(self, batches: int) -> None:
        for _ in range(batches):
            self.log.open()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_whoever_comes_while_a_batch_is_written_is_written_with_the_next_in_the_order_of_coming() -> None:
    crowd = Crowd()
    for gid in ("first", "a", "b", "c"):
        crowd.come(gid)
    crowd.end(batches=2)
    assert crowd.log.batches == [["first"], ["a", "b", "c"]]
    assert crowd.sizes == [1, 3]
    assert crowd.answers == {gid: Decided(Verdict.COMMIT, gid) for gid in ("first", "a", "b", "c")}


def test_everybody_hears_of_his_own_decision() -> None:
    crowd = Crowd()
    for gid, key in (("first", ""), ("a", ""), ("b", "no"), ("c", "")):
        crowd.come(gid, key)
    crowd.end(batches=2)
    assert isinstance(crowd.answers["b"], NotApplied)
    assert str(crowd.answers["b"]).startswith("not b")
    assert [crowd.answers[gid] for gid in ("a", "c")] == [Decided(Verdict.COMMIT, gid) for gid in ("a", "c")]


def test_a_batch_that_fails_fails_for_all_in_it_and_for_nobody_else() -> None:
    crowd = Crowd()
    for gid, key in (("first", ""), ("a", "silent"), ("b", "")):
        crowd.come(gid, key)
    crowd.log.open()
    assert crowd.log.arrived.acquire(timeout=30)
    crowd.log.arrived.release()
    crowd.come("later")
    crowd.end(batches=2)
    assert crowd.log.batches == [["first"], ["a", "b"], ["later"]]
    assert [type(crowd.answers[gid]) for gid in ("a", "b")] == [StorageError, StorageError]
    assert crowd.answers["first"] == Decided(Verdict.COMMIT, "first")
    assert crowd.answers["later"] == Decided(Verdict.COMMIT, "later")


def test_a_batch_is_bounded_and_those_who_came_first_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "BATCH_MAX", 2)
    crowd = Crowd()
    for gid in ("first", "a", "b", "c"):
        crowd.come(gid)
    crowd.end(batches=3)
    assert crowd.log.batches == [["first"], ["a", "b"], ["c"]]


def test_the_queue_is_bounded_and_who_is_refused_was_not_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "QUEUE_MAX", 2)
    crowd = Crowd()
    for gid in ("first", "a", "b"):
        crowd.come(gid)
    with pytest.raises(Overloaded):
        crowd.group.decide(Commit("c", ()))
    crowd.end(batches=2)
    assert crowd.log.batches == [["first"], ["a", "b"]]
    crowd.come("d")
    crowd.end(batches=1)
    assert crowd.answers["d"] == Decided(Verdict.COMMIT, "d")
