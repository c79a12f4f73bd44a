"""member add, remove, promote, list; transfer."""

from typing import TYPE_CHECKING

import click

from troth.cli import output
from troth.cli.cluster import GIVEN_URL, Cluster, cluster_options
from troth.cli.failures import advice_for, asked_of
from troth.cli.numbers import POSITIVE
from troth.errors import InvalidRequest, NotLeader

if TYPE_CHECKING:
    from troth.replica.protocol import PeerView

_CHANGE_S = click.option(
    "--within",
    type=POSITIVE,
    default=60.0,
    show_default=True,
    help="Seconds to wait until the change is complete.",
)


@click.group()
def member() -> None:
    """Add, remove, promote and list servers.

    \b
    Examples:
      troth member list
      troth member add HOST:7001
      troth member remove n1
    """


@member.command("add")
@click.argument("client_address")
@click.option(
    "--learner", is_flag=True, help="Keep it a learner: it gets the log and has no vote, until promoted."
)
@_CHANGE_S
@cluster_options
def add(client_address: str, learner: bool, within: float, cluster: Cluster) -> None:
    """Add the server at CLIENT_ADDRESS, which was started with `troth serve --await-add`.

    It gets the data first, as a learner, and its vote when it has caught up. A server that was started with
    `troth serve --join` asks for this by itself. Its name and its addresses are what it was started with.

    \b
    Examples:
      troth serve --name n4 --data-dir /var/lib/troth/n4 --client-address 10.0.0.4:7001 \\
        --peer-address 10.0.0.4:7101 --await-add
      troth member add 10.0.0.4:7001
      troth member add 10.0.0.5:7001 --learner
    """

    with cluster.connect() as client:
        before = {peer.node_id: peer for peer in client.members()}
        node_id = client.add_member(client_address=client_address, promote=not learner, within_s=within)
    member = before.get(node_id)
    if cluster.json:
        output.print_json({"node_id": f"{node_id:x}", "added": member is None})
    elif member is None:
        click.echo(f"added {node_id:x}; see how far it is: troth member list")
    else:
        click.echo(f"{member.member.name} is a member already, a {_role(member)}{_way_to_vote(member)}")


@member.command("remove")
@click.argument("server")
@click.option(
    "--despite-registers", is_flag=True, help="Also if its acceptor holds registers: they have one copy less then."
)
@_CHANGE_S
@cluster_options
def remove(server: str, despite_registers: bool, within: float, cluster: Cluster) -> None:
    """Remove SERVER, given by name, address or node id.

    The acceptors of registers (troth paxos) are a set of their own, which does not follow the members. A server that
    has a seat in it is not removed before another has that seat (troth paxos acceptors set).

    \b
    Example:
      troth member remove n3
    """

    with cluster.connect() as client:
        client.remove_member(server, within_s=within, despite_registers=despite_registers)
    _done(cluster, "removed", server)


@member.command("promote")
@click.argument("server")
@_CHANGE_S
@cluster_options
def promote(server: str, within: float, cluster: Cluster) -> None:
    """Give the learner SERVER a vote.

    \b
    Example:
      troth member promote n4
    """

    from troth.client.cluster import is_called

    with cluster.connect() as client:
        if any(peer.voter and is_called(peer, server) for peer in client.members()):
            raise InvalidRequest(f"{server} has its vote already; only a learner is promoted")
        client.promote_member(server, within_s=within)
    _done(cluster, "promoted", server)


@member.command("list")
@cluster_options
def list_(cluster: Cluster) -> None:
    """List the servers: who votes, who leads, how far each is.

    \b
    Examples:
      troth member list
      troth member list -o json
    """

    with cluster.connect() as client:
        peers = sorted(client.members(), key=lambda peer: (peer.member.name, peer.node_id))
    if cluster.json:
        output.print_json(
            [
                {
                    "name": peer.member.name,
                    "node_id": f"{peer.node_id:x}",
                    "role": _role(peer),
                    "active": peer.active,
                    "match_index": peer.match if peer.match >= 0 else None,
                    "client_address": peer.member.client_address,
                    "peer_address": peer.member.peer_address,
                }
                for peer in peers
            ]
        )
        return
    if all(peer.active is None for peer in peers):
        click.echo("There is no leader, and only a leader knows who is heard and how far each is.", err=True)
        advice = asked_of(advice_for(NotLeader())[1], click.get_current_context().meta.get(GIVEN_URL, ""))
        click.echo(f"Try:   {advice}", err=True)
    output.print_table(
        ("server", "node id", "role", "heard", "log up to", "client address", "peer address"),
        [
            (
                peer.member.name,
                f"{peer.node_id:x}",
                _role(peer),
                {True: "yes", False: "no", None: "unknown"}[peer.active],
                peer.match if peer.match >= 0 else "unknown",
                peer.member.client_address,
                peer.member.peer_address,
            )
            for peer in peers
        ],
    )


def _done(cluster: Cluster, what: str, server: str | None) -> None:
    if cluster.json:
        output.print_json({"done": what, "server": server})
    else:
        click.echo(f"{what} {server}")


def _way_to_vote(peer: "PeerView") -> str:
    if peer.voter:
        return ""
    if peer.member.promote:
        return "; it gets its vote when it has caught up"
    return f"; to give it a vote: troth member promote {peer.member.name}"


def _role(peer: "PeerView") -> str:
    if peer.leader:
        return "leader"
    return "voter" if peer.voter else "learner"


@click.command()
@click.argument("server", required=False)
@cluster_options
def transfer(server: str | None, cluster: Cluster) -> None:
    """Hand leadership to another server.

    Without SERVER to whoever is most up to date. Writes wait for a moment; none is lost.

    \b
    Examples:
      troth transfer
      troth transfer n2        before n1 is shut down, say
    """

    from troth.client.cluster import is_called

    with cluster.connect() as client:
        led = server is not None and any(peer.leader and is_called(peer, server) for peer in client.members())
        client.transfer(0 if server is None else server)
    if cluster.json:
        _done(cluster, "transferred", server)
    elif led:
        click.echo(f"{server} leads already")
    else:
        click.echo(f"handed leadership to {server or 'the most up-to-date server'}")
