"""The two levels of simulation behind one face: bare consensus cores, and whole servers with their clients.

``core``    engines on a stand-in for disk and state machine (troth/simulate): fast, and closest to the protocol.
``server``  the real server, storage and client code (this package): slower, and nothing is left out.

A `Report` is plain data, so that it can come from another process or machine.
"""

import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgspec

from troth.errors import UsageError
from troth.rehearsal import plan as server_plan
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.run import Rehearsal
from troth.simulate import plan as core_plan
from troth.simulate.choices import Choice
from troth.simulate.run import Simulation
from troth.simulate.shrink import Shrinker, Shrunk, Trial

SCENARIO_VERSION = 1
RELATIVES = 6
RELATIVE_US = 8_000_000
OFTEN = 80
"""Seeds, length, and rate of faults of the simple runs that `relatives` tries."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of one run, whatever the level."""

    seed: int
    violation: str = ""
    trace: str = ""
    digest: str = ""
    simulated_us: int = 0
    events: int = 0
    committed: int = 0
    described: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each fault took effect, and what clients did."""
    told: dict[str, int] = field(default_factory=dict)
    undecided: list[str] = field(default_factory=list)
    last_events: list[str] = field(default_factory=list)
    taken: list[Choice] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How one level draws, runs and simplifies."""

    name: str
    seconds: int
    """How long the chaos of a seed lasts unless told otherwise."""
    draw: Callable[[int, float, str], Any]
    run: Callable[..., Report]
    simpler: Callable[[Any], Iterator[Any]]
    relatives: Callable[[Any], Iterator[Any]]
    read: Callable[[dict[str, Any]], Any]

    def shrinker(self, expired: Callable[[], bool]) -> Shrinker[Any]:
        """Makes red runs of this level small."""

        def run(plan: Any, keep: Sequence[Choice] | None) -> Trial:
            report = self.run(plan, keep)
            return Trial(report.violation, report.taken, report.simulated_us)

        return Shrinker(run, simpler=self.simpler, relatives=self.relatives, shorter=_shorter, expired=expired)


def _without(plan: Any, names: Sequence[str]) -> Any:
    return replace(plan, **dict.fromkeys(names, 0))


def _shorter(plan: Any, chaos_us: int, calm: bool) -> Any:
    changes: dict[str, Any] = {"chaos_us": max(100_000, min(plan.chaos_us, chaos_us))}
    if isinstance(plan, server_plan.Plan):
        changes["calm"] = calm
    return replace(plan, **changes)


def relatives(plan: Any, faults: Sequence[str], chances: Sequence[str]) -> Iterator[Any]:
    """Short runs of other seeds, with one of the faults of *plan* (and that one often), or with all but packets'."""
    on = [name for name in faults if getattr(plan, name, 0)]
    quiet = replace(_without(plan, on), chaos_us=min(plan.chaos_us, RELATIVE_US))
    for seed in range(RELATIVES):
        for name in on:
            if name not in chances:
                yield replace(quiet, seed=seed, **{name: max(OFTEN, getattr(plan, name))})
    for seed in range(RELATIVES):
        yield replace(quiet, seed=seed, **{name: getattr(plan, name) for name in on if name not in chances})
        for name in on:
            if name in chances:
                yield replace(quiet, seed=seed, **{name: getattr(plan, name)})


# ---- whole servers -----------------------------------------------------------------------------------------


def run_servers(
    plan: server_plan.Plan,
    keep: Collection[Choice] | None = None,
    *,
    traffic: bool = False,
    watch: Callable[[Cluster], None] | None = None,
) -> Report:
    """Run whole servers. *watch* is given the cluster before anything happens."""
    rehearsal = Rehearsal(plan, keep=keep)
    if traffic:
        rehearsal.cluster.record_traffic()
    if watch is not None:
        watch(rehearsal.cluster)
    outcome = rehearsal.run()
    return Report(
        seed=plan.seed,
        violation=outcome.violation,
        trace=outcome.trace,
        digest=outcome.digest,
        simulated_us=outcome.simulated_us,
        events=outcome.events,
        committed=outcome.committed,
        described=plan.describe(),
        counts={**outcome.faults, **{f"clients: {name}": count for name, count in outcome.operations.items()}},
        told=outcome.traces,
        undecided=outcome.undecided,
        last_events=outcome.last_events,
        taken=outcome.taken,
    )


def simpler_servers(plan: server_plan.Plan) -> Iterator[server_plan.Plan]:
    """Without all faults, without each kind of them; with fewer clients, keys and servers."""
    on = [name for name in (*server_plan.CHANCES, *server_plan.RATES) if getattr(plan, name)]
    if len(on) > 1:
        for part in (on, on[: len(on) // 2], on[len(on) // 2 :]):
            yield _without(plan, part)
    for name in on:
        yield _without(plan, (name,))
    if plan.watchers:
        yield replace(plan, watchers=0)
    for name in server_plan.RARE:
        if getattr(plan, name):
            yield _without(plan, (name,))
    if plan.leases:
        yield replace(plan, leases=False)
    if plan.clients > 1:
        yield replace(plan, clients=1)
        yield replace(plan, clients=plan.clients - 1)
    if plan.servers > 3:
        yield replace(plan, servers=3)
    if plan.keys > 1:
        yield replace(plan, keys=1)


SERVERS = Level(
    name="server",
    seconds=60,
    draw=lambda seed, seconds, consensus: server_plan.draw(seed, chaos_seconds=seconds, consensus=consensus),
    run=run_servers,
    simpler=simpler_servers,
    relatives=lambda plan: relatives(plan, (*server_plan.RATES, *server_plan.CHANCES), server_plan.CHANCES),
    read=server_plan.plan_from,
)

# ---- bare cores --------------------------------------------------------------------------------------------

_CORE_CHANCES = ("loss", "duplicate", "delay_long", "defer")
_CORE_FAULTS = (
    *("loss", "duplicate", "delay_long", "defer", "partitions", "one_way", "crashes", "crash_all"),
    *("keep_unsynced", "pauses", "disk_hangs", "clock_changes", "wrong_hints", "death_seen", "unreachable_told"),
    *("transfers", "changes", "compactions", "reads", "apply_us"),
)


def run_cores(
    plan: core_plan.Plan,
    keep: Collection[Choice] | None = None,
    *,
    traffic: bool = False,
    watch: Callable[[Simulation], None] | None = None,
    **options: Any,
) -> Report:
    """Run bare engines; *options* go to `Simulation`."""
    simulation = Simulation(plan, keep=keep, **options)
    if traffic:
        simulation.record()
    if watch is not None:
        watch(simulation)
    try:
        outcome = simulation.run()
    # A broken engine may do anything; that is a finding like any other.
    except Exception as error:  # noqa: BLE001
        return Report(
            seed=plan.seed,
            violation=f"{type(error).__name__}: {error}",
            trace="".join(traceback.format_exception(error)),
            simulated_us=simulation.world.now_us,
            described=plan.describe(),
            taken=simulation.choices.taken,
        )
    return Report(
        seed=plan.seed,
        violation=outcome.violation,
        digest=outcome.digest,
        simulated_us=outcome.simulated_us,
        events=outcome.events,
        committed=outcome.committed,
        described=plan.describe(),
        counts={**outcome.faults, "reads": outcome.reads},
        told=outcome.traces,
        last_events=outcome.last_events,
        taken=outcome.taken,
    )


def simpler_cores(plan: core_plan.Plan) -> Iterator[core_plan.Plan]:
    """Without all faults, without each kind of them; with fewer servers."""
    on = [name for name in _CORE_FAULTS if getattr(plan, name, 0)]
    if len(on) > 1:
        for part in (on, on[: len(on) // 2], on[len(on) // 2 :]):
            yield _without(plan, part)
    for name in on:
        yield _without(plan, (name,))
    if plan.spares:
        yield replace(plan, spares=0)
    if plan.voters > 3:
        yield replace(plan, voters=3)


CORES = Level(
    name="core",
    seconds=60,
    draw=lambda seed, seconds, consensus: core_plan.draw(
        seed, chaos_seconds=max(1, int(seconds)), consensus=consensus
    ),
    run=run_cores,
    simpler=simpler_cores,
    relatives=lambda plan: relatives(plan, _CORE_FAULTS, _CORE_CHANCES),
    read=lambda values: msgspec.convert(values, core_plan.Plan),
)

LEVELS = {level.name: level for level in (SERVERS, CORES)}


# ---- scenarios: red runs on paper --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A run written down: its plan, and of what could happen in it only *keep* (None: all)."""

    level: Level
    plan: Any
    keep: tuple[Choice, ...] | None = None
    violation: str = ""

    def run(self, **options: Any) -> Report:
        """Run it again."""
        return self.level.run(self.plan, self.keep, **options)

    def shrunk(self, expired: Callable[[], bool]) -> "tuple[Scenario, Shrunk[Any]] | None":
        """As little of it as still breaks the same rule, and how that was found; None when it breaks none."""
        small = self.level.shrinker(expired).shrink(self.plan, self.keep)
        if small is None:
            return None
        return Scenario(level=self.level, plan=small.plan, keep=small.keep, violation=small.violation), small

    def encode(self) -> bytes:
        """As JSON."""
        scenario = {
            "troth_scenario": SCENARIO_VERSION,
            "level": self.level.name,
            "violation": self.violation,
            "plan": asdict(self.plan),
            "keep": self.keep,
        }
        return msgspec.json.format(msgspec.json.encode(scenario), indent=1) + b"\n"


def decode_scenario(data: bytes) -> Scenario:
    """What `Scenario.encode` wrote.

    Raises:
        UsageError: it is no such file.
    """
    try:
        read = msgspec.json.decode(data)
        level = LEVELS[read["level"]]
        keep = read["keep"]
        return Scenario(
            level=level,
            plan=level.read(read["plan"]),
            keep=None if keep is None else tuple((str(kind), int(number)) for kind, number in keep),
            violation=read["violation"],
        )
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this is not a scenario that `troth simulate shrink` has written: {error}") from error
