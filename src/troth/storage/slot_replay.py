"""What the records of a Paxos acceptor add up to: the newest value of each slot, and how far they are chosen.

Unlike a log of entries (replay.py), slots tell nothing about each other. A record that was lost may have held any
slot, so damage to durable bytes is always reported, and only the records in front of it can be vouched for.
"""

from typing_extensions import override

from troth.core.interface import ORIGIN, EntryId, Slot, SnapshotMeta
from troth.ids import LogIndex, Term
from troth.storage import record
from troth.storage.record import Kind, SlotsBody
from troth.storage.replay import DamageReport, Harm, Replay, Replayed
from troth.storage.scan import Found


class SlotReplay(Replay):
    """A replay in which the newest record of each slot counts, and damage is damage whatever a snapshot holds."""

    def __init__(self) -> None:
        super().__init__()
        self._slots: dict[LogIndex, Slot] = {}
        self._chosen = LogIndex(0)
        self._floor = LogIndex(0)
        self._oldest = 1
        self._highest_slot = LogIndex(0)
        self._proven = False
        """Whether an intact record stands behind the last harm."""
        self._vouched: tuple[dict[LogIndex, Slot], LogIndex] | None = None
        """Slots and chosen index in front of the first harm."""

    @override
    def finish(self, snapshot: SnapshotMeta | None) -> Replayed:
        """What all records say, given the newest *snapshot* that can be loaded."""
        base = snapshot.last.index if snapshot is not None else LogIndex(0)
        first = min(self.tops, default=1)
        if self._harm is None and first > self._oldest:
            lost = record.segment_name(self._oldest)
            self._harmed(lost, 0, "the file is missing", proven=True)
        elif self._harm is None and self._floor > base:
            reason = f"slots up to {self._floor} are in no snapshot that can be loaded (the newest ends at {base})"
            self._harmed(record.segment_name(first), 0, reason, proven=True)
        slots, chosen = self._vouched or (self._slots, self._chosen)
        if self._floor > base:
            # What is held up to there was accepted, and what was chosen in its place may have been in the snapshot.
            chosen = min(chosen, base)
        # A snapshot that was installed, and the crash came before the log heard of it, is needed from now on as well:
        # the next record says that all up to its end is chosen, and the slots in front of that do not hold it.
        unheard = chosen < base
        damage = None if self._harm is None else self._report_slots(self._harm, chosen)
        return Replayed(
            hard_state=self.hard_state,
            entries=[],
            last=ORIGIN,
            amnesia=self.amnesia,
            damage=damage,
            anew=damage is not None,
            next_sequence=self._highest_sequence + 1,
            tops=self.tops,
            cut=self._cut,
            suspect=self._suspect,
            slots=tuple(slots[index] for index in sorted(slots)),
            chosen=chosen,
            floor=base if damage is not None or unheard else self._floor,
            oldest=self._oldest,
        )

    @override
    def _harmed(self, file: str, offset: int, reason: str, *, proven: bool = False) -> None:
        if self._harm is None:
            self._harm = Harm(file, offset, reason, [], ORIGIN)
            self._vouched = self._slots, self._chosen
        self._slots, self._proven, self._sequence = {}, proven, None

    @override
    def _apply(self, number: int, name: str, found: Found) -> None:
        head, body = found.head, found.body
        if not isinstance(body, SlotsBody):
            self._harmed(name, found.offset, "a record of entries stands in a log of slots")
            return
        if head.kind == Kind.SLOTS_ANEW:
            self._harm = self._vouched = None
            self._slots, self._chosen = {}, LogIndex(0)
            for earlier in self.tops:
                self.tops[earlier] = LogIndex(0)
        elif self._sequence is not None and head.sequence != self._sequence:
            lost = f"records {self._sequence} to {head.sequence - 1} are missing before this one"
            self._harmed(name, found.offset, lost)
        self._sequence, self._proven = head.sequence + 1, True
        self._highest_sequence = max(self._highest_sequence, head.sequence)
        self.hard_state, self.amnesia = body.hard_state, body.amnesia
        self._chosen, self._floor, self._oldest = body.chosen, body.floor, body.oldest
        for slot in body.slots:
            index = slot.entry.index
            self._slots[index] = slot
            self.tops[number] = max(self.tops[number], index)
            self._highest_slot = max(self._highest_slot, index)

    def _report_slots(self, harm: Harm, chosen: LogIndex) -> DamageReport:
        return DamageReport(
            file=harm.file,
            offset=harm.offset,
            reason=harm.reason,
            intact=EntryId(Term(0), chosen),
            missing=LogIndex(chosen + 1),
            highest=EntryId(Term(0), max(self._highest_slot, chosen)),
            hard_state_trustworthy=self._proven,
            repaired=False,
        )
