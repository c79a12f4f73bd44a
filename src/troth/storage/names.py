"""File names in a data directory. All files of a server live side by side in one flat directory::

    identity                                        who this server is (identity)
    wal-<number>.log                                a segment of the write-ahead log (record)
    snapshot-<term>-<index>.snap                    the state after that entry (snapshots)
    snapshot-<term>-<index>.part                    a snapshot that a leader is still sending
    *.new                                           written but not yet renamed; of no worth after a crash
    lock                                            held by the running process (runtime.files)

Numbers are 16 hexadecimal digits, so names sort as numbers do. Other names are none of our business, unless they
begin like ours: such a file was renamed or copied by hand, and guessing which one counts would be wrong.
"""

import re
from collections.abc import Sequence

from troth.core.interface import EntryId
from troth.errors import StorageError
from troth.ids import LogIndex, Term

IDENTITY = "identity"
LOCK = "lock"
NEW = ".new"

_SEGMENT = re.compile(r"wal-([0-9a-f]{16})\.log")
_SNAPSHOT = re.compile(r"snapshot-([0-9a-f]{16})-([0-9a-f]{16})\.snap")
_PART = re.compile(r"snapshot-([0-9a-f]{16})-([0-9a-f]{16})\.part")


def segment_numbers(names: Sequence[str]) -> list[int]:
    """Numbers of the log's segments among *names*, ascending.

    Raises:
        StorageError: a name that begins like a segment's and is none.
    """
    numbers = []
    for name in names:
        if name.startswith("wal-"):
            matched = _SEGMENT.fullmatch(name)
            if matched is None:
                raise StorageError(stranger(name, "wal-<16 hex digits>.log"))
            numbers.append(int(matched[1], 16))
    return sorted(numbers)


def snapshot_name(last: EntryId) -> str:
    return f"snapshot-{last.term:016x}-{last.index:016x}.snap"


def part_name(last: EntryId) -> str:
    return f"snapshot-{last.term:016x}-{last.index:016x}.part"


def snapshots(names: Sequence[str]) -> list[EntryId]:
    """What the snapshots among *names* end at, oldest first.

    Raises:
        StorageError: a name that begins like a snapshot's and is none of ours.
    """
    found = []
    for name in names:
        if name.startswith("snapshot-") and not name.endswith(NEW) and _PART.fullmatch(name) is None:
            matched = _SNAPSHOT.fullmatch(name)
            if matched is None:
                raise StorageError(stranger(name, "snapshot-<16 hex digits>-<16 hex digits>.snap"))
            found.append(EntryId(Term(int(matched[1], 16)), LogIndex(int(matched[2], 16))))
    return sorted(found, key=lambda last: last.index)


def parts(names: Sequence[str]) -> list[str]:
    """Names of snapshots that are not wholly here yet."""
    return [name for name in names if _PART.fullmatch(name) is not None]


def stranger(name: str, pattern: str) -> str:
    return (
        f"{name} is in the data directory, but is no name that this program writes ({pattern}): move it elsewhere"
        " (or, if it was renamed by hand, give it its name back) and start again"
    )
