"""What a process of that world talks to: databases, one of which cannot prepare, and the decision log."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from troth.core.twophase.cells import Cells, Verdict
from troth.core.twophase.gid import Gid, parse_gid
from troth.core.twophase.records import Abort, Applied, Commit, Heuristic
from troth.core.twophase.table import Finding
from troth.errors import InvariantViolation
from troth.simulate.twophase.outside import Outside

LOG = "log"
LAST = "lite"
DATABASES = ("bank", "ledger", "stock")
COORDINATORS = ("c0", "c1")


class Silent:
    """No answer came in time: nothing is known."""


SILENT = Silent()


@dataclass(frozen=True, slots=True)
class Call:
    """A question to a server: the name of its method, and arguments."""

    server: str
    method: str
    arguments: tuple[Any, ...] = ()


Process: TypeAlias = Generator[Sequence[Call], list[Any], Any]


@dataclass(slots=True)
class Database:
    """A database as two-phase commit sees it: one state for each transaction."""

    name: str
    violated: Callable[[str], None]
    outside: Outside
    states: dict[str, str] = field(default_factory=dict)
    """gid -> active, failed, prepared, committed, aborted."""
    voted_yes: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Last resource only: transactions with a marker that says no."""
    is_up: bool = True

    def crash(self) -> None:
        """What was not prepared is gone."""
        for gid, state in self.states.items():
            if state in ("active", "failed"):
                self._become(gid, "aborted")

    def _become(self, gid: str, state: str) -> None:
        before = self.states.get(gid)
        if before in ("committed", "aborted") and state != before:
            self.violated(f"AC2: {self.name} turned {gid} from {before} to {state}")
        self.states[gid] = state

    def work(self, gid: str, fails: bool) -> bool:
        if gid not in self.states:
            self.states[gid] = "failed" if fails else "active"
        return True

    def prepare(self, gid: str, refuses: bool) -> str:
        """The answer's tag; "ERROR" is a refusal, and "ROLLBACK" what PostgreSQL says of a failed transaction."""
        state = self.states.get(gid)
        if state == "failed":
            self._become(gid, "aborted")
            return "ROLLBACK"
        if state != "active":
            return "ERROR"
        if refuses:
            self._become(gid, "aborted")
            return "ERROR"
        self._become(gid, "prepared")
        self.voted_yes.add(gid)
        self.outside.on_prepared(gid, self.name)
        return "PREPARE TRANSACTION"

    def commit_prepared(self, gid: str) -> Finding:
        if self.states.get(gid) != "prepared":
            return Finding.ABSENT
        self._become(gid, "committed")
        return Finding.FINISHED

    def let_go(self, gid: str) -> Finding:
        """End a transaction that only read here."""
        if self.states.get(gid) != "active":
            return Finding.ABSENT
        self._become(gid, "committed")
        self.outside.on_let_go(gid, self.name)
        return Finding.FINISHED

    def roll_back(self, gid: str) -> Finding:
        if self.states.get(gid) not in ("prepared", "active", "failed"):
            return Finding.ABSENT
        self._become(gid, "aborted")
        return Finding.FINISHED

    def finish(self, gid: str, commit: bool) -> Finding:
        """From another session: only a prepared branch can be finished."""
        if self.states.get(gid) != "prepared":
            return Finding.ABSENT
        if commit and self.outside.is_faster(gid, self.name):
            return Finding.ABSENT
        return self.commit_prepared(gid) if commit else self.roll_back(gid)

    def listed(self) -> list[str]:
        return [gid for gid, state in self.states.items() if state == "prepared"]

    def fence(self, closed: dict[str, int]) -> None:
        for gid, state in self.states.items():
            found = parsed(gid)
            if state in ("active", "failed") and found.epoch <= closed[found.coordinator]:
                self._become(gid, "aborted")

    def prove(self, gid: str) -> Finding:
        match self.states.get(gid):
            case "committed":
                return Finding.PROVED_COMMITTED
            case "prepared" | "active":
                return Finding.UNREACHED
            case _:
                return Finding.PROVED_ABORTED

    def commit_with_marker(self, gid: str) -> bool:
        """The last resource's decision: False, certainly not."""
        if self.states.get(gid) == "committed":
            return True
        if gid in self.refused or self.states.get(gid) != "active":
            return False
        self.voted_yes.add(gid)
        self._become(gid, "committed")
        return True

    def marker(self, gid: str, refuse: bool) -> bool | None:
        if self.states.get(gid) == "committed":
            return True
        if refuse:
            self.refused.add(gid)
        return False if gid in self.refused else None


@dataclass(slots=True)
class Log:
    """The decision log: one `Cells` for each coordinator; what is acknowledged is durable."""

    violated: Callable[[str], None]
    outside: Outside
    is_up: bool = True
    cells: dict[str, Cells] = field(
        default_factory=lambda: {c: Cells("simlog00", c, applied_kept=2) for c in COORDINATORS}
    )
    decisions: dict[str, Verdict] = field(default_factory=dict)

    def open(self, coordinator: str) -> int:
        cells = self.cells[coordinator]
        cells.begin(cells.epoch + 1)
        return cells.epoch

    def close(self, coordinator: str) -> int:
        """The open epoch after it: one that nobody has."""
        cells = self.cells[coordinator]
        if cells.is_owned:
            cells.begin(cells.epoch + 1, is_owned=False)
        return cells.epoch

    def epochs(self) -> dict[str, tuple[int, bool]]:
        """The newest epoch of each coordinator, and whether somebody has it."""
        return {name: (cells.epoch, cells.is_owned) for name, cells in self.cells.items()}

    def decide(self, record: Commit) -> tuple[Verdict, str]:
        """The verdict, and the transaction that it is about: another one, if that has the key."""
        cells = self.cells[parsed(record.gid).coordinator]
        is_new = cells.record_of(record.gid) is None
        verdict, holder = cells.judge(record)
        if holder == record.gid:
            if verdict in (Verdict.COMMIT, Verdict.DELEGATED) and is_new:
                cells.apply(record)
            self._once(record.gid, verdict)
        return verdict, holder

    def abort(self, record: Abort) -> None:
        """An operator's, in a cell that nothing stands in."""
        cells = self.cells[parsed(record.gid).coordinator]
        if cells.verdict(parsed(record.gid)) is Verdict.OPEN:
            cells.apply(record)
            self._once(record.gid, Verdict.ABORT)

    def heuristic(self, found: Heuristic) -> bool:
        self.cells[parsed(found.gid).coordinator].apply(found)
        if not self.outside.may_have_met(found):
            self.violated(f"AC1: {found.gid} was rolled back in {found.participant} against the decision")
        return True

    def verdict(self, gid: str) -> Verdict:
        verdict = self.cells[parsed(gid).coordinator].verdict(parsed(gid))
        self._once(gid, verdict)
        return verdict

    def refused(self, gid: str) -> None:
        cells = self.cells[parsed(gid).coordinator]
        record = cells.unapplied.get(gid)
        if record is not None and record.delegate:
            cells.apply(Abort(gid, "the last resource"))

    def _once(self, gid: str, verdict: Verdict) -> None:
        if verdict not in (Verdict.COMMIT, Verdict.ABORT):
            return
        before = self.decisions.setdefault(gid, verdict)
        if before is not verdict:
            self.violated(f"a cell is written once: {gid} was {before.name}, and is {verdict.name}")

    def applied(self, gid: str) -> None:
        self.cells[parsed(gid).coordinator].apply(Applied((gid,)))

    def unapplied(self) -> list[Commit]:
        return [record for cells in self.cells.values() for record in cells.unapplied.values()]

    def crash(self) -> None:
        """Nothing acknowledged is lost."""


def parsed(gid: str) -> Gid:
    found = parse_gid(gid)
    if found is None:
        raise InvariantViolation(f"{gid} is no name")
    return found[0]
