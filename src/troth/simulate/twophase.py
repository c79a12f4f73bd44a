"""Two-phase commit in a world that fails: owners, two recoverers, databases, a last resource and the log.

The rules are the real ones: owners and recoverers do what core/twophase/table.py says, the log is
core/twophase/cells.py, names are core/twophase/gid.py. What is simulated is everything that the tables do not know:
messages that are lost, late or doubled; databases that crash, refuse, or answer "ROLLBACK" to a PREPARE; owners that
die or are paused at any step and wake up later (zombies); recoverers that take a living owner for dead.

Processes are generators: ``reply = yield Call(...)`` is a message and its answer, or SILENT. A process that is killed
is not resumed any more; one that is paused is resumed later. In the end all is calm, owners are gone, and recoverers
finish: then the rules AC1 to AC5 of atomic commitment must hold (Bernstein, Hadzilacos, Goodman 1987, section 7.3).
"""

import heapq
import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from troth.core.twophase.cells import Cells, Verdict
from troth.core.twophase.gid import Gid, parse_gid
from troth.core.twophase.records import Abort, Applied, BranchRef, Commit
from troth.core.twophase.table import Action, Case, Event, Finding, State, Step, move, step
from troth.errors import InvariantViolation
from troth.simulate.rng import stream

LOG = "log"
LAST = "lite"
DATABASES = ("bank", "ledger", "stock")
COORDINATORS = ("c0", "c1")
PATIENCE = 40
STEPS_MAX = 400_000


class _Silent:
    """No answer came in time: nothing is known."""


SILENT = _Silent()


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
    world: "World"
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
            self.world.violated(f"AC2: {self.name} turned {gid} from {before} to {state}")
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
        return "PREPARE TRANSACTION"

    def commit_prepared(self, gid: str) -> Finding:
        if self.states.get(gid) != "prepared":
            return Finding.ABSENT
        self._become(gid, "committed")
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
        return self.commit_prepared(gid) if commit else self.roll_back(gid)

    def listed(self) -> list[str]:
        return [gid for gid, state in self.states.items() if state == "prepared"]

    def fence(self, closed: dict[str, int]) -> None:
        for gid, state in self.states.items():
            found = _parsed(gid)
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

    world: "World"
    is_up: bool = True
    cells: dict[str, Cells] = field(
        default_factory=lambda: {c: Cells("simlog00", c, applied_kept=2) for c in COORDINATORS}
    )
    decisions: dict[str, Verdict] = field(default_factory=dict)

    def open(self, coordinator: str) -> int:
        cells = self.cells[coordinator]
        cells.open_epoch(cells.epoch + 1)
        cells.is_owned = True
        return cells.epoch

    def close(self, coordinator: str) -> int:
        """The open epoch after it: one that nobody has."""
        cells = self.cells[coordinator]
        if cells.is_owned:
            cells.open_epoch(cells.epoch + 1)
            cells.is_owned = False
        return cells.epoch

    def epochs(self) -> dict[str, tuple[int, bool]]:
        """The newest epoch of each coordinator, and whether somebody has it."""
        return {name: (cells.epoch, cells.is_owned) for name, cells in self.cells.items()}

    def decide(self, record: Commit) -> Verdict:
        cells = self.cells[_parsed(record.gid).coordinator]
        is_new = cells.record_of(record.gid) is None
        verdict, _ = cells.judge(record)
        if verdict in (Verdict.COMMIT, Verdict.DELEGATED) and is_new:
            cells.apply(record)
        self._once(record.gid, verdict)
        return verdict

    def verdict(self, gid: str) -> Verdict:
        verdict = self.cells[_parsed(gid).coordinator].verdict(_parsed(gid))
        self._once(gid, verdict)
        return verdict

    def refused(self, gid: str) -> None:
        cells = self.cells[_parsed(gid).coordinator]
        record = cells.unapplied.get(gid)
        if record is not None and record.delegate:
            cells.apply(Abort(gid, "the last resource"))

    def _once(self, gid: str, verdict: Verdict) -> None:
        if verdict not in (Verdict.COMMIT, Verdict.ABORT):
            return
        before = self.decisions.setdefault(gid, verdict)
        if before is not verdict:
            self.world.violated(f"a cell is written once: {gid} was {before.name}, and is {verdict.name}")

    def applied(self, gid: str) -> None:
        self.cells[_parsed(gid).coordinator].apply(Applied((gid,)))

    def unapplied(self) -> list[Commit]:
        return [record for cells in self.cells.values() for record in cells.unapplied.values()]

    def crash(self) -> None:
        """Nothing acknowledged is lost."""


@dataclass(slots=True)
class _Running:
    name: str
    process: Process
    is_alive: bool = True
    paused_until: int = 0


class World:
    """One seed's run. `faults` False: nothing is lost, nobody dies, and every vote is yes."""

    def __init__(self, seed: int, *, faults: bool = True, transactions: int = 8) -> None:
        self._rng = stream(seed, "twophase")
        self._faults = faults
        self._count = transactions
        self.now = 0
        self._calm = not faults
        self._order = itertools.count()
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self.databases = {name: Database(name, self) for name in (*DATABASES, LAST)}
        self.log = Log(self)
        self.running: dict[str, _Running] = {}
        self.violations: list[str] = []
        self.told: dict[str, str] = {}
        """gid -> committed or aborted, as its owner said."""
        self.asked: dict[str, tuple[str, ...]] = {}
        """gid -> the databases that it wrote in."""
        self.trace: list[str] = []

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.now}: {what}")

    def chance(self, one_in: int) -> bool:
        return not self._calm and self._rng.randrange(0, one_in) == 0

    def at(self, delay: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), what))

    # ---- processes and messages ------------------------------------------------------------------------

    def spawn(self, name: str, process: Process) -> None:
        running = _Running(name, process)
        self.running[name] = running
        self.at(0, lambda: self._resume(running, None))

    def kill(self, name: str) -> None:
        running = self.running.get(name)
        if running is not None:
            running.is_alive = False

    def _resume(self, running: _Running, answers: list[Any] | None) -> None:
        if not running.is_alive:
            return
        if running.paused_until > self.now:
            self.at(running.paused_until - self.now, lambda: self._resume(running, answers))
            return
        if running.name.startswith("owner") and self.chance(60):
            if self._rng.randrange(0, 2):
                running.is_alive = False
                self._note(f"{running.name} dies")
                return
            running.paused_until = self.now + self._rng.randrange(50, 1500)
            self._note(f"{running.name} is paused until {running.paused_until}")
            self._resume(running, answers)
            return
        try:
            calls = next(running.process) if answers is None else running.process.send(answers)
        except StopIteration:
            running.is_alive = False
            return
        except InvariantViolation as error:
            self.violated(str(error))
            running.is_alive = False
            return
        self._send(running, calls)

    def _send(self, running: _Running, calls: Sequence[Call]) -> None:
        answers: list[Any] = [SILENT] * len(calls)
        waiting = set(range(len(calls)))
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self._resume(running, answers)

        def deliver(place: int, call: Call) -> None:
            server: Any = self.log if call.server == LOG else self.databases[call.server]
            if not server.is_up:
                return
            answer = getattr(server, call.method)(*call.arguments)
            self._note(f"{running.name} -> {call.server}.{call.method}{call.arguments[:1]} = {answer}")
            if not self.chance(60):
                self.at(self._delay(), lambda: arrive(place, answer))

        def arrive(place: int, answer: Any) -> None:
            if place in waiting and not is_over:
                waiting.discard(place)
                answers[place] = answer
                if not waiting:
                    end()

        for place, call in enumerate(calls):
            for _ in range(2 if self.chance(40) else 1):
                if not self.chance(60):
                    self.at(self._delay(), partial(deliver, place, call))
        self.at(0 if not calls else PATIENCE, end)

    def _delay(self) -> int:
        if self.chance(20):
            return self._rng.randrange(1, 3 * PATIENCE)
        return self._rng.randrange(1, 8)

    def _note(self, what: str) -> None:
        self.trace.append(f"{self.now:>6} {what}")

    # ---- the owner -------------------------------------------------------------------------------------

    def owner(self, coordinator: str) -> Process:
        """Opens an epoch and runs transactions, one after the other."""
        (epoch,) = yield [Call(LOG, "open", (coordinator,))]
        for sequence in range(1, self._count + 1):
            while isinstance(epoch, _Silent):
                (epoch,) = yield [Call(LOG, "open", (coordinator,))]
            gid = str(Gid("simlog00", coordinator, epoch, sequence))
            was_fenced = yield from self._transaction(gid)
            if was_fenced:
                (epoch,) = yield [Call(LOG, "open", (coordinator,))]

    def _transaction(self, gid: str) -> Generator[Sequence[Call], list[Any], bool]:
        names = [*DATABASES[: self._rng.randrange(1, len(DATABASES) + 1)]]
        if self._rng.randrange(0, 3) == 0:
            names.append(LAST)
        if len(names) == 1:
            names = [*DATABASES[:2]]
        self.asked[gid] = tuple(names)
        yield [Call(name, "work", (gid, self.chance(30))) for name in names]
        self._is_fenced = False
        owner = _Owner(self, gid, names)
        event: Event | None = Event.ABORT_ASKED if self.chance(15) else Event.COMMIT_ASKED
        while event is not None:
            owner.state, action = step(owner.state, event)
            event = yield from owner.perform(action)
        if owner.state in (State.COMMITTED, State.COMMITTING):
            self._tell(gid, "committed")
        elif owner.state in (State.ABORTED, State.ABORTING):
            self._tell(gid, "aborted")
        return owner.was_fenced

    def _tell(self, gid: str, outcome: str) -> None:
        self.told[gid] = outcome
        self._note(f"{gid} is told to be {outcome}")

    # ---- recovery --------------------------------------------------------------------------------------

    def recoverer(self) -> Process:
        """Passes without end; now and then it takes an owner for dead, rightly or not."""
        while True:
            for coordinator in COORDINATORS:
                owner = self.running.get(f"owner {coordinator}")
                is_dead = owner is None or not owner.is_alive
                if is_dead or self.chance(25):
                    yield [Call(LOG, "close", (coordinator,))]
            yield from _recovery_pass()
            for _ in range(self._rng.randrange(1, 4)):
                yield []

    # ---- the run ---------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """All violations: none, if the protocol is right."""
        for coordinator in COORDINATORS:
            self.spawn(f"owner {coordinator}", self.owner(coordinator))
        self.spawn("recoverer 0", self.recoverer())
        self.spawn("recoverer 1", self.recoverer())
        end = 4000
        for coordinator in COORDINATORS:
            self.at(self._rng.randrange(500, 2500), partial(self._restart, coordinator))
        for _ in range(8):
            self.at(self._rng.randrange(0, 3000), self._break_something)
        self._go_on_until(end)
        self._calm = True
        for coordinator in COORDINATORS:
            self.kill(f"owner {coordinator}")
        self._go_on_until(end + 4000)
        self._check()
        return self.violations

    def _restart(self, coordinator: str) -> None:
        """A new process takes the coordinator's name; the old one may live on, as a zombie."""
        if self._faults:
            old = self.running.get(f"owner {coordinator}")
            if old is not None:
                self.running[f"zombie {coordinator}"] = old
            self.spawn(f"owner {coordinator}", self.owner(coordinator))

    def _break_something(self) -> None:
        if self._calm:
            return
        servers: list[Database | Log] = [*self.databases.values(), self.log]
        server = self._rng.choice(servers)
        server.crash()
        server.is_up = False

        def heal() -> None:
            server.is_up = True

        self.at(self._rng.randrange(10, 600), heal)

    def _go_on_until(self, end: int) -> None:
        for _ in range(STEPS_MAX):
            if not self._agenda or self._agenda[0][0] > end:
                break
            self.now, _, what = heapq.heappop(self._agenda)
            what()
        self.now = end

    def _check(self) -> None:
        for gid, names in self.asked.items():
            states = {name: self.databases[name].states.get(gid, "aborted") for name in names}
            ends = {state for state in states.values() if state in ("committed", "aborted")}
            if len(ends) > 1:
                self.violated(f"AC1: {gid} ended as {states}")
            if "prepared" in states.values():
                self.violated(f"AC5: {gid} is in doubt for ever: {states}")
            if "committed" in ends and any(gid not in self.databases[name].voted_yes for name in names):
                self.violated(f"AC3: {gid} committed without every vote: {states}")
            if self.told.get(gid, next(iter(ends), "")) not in ends:
                self.violated(f"{gid} was told to be {self.told.get(gid)}, and ended as {states}")
            if not self._faults and ends != {"committed"}:
                self.violated(f"AC4: nothing failed, and {gid} ended as {states}")
        if self.log.unapplied():
            self.violated(f"AC5: decisions are never applied: {self.log.unapplied()}")


@dataclass(slots=True)
class _Owner:
    """Performs the owner's actions with messages."""

    world: World
    gid: str
    names: list[str]
    state: State = State.ACTIVE
    lost: set[str] = field(default_factory=set)
    was_fenced: bool = False

    def perform(self, action: Action) -> Generator[Sequence[Call], list[Any], Event | None]:
        gid = self.gid
        preparing = [name for name in self.names if name != LAST]
        match action:
            case Action.ASK_BRANCHES:
                tags = yield [Call(name, "prepare", (gid, self.world.chance(12))) for name in preparing]
                self.lost |= {name for name, tag in zip(preparing, tags, strict=True) if tag is SILENT}
                return Event.VOTED_YES if is_unanimous(tags) else Event.VOTED_NO
            case Action.SUBMIT:
                refs = tuple(BranchRef(name, gid) for name in preparing)
                delegate = LAST if LAST in self.names else ""
                (verdict,) = yield [Call(LOG, "decide", (Commit(gid, refs, delegate=delegate),))]
                return self._cell(verdict)
            case Action.COMMIT_LAST_RESOURCE:
                (done,) = yield [Call(LAST, "commit_with_marker", (gid,))]
                if done is SILENT:
                    return Event.RESOURCE_SILENT
                if not done:
                    yield [Call(LOG, "refused", (gid,))]
                return Event.RESOURCE_COMMITTED if done else Event.RESOURCE_REFUSED
            case Action.COMMIT_BRANCHES:
                answers = yield [Call(name, "commit_prepared", (gid,)) for name in preparing]
                # "Does not exist" is no success: recovery asks what became of it.
                done_all = all(answer is Finding.FINISHED for answer in answers)
                return Event.BRANCHES_DONE if done_all else Event.BRANCH_LOST
            case Action.ROLL_BACK_BRANCHES:
                reachable = [name for name in self.names if name not in self.lost]
                answers = yield [Call(name, "roll_back", (gid,)) for name in reachable]
                return Event.BRANCH_LOST if self.lost or SILENT in answers else Event.BRANCHES_DONE
            case Action.FORGET:
                yield [Call(LOG, "applied", (gid,))]
                return None
            case Action.COMMIT_ALONE | Action.LEAVE | Action.NOTHING:
                return None

    def _cell(self, verdict: Verdict | _Silent) -> Event:
        match verdict:
            case Verdict.COMMIT:
                return Event.CELL_COMMIT
            case Verdict.DELEGATED:
                return Event.CELL_DELEGATED
            case Verdict.ABORT:
                self.was_fenced = True
                return Event.CELL_ABORT
            case _:
                return Event.LOG_SILENT


def is_unanimous(tags: Sequence[object]) -> bool:
    """Whether every PREPARE was answered by the tag of a prepared transaction, and nothing else."""
    return all(tag == "PREPARE TRANSACTION" for tag in tags)


def _parsed(gid: str) -> Gid:
    found = parse_gid(gid)
    if found is None:
        raise InvariantViolation(f"{gid} is no name")
    return found[0]


def _recovery_pass() -> Generator[Sequence[Call], list[Any], None]:
    """One pass over all databases, as transactions/recovery.py makes it."""
    (epochs,) = yield [Call(LOG, "epochs")]
    if epochs is SILENT:
        return
    closed = {coordinator: number - is_open for coordinator, (number, is_open) in epochs.items()}
    for name in DATABASES:
        (fenced,) = yield [Call(name, "fence", (closed,))]
        if fenced is SILENT:
            continue
        for _ in range(3):
            (listed,) = yield [Call(name, "listed")]
            if listed is SILENT or not listed:
                break
            for gid in listed:
                finding = yield from _cell_of(gid)
                yield from _follow(name, gid, Case.FOUND, finding)
    (unapplied,) = yield [Call(LOG, "unapplied")]
    for record in [] if unapplied is SILENT else unapplied:
        if epochs[_parsed(record.gid).coordinator] == (_parsed(record.gid).epoch, True):
            continue
        finding = yield from _cell_of(record.gid)
        if finding is not Finding.CELL_COMMIT:
            continue
        cases = []
        for ref in record.branches:
            (listed,) = yield [Call(ref.participant, "listed")]
            finding = Finding.UNREACHED
            if listed is not SILENT:
                finding = Finding.CELL_COMMIT if record.gid in listed else Finding.ABSENT
            cases.append((yield from _follow(ref.participant, record.gid, Case.EXPECTED, finding)))
        if all(case in (Case.DONE, Case.HEURISTIC) for case in cases):
            yield [Call(LOG, "applied", (record.gid,))]


def _cell_of(gid: str) -> Generator[Sequence[Call], list[Any], Finding]:
    (verdict,) = yield [Call(LOG, "verdict", (gid,))]
    if verdict is Verdict.DELEGATED:
        (epochs,) = yield [Call(LOG, "epochs")]
        is_open = epochs is SILENT or epochs[_parsed(gid).coordinator] == (_parsed(gid).epoch, True)
        (said,) = yield [Call(LAST, "marker", (gid, not is_open))]
        if said is False:
            yield [Call(LOG, "refused", (gid,))]
            return Finding.CELL_ABORT
        return Finding.CELL_COMMIT if said is True else Finding.LOG_SILENT
    match verdict:
        case Verdict.COMMIT:
            return Finding.CELL_COMMIT
        case Verdict.ABORT:
            return Finding.CELL_ABORT
        case Verdict.OPEN:
            return Finding.EPOCH_OPEN
        case _:
            return Finding.LOG_SILENT


def _follow(name: str, gid: str, case: Case, finding: Finding) -> Generator[Sequence[Call], list[Any], Case]:
    while True:
        case, todo = move(case, finding)
        match todo:
            case Step.COMMIT | Step.ROLL_BACK:
                (answer,) = yield [Call(name, "finish", (gid, todo is Step.COMMIT))]
            case Step.PROVE:
                (answer,) = yield [Call(name, "prove", (gid,))]
            case Step.NOTE_HEURISTIC:
                # Nobody in this world decides for himself: so it is the protocol that was wrong.
                raise InvariantViolation(f"AC1: {gid} was rolled back in {name} against the decision")
            case _:
                return case
        finding = Finding.UNREACHED if answer is SILENT else answer
