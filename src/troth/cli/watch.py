"""watch: changes as they happen."""

import json

import click

from troth.cli import output
from troth.cli.cluster import GIVEN_URL, Cluster, cluster_options
from troth.cli.keys import span_of
from troth.cli.numbers import COUNT
from troth.cli.outages import begin_telling
from troth.kv.requests import Event, EventType


@click.command()
@click.argument("key", required=False)
@click.argument("range_end", required=False)
@click.option("--prefix", help="All keys that start with this; '' means all keys.")
@click.option("--from-key", "is_open", is_flag=True, help="KEY and all keys behind it.")
@click.option(
    "--start-revision", type=COUNT, default=0, help="Begin with the changes of this revision (0: from now on)."
)
@click.option("--prev-kv", is_flag=True, help="Also print what stood there before each change.")
@click.option("--no-put", is_flag=True, help="Leave out writes.")
@click.option("--no-delete", is_flag=True, help="Leave out deletions.")
@click.option("--count", type=COUNT, default=0, help="End after this many changes (0: never).")
@cluster_options
def watch(
    key: str | None,
    range_end: str | None,
    prefix: str | None,
    is_open: bool,
    start_revision: int,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    count: int,
    cluster: Cluster,
) -> None:
    """Print the changes of KEY as they happen, until Ctrl-C.

    One line for each change, in the order of revisions, none lost and none twice also when servers fail. While there
    is no leader nothing can change: standard error says so. With -o json each line is one JSON object.

    \b
    Examples:
      troth watch greeting
      troth watch --prefix worker/ --start-revision 1
      troth watch --prefix '' -o json | jq .kv.key
    """
    start, end = span_of(key, range_end, prefix, is_open=is_open)
    left = count
    with cluster.connect() as client:
        changes = client.watch(
            start,
            end,
            prefix=prefix,
            start_revision=start_revision,
            prev_kv=prev_kv,
            no_put=no_put,
            no_delete=no_delete,
        )
        begin_telling(client, click.get_current_context().meta.get(GIVEN_URL, ""))
        try:
            with changes:
                for batch in changes:
                    for event in batch:
                        click.echo(_json_line(event) if cluster.json else _line(event))
                        left -= 1
                        if left == 0:
                            return
        except KeyboardInterrupt:
            return


def _line(event: Event) -> str:
    before = f"   (was {output.shown(event.prev_kv.value)})" if event.prev_kv is not None else ""
    key = output.shown(event.kv.key)
    if event.type is EventType.DELETE:
        return f"{event.kv.mod_revision:>8} DELETE {key}{before}"
    return f"{event.kv.mod_revision:>8} PUT    {key} = {output.shown(event.kv.value)}{before}"


def _json_line(event: Event) -> str:
    fields: dict[str, object] = {"type": event.type.name.lower(), "kv": output.kv_fields(event.kv)}
    if event.prev_kv is not None:
        fields["prev_kv"] = output.kv_fields(event.prev_kv)
    return json.dumps(fields, ensure_ascii=False)
