"""snapshot save and restore: the state of a cluster in one file, and a new cluster out of it."""

import asyncio
from pathlib import Path

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.numbers import Whole, counted
from troth.errors import UsageError
from troth.server.config import load_config

BUMP_MAX = 10**15
"""Revisions have 63 bits, and some must be left for the next restorations."""


@click.group()
def snapshot() -> None:
    """Save keys, history and leases to a file; start anew from one.

    Registers (`troth paxos`) are not in it: their acceptors are no part of the cluster. docs/paxos-client.md says how
    they are saved.

    \b
    Examples:
      troth snapshot save monday.snap
      troth snapshot restore monday.snap --data-dir DIR
    """


@snapshot.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--server", help="Take it from this server. Default: a follower.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@cluster_options
def save(file: Path, server: str | None, force: bool, cluster: Cluster) -> None:
    """Save the state at one revision to FILE; writes go on meanwhile. Registers are not in it.

    FILE, which must be new, appears when all of it is there, on the disk, with a checksum. Nobody but you may read it.

    \b
    Example:
      troth snapshot save backup.troth
    """
    if str(file) == "-" or not file.name:
        raise UsageError(
            f"{str(file)!r} names no file: a snapshot is saved to one, which appears when all is there"
        )
    if file.exists() and not force:
        raise UsageError(f"{file} is there already, and may be the only backup; give another name, or --force")
    asyncio.run(_save(cluster, file, server))
    size_bytes = file.stat().st_size
    if cluster.json:
        output.print_json({"file": str(file), "bytes": size_bytes})
    else:
        click.echo(f"saved {counted(size_bytes, 'byte')} to {file}")


async def _save(cluster: Cluster, file: Path, server: str | None) -> None:
    try:
        async with await cluster.connect_aio() as client:
            await client.snapshot(file, server=server)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}") from error


@snapshot.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data-dir", required=True, help="The new server's data directory; it must not exist, or be empty.")
@click.option("--name", default="n1", show_default=True, help="The new server's name.")
@click.option("--client-address", help="Where clients will reach it.  [default: 127.0.0.1:7001]")
@click.option("--peer-address", help="Where other servers will reach it.  [default: 127.0.0.1:7101]")
@click.option(
    "--bump-revision",
    metavar="N",
    type=Whole(1, BUMP_MAX),
    help="Begin N revisions later, all before compacted. A billion does no harm.",
)
def restore(
    file: Path,
    data_dir: str,
    name: str,
    client_address: str | None,
    peer_address: str | None,
    bump_revision: int | None,
) -> None:
    """Begin a new cluster with the state in FILE.

    Makes the data directory of its first server; start that with `troth serve`, and others with --join. The new
    cluster shares nothing with the old one but the data.

    It begins at the revision of FILE, and the old cluster went on from there. Whoever keeps revisions outside (fencing
    tokens of locks, caches filled by watches) needs --bump-revision with more than was written since, or old revisions
    and new ones are mixed up: new holders of a lock are refused, or let in beside an old one. It is etcd's flag of that
    name together with --mark-compacted.

    \b
    Example:
      troth snapshot restore backup.troth --name n1 --data-dir /var/lib/troth/n1
      troth serve --name n1 --data-dir /var/lib/troth/n1
      troth snapshot restore backup.troth --data-dir n1 --bump-revision 1000000000
    """
    from troth.server.restore import restore as make

    flags: dict[str, object] = {
        "name": name,
        "data_dir": data_dir,
        "client_address": client_address,
        "peer_address": peer_address,
    }
    config = load_config(flags)
    made = make(file, config, bump_revision=bump_revision or 0)
    click.echo(f"cluster {made.cluster_id:x} at revision {made.revision} is in {data_dir}; start it with")
    click.echo(
        f"  troth serve --name {name} --data-dir {data_dir} "
        f"--client-address {config.client_address} --peer-address {config.peer_address}"
    )
