"""The log in memory: the entries behind the last compaction, and what is not yet handed to storage.

::

    compacted      first_index                     last.index
        |              |                               |
    ... x | 1 2 3 ... entries held in memory ... n n n |
                                          |
                                    unsaved_from: entries from here on are not in a Persist yet

Invariant: contiguous, terms never fall, and nothing at or below the commit index is ever truncated.
"""

from collections.abc import Sequence

from troth.core.interface import Entry, EntryId
from troth.errors import invariant
from troth.ids import LogIndex, Term


class Log:
    """Raft's log (§5.3). Indexes start at 1; ``compacted.index`` is the last one that is no longer held."""

    __slots__ = ("_entries", "_unsaved_from", "compacted", "last_index")

    def __init__(self, compacted: EntryId, entries: Sequence[Entry]) -> None:
        self.compacted = compacted
        self.last_index: LogIndex = compacted.index
        """Index of the newest entry: ``compacted.index`` and as many as are held."""
        self._entries: list[Entry] = []
        for entry in entries:
            invariant(entry.index == self.last.index + 1, "stored log has a gap", index=entry.index)
            invariant(entry.term >= self.last.term, "stored terms fall", index=entry.index)
            self._entries.append(entry)
            self.last_index = entry.index
        self._unsaved_from = LogIndex(self.last_index + 1)

    @property
    def first_index(self) -> LogIndex:
        """Index of the oldest entry held."""
        return LogIndex(self.compacted.index + 1)

    @property
    def last(self) -> EntryId:
        """The newest entry."""
        if not self._entries:
            return self.compacted
        newest = self._entries[-1]
        return EntryId(newest.term, newest.index)

    def term_at(self, index: LogIndex) -> Term | None:
        """Term of the entry at *index*; None when it is compacted away or does not exist."""
        at = index - self.compacted.index
        if at == 0:
            return self.compacted.term
        if at < 0 or at > len(self._entries):
            return None
        return self._entries[at - 1].term

    def id_at(self, index: LogIndex) -> EntryId:
        """The entry at *index*, which is held or the last compacted one."""
        term = self.term_at(index)
        invariant(term is not None, "asks for an entry that is not here", index=index)
        return EntryId(term or Term(0), index)

    def holds(self, entry: EntryId) -> bool:
        """Whether this very entry is in the log (or is the last compacted one)."""
        return self.term_at(entry.index) == entry.term

    def slice(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> tuple[Entry, ...]:
        """Entries of ``[lo, hi)``: all of them, or as many as fit in *bytes_max*, but always the first."""
        start = lo - self.compacted.index - 1
        invariant(start >= 0, "reads below the compacted part", lo=lo, compacted=self.compacted.index)
        found: list[Entry] = []
        total = 0
        for entry in self._entries[start : max(start, hi - self.compacted.index - 1)]:
            total += entry.size_bytes
            if found and total > bytes_max:
                break
            found.append(entry)
        return tuple(found)

    def append(self, entry: Entry) -> None:
        """Add one entry behind the last."""
        invariant(entry.index == self.last_index + 1, "append leaves a gap", index=entry.index)
        self._entries.append(entry)
        self.last_index = entry.index

    def truncate_from(self, index: LogIndex, commit_index: LogIndex) -> None:
        """Drop the entries at and after *index* (§5.3: a follower's conflicting suffix)."""
        invariant(index > commit_index, "truncates a committed entry", index=index, commit_index=commit_index)
        invariant(index > self.compacted.index, "truncates the compacted part", index=index)
        del self._entries[index - self.compacted.index - 1 :]
        self.last_index = min(self.last_index, LogIndex(index - 1))
        self._unsaved_from = min(self._unsaved_from, index)

    def take_unsaved(self) -> tuple[Entry, ...]:
        """Entries that storage has not been given yet; it has been after this call."""
        if self._unsaved_from > self.last_index:
            return ()
        start = self._unsaved_from - self.compacted.index - 1
        unsaved = tuple(self._entries[start:])
        self._unsaved_from = LogIndex(self.last_index + 1)
        return unsaved

    def last_agreeing(self, index: LogIndex, term: Term) -> EntryId:
        """The last entry at or below *index* whose term is at most *term*: where two logs may agree at best.

        Skips a whole term per exchange instead of one entry (§5.3, the optimisation at its end).
        """
        index = min(index, self.last_index)
        while index > self.compacted.index:
            here = self._entries[index - self.compacted.index - 1].term
            if here <= term:
                return EntryId(here, index)
            index = LogIndex(index - 1)
        return self.compacted

    def compact_to(self, entry: EntryId) -> None:
        """Forget everything up to and including *entry*, which is held."""
        if entry.index <= self.compacted.index:
            return
        invariant(self.holds(entry), "compacts what it does not hold", entry=entry)
        del self._entries[: entry.index - self.compacted.index]
        self.compacted = entry
        self._unsaved_from = max(self._unsaved_from, LogIndex(entry.index + 1))

    def reset_to(self, entry: EntryId) -> None:
        """Start anew behind *entry* (an installed snapshot); nothing of the old log is kept (hashicorp #697)."""
        self._entries.clear()
        self.compacted = entry
        self.last_index = entry.index
        self._unsaved_from = LogIndex(entry.index + 1)
