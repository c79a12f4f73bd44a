"""load: the rows of a file into the cluster."""

import asyncio
import sys
import time
from pathlib import Path

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.feed import OUTSTANDING, feed
from troth.cli.numbers import Whole, counted
from troth.cli.progress import Progress
from troth.cli.rows import FORMATS, Row, format_of, read_rows


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="Default: by the file's name.")
@click.option("--key", help="The column (field) that is the key. Default: the first.")
@click.option("--prefix", default="", help="Put this before every key.")
@click.option(
    "--outstanding",
    type=Whole(min=1),
    default=OUTSTANDING,
    show_default=True,
    help="How many writes may wait for their answer.",
)
@cluster_options
def load(
    file: Path, file_format: str | None, key: str | None, prefix: str, outstanding: int, cluster: Cluster
) -> None:
    """Write the rows of a CSV or JSONL file.

    One key for each row; the other columns become the value, as text if there is one, as a JSON object if there
    are several. The whole file is read before the first row is written, so that a bad line is found first.
    Loading a file again is harmless: it writes the same keys again.

    \b
    Examples:
      troth load users.csv --key id --prefix users/
      troth load events.jsonl
    """
    rows = list(read_rows(file, file_format=file_format or format_of(file), key=key, prefix=prefix))
    loaded, seconds = asyncio.run(_load(cluster, rows, outstanding))
    rate = loaded / seconds if seconds else 0.0
    if cluster.json:
        output.print_json({"rows": loaded, "seconds": round(seconds, 3), "rows_per_second": round(rate)})
    else:
        click.echo(f"{counted(loaded, 'row')} in {seconds:.1f} s ({rate:,.0f} rows/s)")


async def _load(cluster: Cluster, rows: list[Row], outstanding: int) -> tuple[int, float]:
    async with await cluster.connect_aio() as client:
        start = time.perf_counter()
        with Progress("loading", total=len(rows), file=sys.stderr) as progress:
            loaded = await feed(
                client, rows, outstanding=outstanding, acknowledged=lambda _row, _revision: progress.advance()
            )
        return loaded, time.perf_counter() - start
