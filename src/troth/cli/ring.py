"""``troth ring``: consistent hashing from the shell. Needs no cluster."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from troth.cli.output import print_json, print_table
from troth.cli.progress import Progress as Bar
from troth.cli.ring_files import alone_with, read_bytes, read_decoded, refuse_to_forget, write_whole
from troth.cli.ring_movers import CommandMover, DirectoryMover
from troth.errors import UsageError
from troth.hashing import (
    ALGORITHMS,
    CapacityExceeded,
    Locator,
    Mover,
    Needs,
    Plan,
    Progress,
    RingSpec,
    Throttle,
    Topology,
    balance,
    balance_of_keys,
    build,
    describe,
    judge,
    movement,
    ring_html,
    ring_svg,
)
from troth.hashing.compat import cassandra_token, kafka_partition, keyspace_id, redis_slot
from troth.hashing.interface import parse_nodes, plan_between
from troth.hashing.spec import build_placement

_LEVELS = {1: ("zone",), 2: ("region", "zone"), 3: ("region", "zone", "rack")}
_SHOWN = 40

_EPILOG = """\b
A ring is a file (--ring ring.json, written by `show --save`) or a list of nodes: name, name=weight,
name=weight@zone or name@region/zone/rack, separated by commas.

\b
  troth ring --nodes a,b,c=2 show --html ring.html --save ring.json
  troth ring --ring ring.json where user:42 --replicas 2
  troth ring --ring ring.json plan --add d -o plan.json --save-after after.json
  troth ring apply plan.json --directory /srv/shards --bytes-per-second 50000000
  troth ring --nodes a,b,c --keys access.log          which algorithm for these keys?
"""

_EXEC_EPILOG = """\b
The command of --exec finds in its environment:
  TROTH_STEP                  copy, switch or drop
  TROTH_SOURCE, TROTH_TARGET  copy from, copy to
  TROTH_LEAVING               the node that gives the range up
  TROTH_FIRST, TROTH_LAST     the range of hashes, both ends included
  TROTH_KEYS                  listed keys, percent-encoded (plans without ranges)
  TROTH_MOVE                  number of the move
If a copy's last word on stdout is a number, it is the bytes copied. Each step may be run again after a crash, and a
copy after a pause. What is written to a range between its copy and its switch is for the command to carry over, in
its switch.
"""


@dataclass
class Session:
    """What the options of the group say, read when a command asks for it."""

    ring_file: Path | None
    nodes: str | None
    algorithm: str
    vnodes: int | None
    keys_file: Path | None
    keys_read: list[bytes] = field(default_factory=list)

    def spec(self) -> RingSpec:
        """The ring as a value.

        Raises:
            UsageError: neither a file nor nodes were named, or the file is not there.
        """
        if self.ring_file is not None:
            return read_decoded(self.ring_file, RingSpec.from_json)
        if self.nodes is None:
            raise UsageError("which ring? name its file with --ring or its nodes with --nodes")
        weights, paths = parse_node_list(self.nodes)
        kind = ALGORITHMS[self.algorithm]
        ring = kind(weights) if self.vnodes is None else build(_with_vnodes(kind(weights), self.vnodes))
        if not paths:
            return describe(ring)
        depth = len(next(iter(paths.values())))
        if depth not in _LEVELS:
            raise UsageError(f"a node's path has one to three levels, not {depth}")
        return describe(ring, Topology(paths, levels=_LEVELS[depth]))

    def keys(self) -> list[bytes]:
        """The lines of --keys; empty if it was not given."""
        if self.keys_file is not None and not self.keys_read:
            self.keys_read = [line for line in read_bytes(self.keys_file).splitlines() if line]
            if not self.keys_read:
                raise UsageError(f"{self.keys_file} has no keys; it needs one on each line")
        return self.keys_read


def _with_vnodes(ring: Locator, vnodes: int) -> RingSpec:
    spec = describe(ring)
    return msgspec.structs.replace(spec, settings={**spec.settings, "vnodes": vnodes})


def parse_node_list(text: str) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """``a,b=2,c=1@eu/eu-1`` as weights and paths.

    Raises:
        UsageError: a weight that is no number, a name twice, or only some nodes with a path.
    """
    names: list[str] = []
    weights: dict[str, float] = {}
    paths: dict[str, tuple[str, ...]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        head, at, path = item.partition("@")
        name, equals, weight = head.partition("=")
        names.append(name)
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise UsageError(f"{item!r}: the weight is no number") from None
        if at:
            paths[name] = tuple(path.split("/"))
            if not all(paths[name]):
                raise UsageError(f"{item!r}: a zone has no name")
    parse_nodes(names)  # refuses a name that is there twice
    if paths and len(paths) != len(weights):
        missing = next(name for name in weights if name not in paths)
        raise UsageError(f"{missing!r} has no zone, but other nodes have; write {missing}@ZONE")
    return weights, paths


@click.group(invoke_without_command=True, epilog=_EPILOG)
@click.option("--ring", "ring_file", type=click.Path(path_type=Path), help="The ring's file.")
@click.option("--nodes", help="Nodes, in place of a file: a,b=2,c@zone.")
@click.option("--algorithm", type=click.Choice(sorted(ALGORITHMS)), default="ring", show_default=True)
@click.option("--vnodes", type=click.IntRange(1), help="Points of a node of weight 1 (algorithm ring).")
@click.option("--keys", "keys_file", type=click.Path(path_type=Path), help="Your keys, one on each line.")
@click.option("--append-only", is_flag=True, help="Judging: only the last node ever leaves.")
@click.option("--cache", is_flag=True, help="Judging: a moved key costs a miss, not a copy.")
@click.option("--shared-history", is_flag=True, help="Judging: all processes see the same changes in order.")
@click.option(
    "--replicas", type=click.IntRange(1), default=1, show_default=True, help="Judging: copies of each key."
)
@click.option("--json", "as_json", is_flag=True, help="Judging: answer as JSON.")
@click.pass_context
def ring(
    ctx: click.Context,
    ring_file: Path | None,
    nodes: str | None,
    algorithm: str,
    vnodes: int | None,
    keys_file: Path | None,
    append_only: bool,
    cache: bool,
    shared_history: bool,
    replicas: int,
    as_json: bool,
) -> None:
    """Consistent hashing: place keys, compare rings, plan a change."""
    session = Session(ring_file=ring_file, nodes=nodes, algorithm=algorithm, vnodes=vnodes, keys_file=keys_file)
    ctx.obj = session
    _refuse_without_effect(ctx)
    if ctx.invoked_subcommand is not None:
        return
    if keys_file is None:
        click.echo(ctx.get_help())
        return
    needs = Needs(
        replicas=replicas,
        remove_any=not append_only,
        order_free=not shared_history,
        minimal=not cache,
    )
    _print_judgement(session, needs, as_json=as_json)


def _refuse_without_effect(ctx: click.Context) -> None:
    """Refuse options that would be passed over: of a ring that a file describes, and of judging, before a command."""
    idle: dict[str | None, str] = {}
    if ctx.params["ring_file"] is not None:
        idle |= dict.fromkeys(("nodes", "algorithm", "vnodes"), "the file of --ring says it")
    if ctx.invoked_subcommand is not None:
        judging = f"it is for judging keys; the options of {ctx.invoked_subcommand} come after its name"
        idle |= dict.fromkeys(("append_only", "cache", "shared_history", "replicas", "as_json"), judging)
    for option in ctx.command.params:
        given = option.name and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option.name in idle:
            raise UsageError(f"{option.opts[0]} has no effect here: {idle[option.name]}")


def _print_judgement(session: Session, needs: Needs, *, as_json: bool) -> None:
    found = judge(session.keys(), dict(session.spec().nodes), needs)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    click.echo(
        f"{found.keys:,} keys, {found.distinct:,} distinct; the most frequent is {found.hottest[0]!r} with "
        f"{found.hottest[1]:.2%}. A perfect spread of so many keys would show a std of {found.chance_std:.1%}."
    )
    rows = [
        (
            verdict.algorithm,
            f"{verdict.peak_to_mean:.3f}",
            f"{verdict.std:.3f}",
            f"{verdict.join:.2f}",
            "-" if verdict.leave is None else f"{verdict.leave:.2f}",
            "cannot " + ", ".join(verdict.lacking) if verdict.lacking else "",
        )
        for verdict in found.verdicts
    ]
    print_table(("algorithm", "peak/mean", "std", "join moved/ideal", "leave moved/ideal", ""), rows)
    click.echo(f"Take: {found.recommended}{' under BoundedLoad' if found.bounded_load else ''}")
    for reason in found.reasons:
        click.echo(f"  {reason}.")


@ring.command()
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the ring into this file.")
@click.option("--html", type=click.Path(path_type=Path), help="A page with the drawing and the table.")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="Draw the moves of this plan as well.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the ring's file.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def show(
    session: Session, svg: Path | None, html: Path | None, plan_file: Path | None, save: Path | None, as_json: bool
) -> None:
    """Print who owns how much, how even it is and what a join would move; draw it."""
    spec = session.spec()
    located = build(spec)
    keys = session.keys()
    spread = balance_of_keys(located, keys) if keys else balance(located)
    plan = read_decoded(plan_file, Plan.from_json) if plan_file else None
    try:
        join = movement(located, located.changed(add=[max(located.members) + "+1"]), keys or None)
    except CapacityExceeded:  # a full Anchor can be looked at all the same
        join = None
    if save is not None:
        write_whole(save, spec.to_json())
    if svg is not None:
        write_whole(svg, ring_svg(located, plan).encode())
    if html is not None:
        write_whole(html, ring_html(located, plan).encode())
    if as_json:
        print_json(
            {
                "algorithm": located.algorithm,
                "digest": str(located.digest),
                "peak_to_mean": spread.peak_to_mean,
                "std": spread.std,
                "join_moved_to_ideal": join and join.moved_to_ideal,
                "shares": spread.shares,
            }
        )
        return
    click.echo(f"{located.algorithm}, {len(located)} nodes, digest {located.digest}")
    rows = [
        (name, f"{located.weights[name]:g}", _path(spec, name), f"{share:.3%}", f"{share / spread.fair[name]:.3f}")
        for name, share in list(spread.shares.items())[:_SHOWN]
    ]
    print_table(("node", "weight", "domain", "of your keys" if keys else "share", "of fair share"), rows)
    if len(located) > _SHOWN:
        click.echo(f"and {len(located) - _SHOWN} more")
    told = f"one more node moves {join.moved:.3%}, {join.moved_to_ideal:.3f} times the ideal" if join else "full"
    click.echo(f"peak/mean {spread.peak_to_mean:.3f}   std {spread.std:.3f}   {told}")


def _path(spec: RingSpec, name: str) -> str:
    return "/".join(spec.paths.get(name, ()))


@ring.command()
@click.argument("key")
@click.option("--replicas", type=click.IntRange(1), help="Copies of the key; else as in the ring's file.")
@click.option(
    "--system",
    type=click.Choice(["redis", "cassandra", "kafka", "vitess"]),
    help="Where that system puts the key, in place of a ring.",
)
@click.option("--partitions", type=click.IntRange(1), help="Partitions of the topic (kafka).")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def where(
    session: Session, key: str, replicas: int | None, system: str | None, partitions: int | None, as_json: bool
) -> None:
    """Print which nodes hold KEY, and which rules that meets."""
    key_bytes = key.encode(errors="surrogateescape")  # what stood on the command line, whatever its encoding
    if system is not None:
        name, place = _where_else(key_bytes, system, partitions)
        if as_json:
            print_json({"key": key, name: place})
        else:
            click.echo(f"{name} {place}")
        return
    spec = session.spec()
    located = build(spec)
    copies = replicas or spec.replicas
    placement = build_placement(msgspec.structs.replace(spec, replicas=copies), located)
    placed = placement.place(key_bytes) if placement else None
    nodes = list(placed.nodes) if placed else located.nodes(key_bytes, copies)
    if as_json:
        answer = {
            "key": key,
            "hash": f"{located.hash_of(key_bytes):x}",
            "nodes": nodes,
            "digest": str(located.digest),
        }
        if placed:
            answer["rules"] = [msgspec.to_builtins(rule) | {"met": rule.met} for rule in placed.proof.rules]
        print_json(answer)
        return
    for node in nodes:
        click.echo(f"{node}\t{_path(spec, node)}".rstrip())
    click.echo(f"hash {located.hash_of(key_bytes):x}, digest {located.digest}", err=True)
    for rule in placed.proof.rules if placed else ():
        click.echo(str(rule), err=True)


def _where_else(key: bytes, system: str, partitions: int | None) -> tuple[str, int | str]:
    if system == "redis":
        return "slot", redis_slot(key)
    if system == "cassandra":
        return "token", cassandra_token(key)
    if system == "kafka":
        if partitions is None:
            raise UsageError("how many partitions has the topic? say --partitions N")
        return "partition", kafka_partition(key, partitions)
    try:
        return "keyspace_id", keyspace_id(int(key)).hex()
    except ValueError:
        raise UsageError(
            f"Vitess' hash vindex takes a whole number, not {key.decode(errors='replace')!r}"
        ) from None


def _change_options(command: click.Command) -> click.Command:
    for option in (
        click.Option(["--after", "after_file"], type=click.Path(path_type=Path), help="File of the ring to come."),
        click.Option(["--add"], multiple=True, help="A node that joins: name, name=weight, name=weight@zone."),
        click.Option(["--remove"], multiple=True, help="A node that leaves."),
        click.Option(["--reweight"], multiple=True, help="name=weight."),
    ):
        command.params.append(option)
    return command


def _changed(
    spec: RingSpec, after_file: Path | None, add: Iterable[str], remove: Iterable[str], reweight: Iterable[str]
) -> RingSpec:
    """The ring to come, from its file or from what changes."""
    add, remove, reweight = list(add), list(remove), list(reweight)
    if after_file is not None:
        if add or remove or reweight:
            raise UsageError("--after names the whole ring to come; leave out --add, --remove and --reweight")
        return read_decoded(after_file, RingSpec.from_json)
    if not (add or remove or reweight):
        raise UsageError("what changes? say --add, --remove, --reweight or --after FILE")
    joining, paths = parse_node_list(",".join(add))
    weights, _ = parse_node_list(",".join(reweight))
    for item in reweight:
        name, equals, weight = item.partition("=")
        if not equals or "@" in weight:  # a zone would be ignored
            raise UsageError(f"which weight, and nothing else? say --reweight {name}=WEIGHT")
    located = build(spec).changed(add=joining, remove=remove, reweight=weights)
    levels = spec.levels
    if not levels and paths:
        raise UsageError(
            f"this ring has no zones; leave out the @ of {next(iter(paths))!r}, or start with a ring that has"
        )
    if not levels:
        return describe(located, None, spec.replicas)
    unplaced = [name for name in joining if len(paths.get(name, ())) != len(levels)]
    if unplaced:
        raise UsageError(f"{unplaced[0]!r} needs its {'/'.join(levels)}: --add {unplaced[0]}@...")
    return describe(located, Topology({**spec.paths, **paths}, levels=levels), spec.replicas)


@_change_options
@ring.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def diff(
    session: Session,
    after_file: Path | None,
    add: Sequence[str],
    remove: Sequence[str],
    reweight: Sequence[str],
    as_json: bool,
) -> None:
    """Print what a change would move, against what it must, and how even it is afterwards."""
    spec = session.spec()
    before, after = build(spec), build(_changed(spec, after_file, add, remove, reweight))
    moved = movement(before, after, session.keys() or None)
    old, new = balance(before), balance(after)
    rows = [
        (name, f"{old.shares.get(name, 0.0):.3%}", f"{new.shares.get(name, 0.0):.3%}")
        for name in sorted({*old.shares, *new.shares})
        if old.shares.get(name) != new.shares.get(name)
    ]
    if as_json:
        print_json(
            {
                "before": str(before.digest),
                "after": str(after.digest),
                "moved": moved.moved,
                "ideal": moved.ideal,
                "astray": moved.astray,
                "peak_to_mean": [old.peak_to_mean, new.peak_to_mean],
                "std": [old.std, new.std],
            }
        )
        return
    print_table(("node", "before", "after"), rows[:_SHOWN])
    click.echo(
        f"moves {moved.moved:.3%} of the keys, {moved.moved_to_ideal:.3f} times the ideal; astray {moved.astray:.3%}\n"
        f"peak/mean {old.peak_to_mean:.3f} -> {new.peak_to_mean:.3f}   std {old.std:.3f} -> {new.std:.3f}"
    )


@_change_options
@ring.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Write the plan here.")
@click.option("--save-after", type=click.Path(path_type=Path), help="Write the file of the ring to come.")
@click.option("--replicas", type=click.IntRange(1), help="Copies of each key; else as in the ring's file.")
@click.option("--moves-per-node", type=click.IntRange(1), default=1, show_default=True)
@click.option("--lost", multiple=True, help="A node that can be read no more.")
@click.pass_obj
def plan(
    session: Session,
    output: Path,
    save_after: Path | None,
    replicas: int | None,
    moves_per_node: int,
    lost: Sequence[str],
    after_file: Path | None,
    add: Sequence[str],
    remove: Sequence[str],
    reweight: Sequence[str],
) -> None:
    """Write a plan: which ranges move from whom to whom, in waves."""
    refuse_to_forget(output)
    spec = session.spec()
    spec = msgspec.structs.replace(spec, replicas=replicas or spec.replicas)
    after_spec = _changed(spec, after_file, add, remove, reweight)
    made = _planned(spec, after_spec, session.keys() or None, moves_per_node, lost)
    write_whole(output, made.to_json())
    if save_after is not None:
        write_whole(save_after, after_spec.to_json())
    click.echo(
        f"{len(made.moves)} moves in {len(made.waves)} waves, {made.moved_fraction:.3%} of all copies "
        f"(an even share is {made.ideal_fraction:.3%})"
    )
    keys_moved = [move.key_count for move in made.moves if move.key_count is not None]
    if keys_moved:
        click.echo(f"{sum(keys_moved):,} of the keys given move")
    if made.unrecoverable:
        click.echo(f"{len(made.unrecoverable)} moves have no node left to copy from: restore them from a backup")


def _planned(
    before: RingSpec, after: RingSpec, keys: list[bytes] | None, moves_per_node: int, lost: Iterable[str]
) -> Plan:
    old, new = build(before), build(after)
    old_placement = build_placement(before, old)
    new_placement = build_placement(msgspec.structs.replace(after, replicas=before.replicas), new)
    return plan_between(
        old_placement or old,
        new_placement or new,
        replicas=before.replicas,
        keys=keys,
        sizes_bytes=None,
        moves_per_node=moves_per_node,
        lost=lost,
    )


@ring.command(epilog=_EXEC_EPILOG)
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--directory", type=click.Path(path_type=Path), help="Nodes are directories here, keys are files.")
@click.option("--exec", "command", help="A shell command run for each step, told by its environment (below).")
@click.option("--bytes-per-second", type=click.FloatRange(min=0, min_open=True), help="Throttle copying.")
@click.option("--stop-after", type=click.IntRange(1), help="Pause after so many moves.")
@click.option(
    "--undo",
    is_flag=True,
    help="Take back what has been done; PLAN becomes the plan of that, which goes on with or without --undo.",
)
def apply(
    plan_file: Path,
    directory: Path | None,
    command: str | None,
    bytes_per_second: float | None,
    stop_after: int | None,
    undo: bool,
) -> None:
    """Carry out PLAN. Progress is kept in it: Ctrl-C pauses, the same command goes on."""
    if (directory is None) == (command is None):
        raise UsageError("who moves the data? say --directory ROOT or --exec COMMAND")
    if directory is not None and not directory.is_dir():
        raise UsageError(f"{directory} is no directory; it holds one for each node")
    with alone_with(plan_file):
        _apply(plan_file, directory, command, bytes_per_second, stop_after, undo)


def _apply(
    plan_file: Path,
    directory: Path | None,
    command: str | None,
    bytes_per_second: float | None,
    stop_after: int | None,
    undo: bool,
) -> None:
    work = read_decoded(plan_file, Plan.from_json)
    if undo and not work.undoing:
        work = work.undo()
        write_whole(plan_file, work.to_json())
    work.resume(copy_again=True)
    mover: Mover = DirectoryMover(directory, work) if directory is not None else CommandMover(command or "")
    throttle = (
        Throttle(bytes_per_second=bytes_per_second, clock=time.monotonic, sleep=time.sleep)
        if bytes_per_second
        else None
    )
    goal = len(work.done) + stop_after if stop_after else len(work.moves)
    with Bar("moves", total=max(1, len(work.moves) - len(work.done)), file=sys.stderr) as bar:

        def save() -> None:
            write_whole(plan_file, work.to_json())

        def on_progress(progress: Progress) -> None:
            bar.advance()
            save()
            if progress.moves_done >= goal:
                work.pause()

        try:
            work.apply(mover, throttle=throttle, on_progress=on_progress, on_switch=save)
        except KeyboardInterrupt:
            work.pause()
        except OSError as error:  # a full disk, a name that no file can have
            raise UsageError(f"the move failed: {error}; apply again to go on") from None
        finally:
            write_whole(plan_file, work.to_json())
    if work.finished:
        click.echo(f"done: {len(work.moves)} moves; the ring is now {work.after}")
    else:
        click.echo(f"paused after {len(work.done)} of {len(work.moves)} moves; the same command goes on")
