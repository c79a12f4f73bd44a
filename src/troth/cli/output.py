"""Printing: values as they are, tables for people, tab-separated lines for pipes, JSON for programs.

What was asked for goes to stdout; what is said about it (the trailer, progress, warnings) to stderr, so that a
pipe carries data only.
"""

import base64
import functools
import json
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from troth.kv.requests import KeyValue
from troth.models import LevelName, ReadLevel

if TYPE_CHECKING:  # slow to import
    from rich.table import Table


F = TypeVar("F", bound=Callable[..., Any])


def json_options(command: F) -> F:
    """Give *command*, which talks to no cluster, ``-o json`` as others have it, and ``--json`` for short: *as_json*."""

    @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
    @click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print the answer."
    )
    @functools.wraps(command)
    def with_json(*args: Any, as_json: bool, output: str, **kwargs: Any) -> Any:
        return command(*args, as_json=as_json or output == "json", **kwargs)

    return with_json  # type: ignore[return-value]


class Answered(Protocol):
    """What every reply says about itself."""

    @property
    def server(self) -> str: ...

    @property
    def revision(self) -> int: ...

    @property
    def level(self) -> LevelName: ...


def level_text(level: LevelName) -> str:
    """The name of the consistency model that *level* is an instance of."""
    return ReadLevel(level).model.name


def trailer(reply: Answered) -> str:
    """``level=session served-by=n2 revision=41 staleness<=3ms``."""
    text = f"level={level_text(reply.level)} served-by={reply.server} revision={reply.revision}"
    staleness_ms = getattr(reply, "staleness_ms", 0)
    if staleness_ms > 0:
        return f"{text} staleness<={staleness_ms}ms"
    return text if staleness_ms == 0 else f"{text} staleness=unknown"


def print_trailer(reply: Answered) -> None:
    """The trailer, on stderr."""
    click.echo(click.style(trailer(reply), dim=True), err=True)


def facts(reply: Answered) -> dict[str, object]:
    """The trailer, for JSON."""
    said: dict[str, object] = {
        "level": level_text(reply.level),
        "served_by": reply.server,
        "revision": reply.revision,
    }
    if hasattr(reply, "staleness_ms"):
        said["staleness_ms"] = reply.staleness_ms
    return said


def text_fields(name: str, raw: bytes) -> dict[str, str]:
    """``{name: text}`` for UTF-8, else ``{name_base64: ...}``: JSON has no bytes, and nothing may be lost."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw).decode()}


def kv_fields(kv: KeyValue) -> dict[str, object]:
    """A key and its value for JSON."""
    return {
        **text_fields("key", kv.key),
        **text_fields("value", kv.value),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": f"{kv.lease:x}" if kv.lease else None,
    }


def shown(raw: bytes) -> str:
    """*raw* on one line of a table: text where it is printable, else escaped, so that no two look alike."""
    text = raw.decode(errors="surrogateescape")
    return text if text.isprintable() and "\\" not in text else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # what is no UTF-8: the byte
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0xFF and not character.isprintable():  # not as a byte, which it is not
        return f"\\u{code:04x}"
    if character == "\\" or not character.isprintable():
        return character.encode("unicode_escape").decode()
    return character


def print_json(answer: dict[str, Any] | list[Any]) -> None:
    """One JSON document."""
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def print_raw(raw: bytes) -> None:
    """Bytes as they are. A terminal gets a line end behind them; a file or a program would take it for a part."""
    click.echo(raw, nl=sys.stdout.isatty())


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, dispensable: Collection[str] = ()
) -> None:
    """A table on a terminal, on its side or a block for each row where that keeps words whole; tab-separated lines with
    a header elsewhere. Of a table that is too wide those *dispensable* columns are left out that hold nothing."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    table = _table(columns, rows)
    anything = console.options.update(max_width=sys.maxsize)
    if dispensable and Measurement.get(console, anything, table).minimum > console.width:
        columns, rows = _without_nothing(columns, rows, dispensable)
        table = _table(columns, rows)
    if Measurement.get(console, anything, table).minimum > console.width:
        (first, *names), *sideways = zip(columns, *rows, strict=True)
        turned = _table((first, *map(str, names)), sideways)
        if Measurement.get(console, anything, turned).maximum > console.width:
            _print_blocks(columns, rows)
            return
        table = turned
    console.print(table)


def _without_nothing(
    columns: Sequence[str], rows: Sequence[Sequence[object]], dispensable: Collection[str]
) -> tuple[list[str], list[list[object]]]:
    kept = [
        number
        for number, column in enumerate(columns)
        if column not in dispensable or any(row[number] not in (0, "", "-") for row in rows)
    ]
    return [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]


def _print_blocks(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """What is too wide for any table: a line for each cell that says something. The terminal folds what is longer."""
    width = max(map(len, columns))
    for row in rows:
        click.echo()
        for column, cell in zip(columns, row, strict=True):
            if str(cell):
                click.echo(f"{click.style(f'{column:<{width}}', bold=True)}  {cell}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell), overflow="fold") for cell in row))
    return table
