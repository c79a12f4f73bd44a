"""lease: grant, revoke, keep-alive, ttl, list. Ids are hexadecimal, as they are printed."""

import json
import time
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from troth.cli import output
from troth.cli.cluster import GIVEN_URL, Cluster, cluster_options
from troth.cli.failures import asked_of
from troth.cli.keys import lease_id
from troth.cli.numbers import Whole
from troth.client.replies import LeaseGranted
from troth.errors import LeaseNotFound, NotApplied
from troth.kv.checks import LEASE_TTL_MAX_S
from troth.kv.requests import LeaseGrant, LeaseRevoke
from troth.replica.protocol import LeaseKeepAlive, LeaseTimeToLive, LeaseTtls, LeaseView

if TYPE_CHECKING:
    from troth.client.aio import AsyncClient

T = TypeVar("T")

RENEWALS_PER_TTL = 3


@click.group()
def lease() -> None:
    """Leases: keys that go when nobody renews them.

    \b
    Examples:
      troth lease grant 60
      troth put worker/7 busy --lease ID
      troth lease keep-alive ID
      troth lease revoke ID
    """


def _with_client(cluster: Cluster, work: Callable[["AsyncClient"], Awaitable[T]]) -> T:
    with cluster.connect() as client:
        return client.background.run(work, client.aio)


def _gone(number: int) -> LeaseNotFound:
    return LeaseNotFound(f"no lease {number:x}")


@lease.command()
@click.argument("ttl", type=Whole(min=1, max=LEASE_TTL_MAX_S))
@click.option("--id", "wanted", default="0", help="The id it shall have (hexadecimal); 0 lets the cluster choose.")
@cluster_options
def grant(ttl: int, wanted: str, cluster: Cluster) -> None:
    """Grant a lease of TTL seconds and print its id.

    \b
    Examples:
      troth lease grant 30
      troth put worker/1 alive --lease $(troth lease grant 30)
    """
    number = lease_id(wanted)

    async def work(client: "AsyncClient") -> LeaseGranted:
        granted: LeaseGranted = await client.write(LeaseGrant(number, ttl))
        return granted

    reply = _with_client(cluster, work)
    if cluster.json:
        output.print_json({"id": f"{reply.id:x}", "ttl_s": reply.ttl_s, "revision": reply.revision})
        return
    click.echo(f"{reply.id:x}")
    told = f"granted for {reply.ttl_s} s{', the shortest there is' if reply.ttl_s > ttl else ''}"
    named = f"{'-- ' if reply.id < 0 else ''}{reply.id:x}"
    keep = asked_of(f"troth lease keep-alive {named}", click.get_current_context().meta.get(GIVEN_URL, ""))
    click.echo(f"{told}, then its keys go; keep it with: {keep}", err=True)


@lease.command()
@click.argument("id_", metavar="ID")
@cluster_options
def revoke(id_: str, cluster: Cluster) -> None:
    """Revoke a lease; its keys are deleted.

    \b
    Example:
      troth lease revoke 7f3a
    """
    number = lease_id(id_)
    reply = _with_client(cluster, lambda client: client.write(LeaseRevoke(number)))
    if cluster.json:
        output.print_json({"id": f"{number:x}", "revision": reply.revision})
    else:
        click.echo(f"revoked {number:x}")


@lease.command("keep-alive")
@click.argument("id_", metavar="ID")
@click.option("--once", is_flag=True, help="Renew it one time and end.")
@cluster_options
def keep_alive(id_: str, once: bool, cluster: Cluster) -> None:
    """Renew a lease again and again, until Ctrl-C.

    \b
    Examples:
      troth lease keep-alive 7f3a
      troth lease keep-alive 7f3a --once
    """
    number = lease_id(id_)

    async def work(client: "AsyncClient") -> None:
        ttl_s, renewed_at_s = 0, 0.0
        while True:
            asked_at_s = time.monotonic()
            try:
                answer: LeaseTtls = await client.call(LeaseKeepAlive, (number,)).future
            except NotApplied as error:
                # It lives on for as long as it was granted, so one outage is no reason to let go of it.
                left_s = renewed_at_s + ttl_s - time.monotonic()
                if once or not ttl_s or left_s <= 0:
                    raise
                click.echo(f"not renewed: {error}; trying for another {left_s:.0f} s", err=True)
                await sleep(min(1.0, left_s))
                continue
            (ttl_s,) = answer.ttls_s
            if ttl_s < 0:
                raise _gone(number)
            renewed_at_s = asked_at_s
            told = json.dumps({"id": f"{number:x}", "ttl_s": ttl_s}) if cluster.json else f"renewed for {ttl_s} s"
            click.echo(told)
            if once:
                return
            await sleep(ttl_s / RENEWALS_PER_TTL)

    try:
        _with_client(cluster, work)
    except KeyboardInterrupt:
        return


@lease.command()
@click.argument("id_", metavar="ID")
@click.option("--keys", is_flag=True, help="Also list the keys attached to it.")
@cluster_options
def ttl(id_: str, keys: bool, cluster: Cluster) -> None:
    """Print how long a lease has left.

    \b
    Example:
      troth lease ttl 7f3a --keys
    """
    number = lease_id(id_)

    async def work(client: "AsyncClient") -> LeaseView:
        view: LeaseView = await client.call(LeaseTimeToLive, number, keys).future
        return view

    view = _with_client(cluster, work)
    if view.ttl_s < 0:
        raise _gone(number)
    if cluster.json:
        attached = {"keys": [output.text_fields("key", key) for key in view.keys]} if keys else {}
        output.print_json(
            {"id": f"{number:x}", "ttl_s": view.ttl_s, "granted_ttl_s": view.granted_ttl_s, **attached}
        )
        return
    click.echo(f"{view.ttl_s} s of {view.granted_ttl_s} s left")
    for key in view.keys if keys else ():
        click.echo(f"  {output.shown(key)}")


@lease.command("list")
@cluster_options
def list_(cluster: Cluster) -> None:
    """List the ids of all leases.

    \b
    Example:
      troth lease list
    """

    with cluster.connect() as client:
        ids = [f"{number:x}" for number in sorted(client.leases())]
    if cluster.json:
        output.print_json(ids)
    else:
        for shown in ids:
            click.echo(shown)
