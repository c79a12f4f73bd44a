"""Which term each index of a log has, as runs of equal terms: little, however long the log."""

from bisect import bisect_right
from collections.abc import Sequence

from troth.core.interface import Entry, EntryId
from troth.errors import invariant
from troth.ids import LogIndex, Term


class Terms:
    """Enough to say whether the log holds an entry."""

    def __init__(self, last: EntryId, entries: Sequence[Entry]) -> None:
        self.last = last
        self._starts: list[LogIndex] = []
        self._run_terms: list[Term] = []
        if entries:
            self._extend(entries)

    def begin_anew(self, last: EntryId) -> None:
        """The log is empty behind *last*."""
        self.last = last
        self._starts.clear()
        self._run_terms.clear()

    def append(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        invariant(
            0 < first <= self.last.index + 1, "entries do not join the log", first=first, last=self.last.index
        )
        invariant(
            entries[-1].index - first == len(entries) - 1,
            "entries are not contiguous",
            first=first,
            count=len(entries),
        )
        while self._starts and self._starts[-1] >= first:
            self._starts.pop()
            self._run_terms.pop()
        self._extend(entries)

    def holds(self, wanted: EntryId) -> bool:
        """Whether the log has *wanted*, or begins behind it."""
        if wanted.index > self.last.index:
            return False
        if wanted.index == self.last.index:
            return wanted == self.last
        place = bisect_right(self._starts, wanted.index) - 1
        return place < 0 or self._run_terms[place] == wanted.term

    def _extend(self, entries: Sequence[Entry]) -> None:
        newest = entries[-1].term
        # Terms never fall along the log, so one look is enough for the usual batch of one term.
        if not (self._run_terms and self._run_terms[-1] == entries[0].term == newest):
            for entry in entries:
                if not self._run_terms or entry.term != self._run_terms[-1]:
                    self._starts.append(entry.index)
                    self._run_terms.append(entry.term)
        self.last = EntryId(newest, entries[-1].index)
