"""compact and alarm: what an operator does when space runs out."""

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.numbers import Whole


@click.command()
@click.argument("revision", type=Whole(min=1))
@cluster_options
def compact(revision: int, cluster: Cluster) -> None:
    """Forget history before REVISION.

    The present state stays; reads and watches at older revisions fail from then on. The newest revision is in
    `troth status`.

    \b
    Example:
      troth compact 41000
    """
    with cluster.connect() as client:
        reply = client.compact(revision)
    if cluster.json:
        output.print_json({"compacted": revision, "revision": reply.revision})
    else:
        click.echo(f"history before revision {revision} is gone; the newest is {reply.revision}")


@click.group()
def alarm() -> None:
    """List and clear alarms, such as a full space quota.

    \b
    Examples:
      troth alarm list
      troth alarm disarm
    """


@alarm.command("list")
@cluster_options
def list_(cluster: Cluster) -> None:
    """List the alarms that are raised.

    \b
    Example:
      troth alarm list
    """
    with cluster.connect() as client:
        alarms = client.alarms()
    rows = [(f"{each.member:x}", each.alarm.name.lower()) for each in alarms]
    if cluster.json:
        output.print_json([{"node_id": node, "alarm": name} for node, name in rows])
    else:
        output.print_table(("node id", "alarm"), [("all" if node == "0" else node, name) for node, name in rows])


@alarm.command("disarm")
@cluster_options
def disarm(cluster: Cluster) -> None:
    """Clear all alarms, once their cause is gone.

    \b
    Example:
      troth alarm disarm      after: troth del --prefix old/; troth compact 41000
    """
    with cluster.connect() as client:
        cleared = client.disarm()
    if cluster.json:
        output.print_json({"cleared": len(cleared)})
    else:
        click.echo(f"cleared {len(cleared)}")
