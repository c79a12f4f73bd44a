"""Databases made of dictionaries, a real decision log, and recovery over them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Epoch, Gid, parse_gid
from troth.core.twophase.records import BranchRef, Commit
from troth.core.twophase.table import Finding
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.log.file import FileLog
from troth.transactions.participants.base import Prepared
from troth.transactions.recovery import Recovery
from troth.transactions.report import Report
from troth.transactions.waiting import InThreads

T = TypeVar("T")

OVER = 50
"""So many transactions of "me" are over: tests take their names."""


@dataclass
class Database:
    """A participant. `states`: branch -> prepared, committed, rolled back."""

    name: str
    states: dict[str, str] = field(default_factory=dict)
    is_up: bool = True
    held: dict[str, int] = field(default_factory=dict)
    """Branch -> how many more times its session has to be ended."""
    coming: list[str] = field(default_factory=list)
    """Branches that become prepared after each look, one at a time: a PREPARE was under way."""
    proof: Finding = Finding.UNPROVEN
    proofs: list[str] = field(default_factory=list)
    sessions: list[Epoch] = field(default_factory=list)
    marker_says: bool | None = None
    refusals: list[bool] = field(default_factory=list)
    pruned: list[tuple[str, set[str]]] = field(default_factory=list)
    looks: int = 0
    kind: str = "memory"
    can_prepare: bool = True
    given: Any = None

    def reach(self) -> None:
        if not self.is_up:
            raise OSError(f"{self.name} is down")

    def prepared(self) -> list[Prepared]:
        self.reach()
        self.looks += 1
        listed = [branch for branch, state in self.states.items() if state == "prepared"]
        if self.coming:
            self.states[self.coming.pop(0)] = "prepared"
        found = [(parse_gid(branch), branch) for branch in listed]
        return [Prepared(gid[0], branch, 1.0) for gid, branch in found if gid is not None]

    def finish(self, branch: str, *, commit: bool) -> Finding:
        self.reach()
        if self.held.get(branch):
            return Finding.ATTACHED
        if self.states.get(branch) != "prepared":
            return Finding.ABSENT
        self.states[branch] = "committed" if commit else "rolled back"
        return Finding.FINISHED

    def detach(self, branch: str) -> None:
        self.reach()
        self.held[branch] -= 1

    def prove(self, proof: str) -> Finding:
        self.reach()
        self.proofs.append(proof)
        return self.proof

    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        self.reach()
        ended = [session for session in self.sessions if is_closed(session)]
        self.sessions = [session for session in self.sessions if session not in ended]
        return len(ended)

    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        self.refusals.append(refuse)
        if refuse and self.marker_says is None:
            self.marker_says = False
        return self.marker_says

    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        self.pruned.append((coordinator, set(needed)))

    def waits(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


class Outside(InThreads):
    """Knows whether something is being done that may block."""

    is_blocking = False

    @override
    def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        before, self.is_blocking = self.is_blocking, True
        try:
            return work(*arguments)
        finally:
            self.is_blocking = before


class Watched:
    """A log that is asked only where asyncio's loop would not wait for it."""

    def __init__(self, log: FileLog, waiting: Outside) -> None:
        self._log = log
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._log, name)
        if not callable(found):
            return found

        def asked(*arguments: Any, **named: Any) -> Any:
            assert self._waiting.is_blocking, f"{name}() of the log would keep a loop waiting"
            return found(*arguments, **named)

        return asked


class Place:
    """A process that recovers ("me"), and one that has died or lives ("other"), on one log."""

    def __init__(self, path: Path) -> None:
        self.bank, self.stock = Database("bank"), Database("stock")
        self.other = FileLog(path, coordinator="other")
        self.log = FileLog(path, coordinator="me")
        self.steps: list[str] = []
        waiting = Outside()
        self.core = Core(
            [self.bank, self.stock],  # type: ignore[list-item]
            Watched(self.log, waiting),  # type: ignore[arg-type]
            waiting=waiting,
            barrier=Barrier(None),
            on_step=self.steps.append,
        )
        for _ in range(OVER):
            self.core.dropped(self.core.next_gid())
        self.recovery = Recovery(self.core)

    def run(self, **options: bool) -> Report:
        return self.recovery.run(**options)

    def die(self) -> None:
        self.other.close()

    def verdict(self, gid: str) -> Verdict:
        found = parse_gid(gid)
        assert found is not None
        return self.log.verdict(found[0])


def name(log: FileLog, sequence: int = 1) -> str:
    return str(Gid(log.log_id, log.epoch.coordinator, log.epoch.number, sequence))


def prepared(gid: str, *databases: Database) -> list[str]:
    """*gid* is prepared in *databases*; the branches."""
    branches = []
    for number, database in enumerate(databases):
        branches.append(f"{gid}.{number}")
        database.states[branches[-1]] = "prepared"
    return branches


def claimed(log: FileLog) -> Path:
    """Somebody takes the place of *log* over, or its owner shortens its file, and has come no further than the next
    file's name."""
    path = log._place.path(log._place.numbers()[-1] + 1)
    path.touch()
    return path


def decided(log: FileLog, gid: str, *databases: Database, delegate: str = "") -> Commit:
    refs = tuple(BranchRef(each.name, f"{gid}.{n}", f"proof {n}") for n, each in enumerate(databases))
    record = Commit(gid, refs, delegate=delegate)
    (answer,) = log.decide([record])
    assert not isinstance(answer, Exception) and answer.gid == gid
    return record
