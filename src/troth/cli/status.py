"""status: one plain verdict, then one line for each server. Works without a leader."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.failures import advice_for
from troth.cli.verdict import Health, Verdict, judge, leader_of, members_of
from troth.ids import NodeId
from troth.replica.protocol import PeerView, ServerStatus

if TYPE_CHECKING:
    from troth.transactions.log.standing import Standing

_COLOURS = {Health.HEALTHY: "green", Health.DEGRADED: "yellow", Health.UNAVAILABLE: "red"}
_COLUMNS = (
    "server",
    "role",
    "term",
    "revision",
    "behind",
    "size",
    "sessions",
    "leases",
    "watches",
    "registers",
    "address",
)
_DISPENSABLE = frozenset({"sessions", "leases", "watches", "registers"})


@click.command()
@cluster_options
def status(cluster: Cluster) -> None:
    """Say in one line how the cluster is.

    The first line is the verdict, then comes one line for each server (a column or a block, on a narrow terminal).
    Exit code 0: healthy. 1: degraded, it works and survives fewer failures than it could. 2: unavailable, writes and
    linearizable reads fail now, or the cluster could not be asked. Registers are those of the server's acceptor ("-":
    no client has used it yet). If the cluster keeps decision logs of TwoPhaseCommit, the last lines say what is not
    finished in them.

    \b
    Examples:
      troth status
      troth status -o json | jq .verdict
      troth status > /dev/null || page-someone
    """
    from troth.errors import TrothError, Unavailable, UsageError
    from troth.transactions.log.standing import standing

    failure: TrothError | None = None
    logs: dict[str, Standing] = {}
    try:
        with cluster.connect() as client:
            statuses = client.status()
            with suppress(TrothError):  # of a cluster in trouble the verdict is what matters
                logs = standing(client)
    except UsageError:
        raise
    except TrothError as error:
        # The exit code of some of these means "degraded" here: of such a cluster nothing can be had.
        statuses, failure = [], error
    verdict = judge(statuses)
    if failure is not None and not isinstance(failure, Unavailable):
        verdict = Verdict(health=Health.UNAVAILABLE, survives=-1, reasons=(str(failure),))
    members = members_of(statuses)
    if cluster.json:
        unfinished = {name: log._asdict() for name, log in logs.items()}
        output.print_json({**_as_json(verdict, statuses, members), "decision_logs": unfinished})
    else:
        click.secho(verdict.sentence, fg=_COLOURS[verdict.health], bold=True)
        if statuses:
            output.print_table(_COLUMNS, _rows(statuses, members), dispensable=_DISPENSABLE)
            for name, log in logs.items():
                click.echo(
                    f"decision log {name}: {log.unnoted} not noted as applied, {log.heuristics} against the decision"
                    f" (troth tx list --log {cluster.url} --name {name})"
                )
        elif isinstance(failure, Unavailable):
            click.echo(str(failure), err=True)
            click.echo(f"Try:   troth up, or check the servers at {cluster.url}", err=True)
        elif failure is not None:
            click.echo(f"Try:   {advice_for(failure, 'status')[1]}", err=True)
    raise SystemExit(verdict.health)


def _rows(statuses: list[ServerStatus], members: dict[NodeId, PeerView]) -> list[tuple[object, ...]]:
    leader = leader_of(statuses)
    newest = leader.commit_index if leader else max(status.commit_index for status in statuses)
    rows: list[tuple[object, ...]] = []
    for server in sorted(statuses, key=lambda status: status.name):
        peer = members.get(server.node_id)
        rows.append(
            (
                server.name,
                server.role,
                server.term,
                server.revision,
                max(0, newest - server.applied_index),
                f"{server.db_size_bytes / (1 << 20):.1f} MiB",
                server.sessions,
                server.leases,
                server.watches,
                server.acceptor.get("registers", "-"),
                "" if peer is None else peer.member.client_address,
            )
        )
    answering = {server.node_id for server in statuses}
    for node, peer in members.items():
        if node not in answering:
            rows.append(
                (peer.member.name, "no answer", "", "", "", "", "", "", "", "", peer.member.client_address)
            )
    return rows


def _as_json(verdict: Verdict, statuses: list[ServerStatus], members: dict[NodeId, PeerView]) -> dict[str, object]:
    leader = leader_of(statuses)
    return {
        "verdict": verdict.health.name.lower(),
        "survives": verdict.survives,
        "reasons": list(verdict.reasons),
        "leader": leader.name if leader else None,
        "servers": [
            {
                "name": server.name,
                "node_id": f"{server.node_id:x}",
                "role": server.role,
                "term": server.term,
                "revision": server.revision,
                "compact_revision": server.compact_revision,
                "commit_index": server.commit_index,
                "applied_index": server.applied_index,
                "last_index": server.last_index,
                "first_index": server.first_index,
                "db_size_bytes": server.db_size_bytes,
                "sessions": server.sessions,
                "leases": server.leases,
                "watches": server.watches,
                "version": server.version,
                "consensus": server.consensus,
                "acceptor": server.acceptor or None,
            }
            for server in sorted(statuses, key=lambda status: status.name)
        ],
        "members": [
            {
                "name": peer.member.name,
                "node_id": f"{node:x}",
                "voter": peer.voter,
                "client_address": peer.member.client_address,
                "answers": any(server.node_id == node for server in statuses),
            }
            for node, peer in members.items()
        ],
    }
