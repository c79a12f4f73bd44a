"""simulate: clusters on virtual time, with faults, from one seed; what goes wrong can be replayed and made small."""

import os
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from troth.cli.exit_codes import EXIT_INTERRUPTED, EXIT_NO
from troth.cli.numbers import COUNT, POSITIVE, Positive, counted
from troth.errors import UsageError

if TYPE_CHECKING:
    from troth.rehearsal.campaign import Job
    from troth.rehearsal.levels import Level, Report, Scenario

SHRINK_SECONDS = 30.0

PINNED = ("seed", "seconds", "level", "consensus", "why")
"""What a file of pinned seeds says of each."""

_level = click.option(
    "--level",
    "level_name",
    type=click.Choice(["server", "core"]),
    default="server",
    show_default=True,
    help="Whole servers with their clients, or bare consensus cores.",
)
_consensus = click.option("--consensus", default="raft", show_default=True, help="The protocol: raft or paxos.")
_seconds = click.option("--seconds", type=POSITIVE, help="Simulated seconds of chaos a seed.  [default: 60]")


@click.group(invoke_without_command=True)
@click.option("--seeds", type=int, help="How many seeds.  [default: 100, or as many as --minutes holds]")
@click.option("--first", type=COUNT, default=0, show_default=True, help="The first of them.")
@click.option("--minutes", type=Positive("minutes"), help="Begin no seed after so long.")
@click.option("--jobs", default=1, show_default=True, help="Processes that run seeds side by side.")
@_seconds
@_level
@_consensus
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where seeds run: on this machine, or on a Ray cluster (pip install 'ray>=2.9').",
)
@click.option("--ray-address", default="", help="The Ray cluster.  [default: one is started here]")
@click.option(
    "--pin",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A TOML file of seeds that were red once: they run first, and new red ones are added.",
)
@click.option("--stop", is_flag=True, help="Stop at the first red seed.")
@click.pass_context
def simulate(
    context: click.Context,
    seeds: int | None,
    first: int,
    minutes: float | None,
    jobs: int,
    seconds: float | None,
    level_name: str,
    consensus: str,
    engine: str,
    ray_address: str,
    pin: Path | None,
    stop: bool,
) -> None:
    """Run clusters in a world that loses messages, power and disk blocks, one for each seed.

    The code is the real one: servers, storage and clients. Network, disks, clocks and chance are simulated, so a seed
    gives the same run everywhere, byte for byte. First faults and clients together, then calm: everything that was
    acknowledged must be there, and everything clients saw must be consistent as promised. Exit code 1: a seed was red;
    the line below it replays it.

    \b
    Examples:
      troth simulate --seeds 1000 --minutes 10 --jobs 2
      troth simulate --level core --consensus paxos --seeds 200
      troth simulate --pin seeds.toml --jobs 2
      troth simulate replay 42 --html run.html
      troth simulate shrink 42 --output small.json
    """
    if context.invoked_subcommand is not None:
        return
    from troth.rehearsal.campaign import Job, run_here, run_in_processes, run_on_ray

    if jobs < 1 or (seeds is not None and seeds < 1):
        raise UsageError("--seeds and --jobs must be positive")
    level = _level_for(level_name, consensus)
    length_s = level.seconds if seconds is None else seconds
    count = seeds if seeds is not None else (100 if minutes is None else 1 << 40)
    deadline_s = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    pinned = _pinned(pin)

    def wanted() -> Iterator[Job]:
        yield from pinned
        for seed in range(first, first + count):
            if time.monotonic() >= deadline_s:
                return
            yield Job(level=level.name, seed=seed, seconds=length_s, consensus=consensus)

    if engine == "ray":
        reports = run_on_ray(wanted(), ray_address)
    elif jobs > 1:
        reports = run_in_processes(wanted(), jobs)
    else:
        reports = run_here(wanted())
    known = {(job.level, job.seed, job.seconds, job.consensus) for job in pinned}
    pinned_by_seed = {job.seed: job for job in pinned}
    red, interrupted = _campaign(
        reports,
        total=len(pinned) + count if minutes is None or seeds is not None else 0,
        stop=stop,
        command=lambda report: _replay_command(
            pinned_by_seed.get(report.seed)
            or Job(level=level.name, seed=report.seed, seconds=length_s, consensus=consensus)
        ),
    )
    if pin is not None:
        for report in red:
            if (level.name, report.seed, length_s, consensus) not in known and report.seed not in pinned_by_seed:
                _add_pin(pin, report, level, length_s, consensus)
    sys.exit(EXIT_NO if red else EXIT_INTERRUPTED if interrupted else 0)


def _campaign(
    reports: "Iterator[Report]", *, total: int, stop: bool, command: "Callable[[Report], str]"
) -> "tuple[list[Report], bool]":
    """Show reports as they come; the red ones, and whether Ctrl-C came before the last. *command* replays a seed."""
    from troth.cli.progress import Progress

    red: list[Report] = []
    totals: Counter[str] = Counter()
    undecided = done = 0
    simulated_us = events = 0
    began_s, cpu_began_s = time.monotonic(), _cpu_s()
    with (
        _until_interrupted() as interrupted,
        closing(reports) as each,  # type: ignore[type-var]
        Progress("seeds", total=total or 1_000_000, file=sys.stderr) as bar,
    ):
        for report in each:
            done += 1
            simulated_us += report.simulated_us
            events += report.events
            totals.update(report.counts)
            undecided += bool(report.undecided)
            bar.advance()
            if report.violation:
                red.append(report)
                click.echo(f"seed {report.seed}: {report.violation}\n  replay: {command(report)}")
                if stop:
                    break
    took_s = time.monotonic() - began_s
    cpu_s = max(_cpu_s() - cpu_began_s, 1e-3)
    simulated_s = simulated_us / 1e6
    shown = ", ".join(f"{name} {count}" for name, count in sorted(totals.items()) if count)
    click.echo(f"{shown}")
    click.echo(
        f"{counted(done, 'seed')}, {len(red)} red, {undecided} with a check undecided; {simulated_s:.0f} simulated "
        f"seconds and {counted(events, 'event')} in {took_s:.1f} s, {simulated_s / max(took_s, 1e-9):.0f} simulated "
        f"seconds a second\n"
        f"{simulated_s / cpu_s:.0f} simulated seconds a CPU second, {60 * done / cpu_s:.0f} seeds a CPU minute"
    )
    return red, interrupted.is_set()


@contextmanager
def _until_interrupted() -> Iterator[Event]:
    """Ctrl-C ends what is done here, and not what is told about it. The event is set when that has happened."""
    interrupted = Event()
    try:
        yield interrupted
    except KeyboardInterrupt:
        interrupted.set()
        click.echo("Interrupted.", err=True)


def _cpu_s() -> float:
    """Processor time of this process and of those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@simulate.command()
@click.argument("what")
@_seconds
@_level
@_consensus
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Draw the run as one HTML page.")
@click.option("--digest", is_flag=True, help="Print a digest of every byte that was sent.")
@click.option("-v", "--verbose", is_flag=True, help="Tell everything that happens, not only the end.")
def replay(
    what: str,
    seconds: float | None,
    level_name: str,
    consensus: str,
    html: Path | None,
    digest: bool,
    verbose: bool,
) -> None:
    """Run one seed again, or a scenario file that `troth simulate shrink` has written.

    \b
    Examples:
      troth simulate replay 42
      troth simulate replay 42 --seconds 10 --html run.html
      troth simulate replay small.json -v
    """
    scenario = _scenario(what, seconds, level_name, consensus)
    if html is not None:
        from troth.rehearsal.page import Drawing, page

        drawing = Drawing(scenario.level.name)
        report = scenario.run(traffic=digest, watch=drawing.watch)
        command = "troth " + " ".join(click.format_filename(each) for each in sys.argv[1:])
        html.write_text(page(drawing, report, command=command), encoding="utf-8")
        click.echo(f"drawn in {html}")
    else:
        report = scenario.run(traffic=digest)
    click.echo(f"seed {report.seed} ({scenario.level.name}s): {report.described}")
    click.echo(
        f"{report.simulated_us / 1e6:.1f} simulated seconds, {counted(report.events, 'event')}, "
        f"{'1 entry' if report.committed == 1 else f'{report.committed:,} entries'}"
    )
    click.echo("counted: " + ", ".join(f"{name} {count}" for name, count in report.counts.items() if count))
    click.echo("told:    " + ", ".join(f"{name} {count}" for name, count in report.told.items()))
    if digest:
        click.echo(f"digest: {report.digest}")
    if report.violation or verbose:
        click.echo("\n".join(report.last_events))
    if report.violation:
        if verbose:
            click.echo(report.trace)
        click.secho(f"violation: {report.violation}", fg="red")
        sys.exit(EXIT_NO)
    click.secho("Every promise was kept.", fg="green")


@simulate.command()
@click.argument("what")
@_seconds
@_level
@_consensus
@click.option(
    "--within", "within_s", default=SHRINK_SECONDS, show_default=True, help="Stop after so many seconds."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the small scenario goes.  [default: scenario-SEED.json]",
)
def shrink(
    what: str, seconds: float | None, level_name: str, consensus: str, within_s: float, output: Path | None
) -> None:
    """Make a red seed (or scenario) small: as few faults, clients and operations as still break the same rule.

    \b
    Examples:
      troth simulate shrink 42
      troth simulate shrink 42 --level core --within 120 --output small.json
    """
    end_s = time.monotonic() + within_s
    made = _scenario(what, seconds, level_name, consensus).shrunk(lambda: time.monotonic() > end_s)
    if made is None:
        click.echo("This run is green: there is nothing to be made small.")
        return
    small, shrunk = made
    path = output or Path(f"scenario-{shrunk.plan.seed}.json")
    path.write_bytes(small.encode())
    report = small.run()
    click.echo(f"{shrunk.runs} runs; what is left of it: {report.described}")
    for kind, numbers in _by_kind(shrunk.keep).items():
        click.echo(f"  {kind}: {', '.join(map(str, numbers))}")
    click.echo("\n".join(report.last_events[-20:]))
    click.secho(f"violation: {report.violation}", fg="red")
    click.echo(
        f"{counted(shrunk.faults, 'fault')} and {counted(shrunk.operations, 'operation')} left; the same again:"
    )
    click.echo(f"  troth simulate replay {path}")
    sys.exit(EXIT_NO)


@simulate.command()
@click.argument("seed", type=int, required=False)
@click.option("--seeds", type=COUNT, default=100, show_default=True, help="How many seeds, when none is named.")
@click.option("--first", type=COUNT, default=0, show_default=True, help="The first of them.")
@click.option("--ms", type=COUNT, default=100, show_default=True, help="Simulated milliseconds of chaos a seed.")
@click.option("--stop", is_flag=True, help="Stop at the first red seed.")
def registers(seed: int | None, seeds: int, first: int, ms: int, stop: bool) -> None:
    """Leaderless registers: acceptors and proposers under loss, crashes, deletions and changes of the set.

    Every answer is held against what may be said of linearizable registers. Exit code 1: a seed was red; the line
    below it replays it.

    \b
    Examples:
      troth simulate registers --seeds 1000
      troth simulate registers 2244
    """
    from troth.simulate.registers.run import run_seed

    chosen = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    totals: Counter[str] = Counter()
    red = done = 0
    with _until_interrupted() as interrupted:
        for number in chosen:
            outcome = run_seed(number, chaos_ms=ms)
            done += 1
            totals.update(outcome.counts)
            if outcome.violation:
                red += 1
                click.echo(f"seed {number}: {outcome.violation}\n  {outcome.plan.describe()}")
                click.echo(f"  replay: troth simulate registers {number} --ms {ms}")
                if stop:
                    break
    told = ", ".join(f"{count} {name}" for name, count in sorted(totals.items()))
    click.echo(f"{red} red of {counted(done, 'seed')}; {told}")
    sys.exit(EXIT_NO if red else EXIT_INTERRUPTED if interrupted.is_set() else 0)


def _by_kind(keep: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    kinds: dict[str, list[int]] = {}
    for kind, number in keep:
        kinds.setdefault(kind, []).append(number)
    return kinds


def _level_for(name: str, consensus: str) -> "Level":
    from troth.core.engines import engine_kind
    from troth.rehearsal.levels import LEVELS

    engine_kind(consensus)
    return LEVELS[name]


def _scenario(what: str, seconds: float | None, level_name: str, consensus: str) -> "Scenario":
    from troth.rehearsal.levels import Scenario, decode_scenario

    if what.isascii() and what.isdigit():
        level = _level_for(level_name, consensus)
        plan = level.draw(int(what), level.seconds if seconds is None else seconds, consensus)
        return Scenario(level=level, plan=plan)
    path = Path(what)
    if not path.is_file():
        raise UsageError(f"{what} is neither a seed (a number) nor a scenario file")
    return decode_scenario(path.read_bytes())


def _replay_command(job: "Job") -> str:
    options = f" --seconds {job.seconds:g}"
    if job.level != "server":
        options += f" --level {job.level}"
    if job.consensus != "raft":
        options += f" --consensus {job.consensus}"
    return f"troth simulate replay {job.seed}{options}"


def _pinned(path: Path | None) -> "list[Job]":
    from troth.rehearsal.campaign import Job
    from troth.rehearsal.levels import LEVELS

    if path is None or not path.exists():
        return []
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = tables.pop("seed", [])
        strange = [*tables, *(name for entry in entries for name in entry if name not in PINNED)]
        jobs = [
            Job(
                level=str(entry.get("level", "server")),
                seed=int(entry["seed"]),
                seconds=float(entry["seconds"]),
                consensus=str(entry.get("consensus", "raft")),
            )
            for entry in entries
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no file of pinned seeds: {error!r}") from None
    if strange:  # a misspelt name would leave a seed out, or run it otherwise than it was red
        raise UsageError(
            f"{path}: {strange[0]!r} is nothing that is said of pinned seeds; {', '.join(PINNED)} are"
        )
    for job in jobs:
        if job.seed < 0:
            raise UsageError(f"{path}: a seed is at least 0, not {job.seed}")
        if job.level not in LEVELS:
            raise UsageError(f"{path}: no level is called {job.level!r}")
    return jobs


def _add_pin(path: Path, report: "Report", level: "Level", seconds: float, consensus: str) -> None:
    why = report.violation.partition("(")[0].strip().replace("\\", "").replace('"', "'")
    new = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        if new:
            file.write("# Seeds that were red once; `troth simulate --pin` runs them first.\n")
        file.write(
            f'\n[[seed]]\nseed = {report.seed}\nseconds = {seconds:g}\nlevel = "{level.name}"\n'
            f'consensus = "{consensus}"\nwhy = "{why}"\n'
        )
