"""Ctrl-C anywhere in a commit: recovery of the same process, or else of the next, finishes it in both databases."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from interrupting import Interrupted, Interruption, everywhere

from troth.core.twophase.gid import parse_gid
from troth.core.twophase.table import Finding
from troth.errors import TrothError
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.log import place, writer
from troth.transactions.log.file import FileLog
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Begun, Prepared
from troth.transactions.recovery import Recovery
from troth.transactions.steps import nothing
from troth.transactions.transaction import Transaction

MODULES = tuple(
    f"troth.transactions.{name}" for name in ("transaction", "owner", "fan", "core", "barrier", "waiting")
)


class Database:
    """A participant: branch -> active, prepared, committed, rolled back."""

    kind = "memory"
    can_prepare = True
    key = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: dict[str, str] = {}

    def open(self, number: int, begun: Begun) -> "Branch":
        return Branch(self, f"{begun.gid}.{number}", number)

    def prepared(self) -> list[Prepared]:
        listed = [branch for branch, state in self.states.items() if state == "prepared"]
        return [Prepared(found[0], branch, 1.0) for branch in listed if (found := parse_gid(branch))]

    def finish(self, branch: str, *, commit: bool) -> Finding:
        if self.states[branch] != "prepared":
            return Finding.ABSENT
        self.states[branch] = "committed" if commit else "rolled back"
        return Finding.FINISHED

    def prove(self, proof: str) -> Finding:
        return {"committed": Finding.PROVED_COMMITTED, "rolled back": Finding.PROVED_ABORTED}.get(
            self.states[proof], Finding.UNREACHED
        )

    def fence(self, is_closed: Any) -> int:
        return 0

    def prune(self, coordinator: str, needed: Any) -> None: ...

    def close(self) -> None: ...


class Branch:
    handle = None
    wrote = True

    def __init__(self, participant: Database, name: str, number: int) -> None:
        self.participant = participant
        self.name = self.proof = name
        self.number = number
        participant.states[name] = "active"

    def _becomes(self, state: str) -> Callable[[], None]:
        self.participant.states[self.name] = state
        return lambda: None

    def ask(self) -> Callable[[], None]:
        return lambda: None

    def prepare(self) -> Callable[[], None]:
        return self._becomes("prepared")

    def commit_alone(self) -> Callable[[], None]:
        return self._becomes("committed")

    def commit_prepared(self) -> Callable[[], None]:
        return self._becomes("committed")

    def roll_back(self) -> Callable[[], None]:
        return self._becomes("rolled back")

    def release(self, *, broken: bool) -> None:
        if self.participant.states[self.name] == "active":
            assert broken, "the pool has a connection with the transaction still open in it"
            self._becomes("rolled back")

    def __del__(self) -> None:
        """As a connection that is dropped goes back into its pool, and is rolled back there."""
        if self.participant.states[self.name] == "active":
            self._becomes("rolled back")


class Process:
    """A coordinator over *databases*."""

    def __init__(self, path: Path, databases: list[Any]) -> None:
        self.log = FileLog(path, coordinator="0")
        self.core = Core(databases, self.log, barrier=Barrier(None), on_step=nothing, finds_deadlocks=False)
        self.recovery = Recovery(self.core)


@pytest.fixture(autouse=True)
def a_quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (place, writer):
        monkeypatch.setattr(module, "AHEAD_BYTES", 4096)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


def interrupted(interruption: Interruption, path: Path, names: tuple[str, ...], wait: str) -> None:
    databases = [Database("bank"), Database("stock")]
    process = Process(path, databases)
    tx = Transaction(process.core, timeout=None, key="", wait=wait)
    for name in names:
        tx[name]
    try:
        interruption.run(partial(tx.__exit__, None, None, None))
    except (Interrupted, TrothError):
        pass
    told, gid = tx.outcome, tx.gid
    del tx
    if process.core.waiting._pool is not None:  # type: ignore[attr-defined]
        process.core.waiting._pool.shutdown()  # type: ignore[attr-defined]
    process.recovery.run()
    assert not process.core._under_way, "recovery leaves it to its owner for ever"
    process.core.barrier.enter_exclusive(0.001)  # nobody keeps a snapshot waiting
    process.core.barrier.leave_exclusive()
    states = [database.states.get(f"{gid}.{number}") for number, database in enumerate(databases[: len(names)])]
    assert states in (["committed"] * len(names), ["rolled back"] * len(names))
    if told is not None:
        assert told is (Outcome.COMMITTED if states[0] == "committed" else Outcome.ABORTED)
    process.log.close()


@pytest.mark.parametrize("wait", ["applied", "decided"])
@pytest.mark.parametrize("names", [("bank", "stock"), ("bank",)], ids=["two", "one"])
def test_a_commit_that_is_interrupted_anywhere_is_finished_by_recovery(
    names: tuple[str, ...], wait: str, tmp_path: Path
) -> None:
    for number, interruption in enumerate(everywhere(*MODULES)):
        try:
            interrupted(interruption, tmp_path / str(number), names, wait)
        except BaseException as error:
            raise AssertionError(f"interrupted at {interruption.where}") from error
    assert number > 10
