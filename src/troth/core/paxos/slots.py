"""The acceptor's memory: one value per slot, each with the ballot at which it was accepted.

::

    compacted          chosen (kept by State)          last_index
        |                 |                               |
    ... x | v v v v v v v | b5 b5 -- b5 b3 -- -- b4 -- b5 |
                            accepted, with gaps; ballots differ from slot to slot

A slot is overwritten by a value accepted at a higher ballot and by nothing else; the others stay as they are.
"""

from collections.abc import Iterable, Iterator

from troth.core.interface import CHOSEN, Ballot, Entry, EntryId, Slot
from troth.errors import InvariantViolation, invariant
from troth.ids import LogIndex


class Slots:
    """Slots start at 1; ``compacted.index`` is the last one that is no longer held."""

    __slots__ = ("_held", "_unsaved", "compacted", "last_index")

    def __init__(self, compacted: EntryId, slots: Iterable[Slot]) -> None:
        """*slots* in the order in which they were stored; those that the compaction covers are passed over."""
        self.compacted = compacted
        self.last_index = compacted.index
        self._held: dict[LogIndex, Slot] = {}
        self._unsaved: list[Slot] = []
        for slot in slots:
            if slot.entry.index > compacted.index:
                self.put(slot)
        self._unsaved.clear()

    def get(self, index: LogIndex) -> Slot | None:
        return self._held.get(index)

    def entry(self, index: LogIndex) -> Entry:
        """The value at *index*, which is held."""
        slot = self._held.get(index)
        if slot is None:
            raise InvariantViolation(f"asks for a slot that is not here (index={index})")
        return slot.entry

    def id_at(self, index: LogIndex) -> EntryId:
        """The name of the value at *index*, which is held or the last compacted one."""
        return self.compacted if index == self.compacted.index else EntryId(self.entry(index).term, index)

    def put(self, slot: Slot) -> None:
        """Hold *slot*; it is a part of the next write to storage."""
        index = slot.entry.index
        invariant(index > self.compacted.index, "accepts below the compacted part", index=index)
        held = self._held.get(index)
        invariant(held is None or held.ballot < slot.ballot, "an accepted ballot falls", index=index)
        self._held[index] = slot
        self._unsaved.append(slot)
        if index > self.last_index:
            self.last_index = index

    def is_settled(self, index: LogIndex, ballot: Ballot) -> bool:
        """Whether *index* holds a value accepted at this very *ballot*, or one that is known to be chosen."""
        slot = self._held.get(index)
        return slot is not None and (slot.ballot == ballot or slot.ballot == CHOSEN)

    def run(self, lo: LogIndex, hi: LogIndex, bytes_max: int) -> tuple[Entry, ...]:
        """The values of ``[lo, hi)``, all held: all of them, or as many as fit in *bytes_max*, but always the
        first."""
        found: list[Entry] = []
        total = 0
        for index in range(lo, hi):
            entry = self.entry(LogIndex(index))
            total += entry.size_bytes
            if found and total > bytes_max:
                break
            found.append(entry)
        return tuple(found)

    def above(self, index: LogIndex) -> Iterator[Slot]:
        """What is held behind *index*, ascending."""
        for each in range(index + 1, self.last_index + 1):
            slot = self._held.get(LogIndex(each))
            if slot is not None:
                yield slot

    def page(self, start: LogIndex, bytes_max: int) -> tuple[tuple[Slot, ...], LogIndex]:
        """What is held from *start* on, as much as fits in *bytes_max* but at least one; and the slot up to which
        that is everything."""
        found: list[Slot] = []
        total = 0
        for slot in self.above(LogIndex(start - 1)):
            total += slot.entry.size_bytes
            if found and total > bytes_max:
                return tuple(found), found[-1].entry.index
            found.append(slot)
        return tuple(found), max(self.last_index, LogIndex(start - 1))

    def take_unsaved(self) -> tuple[Slot, ...]:
        """Slots that storage has not been given yet; it has been after this call."""
        if not self._unsaved:
            return ()
        unsaved = tuple(self._unsaved)
        self._unsaved.clear()
        return unsaved

    def compact_to(self, entry: EntryId) -> None:
        """Forget everything up to and including *entry*, whose value is chosen and in a snapshot."""
        for index in range(self.compacted.index + 1, min(entry.index, self.last_index) + 1):
            self._held.pop(LogIndex(index), None)
        self._unsaved = [slot for slot in self._unsaved if slot.entry.index > entry.index]
        self.compacted = entry
        self.last_index = max(self.last_index, entry.index)
