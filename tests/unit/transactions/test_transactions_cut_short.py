"""Ctrl-C anywhere in a commit: recovery of the same process, or else of the next, finishes it in both databases."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from interrupting import Interrupted, Interruption, everywhere

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Commit
from troth.core.twophase.table import Finding, State
from troth.errors import TrothError
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.log import place, writer
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Begun, Prepared
from troth.transactions.recovery import Recovery
from troth.transactions.steps import nothing
from troth.transactions.transaction import Transaction

MODULES = tuple(
    f"troth.transactions.{name}"
    for name in ("transaction", "owner", "fan", "core", "barrier", "waiting", "daemons")
)


class Database:
    """A participant: branch -> active, prepared, committed, rolled back. "lite" is a last resource."""

    kind = "memory"
    given = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.can_prepare = name != "lite"
        self.states: dict[str, str] = {}
        self.held: set[str] = set()
        """Branches whose connection was not given back."""

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

    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        """Nobody is at work on it any more when it is asked."""
        (state,) = (state for branch, state in self.states.items() if branch.startswith(f"{gid}."))
        return True if state == "committed" else False if refuse else None

    def fence(self, is_closed: Any) -> int:
        return 0

    def prune(self, coordinator: str, needed: Any) -> None: ...

    def close(self) -> None: ...


class Branch:
    """`is_asked`: its connection has an answer outstanding, which the next one to use it would take for its own."""

    handle = None
    wrote = True

    def __init__(self, participant: Database, name: str, number: int) -> None:
        self.participant = participant
        self.name = self.proof = name
        self.number = number
        self.is_asked = False
        participant.states[name] = "active"
        participant.held.add(name)

    def _becomes(self, state: str) -> Callable[[], None]:
        assert self.name in self.participant.held, "it is told something on a connection that is another's"
        self.participant.states[self.name] = state
        self.is_asked = True

        def answered() -> None:
            self.is_asked = False

        return answered

    def ask(self) -> Callable[[], None]:
        return lambda: None

    def others_wrote(self) -> None: ...

    def prepare(self) -> Callable[[], None]:
        return self._becomes("prepared")

    def commit_alone(self) -> Callable[[], None]:
        return self._becomes("committed")

    def commit_prepared(self) -> Callable[[], None]:
        return self._becomes("committed")

    def commit_with_marker(self) -> None:
        self._becomes("committed")()

    def roll_back(self) -> Callable[[], None]:
        return self._becomes("rolled back")

    def release(self, *, broken: bool) -> None:
        if self.participant.states[self.name] == "active":
            assert broken, "the pool has a connection with the transaction still open in it"
            self._becomes("rolled back")
        assert broken or not self.is_asked, "the pool has a connection with an answer outstanding"
        self.participant.held.discard(self.name)

    def __del__(self) -> None:
        """As a connection that is dropped goes back into its pool, and is rolled back there."""
        if self.participant.states[self.name] == "active":
            self.participant.states[self.name] = "rolled back"


class Process:
    """A coordinator over *databases*, in the next epoch of *log*."""

    def __init__(self, log: FileLog, databases: list[Any]) -> None:
        log.renew()
        self.core = Core(databases, log, barrier=Barrier(None), on_step=nothing)
        self.recovery = Recovery(self.core)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileLog:
    """On a quick disk."""
    for module in (place, writer):
        monkeypatch.setattr(module, "AHEAD_BYTES", 4096)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    return FileLog(tmp_path)


def interrupted(interruption: Interruption, log: FileLog, names: tuple[str, ...], wait: str) -> tuple[State, bool]:
    """Commit in the databases *names*, be interrupted, and recover; where the transaction stood at the first interrupt,
    and whether its second phase may have been handed over."""
    databases = [Database(name) for name in names]
    process = Process(log, databases)
    tx = Transaction(process.core, timeout=None, key="", wait=wait)
    for name in names:
        tx[name]
    then: list[tuple[State, bool]] = []
    interruption.on_raise = lambda tx=tx: then.append((tx._state, tx._goes_on))  # type: ignore[misc]
    try:
        interruption.run(partial(tx.__exit__, None, None, None))
    except (Interrupted, TrothError):
        pass
    interruption.on_raise = None
    told, gid, has_begun = tx.outcome, tx.gid, tx._state is not State.ACTIVE
    del tx
    if process.core.waiting._pool is not None:  # type: ignore[attr-defined]
        process.core.waiting._pool.end(5)  # type: ignore[attr-defined]
    states = [database.states.get(f"{gid}.{number}") for number, database in enumerate(databases)]
    found = parse_gid(gid)
    assert found is not None
    if "prepared" in states and log.verdict(found[0]) in (Verdict.COMMIT, Verdict.DELEGATED):
        assert gid in {commit.gid for commit in process.core.unapplied()}, "somebody is still to be told of it"
    counted = set(process.core.metrics.outcomes.elements())
    process.recovery.run()
    assert not process.core._under_way, "recovery leaves it to its owner for ever"
    assert not has_begun or not any(database.held for database in databases), "a connection is not given back"
    process.core.barrier.enter_exclusive(0.001, "a snapshot")  # nobody keeps a snapshot waiting
    process.core.barrier.leave_exclusive("a snapshot")
    states = [database.states.get(f"{gid}.{number}") for number, database in enumerate(databases)]
    assert states in (["committed"] * len(names), ["rolled back"] * len(names))
    was_handed_in = len(names) > 1 and any(state in (State.DECIDING, State.IN_DOUBT) for state, _ in then)
    if states[0] == "rolled back" and was_handed_in:
        (late,) = log.decide([Commit(gid, ())])
        assert late == Decided(Verdict.ABORT, gid), "what was handed to the log may still come to be written"
    outcome = Outcome.COMMITTED if states[0] == "committed" else Outcome.ABORTED
    assert told in (outcome, None)
    assert counted <= {outcome.value, "in_doubt"}
    assert process.core.decision(gid) is outcome or (not has_begun and len(names) == 1)
    return then[0] if then else (State.ACTIVE, False)


WAYS = pytest.mark.parametrize(
    ("names", "wait"),
    [
        *((("bank", "stock"), "applied"), (("bank", "stock"), "decided")),
        *((("bank",), "applied"), (("bank", "lite"), "applied")),
    ],
    ids=["two", "two, the second phase in the background", "one", "one and a last resource"],
)


def is_finished(interruption: Interruption, log: FileLog, names: tuple[str, ...], wait: str) -> tuple[State, bool]:
    try:
        return interrupted(interruption, log, names, wait)
    except BaseException as error:
        raise AssertionError(f"interrupted at {interruption.where}") from error


def twice(at: int, log: FileLog, names: tuple[str, ...], wait: str) -> bool:
    """Interrupt the commit at its place *at*, and again at each that it comes to from there; False: it has no *at*."""
    again_after = 0
    while True:
        again_after += 1
        interruption = Interruption(at, *MODULES, again_after=again_after)
        is_finished(interruption, log, names, wait)
        if len(interruption.where) < 2:
            return interruption.came


@WAYS
def test_a_commit_that_is_interrupted_anywhere_is_finished_by_recovery(
    names: tuple[str, ...], wait: str, log: FileLog
) -> None:
    """Also if a second one comes where the first has led to: at the first place in each state, or near the end."""
    found: dict[tuple[State, bool], int] = {}
    for number, interruption in enumerate(everywhere(*MODULES)):
        stood = is_finished(interruption, log, names, wait)
        if interruption.came:
            found.setdefault(stood, number + 1)
    assert number > 10 and len(found) >= 4
    for at in (*found.values(), *range(number - 12, number, 4)):
        twice(at, log, names, wait)


@pytest.mark.slow
@WAYS
def test_two_interrupts_anywhere_are_finished_by_recovery(names: tuple[str, ...], wait: str, log: FileLog) -> None:
    at = 1
    while twice(at, log, names, wait):
        at += 1
    assert at > 10
