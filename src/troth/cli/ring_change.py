"""``troth ring diff`` and ``plan``: what a change of the nodes would move, and the plan that moves it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import msgspec

from troth.cli.numbers import Whole, counted
from troth.cli.output import json_options, print_json, print_table
from troth.cli.ring_files import read_decoded, refuse_to_forget, write_whole
from troth.cli.ring_session import SHOWN, Session, parse_node_list
from troth.errors import UsageError
from troth.hashing import Plan, RingSpec, Topology, balance, build, describe, movement
from troth.hashing.between import plan_between
from troth.hashing.spec import build_placement


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
@click.command()
@json_options
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
    print_table(("node", "before", "after"), rows[:SHOWN])
    click.echo(
        f"moves {moved.moved:.3%} of the keys, {moved.moved_to_ideal:.3f} times the ideal; astray {moved.astray:.3%}\n"
        f"peak/mean {old.peak_to_mean:.3f} -> {new.peak_to_mean:.3f}   std {old.std:.3f} -> {new.std:.3f}"
    )


@_change_options
@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Write the plan here.")
@click.option("--save-after", type=click.Path(path_type=Path), help="Write the file of the ring to come.")
@click.option("--replicas", type=Whole(1), help="Copies of each key; else as in the ring's file.")
@click.option("--moves-per-node", type=Whole(1), default=1, show_default=True)
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
        f"{counted(len(made.moves), 'move')} in {counted(len(made.waves), 'wave')}, {made.moved_fraction:.3%} of all "
        f"copies (an even share is {made.ideal_fraction:.3%})"
    )
    keys_moved = [move.key_count for move in made.moves if move.key_count is not None]
    if keys_moved:
        click.echo(f"{sum(keys_moved):,} of the keys given move")
    if made.unrecoverable:
        gone = len(made.unrecoverable)
        have, them = ("has", "it") if gone == 1 else ("have", "them")
        click.echo(f"{counted(gone, 'move')} {have} no node left to copy from: restore {them} from a backup")


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
