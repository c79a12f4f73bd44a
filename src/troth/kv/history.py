"""The whole history in two parts, read while writes go on: what was there at the last compaction, and the log since.
And the end of it, when another takes its place.
"""

from collections.abc import Iterator

from troth.kv.keyspace import KeySpace
from troth.kv.requests import KeyValue


def base_versions(space: KeySpace, compact_revision: int, *, page: int = 512) -> Iterator[KeyValue]:
    """In key order the versions older than *compact_revision* that are visible at it.

    Together with the log from *compact_revision* on they are the whole history. Writes, compactions and scavenging may
    go on between two steps as long as *compact_revision* is pinned.
    """
    if not compact_revision:
        return
    key = b""
    while names := space.order.names_after(key, page):
        for key in names:
            version = space.get_at(key, compact_revision)
            if version is not None and version.mod_revision < compact_revision:
                yield version


def log_versions(
    space: KeySpace, start_revision: int, last_revision: int, *, page: int = 512
) -> Iterator[KeyValue]:
    """The log from *start_revision* to *last_revision*, both included; writes may go on between two steps."""
    # Positions move when the scavenger trims the log, revisions do not; a page ends where a revision ends.
    while start_revision <= last_revision:
        position = space.log_position(start_revision)
        if position == len(space.log):
            return
        reached = min(position + page, len(space.log)) - 1
        last = min(space.log[reached].mod_revision, last_revision)
        yield from space.log[position : space.log_position(last + 1)]
        start_revision = last + 1


def forget_steps(space: KeySpace, *, page: int = 8192) -> Iterator[None]:
    """Free all versions, in short steps, of a key space that nothing is written to any more. To free a million at once
    would take a tenth of a second. Not done where somebody still reads."""
    if space.is_pinned:
        return
    space.order.forget()
    yield
    index, log = space.index, space.log
    while index or log:
        for _ in range(min(page, len(index))):
            index.popitem()
        del log[-page:]
        yield
