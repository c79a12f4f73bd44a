"""One run: everything at once, then calm, then the truth."""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from troth.errors import TrothError, UsageError
from troth.torture.background import Background
from troth.torture.nemesis import NEMESES, Fault, Inflicted, schedule
from troth.torture.record import Record
from troth.torture.system import Definite, Indefinite, SystemUnderTest, TortureClient, Unquiet
from troth.torture.workload import Finding, Workload
from troth.torture.workloads import WORKLOADS
from troth.verify.verdict import Status, combine

CALM_SECONDS: Final = 2.0
QUIESCE_SECONDS_MAX: Final = 60.0
CONCLUDE_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 30.0
BACK_OFF_S: Final = 0.05
LATE_SECONDS_MAX: Final = 1.0

Tell = Callable[[float, int, str], None]
"""Called with the seconds since the beginning, operations so far, and what happens at this moment ("" for nothing)."""


SECONDS_MAX = 7 * 24 * 3600
"""Faults go on for a week at most: the whole schedule is drawn before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. The same plan is the same schedule of faults."""

    seed: int
    seconds: float
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    nemeses: tuple[str, ...] = ()
    """All that are possible, if empty."""
    operations_per_second: float = 300.0
    """What all clients together try."""

    def __post_init__(self) -> None:
        for name in self.workloads:
            if name not in WORKLOADS:
                raise UsageError(f"no workload is called {name!r}; there are {', '.join(WORKLOADS)}")
        if not 0 < self.seconds <= SECONDS_MAX:
            raise UsageError(
                f"a run takes more than 0 and at most {SECONDS_MAX} seconds (a week), not {self.seconds:g}"
            )
        if not 0 < self.operations_per_second < math.inf:
            raise UsageError("operations per second must be positive, and finite")


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    plan: Plan
    system: str
    findings: list[Finding] = field(default_factory=list)
    operations: dict[str, dict[str, int]] = field(default_factory=dict)
    """By workload: how many ended ok, failed, unknown."""
    faults: dict[str, int] = field(default_factory=dict)
    """By nemesis: how often it struck."""
    notes: list[str] = field(default_factory=list)
    """Faults that could not be done as planned."""

    @property
    def status(self) -> Status:
        """Illegal if any claim does not hold, unknown if any could not be decided."""
        return combine([finding.status for finding in self.findings])

    def text(self) -> str:
        """For a terminal."""
        words = {Status.OK: "ok     ", Status.ILLEGAL: "ILLEGAL", Status.UNKNOWN: "unknown"}
        lines = [f"{self.system}, {self.plan.seconds:g} s, seed {self.plan.seed}"]
        lines += [f"  {count:5d} x {name}" for name, count in self.faults.items()]
        for name, counts in self.operations.items():
            lines.append(f"  {name}: {counts['ok']} ok, {counts['failed']} failed, {counts['unknown']} unknown")
        for finding in self.findings:
            first, *others = finding.sentence.splitlines() or [""]
            lines.append(f"{words[finding.status]} {finding.claim}: {first}")
            lines += [f"        {line}" for line in others]
            if finding.page is not None:
                lines.append(f"        drawn in {finding.page}")
        return "\n".join(lines)

    def json(self) -> str:
        """For programs."""
        return json.dumps(
            {
                "verdict": self.status.value,
                "system": self.system,
                "seed": self.plan.seed,
                "seconds": self.plan.seconds,
                "faults": self.faults,
                "operations": self.operations,
                "findings": [
                    {"claim": each.claim, "verdict": each.status.value, "sentence": each.sentence}
                    for each in self.findings
                ],
                "notes": self.notes,
            },
            indent=2,
        )


def torture(
    system: SystemUnderTest, plan: Plan, directory: Path, *, tell: Tell = lambda at_s, operations, what: None
) -> Outcome:
    """Torture *system*, which is not started yet, and say what came of it. Histories and pages go to *directory*.

    Call it from the main thread: processes are started here, and should end with whoever started them.

    Raises:
        TrothError: the system does not even start.
    """
    return _Run(system, plan, directory, tell).run()


class _Run:
    def __init__(self, system: SystemUnderTest, plan: Plan, directory: Path, tell: Tell) -> None:
        self._system = system
        self._plan = plan
        self._tell = tell
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._faults = faults_of(plan, system)
        self._workloads: list[Workload] = [
            WORKLOADS[name](Record(directory / f"{name}.jsonl"), plan.seed) for name in plan.workloads
        ]
        self._outcome = Outcome(plan=plan, system=system.name)
        self._stopping = False
        self._clients: list[TortureClient] = []

    def run(self) -> Outcome:
        """All of it; the system is stopped whatever happens."""
        loop = Background("torture-clients")
        try:
            self._system.start()
            loop.call(self._prepare())
            working = loop.start(self._work())
            self._began_s = time.monotonic()
            self._inflict()
            healed = self._heal()
            before = sum(workload.record.ok for workload in self._workloads)
            self._wait_until(time.monotonic() + CALM_SECONDS - self._began_s)
            after = sum(workload.record.ok for workload in self._workloads)
            self._stopping = True
            working.result(STOP_SECONDS_MAX)
            if healed:
                self._add(
                    "serves again after all faults",
                    after > before,
                    f"{after - before} operations within {CALM_SECONDS:g} s",
                )
                self._rest(loop)
            loop.call(self._close())
            complaints = self._system.complaints()
            self._add("no server dies by itself", not complaints, "; ".join(complaints[:5]) or "none did")
        finally:
            try:
                loop.close()
            finally:
                self._system.stop()
                for workload in self._workloads:
                    workload.record.close()
        return self._verdict()

    # ---- clients ------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        client = await self._system.client()
        for workload in self._workloads:
            await workload.prepare(client)
        await client.close()

    async def _work(self) -> None:
        """All workers until they are told to stop."""
        workers = [(workload, worker) for workload in self._workloads for worker in range(workload.workers)]
        rate = self._plan.operations_per_second / max(1, len(workers))
        self._clients = [await self._system.client() for _ in workers]
        await asyncio.gather(
            *(
                self._worker(workload, worker, client, rate)
                for (workload, worker), client in zip(workers, self._clients, strict=True)
            )
        )

    async def _worker(self, workload: Workload, worker: int, client: TortureClient, rate: float) -> None:
        pace = random.Random(f"{self._plan.seed} pace {workload.name} {worker}")
        while not self._stopping:
            try:
                await workload.step(client, worker)
            except (Definite, Indefinite):
                await asyncio.sleep(BACK_OFF_S)
            await asyncio.sleep(pace.expovariate(rate))

    async def _conclude(self) -> None:
        """Read everything with a client that was not there."""
        client = await self._system.client()
        for workload in self._workloads:
            await workload.conclude(client)
        await client.close()

    async def _close(self) -> None:
        for client in self._clients:
            await client.close()

    # ---- the nemesis --------------------------------------------------------------------------------------

    def _inflict(self) -> None:
        """The whole schedule, in real time."""
        moments: list[tuple[float, int, Fault]] = []
        for number, fault in enumerate(self._faults):
            moments += [(fault.begin_s, number, fault), (fault.end_s, number, fault)]
        inflicted: dict[int, tuple[Inflicted, random.Random]] = {}
        begun: set[int] = set()
        for at_s, number, fault in sorted(moments, key=lambda moment: moment[:2]):
            self._wait_until(at_s)
            if number not in begun:
                begun.add(number)
                if time.monotonic() - self._began_s > fault.end_s + LATE_SECONDS_MAX:
                    continue  # the faults before it took too long: it would be over already
                rng = random.Random(fault.pick)
                done = self._attempt(fault, lambda fault=fault, rng=rng: self._begin(fault, rng))  # type: ignore[misc]
                if done is not None:
                    inflicted[number] = (done, rng)
            elif number in inflicted:
                done, rng = inflicted.pop(number)
                self._attempt(fault, lambda fault=fault, done=done, rng=rng: self._end(fault, done, rng))  # type: ignore[misc]
        self._wait_until(self._plan.seconds)

    def _begin(self, fault: Fault, rng: random.Random) -> Inflicted:
        done = NEMESES[fault.nemesis].begin(self._system, rng)
        counts = self._outcome.faults
        counts[fault.nemesis] = counts.get(fault.nemesis, 0) + 1
        self._mark(fault, fault.nemesis, done.words)
        return done

    def _end(self, fault: Fault, done: Inflicted, rng: random.Random) -> Inflicted:
        NEMESES[fault.nemesis].end(self._system, done, rng)
        self._mark(fault, f"end {fault.nemesis}", done.words)
        return done

    def _mark(self, fault: Fault, f: str, words: str) -> None:
        for workload in self._workloads:
            workload.record.fault(f, words)
        self._say(f"{f} {words}".strip())

    def _attempt(self, fault: Fault, action: Callable[[], Inflicted]) -> Inflicted | None:
        """A fault may not be possible at this moment (no quorum for a membership change, say): that is no finding."""
        try:
            return action()
        except (TrothError, OSError, TimeoutError) as error:
            note = f"{fault.nemesis} at {fault.begin_s:g} s: {type(error).__name__}: {error}"
            self._outcome.notes.append(note)
            self._say(note)
            return None

    def _wait_until(self, at_s: float) -> None:
        while (left_s := self._began_s + at_s - time.monotonic()) > 0:
            self._say("")
            time.sleep(min(left_s, 0.25))

    def _say(self, what: str) -> None:
        operations = sum(workload.operations for workload in self._workloads)
        self._tell(time.monotonic() - self._began_s, operations, what)

    # ---- the end ------------------------------------------------------------------------------------------

    def _heal(self) -> bool:
        self._say("heal")
        try:
            self._system.heal()
        except Unquiet as error:
            self._add("comes back when all faults are undone", False, str(error))
            return False
        return True

    def _rest(self, loop: Background) -> None:
        try:
            self._say("wait until all is quiet")
            self._system.quiesce(QUIESCE_SECONDS_MAX)
            loop.call(self._conclude(), CONCLUDE_SECONDS_MAX)
            self._system.quiesce(QUIESCE_SECONDS_MAX)
            hashes = self._system.state_hashes()
        except (Unquiet, Definite, Indefinite, TimeoutError) as error:
            self._add("comes to rest and can be read", False, f"{type(error).__name__}: {error}")
            return
        missing = [server for server in self._system.servers() if server not in hashes]
        same = len(set(hashes.values())) == 1 and not missing
        shown = f"{len(hashes)} servers, state {next(iter(hashes.values()), 'unknown')}" if same else str(hashes)
        self._add("all replicas hold the same state", same, shown)

    def _add(self, claim: str, holds: bool, sentence: str) -> None:
        status = Status.OK if holds else Status.ILLEGAL
        self._outcome.findings.append(Finding(claim=claim, status=status, sentence=sentence))

    def _verdict(self) -> Outcome:
        self._say("check")
        for workload in self._workloads:
            record = workload.record
            self._outcome.operations[workload.name] = {
                "ok": record.ok,
                "failed": record.failed,
                "unknown": record.unknown,
            }
            self._outcome.findings += workload.findings()
        self._outcome.faults = dict(sorted(self._outcome.faults.items()))
        (self._directory / "outcome.json").write_text(self._outcome.json() + "\n", encoding="utf-8")
        return self._outcome


def faults_of(plan: Plan, system: SystemUnderTest) -> Sequence[Fault]:
    """The schedule that *plan* stands for on *system*."""
    return schedule(plan.seed, plan.seconds, powers=system.powers(), names=plan.nemeses)
