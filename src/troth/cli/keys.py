"""put, get, del, range: single keys and spans of them."""

from typing import BinaryIO

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.exit_codes import EXIT_NO
from troth.cli.levels import level_option
from troth.cli.numbers import COUNT, INT64_MAX, counted
from troth.client.operations import ALL_FROM, Text, as_bytes
from troth.errors import UsageError
from troth.kv.requests import KeyValue, SortOrder, SortTarget
from troth.models import ReadLevel
from troth.replica.protocol import WRITES_BYTES_MAX

_KEY_COLUMNS = ("key", "value", "version", "created", "modified", "lease")


def _row(kv: KeyValue) -> tuple[object, ...]:
    lease = f"{kv.lease:x}" if kv.lease else ""
    return output.shown(kv.key), output.shown(kv.value), kv.version, kv.create_revision, kv.mod_revision, lease


@click.command()
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "source", type=click.File("rb"), help="Read the value from a file; - is standard input.")
@click.option(
    "--lease", default="0", help="Attach the key to this lease (hexadecimal, as `troth lease grant` prints it)."
)
@click.option("--prev-kv", is_flag=True, help="Also print what stood there before.")
@click.option("--ignore-value", is_flag=True, help="Keep the value; change only the lease.")
@click.option("--ignore-lease", is_flag=True, help="Keep the lease; change only the value.")
@cluster_options
def put(
    key: str,
    value: str | None,
    source: BinaryIO | None,
    lease: str,
    prev_kv: bool,
    ignore_value: bool,
    ignore_lease: bool,
    cluster: Cluster,
) -> None:
    """Write VALUE under KEY.

    \b
    Examples:
      troth put greeting hello
      troth put config --file config.toml
      troth put worker/1 alive --lease 7f3a      gone when the lease is
    """
    if ignore_value and (value is not None or source is not None):
        raise UsageError("--ignore-value keeps the old value: give none")
    if not ignore_value and (value is None) == (source is None):
        raise UsageError("give the value either as an argument or with --file")
    # One byte more than any request holds is refused like all that would follow, which may be without end.
    content = source.read(WRITES_BYTES_MAX + 1) if source is not None else as_bytes(value or "")
    with cluster.connect() as client:
        reply = client.put(
            key,
            content,
            lease=lease_id(lease),
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )
    previous = reply.prev_kv
    if cluster.json:
        before = {"prev_kv": None if previous is None else output.kv_fields(previous)} if prev_kv else {}
        output.print_json({**before, **output.facts(reply)})
        return
    if previous is not None:
        output.print_raw(previous.value)
    output.print_trailer(reply)


@click.command()
@click.argument("key")
@click.option("--revision", type=COUNT, default=0, help="Read the state as it was at this revision.")
@level_option
@cluster_options
def get(key: str, revision: int, level: ReadLevel, cluster: Cluster) -> None:
    """Print the value of KEY.

    The value goes to standard output as it is (on a terminal with a line end); who answered, and under which
    consistency model, to standard error. Exit code 1: there is no such key.

    \b
    Examples:
      troth get greeting
      troth get greeting --level bounded:2s      any server that is at most 2 seconds behind
      troth get greeting --revision 41 -o json
      troth get config > config.toml
    """
    with cluster.connect() as client:
        reply = client.get(key, level=level, revision=revision)
    if cluster.json:
        output.print_json({"kv": None if reply.kv is None else output.kv_fields(reply.kv), **output.facts(reply)})
    else:
        if reply.kv is None:
            click.echo(f"no such key: {key}", err=True)
        else:
            output.print_raw(reply.kv.value)
        output.print_trailer(reply)
    if reply.kv is None:
        raise SystemExit(EXIT_NO)


@click.command("del")
@click.argument("key", required=False)
@click.argument("range_end", required=False)
@click.option("--prefix", help="Delete all keys that start with this.")
@click.option("--from-key", "is_open", is_flag=True, help="Delete KEY and all keys behind it; '' means all keys.")
@click.option("--prev-kv", is_flag=True, help="Also print what is deleted.")
@cluster_options
def delete(
    key: str | None, range_end: str | None, prefix: str | None, is_open: bool, prev_kv: bool, cluster: Cluster
) -> None:
    """Delete KEY, or a span of keys.

    The span is KEY up to but not including RANGE_END, or KEY and all behind it, or all keys with a prefix.

    \b
    Examples:
      troth del greeting
      troth del a c              keys from a up to, not including, c
      troth del --prefix worker/
    """
    start, end = span_of(key, range_end, prefix, is_open=is_open)
    with cluster.connect() as client:
        reply = client.delete(start, end, prefix=prefix, prev_kv=prev_kv)
    if cluster.json:
        before = {"prev_kvs": [output.kv_fields(kv) for kv in reply.prev_kvs]} if prev_kv else {}
        output.print_json({"deleted": reply.deleted, **before, **output.facts(reply)})
        return
    if reply.prev_kvs:
        output.print_table(_KEY_COLUMNS, [_row(kv) for kv in reply.prev_kvs])
    click.echo(f"deleted {reply.deleted}")
    output.print_trailer(reply)


@click.command("range")
@click.argument("key", required=False)
@click.argument("range_end", required=False)
@click.option("--prefix", help="All keys that start with this; '' means all keys.")
@click.option("--from-key", "is_open", is_flag=True, help="KEY and all keys behind it.")
@click.option("--limit", type=COUNT, default=0, help="At most this many keys (0: all).")
@click.option("--revision", type=COUNT, default=0, help="Read the state as it was at this revision.")
@click.option("--order", type=click.Choice(["none", "ascend", "descend"]), default="none", help="Sort order.")
@click.option(
    "--by", type=click.Choice(["key", "version", "create", "mod", "value"]), default="key", help="What to sort by."
)
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count-only", is_flag=True, help="Print only how many there are.")
@click.option(
    "--min-mod-revision", type=COUNT, default=0, help="Only keys last written at this revision or later."
)
@click.option(
    "--max-mod-revision", type=COUNT, default=0, help="Only keys last written at this revision or earlier."
)
@click.option("--min-create-revision", type=COUNT, default=0, help="Only keys created at this revision or later.")
@click.option(
    "--max-create-revision", type=COUNT, default=0, help="Only keys created at this revision or earlier."
)
@level_option
@cluster_options
def range_(
    key: str | None,
    range_end: str | None,
    prefix: str | None,
    is_open: bool,
    limit: int,
    revision: int,
    order: str,
    by: str,
    keys_only: bool,
    count_only: bool,
    min_mod_revision: int,
    max_mod_revision: int,
    min_create_revision: int,
    max_create_revision: int,
    level: ReadLevel,
    cluster: Cluster,
) -> None:
    """List a span of keys.

    The span is KEY up to but not including RANGE_END, or KEY and all behind it, or all keys with a prefix.

    \b
    Examples:
      troth range --prefix worker/
      troth range a c --limit 10 --order descend --by mod
      troth range m --from-key --limit 10
      troth range --prefix '' --count-only --level eventual
    """
    start, end = span_of(key, range_end, prefix, is_open=is_open)
    with cluster.connect() as client:
        reply = client.range(
            start,
            end,
            prefix=prefix,
            limit=limit,
            revision=revision,
            sort_order=SortOrder[order.upper()],
            sort_target=SortTarget[by.upper()],
            keys_only=keys_only,
            count_only=count_only,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            level=level,
        )
    if cluster.json:
        kvs = [output.kv_fields(kv) for kv in reply.kvs]
        output.print_json({"kvs": kvs, "count": reply.count, "more": reply.more, **output.facts(reply)})
        return
    if count_only:
        click.echo(reply.count)
    else:
        output.print_table(_KEY_COLUMNS, [_row(kv) for kv in reply.kvs])
        if reply.more:
            click.echo(f"{len(reply.kvs)} of {counted(reply.count, 'key')}; raise --limit to see more", err=True)
    output.print_trailer(reply)


def from_key(start: str) -> tuple[Text, Text]:
    """The span of *start* and all keys behind it; its end is a byte that no command line can carry."""
    return start or ALL_FROM, ALL_FROM


def span_of(
    key: str | None, range_end: str | None, prefix: str | None, *, is_open: bool
) -> tuple[Text, Text | None]:
    """The key and the range_end that a client takes beside *prefix*.

    Raises:
        UsageError: the span is named in no way, or in two.
    """
    if (key is None) == (prefix is None):
        raise UsageError("give either KEY (and RANGE_END, or --from-key), or --prefix")
    if not is_open:
        return key or "", range_end
    if key is None or range_end is not None:
        raise UsageError("--from-key takes a KEY, and neither RANGE_END nor --prefix")
    return from_key(key)


def lease_id(text: str) -> int:
    """A lease id as the command line writes it.

    Raises:
        UsageError: not a hexadecimal number of 64 bits.
    """
    try:
        number = int(text, 16)
        if not -INT64_MAX <= number <= INT64_MAX:
            raise ValueError
        return number
    except ValueError:
        raise UsageError(
            f"{text!r} is not a lease id; they are hexadecimal, of 63 bits and a sign, see `troth lease list`"
        ) from None
