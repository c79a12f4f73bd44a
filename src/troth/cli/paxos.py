"""paxos: leaderless registers, straight against the acceptors of the cluster."""

import shlex
import subprocess
import time
from typing import TYPE_CHECKING, Any

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.exit_codes import EXIT_NO
from troth.cli.numbers import Whole
from troth.errors import TrothError, UsageError

if TYPE_CHECKING:
    from troth.client.registers.replies import AcceptorView, RegisterReply
    from troth.client.registers.sync import PaxosClient

_VIEW_COLUMNS = ("acceptor", "address", "registers", "tombstones", "bytes", "state")


@click.group()
def paxos() -> None:
    """Leaderless registers: single-decree Paxos, no log, no election.

    Registers are apart from the keys of `troth put` and `troth get`. Each command is a proposer of its own that talks
    to all acceptors and waits for a quorum of them, so no one of them can hold it up or make it wait for an election.
    """


def _connect(cluster: Cluster, **options: Any) -> "PaxosClient":
    from troth.client.registers.sync import PaxosClient
    from troth.client.url import parse_url

    parse_url(cluster.url)  # a list of addresses without a scheme is for programs
    return PaxosClient(cluster.url, timeout=cluster.timeout_s, **options)


def _show(reply: "RegisterReply", cluster: Cluster, *, value: bool) -> None:
    """Values to standard output as they are; what is said about them to standard error."""
    if cluster.json:
        held = {"value": None} if reply.value is None else output.text_fields("value", reply.value)
        output.print_json({**held, "version": reply.version, "changed": reply.changed, "decided": reply.decided})
        return
    if value and reply.value is not None:
        output.print_raw(reply.value)
    decided = " decided=yes" if reply.decided else ""
    click.echo(
        f"level=linearizable version={reply.version} changed={'yes' if reply.changed else 'no'}{decided}", err=True
    )


@paxos.command()
@click.argument("key")
@cluster_options
def get(key: str, cluster: Cluster) -> None:
    """Print what the register KEY holds. Exit code 1: nothing.

    \b
    Examples:
      troth paxos get colour
      troth paxos get colour -o json
    """
    with _connect(cluster) as registers:
        reply = registers.get(key)
    _show(reply, cluster, value=True)
    if reply.value is None:
        if not cluster.json:
            click.echo(f"nothing in {key}", err=True)
        raise SystemExit(EXIT_NO)


@paxos.command()
@click.argument("key")
@click.argument("value")
@cluster_options
def put(key: str, value: str, cluster: Cluster) -> None:
    """Write VALUE into the register KEY.

    \b
    Example:
      troth paxos put colour red
    """
    with _connect(cluster) as registers:
        _show(registers.put(key, value), cluster, value=False)


@paxos.command()
@click.argument("key")
@click.argument("expected")
@click.argument("value")
@click.option("--absent", is_flag=True, help="EXPECTED is not looked at: the register must hold nothing.")
@cluster_options
def cas(key: str, expected: str, value: str, absent: bool, cluster: Cluster) -> None:
    """Write VALUE if the register KEY holds EXPECTED. Exit code 1: it holds something else.

    \b
    Examples:
      troth paxos cas colour red green
      troth paxos cas colour - red --absent        only if it holds nothing
    """
    with _connect(cluster) as registers:
        reply = registers.cas(key, None if absent else expected, value)
    _show(reply, cluster, value=not reply.succeeded)
    if not reply.succeeded:
        raise SystemExit(EXIT_NO)


@paxos.command()
@click.argument("key")
@click.option("--add", type=int, help="It becomes its number plus this (nothing counts as 0).")
@click.option("--append", "suffix", help="This text is put behind what it holds.")
@click.option("--exec", "program", help="It becomes what this command prints when it reads what it held.")
@cluster_options
def change(key: str, add: int | None, suffix: str | None, program: str | None, cluster: Cluster) -> None:
    """Let the register KEY become a function of what it holds, exactly once.

    The command of --exec is run without a shell ("sh -c '...'" is one), within the time of --timeout. It may be run
    several times, on contents that turn out to be old; its change is applied once. If it fails nothing is changed.

    \b
    Examples:
      troth paxos change visits --add 1
      troth paxos change journal --append "; rebooted"
      troth paxos change colour --exec "tr a-z A-Z"
      troth paxos change colour --exec "sh -c 'cat; echo , and blue'"
    """
    if sum(each is not None for each in (add, suffix, program)) != 1:
        raise UsageError("give one of --add, --append and --exec")
    words = [] if program is None else _words(program)

    def function(held: bytes | None) -> bytes:
        if add is not None:
            return b"%d" % (int(held or b"0") + add)
        if suffix is not None:
            return (held or b"") + suffix.encode()
        try:
            ran = subprocess.run(
                words,
                input=held or b"",
                capture_output=True,
                check=False,
                timeout=max(0.0, deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{program} has not ended in time (--timeout)") from None
        if ran.returncode:
            said = ran.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"{program} ended with {ran.returncode}{': ' if said else ''}{said}")
        return ran.stdout.removesuffix(b"\n")

    with _connect(cluster) as registers:
        deadline = time.monotonic() + cluster.timeout_s
        _show(registers.change(key, function), cluster, value=True)


def _words(program: str) -> list[str]:
    try:
        words = shlex.split(program)
    except ValueError as error:
        raise UsageError(f"--exec {program!r}: {error}") from None
    if not words:
        raise UsageError("--exec names no command")
    return words


@paxos.command()
@click.argument("key")
@click.argument("value")
@cluster_options
def propose(key: str, value: str, cluster: Cluster) -> None:
    """Decide the register KEY once, for ever; prints the decision, ours or an earlier one.

    \b
    Example:
      troth paxos propose release/7/builder host-3
    """
    with _connect(cluster) as registers:
        _show(registers.propose(key, value), cluster, value=True)


@paxos.command()
@click.argument("key")
@cluster_options
def delete(key: str, cluster: Cluster) -> None:
    """Delete the register KEY. Exit code 1: it held nothing.

    A tombstone stays until all acceptors have it; it is then collected, by this command if all of them are up, else by
    `troth paxos collect`.

    \b
    Example:
      troth paxos delete colour
    """
    with _connect(cluster, collect=False) as registers:
        reply = registers.delete(key)
        if reply.changed:
            try:
                registers.collect(key, within_s=cluster.timeout_s)
            except TrothError as error:  # it is deleted, whatever became of this
                click.echo(f"deleted; its tombstone stays for now: {error}", err=True)
    _show(reply, cluster, value=False)
    if not reply.changed:
        raise SystemExit(EXIT_NO)


@paxos.command()
@click.argument("prefix", default="")
@cluster_options
def keys(prefix: str, cluster: Cluster) -> None:
    """List the registers that begin with PREFIX, as a quorum of acceptors holds them; not at one instant.

    \b
    Example:
      troth paxos keys release/
    """
    with _connect(cluster) as registers:
        found = registers.keys(prefix)
    if cluster.json:
        output.print_json([output.text_fields("key", key) for key in found])
        return
    for key in found:
        click.echo(output.shown(key))


@paxos.command()
@cluster_options
def collect(cluster: Cluster) -> None:
    """Remove all tombstones. Needs every acceptor.

    \b
    Example:
      troth paxos collect
    """
    with _connect(cluster) as registers:
        collected = registers.collect()
    if cluster.json:
        output.print_json({"collected": collected})
    else:
        click.echo(f"collected {collected}")


@paxos.group()
def acceptors() -> None:
    """The set of acceptors: look at it, found it, change it while clients run."""


@acceptors.command("list")
@cluster_options
def list_(cluster: Cluster) -> None:
    """List the acceptors and how each is. Exit code 1: one of them is not well.

    \b
    Example:
      troth paxos acceptors list --url troth://127.0.0.1:7301,127.0.0.1:7302,127.0.0.1:7303
    """
    with _connect(cluster) as registers:
        views = registers.acceptors()
        config = registers.configuration
    _show_acceptors(cluster, config.describe(), views)


@acceptors.command()
@click.option(
    "--prepare", type=Whole(min=1), default=None, help="Size of a phase-1 quorum.  [default: a majority]"
)
@click.option("--accept", type=Whole(min=1), default=None, help="Size of a phase-2 quorum.  [default: a majority]")
@cluster_options
def found(prepare: int | None, accept: int | None, cluster: Cluster) -> None:
    """Make the acceptors of the URL a new set. All must be up and belong to none.

    Three or more do so by themselves when the first client comes; one or two, or other quorums, need this.

    \b
    Examples:
      troth paxos acceptors found --url troth://127.0.0.1:7301
      troth paxos acceptors found --url troth://h1:7301,h2:7301,h3:7301,h4:7301,h5:7301 --prepare 4 --accept 2
    """
    with _connect(cluster, found=True, prepare=prepare or 0, accept=accept or 0) as registers:
        if not registers.has_founded:
            raise UsageError(
                f"these acceptors are a set already ({registers.configuration.describe()}): `troth paxos acceptors "
                "list` shows how they are, `troth paxos acceptors set` changes it"
            )
        _show_acceptors(cluster, registers.configuration.describe(), registers.acceptors())


@acceptors.command("set")
@click.argument("addresses", nargs=-1, required=True)
@click.option(
    "--prepare",
    type=Whole(min=1),
    default=None,
    help="Size of a phase-1 quorum.  [default: as it is; a majority where --accept or the number changes]",
)
@click.option(
    "--accept",
    type=Whole(min=1),
    default=None,
    help="Size of a phase-2 quorum.  [default: as it is; a majority where --prepare or the number changes]",
)
@cluster_options
def set_(addresses: tuple[str, ...], prepare: int | None, accept: int | None, cluster: Cluster) -> None:
    """Make the acceptors at ADDRESSES the set, while clients go on.

    New ones must be running and belong to no other set; every register is copied to them. An acceptor whose directory
    was emptied is a new one: name its address again to put it in the place of the old one. If it ends in the middle
    everything works on, and the same command finishes it.

    \b
    Examples:
      troth paxos acceptors set h1:7301 h2:7301 h3:7301 h4:7301        one more
      troth paxos acceptors set h1:7301 h2:7301 h5:7301                h5 for h3
    """
    with _connect(cluster) as registers:
        config = registers.set_acceptors(
            addresses, prepare=prepare or 0, accept=accept or 0, within_s=max(60.0, cluster.timeout_s)
        )
        _show_acceptors(cluster, config.describe(), registers.acceptors())


def _show_acceptors(cluster: Cluster, title: str, views: "list[AcceptorView]") -> None:
    rows = [
        (f"{view.acceptor:x}", view.address, view.registers, view.tombstones, view.bytes, view.state or "ok")
        for view in views
    ]
    if cluster.json:
        output.print_json([dict(zip(_VIEW_COLUMNS, row, strict=True)) for row in rows])
    else:
        click.echo(title, err=True)
        output.print_table(_VIEW_COLUMNS, rows)
    if any(row[-1] != "ok" for row in rows):
        raise SystemExit(EXIT_NO)
