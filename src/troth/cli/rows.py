"""Rows out of a CSV or JSONL file, as keys and values."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from troth.errors import UsageError
from troth.kv.checks import REQUEST_BYTES_MAX

FORMATS = ("csv", "jsonl")


class Row(NamedTuple):
    key: bytes
    value: bytes


def format_of(path: Path) -> str:
    """``csv`` or ``jsonl``, by the file's name.

    Raises:
        UsageError: neither.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    raise UsageError(f"{path}: cannot tell the format from the name; say --format csv or --format jsonl")


def read_rows(path: Path, *, file_format: str, key: str | None = None, prefix: str = "") -> Iterator[Row]:
    """The rows of *path*, one by one. The key is the column (field) *key*, without it the first one.

    With one other column the value is that column's text; with several it is a JSON object of them.

    Raises:
        UsageError: a line that does not fit; the text names file, line and what is wrong.
    """
    try:
        if file_format == "csv":
            yield from _csv_rows(path, key, prefix)
        else:
            yield from _jsonl_rows(path, key, prefix)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _csv_rows(path: Path, key: str | None, prefix: str) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        csv.field_size_limit(REQUEST_BYTES_MAX)  # the module's own bound is smaller than a value may be
        # Strict: a quote that is never closed would make one cell of all the lines behind it.
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            columns = next(reader, None)
            if not columns:
                raise UsageError(f"{path} is empty; the first line must name the columns")
            if key is not None and key not in columns:
                raise UsageError(f"{path} has no column {key!r}; it has {', '.join(columns)}")
            if len(columns) == 1 and (mark := next((mark for mark in ";\t," if mark in columns[0]), "")):
                raise UsageError(
                    f"{path}: {mark!r} stands between the columns of the first line; commas do in CSV, tabs in .tsv"
                )
            twice = next((column for column in columns if columns.count(column) > 1), None)
            if twice is not None:
                raise UsageError(f"{path} has a column {twice!r} twice; only one of them would be kept")
            at = columns.index(key) if key is not None else 0
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    raise UsageError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, but the header names {len(columns)}"
                    )
                others = {column: cells[i] for i, column in enumerate(columns) if i != at}
                yield _row(prefix + cells[at], others, f"{path}, line {reader.line_num}")
        except csv.Error as error:
            raise UsageError(f"{path}, line {reader.line_num}: {error}") from error


def _jsonl_rows(path: Path, key: str | None, prefix: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                fields = json.loads(line, object_pairs_hook=_object, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{where}: not JSON ({error})") from error
            if not isinstance(fields, dict) or not fields:
                raise UsageError(f"{where}: a line must be a JSON object with at least one field")
            name = key if key is not None else next(iter(fields))
            if name not in fields:
                raise UsageError(f"{where}: no field {name!r}; there are {', '.join(fields)}")
            found = fields.pop(name)
            yield _row(prefix + (found if isinstance(found, str) else json.dumps(found)), fields, where)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Raises ValueError when a field is there twice, of which only one would be kept."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def _refuse(constant: str) -> object:
    raise ValueError(f"there is no number {constant}")


def _row(key: str, others: Mapping[str, object], where: str) -> Row:
    if not key:
        raise UsageError(f"{where}: the key is empty")
    only = next(iter(others.values())) if len(others) == 1 else None
    try:
        value = only if isinstance(only, str) else _json(others)
        return Row(key.encode(), value.encode())
    except UnicodeEncodeError as error:  # JSON can escape half of a character
        raise UsageError(f"{where}: not text that UTF-8 can carry ({error.reason})") from error
    except ValueError:
        raise UsageError(f"{where}: a number is too large") from None


def _json(fields: Mapping[str, object]) -> str:
    """Raises ValueError for a number beyond all floats, such as 1e400: it is read as one that JSON has not."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
