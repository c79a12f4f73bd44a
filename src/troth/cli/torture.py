"""torture: a real cluster, real clients and real faults, and a check of everything that the clients were told."""

import random
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from troth.cli.exit_codes import EXIT_OF_CHECK
from troth.cli.numbers import Positive, Whole, counted
from troth.errors import UsageError
from troth.torture import NEMESES, WORKLOADS, Plan
from troth.torture import torture as run_torture
from troth.torture.run import faults_of
from troth.verify.verdict import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.torture.run import Tell
    from troth.torture.system import SystemUnderTest

_CLOSING = {
    Status.OK: ("green", "All claims hold."),
    Status.ILLEGAL: ("red", "A claim does not hold."),
    Status.UNKNOWN: ("yellow", "A claim could not be decided."),
}
_SERVERS = 5


@click.command()
@click.option("--minutes", type=Positive("minutes"), default=5.0, show_default=True, help="How long faults go on.")
@click.option("--seed", type=int, help="Repeats the schedule of faults of an earlier run.  [default: drawn]")
@click.option(
    "--servers", type=Whole(min=1), default=_SERVERS, show_default=True, help="How many servers at first."
)
@click.option(
    "--nemesis",
    "nemeses",
    multiple=True,
    type=click.Choice(list(NEMESES)),
    help="Only these faults; may be repeated.  [default: all that are possible here]",
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="Only these; may be repeated.  [default: all]",
)
@click.option(
    "--system",
    "system_name",
    type=click.Choice(["cluster", "registers"]),
    default="cluster",
    show_default=True,
    help="Whole servers, or acceptors of leaderless registers (workloads of one key at a time).",
)
@click.option(
    "--consensus",
    type=click.Choice(["raft", "paxos"]),
    default="raft",
    show_default=True,
    help="Which protocol keeps the log.",
)
@click.option(
    "--rate",
    type=Positive("operations"),
    default=300.0,
    show_default=True,
    help="Operations a second, all clients together.",
)
@click.option(
    "--output",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep histories, pages and servers' logs in this new directory.  [default: a temporary one, kept]",
)
@click.option(
    "--trace",
    is_flag=True,
    help="Hold every step of every server to the specification of its engine (no full disks then).",
)
@click.option(
    "--network",
    type=click.Choice(["auto", "proxy", "namespaces"]),
    default="auto",
    show_default=True,
    help="What partitions cut: proxies between the servers, or the kernel's network (root; auto: if possible).",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print the schedule of faults and do nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Tell every fault.")
def torture(
    minutes: float,
    seed: int | None,
    servers: int,
    nemeses: tuple[str, ...],
    workloads: tuple[str, ...],
    system_name: str,
    consensus: str,
    rate: float,
    directory: Path | None,
    trace: bool,
    network: str,
    plan_only: bool,
    verbose: bool,
) -> None:
    """Break a real cluster on purpose and check every answer.

    Servers of this machine are killed, stopped, cut off from each other, left without disk space, removed, added and
    all restarted, while clients write down what they ask and what they are told. Then everything is healed, and the
    whole record is checked. Exit code 0: all claims hold. 1: one does not. 3: one could not be decided.

    \b
    Examples:
      troth torture
      troth torture --minutes 1 --nemesis partition --nemesis pause
      troth torture --seed 7 --plan
      troth torture --system registers --minutes 1
      troth torture --consensus paxos
    """
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty; torture needs a new directory")
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    plan = Plan(
        seed=seed,
        seconds=minutes * 60,
        workloads=workloads or _workloads_of(system_name),
        nemeses=nemeses,
        operations_per_second=rate,
    )
    if plan_only:
        with tempfile.TemporaryDirectory() as nowhere:
            system = _system(
                system_name, servers, Path(nowhere), trace=trace, consensus=consensus, namespaces=False
            )
            _print_plan(plan, system)
        return
    where = directory or Path(tempfile.mkdtemp(prefix="troth-torture-"))
    namespaces = system_name == "cluster" and _in_namespaces(network)
    system = _system(
        system_name, servers, where / "servers", trace=trace, consensus=consensus, namespaces=namespaces
    )
    faults = faults_of(plan, system)
    said = [f"--minutes {minutes:g}", f"--seed {seed}"]
    said += [f"--nemesis {name}" for name in nemeses]
    said += [f"--workload {name}" for name in workloads]
    if servers != _SERVERS:
        said.append(f"--servers {servers}")
    if consensus != "raft":
        said.append(f"--consensus {consensus}")
    if trace:
        said.append("--trace")
    if network != "auto":
        said.append(f"--network {network}")
    if system_name != "cluster":
        said.append(f"--system {system_name}")
    click.echo(f"{system.name}, {counted(len(faults), 'fault')}; the same again: troth torture {' '.join(said)}")
    with _shown(plan.seconds, verbose) as tell:
        try:
            outcome = run_torture(system, plan, where, tell=tell)
        except KeyboardInterrupt:
            click.echo(f"what there is by now is in {where}", err=True)
            raise
    click.echo(outcome.text())
    click.echo(f"everything is in {where}")
    colour, words = _CLOSING[outcome.status]
    click.secho(words, fg=colour, bold=True)
    raise SystemExit(EXIT_OF_CHECK[outcome.status.value])


def _print_plan(plan: Plan, system: "SystemUnderTest") -> None:
    """The schedule of faults; *system* is stopped, having done nothing."""
    faults = faults_of(plan, system)
    system.stop()
    for fault in faults:
        click.echo(fault.describe())


def _workloads_of(system_name: str) -> tuple[str, ...]:
    """All that the system can do."""
    if system_name == "registers":
        from troth.torture import registers

        return registers.WORKLOADS
    return tuple(WORKLOADS)


def _in_namespaces(network: str) -> bool:
    from troth.torture.namespaces import Namespaces

    return network == "namespaces" or (network == "auto" and Namespaces.possible())


def _system(
    system_name: str, servers: int, where: Path, *, trace: bool, consensus: str, namespaces: bool
) -> "SystemUnderTest":
    if system_name == "registers":
        if trace:
            raise UsageError("--trace is for servers: acceptors of registers write none")
        from troth.torture.registers import RegisterSystem

        return RegisterSystem(servers, where)
    from troth.torture.cluster import TrothCluster

    return TrothCluster(servers, where, trace=trace, consensus=consensus, namespaces=namespaces)


@contextmanager
def _shown(seconds: float, verbose: bool) -> "Iterator[Tell]":
    """A bar on a terminal; lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    live = sys.stderr.isatty()
    console = Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]:,} operations  {task.fields[what]}"),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task("torture", total=seconds, done=0, what="")
    told_s, newest = 0.0, ""

    def line(text: str) -> None:
        if live:
            console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def tell(at_s: float, operations: int, what: str) -> None:
        nonlocal newest, told_s
        newest = what[:40] or newest
        bar.update(task, completed=min(at_s, seconds), done=operations, what=newest)
        if what and verbose:
            line(f"{at_s:7.1f} s  {what}")
        elif not live and at_s - told_s >= seconds / 10:
            told_s = at_s
            line(f"{at_s:7.1f} s  {counted(operations, 'operation')}")

    with bar if live else nullcontext():
        yield tell
