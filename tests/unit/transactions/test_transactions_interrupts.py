"""Ctrl-C between any two bytecodes of a decision: nobody waits for ever, and nobody is told what is not so."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

pytest.importorskip("sqlalchemy")

from interrupting import Interrupted, Interruption, everywhere

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Abort, Commit
from troth.errors import OutcomeUnknown, StorageError, TrothError
from troth.transactions.log import place, writer
from troth.transactions.log.file import FileLog
from troth.transactions.log.group import GroupCommit
from troth.transactions.log.interface import Decided, DecisionLog

PATIENCE_S = 60


class Ledger:
    """A log in memory: what it was handed is committed, and who asks is told so."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.is_writing = threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        self.is_writing.set()
        assert self.may_write.wait(PATIENCE_S)
        self.written += [commit.gid for commit in commits]
        return [Decided(Verdict.COMMIT, commit.gid) for commit in commits]


class Clients:
    """Threads of their own that decide, and what each was told."""

    def __init__(self, group: GroupCommit) -> None:
        self._group = group
        self.told: dict[str, object] = {}
        self._threads: list[threading.Thread] = []

    def come(self, gid: str) -> None:
        def decide() -> None:
            try:
                self.told[gid] = self._group.decide(Commit(gid, ()))
            except TrothError as error:
                self.told[gid] = error

        thread = threading.Thread(target=decide, daemon=True)
        thread.start()
        self._threads.append(thread)  # perhaps while another thread joins them all

    def wait_queued(self, gid: str) -> None:
        while all(waiting.commit.gid != gid for waiting in list(self._group._queue)):
            assert self._threads[-1].is_alive()
            self._threads[-1].join(0.001)

    def end(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "it waits for ever"


def judged(ledger: Ledger, told: dict[str, object]) -> None:
    """Who was told a verdict was told what stands; any other answer is that nothing is known."""
    for gid, answer in told.items():
        if isinstance(answer, Decided):
            assert answer == Decided(Verdict.COMMIT, gid)
            assert gid in ledger.written
        else:
            assert isinstance(answer, OutcomeUnknown)


def interrupted_writer(interruption: Interruption) -> None:
    """This thread writes, and others come while it does; it is interrupted somewhere."""
    ledger = Ledger()
    group = GroupCommit(cast(DecisionLog, ledger), lambda size: None)
    clients = Clients(group)
    coming = iter(["a", "b"])

    def others_come(commits: Sequence[Commit]) -> list[Decided | TrothError]:
        for gid in coming:
            clients.come(gid)
            clients.wait_queued(gid)
        return Ledger.decide(ledger, commits)

    ledger.decide = others_come  # type: ignore[method-assign]
    told: dict[str, object] = {}
    try:
        told["mine"] = interruption.run(lambda: group.decide(Commit("mine", ())))
    except Interrupted:
        pass
    ends_well(ledger, group, clients, told)


def interrupted_follower(interruption: Interruption) -> None:
    """Another thread writes while this one comes, is the next to write, and is interrupted somewhere."""
    ledger = Ledger()
    group = GroupCommit(cast(DecisionLog, ledger), lambda size: None)
    clients = Clients(group)
    ledger.may_write.clear()
    clients.come("first")
    assert ledger.is_writing.wait(PATIENCE_S)

    def later() -> None:
        # When this thread waits, or has gone.
        deadline = threading.Event()
        for _ in range(20):
            if any(waiting.commit.gid == "mine" for waiting in list(group._queue)):
                break
            deadline.wait(0.001)
        clients.come("last")
        clients.wait_queued("last")
        ledger.may_write.set()

    helper = threading.Thread(target=later, daemon=True)
    helper.start()
    told: dict[str, object] = {}
    try:
        told["mine"] = interruption.run(lambda: group.decide(Commit("mine", ())))
    except Interrupted:
        pass
    helper.join(PATIENCE_S)
    ends_well(ledger, group, clients, told)


def ends_well(ledger: Ledger, group: GroupCommit, clients: Clients, told: dict[str, object]) -> None:
    """Everybody has an answer, and the next decision is made as if nothing had been."""
    clients.come("next")
    clients.end()
    assert clients.told["next"] == Decided(Verdict.COMMIT, "next")
    judged(ledger, told | clients.told)
    # What its owner was not answered may be refused by recovery: nothing may write it later.
    assert group._queue == []


@pytest.mark.parametrize("again_after", [0, 1, 2, 5])
def test_a_writer_that_is_interrupted_anywhere_leaves_nobody_waiting(again_after: int) -> None:
    runs = 0
    for interruption in everywhere("troth.transactions.log.group", again_after=again_after):
        interrupted_writer(interruption)
        runs += 1
    assert runs > 20


@pytest.mark.parametrize("again_after", [0, 1, 2, 5])
def test_a_follower_that_is_interrupted_anywhere_leaves_nobody_waiting(again_after: int) -> None:
    runs = 0
    for interruption in everywhere("troth.transactions.log.group", again_after=again_after):
        interrupted_follower(interruption)
        runs += 1
    assert runs > 15


LOG = tuple(f"troth.transactions.log.{name}" for name in ("file", "writer", "place", "directory"))


def in_another_thread(work: Callable[[], object]) -> object:
    """What *work* returns, or the TrothError that it raises: a lock that this thread has kept is seen."""
    came: list[object] = []

    def do() -> None:
        try:
            came.append(work())
        except TrothError as error:
            came.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert came, "the log is locked for ever"
    return came[0]


def verdict_of(log: FileLog, gid: str) -> Verdict:
    found = parse_gid(gid)
    assert found is not None
    return log.verdict(found[0])


# A directory that was just opened to be listed is closed by the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("key", ["", "order-1"])
@pytest.mark.parametrize(
    "compact_bytes",
    [pytest.param(1 << 20, id="one file"), pytest.param(1, id="compacted", marks=pytest.mark.slow)],
)
def test_what_an_interrupted_log_says_later_it_says_for_ever(
    key: str, compact_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (place, writer):
        monkeypatch.setattr(module, "AHEAD_BYTES", 4096)
    monkeypatch.setattr(place, "SETTLE_PAUSE_S", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    for number, interruption in enumerate(everywhere(*LOG)):
        path = tmp_path / str(number)
        log = FileLog(path, coordinator="0", compact_bytes=compact_bytes)
        first, second, third = (log.epoch.name(sequence) for sequence in (1, 2, 3))
        assert log.decide([Commit(first, ())]) == [Decided(Verdict.COMMIT, first)]
        log._writer._compact_bytes = compact_bytes  # the one before was, most likely, compacted as well
        told: dict[str, object] = {first: Verdict.COMMIT}
        try:
            interruption.run(lambda log=log, second=second: log.decide([Commit(second, (), key)]))
        except Interrupted:
            pass
        answers = in_another_thread(lambda log=log, third=third: log.decide([Commit(third, (), key)]))
        if key and isinstance(answers, list):
            assert "another process holds the keys" not in str(answers[0]), interruption.where
        if isinstance(answers, list) and answers[0] == Decided(Verdict.COMMIT, third):
            told[third] = Verdict.COMMIT
        # As recovery does: whoever writes the cell first decides.
        told[second] = in_another_thread(lambda log=log, second=second: log.abort(Abort(second, "recovery")))
        log.close()
        again = FileLog(path, coordinator="0")
        for gid, verdict in told.items():
            if not isinstance(verdict, StorageError):
                assert verdict_of(again, gid) is verdict, interruption.where
        again.close()
    assert number > 15
