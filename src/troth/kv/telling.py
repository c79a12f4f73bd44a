"""Telling watchers of a page of history: which versions make a page, and what event each of them is.

A page holds whole revisions, and all of it is told at once to each who wants something of it; but going through a very
large one may take several steps (`Telling`).
"""

from troth.kv.keyspace import KeySpace
from troth.kv.requests import Event, EventType, KeyValue
from troth.kv.watchers import Group, Watcher

_PUT = EventType.PUT
_DELETE = EventType.DELETE


def page_of(
    versions: list[KeyValue], position: int, last_revision: int, *, versions_max: int, bytes_max: int
) -> list[KeyValue]:
    """Whole revisions of *versions* from *position* to *last_revision*, about as many as the bounds say."""
    stop = position
    size_bytes = 0
    versions_stop = min(len(versions), position + versions_max)
    while stop < versions_stop and size_bytes < bytes_max:
        version = versions[stop]
        if version.mod_revision > last_revision:
            break
        size_bytes += len(version.key) + len(version.value)
        stop += 1
    while 0 < stop < len(versions) and versions[stop].mod_revision == versions[stop - 1].mod_revision:
        stop += 1
    return versions[position:stop]


def event_of(space: KeySpace, version: KeyValue, floor: int) -> Event:
    """The event that *version* is. What was there before its revision goes with it if that is newer than *floor*.

    What a version at or before the last compaction replaced is garbage: it may be there still, or not.
    """
    # Not the version before: a transaction may have put the key just before it deletes it.
    revision = version.mod_revision
    previous = space.get_at(version.key, revision - 1) if revision > floor else None
    return Event(_PUT if version.version else _DELETE, version, previous)


class Telling:
    """A page that is being gone through, for those who were in *group* when that began.

    `told`: the events for each of `members` who wants some.
    """

    __slots__ = ("at", "group", "members", "page", "revision", "told")

    def __init__(self, group: Group, page: list[KeyValue], revision: int) -> None:
        """*revision*: what all of them know in the end."""
        self.group = group
        self.page = page
        self.revision = revision
        self.at = 0
        self.members = dict(group.members)
        self.told: dict[Watcher, list[Event]] = {}

    def go_on(self, space: KeySpace, floor: int, count: int) -> bool:
        """Go through *count* more versions; True: that was the last of them. *floor*: see `event_of`."""
        told, members = self.told, self.members
        watching = self.group.watching
        for version in self.page[self.at : self.at + count]:
            plain: Event | None = None
            with_previous: Event | None = None
            for watcher in watching(version.key):
                if watcher not in members or not watcher.wants(version):
                    continue
                if watcher.prev_kv:
                    event = with_previous = with_previous or event_of(space, version, floor)
                else:
                    event = plain = plain or event_of(space, version, version.mod_revision)
                events = told.get(watcher)
                if events is None:
                    told[watcher] = [event]
                else:
                    events.append(event)
        self.at += count
        return self.at >= len(self.page)
