"""An inventory of this machine's own files: real rows for the demo, on every machine, from nowhere else."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from troth.cli.rows import Row

DPKG_LISTS = Path("/var/lib/dpkg/info")
ROOTS = ("/usr", "/opt", "/etc", "/var/lib", "/lib", "/root", "/home")
"""Where files are looked for, in this order, until there are enough; /usr alone has enough on most machines."""


def owners(lists: Path = DPKG_LISTS) -> dict[str, str]:
    """Which Debian package owns which path; empty on a machine without dpkg."""
    found: dict[str, str] = {}
    for listing in sorted(lists.glob("*.list")):
        package = listing.name.removesuffix(".list").partition(":")[0]
        for path in listing.read_text(errors="surrogateescape").splitlines():
            found[path] = package
    return found


def inventory(*, rows_min: int, rows_max: int, roots: tuple[str, ...] = ROOTS) -> list[Row]:
    """One row for each file, link and directory: path -> JSON of size, modification time and owning package.

    The first root is read to its end (or *rows_max*); further ones only while there are fewer than *rows_min*.
    """
    package_of = owners()
    rows: dict[bytes, Row] = {}
    for root in roots:
        if len(rows) >= rows_min:
            break
        for entry in _walk(root):
            if len(rows) >= rows_max:
                break
            row = _row(entry, package_of)
            if row is not None:
                rows[row.key] = row
    return list(rows.values())


def often_enough(rows: list[Row], rows_min: int) -> list[Row]:
    """*rows*, all of them again until there are *rows_min*: a bare machine has fewer files than that."""
    return rows * -(-rows_min // len(rows)) if rows else rows


def _walk(root: str) -> Iterator["os.DirEntry[str]"]:
    waiting = [root]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue  # unreadable, or gone meanwhile: the inventory is of what can be seen
        yield from found
        waiting.extend(entry.path for entry in reversed(found) if entry.is_dir(follow_symlinks=False))


def _row(entry: "os.DirEntry[str]", package_of: dict[str, str]) -> Row | None:
    try:
        facts = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    # dpkg still lists some files by their names from before /bin and /lib became links into /usr.
    package = package_of.get(entry.path) or package_of.get(entry.path.removeprefix("/usr"))
    value = json.dumps(
        {"size": facts.st_size, "mtime": round(facts.st_mtime, 3), "package": package}, separators=(",", ":")
    )
    return Row(os.fsencode(entry.path), value.encode())
