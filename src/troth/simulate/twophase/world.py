"""One seed's run: processes that are killed and paused, messages that are lost, and what must hold in the end."""

import heapq
import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.table import Event, State, step
from troth.errors import InvariantViolation
from troth.simulate.rng import stream
from troth.simulate.twophase.outside import Outside
from troth.simulate.twophase.owner import Owner
from troth.simulate.twophase.recoverer import recovery_pass
from troth.simulate.twophase.servers import (
    COORDINATORS,
    DATABASES,
    LAST,
    LOG,
    SILENT,
    Call,
    Database,
    Log,
    Process,
    Silent,
    parsed,
)

PATIENCE = 40
STEPS_MAX = 400_000


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
        self.outside = Outside(self, seed, faults=faults)
        self.databases = {name: Database(name, self.violated, self.outside) for name in (*DATABASES, LAST)}
        self.log = Log(self.violated, self.outside)
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
            try:
                answer = getattr(server, call.method)(*call.arguments)
            except InvariantViolation as error:
                self.violated(str(error))
                return
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
            while isinstance(epoch, Silent):
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
        guard = self.outside.guard_of(names, DATABASES)
        if guard:
            yield [Call(guard, "work", (gid, False))]
        yield [Call(name, "work", (gid, self.chance(30))) for name in names]
        key = self.outside.key_of(gid, parsed(gid).coordinator)
        owner = Owner(self.chance, gid, names, key=key, guard=guard)
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

    def is_decided(self, gid: str) -> bool:
        """Whether *gid* is to commit, by its cell or by the last resource that this points to."""
        found = self.log.cells[parsed(gid).coordinator].verdict(parsed(gid))
        return found is Verdict.COMMIT or (
            found is Verdict.DELEGATED and self.databases[LAST].states.get(gid) == "committed"
        )

    # ---- recovery --------------------------------------------------------------------------------------

    def recoverer(self) -> Process:
        """Passes without end; now and then it takes an owner for dead, rightly or not."""
        while True:
            for coordinator in COORDINATORS:
                owner = self.running.get(f"owner {coordinator}")
                is_dead = owner is None or not owner.is_alive
                if is_dead or self.chance(25):
                    yield [Call(LOG, "close", (coordinator,))]
            yield from recovery_pass(self.outside)
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
        outcomes: dict[str, str] = {}
        for gid, asked in self.asked.items():
            names = [name for name in asked if (gid, name) not in self.outside.by_hand]
            states = {name: self.databases[name].states.get(gid, "aborted") for name in names}
            ends = {state for state in states.values() if state in ("committed", "aborted")}
            outcomes[gid] = "committed" if "committed" in ends else self.told.get(gid, "")
            if not ends and len(names) < len(asked):
                continue  # all that came to an end was ended by hand
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
        heuristics = {gid: found for cells in self.log.cells.values() for gid, found in cells.heuristics.items()}
        self.outside.check(outcomes, heuristics)
        if self.log.unapplied():
            self.violated(f"AC5: decisions are never applied: {self.log.unapplied()}")
