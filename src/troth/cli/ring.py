"""``troth ring``: consistent hashing from the shell. Needs no cluster."""

from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from troth.cli.numbers import Whole, counted
from troth.cli.output import json_options, print_json, print_table, text_fields
from troth.cli.ring_apply import apply
from troth.cli.ring_change import diff, plan
from troth.cli.ring_files import read_decoded, write_whole
from troth.cli.ring_session import SHOWN, Session, path_of
from troth.errors import UsageError
from troth.hashing import (
    ALGORITHMS,
    CapacityExceeded,
    Needs,
    Plan,
    balance,
    balance_of_keys,
    build,
    judge,
    movement,
    ring_html,
    ring_svg,
)
from troth.hashing.compat import cassandra_token, kafka_partition, keyspace_id, redis_slot
from troth.hashing.spec import build_placement

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


@click.group(invoke_without_command=True, epilog=_EPILOG)
@click.option("--ring", "ring_file", type=click.Path(path_type=Path), help="The ring's file.")
@click.option("--nodes", help="Nodes, in place of a file: a,b=2,c@zone.")
@click.option("--algorithm", type=click.Choice(sorted(ALGORITHMS)), default="ring", show_default=True)
@click.option("--vnodes", type=Whole(1), help="Points of a node of weight 1 (algorithm ring).")
@click.option("--keys", "keys_file", type=click.Path(path_type=Path), help="Your keys, one on each line.")
@click.option("--append-only", is_flag=True, help="Judging: only the last node ever leaves.")
@click.option("--cache", is_flag=True, help="Judging: a moved key costs a miss, not a copy.")
@click.option("--shared-history", is_flag=True, help="Judging: all processes see the same changes in order.")
@click.option("--replicas", type=Whole(1), default=1, show_default=True, help="Judging: copies of each key.")
@json_options
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
        idle |= dict.fromkeys(("append_only", "cache", "shared_history", "replicas", "as_json", "output"), judging)
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
        f"{counted(found.keys, 'key')}, {found.distinct:,} distinct; the most frequent is {found.hottest[0]!r} with "
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
@json_options
@click.pass_obj
def show(
    session: Session, svg: Path | None, html: Path | None, plan_file: Path | None, save: Path | None, as_json: bool
) -> None:
    """Print who owns how much, how even it is and what a join would move; draw it."""
    spec = session.spec()
    located = build(spec)
    keys = session.keys()
    spread = balance_of_keys(located, keys) if keys else balance(located)
    moves = read_decoded(plan_file, Plan.from_json) if plan_file else None
    try:
        join = movement(located, located.changed(add=[max(located.members) + "+1"]), keys or None)
    except CapacityExceeded:  # a full Anchor can be looked at all the same
        join = None
    if save is not None:
        write_whole(save, spec.to_json())
    if svg is not None:
        write_whole(svg, ring_svg(located, moves).encode())
    if html is not None:
        write_whole(html, ring_html(located, moves).encode())
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
    click.echo(f"{located.algorithm}, {counted(len(located), 'node')}, digest {located.digest}")
    rows = [
        (
            name,
            f"{located.weights[name]:g}",
            path_of(spec, name),
            f"{share:.3%}",
            f"{share / spread.fair[name]:.3f}",
        )
        for name, share in list(spread.shares.items())[:SHOWN]
    ]
    print_table(("node", "weight", "domain", "of your keys" if keys else "share", "of fair share"), rows)
    if len(located) > SHOWN:
        click.echo(f"and {len(located) - SHOWN} more")
    told = f"one more node moves {join.moved:.3%}, {join.moved_to_ideal:.3f} times the ideal" if join else "full"
    click.echo(f"peak/mean {spread.peak_to_mean:.3f}   std {spread.std:.3f}   {told}")


@ring.command()
@click.argument("key")
@click.option("--replicas", type=Whole(1), help="Copies of the key; else as in the ring's file.")
@click.option(
    "--system",
    type=click.Choice(["redis", "cassandra", "kafka", "vitess"]),
    help="Where that system puts the key, in place of a ring.",
)
@click.option("--partitions", type=Whole(1), help="Partitions of the topic (kafka).")
@json_options
@click.pass_obj
def where(
    session: Session, key: str, replicas: int | None, system: str | None, partitions: int | None, as_json: bool
) -> None:
    """Print which nodes hold KEY, and which rules that meets."""
    key_bytes = key.encode(errors="surrogateescape")  # what stood on the command line, whatever its encoding
    if system is not None:
        name, place = _where_else(key_bytes, system, partitions)
        if as_json:
            print_json({**text_fields("key", key_bytes), name: place})
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
            **text_fields("key", key_bytes),
            "hash": f"{located.hash_of(key_bytes):x}",
            "nodes": nodes,
            "digest": str(located.digest),
        }
        if placed:
            answer["rules"] = [msgspec.to_builtins(rule) | {"met": rule.met} for rule in placed.proof.rules]
        print_json(answer)
        return
    for node in nodes:
        click.echo(f"{node}\t{path_of(spec, node)}".rstrip())
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


ring.add_command(diff)
ring.add_command(plan)
ring.add_command(apply)
