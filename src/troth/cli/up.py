"""up: a cluster on this machine, in one command, until Ctrl-C."""

import contextlib
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Never

import click
from click.core import ParameterSource

from troth.cli.cluster import forget_context, write_context
from troth.cli.exit_codes import EXIT_INTERRUPTED
from troth.cli.numbers import Whole

if TYPE_CHECKING:
    from troth.server.config import ServerConfig
    from troth.server.local import LocalCluster


NODES_MAX = 63
"""As many as a `LocalCluster` has; its module is loaded only when there is work for it."""


@click.command()
@click.option("--nodes", type=Whole(1, NODES_MAX), default=3, show_default=True, help="How many servers.")
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Where the data stays; a cluster that is there goes on. Default: a temporary directory, removed at the end.",
)
@click.option(
    "--transport",
    type=click.Choice(["tcp", "pipe"]),
    default="tcp",
    show_default=True,
    help="pipe opens no port at all: servers talk over inherited sockets, clients over unix sockets.",
)
@click.option(
    "--consensus",
    type=click.Choice(["raft", "paxos"]),
    default="raft",
    show_default=True,
    help="Which protocol keeps the log. Data that one of them has written is refused by the other.",
)
def up(nodes: int, data: str | None, transport: str, consensus: str) -> None:
    """Run a cluster on this machine until Ctrl-C.

    Each server is a process of its own with a directory of its own. While it runs, the other commands of this user
    find it without --url.

    \b
    Examples:
      troth up
      troth up --nodes 5 --data ~/my-cluster
      troth up --consensus paxos
    """
    from troth.server.local import LocalCluster

    context = click.get_current_context()
    is_given = context.get_parameter_source("nodes") is ParameterSource.COMMANDLINE
    stop = threading.Event()
    _on_signals(_interrupt)  # a start that does not come to its end is broken off
    with (
        _stopped_when_interrupted(),
        LocalCluster(nodes, transport=transport, data_dir=data, consensus=consensus) as cluster,
    ):
        leader = cluster.leader()
        _on_signals(lambda *_: stop.set())
        hidden = _told_to_others(cluster)
        try:
            count = len(cluster.names)
            are_up = "1 server is up" if count == 1 else f"{count} servers are up"
            click.secho(f"{are_up} ({consensus}); {leader} leads.", fg="green", bold=True)
            if count != nodes and is_given:
                click.echo("  --nodes is for new clusters, and this one goes on; see troth member --help")
            click.echo(f"  url   {cluster.url}")
            click.echo(
                f"  data  {cluster.data_dir}{'' if data else '  (removed at the end; keep it with --data DIR)'}"
            )
            for name, server in cluster.servers.items():
                click.echo(f"  {name}    pid {server.pid}")
            click.echo("\nIn another terminal:")
            if hidden:
                click.echo(f"  export TROTH_URL={cluster.url}      (else it is not found: {hidden})")
            click.echo("  troth put greeting hello\n  troth get greeting\n  troth status")
            if count > 2:  # one or two servers do not survive a failure
                killed = f"kill -9 {cluster.servers[leader].pid}; troth get greeting"
                click.echo(f"  {killed}      (the leader dies, the data lives)")
            click.echo("\nCtrl-C stops it.")
            _watch_over(cluster, stop)
        finally:
            forget_context(cluster.url)
    click.echo("stopped")


@contextlib.contextmanager
def _stopped_when_interrupted() -> Iterator[None]:
    """There is nothing yet of which it could be in doubt whether it happened."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("stopped")
        raise SystemExit(EXIT_INTERRUPTED) from None


def _on_signals(handler: Callable[..., object]) -> None:
    """Have *handler* called for whatever asks this process to end."""
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, handler)


def _interrupt(*_: object) -> Never:
    raise KeyboardInterrupt


def _told_to_others(cluster: "LocalCluster") -> str:
    """Let other commands find *cluster*; why they cannot, where nothing may be written at home."""
    try:
        write_context(cluster.url, cluster.data_dir)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        return str(error)
    return ""


def _as_a_command(config: "ServerConfig") -> str:
    """What runs the server of *config* on its own, on the data that it has."""
    flags = {
        "name": config.name,
        "data-dir": config.data_dir,
        "client-address": config.client_address,
        "peer-address": config.peer_address,
        "consensus": config.consensus,
    }
    return shlex.join(
        ["troth", "serve", *(word for flag, value in flags.items() for word in (f"--{flag}", value))]
    )


def _watch_over(cluster: "LocalCluster", stop: threading.Event) -> None:
    """Say it when a server dies; end when *stop* is set."""
    from troth.server.ending import EXIT_REMOVED

    told: set[str] = set()
    while not stop.wait(0.5):
        for name, server in cluster.servers.items():
            if not server.is_alive and name not in told:
                told.add(name)
                why = "was removed" if server.exitcode == EXIT_REMOVED else f"exit code {server.exitcode}"
                click.echo(f"{name} has ended ({why}); its log: {cluster.log_file(name)}")
                if server.exitcode != EXIT_REMOVED and cluster.transport == "tcp":
                    click.echo(f"  start it again, in another terminal: {_as_a_command(server.config)}")
