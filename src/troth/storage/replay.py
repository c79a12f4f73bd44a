"""What the records of a log add up to: the entries, the hard state, and where something is missing.

Records are applied in order. When bytes that were durable are bad, the log splits in two: the intact *prefix*
before the first damage, and what the records after the last damage say. The second half alone is the whole truth if
it begins no later than right behind the newest snapshot: entries before that are not needed, and no lost record can
have changed an entry that a later record wrote. Then the damage is repaired without a word. Otherwise entries are
missing, and only the prefix can be vouched for.

Source: telling damage from a crash, and refetching only what is lost, follow "Protocol-Aware Recovery for
Consensus-Based Storage" (Alagappan et al., FAST 2018), §3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from troth.core.interface import ORIGIN, Entry, EntryId, HardState, Slot, SnapshotMeta
from troth.errors import Corrupt
from troth.ids import LogIndex
from troth.storage import record
from troth.storage.record import Amnesia, Body, Kind
from troth.storage.scan import Bad, Found, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageReport:
    """Durable bytes are not what was written.

    `intact` is the last entry before the damage: the log is sound up to there, and `missing` is the first index
    that is not. `highest` is the highest entry id seen anywhere, a lower bound of what this server may have
    acknowledged. `hard_state_trustworthy`: an intact record after the damage repeats the hard state, so no term or
    vote is forgotten. `repaired`: nothing is missing, since a snapshot covers all that was lost, or no entry was in it.
    """

    file: str
    offset: int
    reason: str
    intact: EntryId
    missing: LogIndex
    highest: EntryId
    hard_state_trustworthy: bool
    repaired: bool

    @property
    def text(self) -> str:
        """One or two sentences for the operator."""
        if self.repaired:
            return f"{self.file}, byte {self.offset}: {self.reason}; nothing that is needed was lost"
        upto = f" to {self.highest.index} or later" if self.highest.index >= self.missing else " on"
        votes = "" if self.hard_state_trustworthy else " Its last term and vote may be lost as well."
        return f"{self.file}, byte {self.offset}: {self.reason}. Entries from {self.missing}{upto} are affected.{votes}"


class LogDamaged(Corrupt):
    """The log has lost durable entries; `damage` says which. Opening with ``salvage=True`` keeps what is intact."""

    def __init__(self, damage: DamageReport) -> None:
        advice = (
            "Nothing was changed. If the other servers of the cluster are well, start this one with --salvage: it"
            " keeps the intact part, fetches the rest from them, and does not vote before it has it"
            if damage.hard_state_trustworthy
            else "Nothing was changed. Remove this server from the cluster and add it again with an empty data"
            " directory: it may have cast a vote that it forgot"
        )
        super().__init__(f"the log is damaged: {damage.text} {advice}", path=damage.file)
        self.damage = damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A log as read. `last` is its last entry, which a snapshot may hold in place of `entries`."""

    hard_state: HardState
    entries: list[Entry]
    last: EntryId
    amnesia: Amnesia | None
    damage: DamageReport | None
    anew: bool
    """The records on disk do not add up to this by themselves: it must be written as one ANEW record."""
    next_sequence: int
    tops: dict[int, LogIndex]
    """Per segment number: the highest index of a live entry in it (0: none)."""
    cut: int | None
    """Where the last segment's torn tail begins, if it has one."""
    suspect: int
    """From here on the last segment's bytes are not known to have been synced."""
    slots: tuple[Slot, ...] = ()
    chosen: LogIndex = LogIndex(0)
    floor: LogIndex = LogIndex(0)
    oldest: int = 1


@dataclass(slots=True)
class Harm:
    file: str
    offset: int
    reason: str
    entries: list[Entry]
    last: EntryId


class Replay:
    """Applies records one after the other: `apply_all` that there are, then `finish`."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.amnesia: Amnesia | None = None
        self.highest = ORIGIN
        self.tops: dict[int, LogIndex] = {}
        self._entries: list[Entry] = []
        self._start: LogIndex | None = None
        """First index that the records since the last harm account for; None before the first of them."""
        self._last = ORIGIN
        self._sequence: int | None = None
        self._highest_sequence = -1
        self._harm: Harm | None = None
        self._first: tuple[str, int] = ("", 0)
        self._cut: int | None = None
        self._suspect = 0
        """See `Replayed`."""

    def apply_all(self, segments: Sequence[Segment]) -> None:
        """Apply the records of *segments*, all that there are and in order; the last one may have a torn tail."""
        for position, segment in enumerate(segments):
            name = record.segment_name(segment.number)
            if position and segment.number != segments[position - 1].number + 1:
                missing = record.segment_name(segments[position - 1].number + 1)
                self._harmed(missing, 0, "the file is missing")
            self.tops[segment.number] = LogIndex(0)
            is_last = position == len(segments) - 1
            if segment.blank and not is_last:
                self._harmed(name, 0, "the file is empty")
            # A log that was never compacted begins at record 0; an older one's first record was synced before the
            # segments in front of it went.
            if self._sequence is None and self._harm is None and segment.number == 1:
                self._sequence = 0
            for place, item in enumerate(segment.items):
                if isinstance(item, Found):
                    self._apply(segment.number, name, item)
                elif is_last and self._is_torn(item, segment.items[place + 1 :]):
                    self._cut = item.offset
                    break
                else:
                    self._harmed(name, item.offset, item.reason)
            if is_last:
                self._suspect = _suspect_from(segment.items, self._cut)
        if segments and segments[0].number != 1 and self._highest_sequence < 0 and self._harm is None:
            self._harmed(
                record.segment_name(segments[0].number), 0, "there is no record, and older files are gone"
            )

    def finish(self, snapshot: SnapshotMeta | None) -> Replayed:
        """What all records say, given the newest *snapshot* that can be loaded."""
        base = snapshot.last if snapshot is not None else ORIGIN
        entries, last, repaired = self._entries, self._last, False
        if self._start is None and self._harm is None:
            last = base
        elif self._start is not None and self._start <= base.index + 1:
            repaired = True
        else:
            if self._harm is None:
                file, offset = self._first
                reason = f"the log begins at entry {self._start}, the newest snapshot ends at {base.index}"
                self._harm = Harm(file, offset, reason, [], base)
            entries, last = self._harm.entries, self._harm.last
            if not entries or entries[0].index > base.index + 1:
                entries, last = [], base
        behind = snapshot is not None and not _holds(entries, last, base)
        if behind:
            # The snapshot was installed, and the crash came before the log heard of it. The state it holds is
            # committed, so a log that disagrees with it at that entry is void from there on, and all before is in it.
            entries, last = [], base
        damage = None if self._harm is None else self._report(self._harm, last, repaired=repaired)
        return Replayed(
            hard_state=self.hard_state,
            entries=entries,
            last=last,
            amnesia=self.amnesia,
            damage=damage,
            anew=behind or damage is not None,
            next_sequence=self._highest_sequence + 1,
            tops=self.tops,
            cut=self._cut,
            suspect=self._suspect,
        )

    def _is_torn(self, bad: Bad, later: Sequence[Found | Bad]) -> bool:
        """Whether nobody can have been told that the record at *bad* is durable."""
        if bad.proven or self._sequence is None:
            return False
        return all(isinstance(item, Bad) or item.head.durable_before <= self._sequence for item in later)

    def _harmed(self, file: str, offset: int, reason: str) -> None:
        if self._harm is None:
            self._harm = Harm(file, offset, reason, self._entries, self._last)
        self._entries, self._start, self._sequence = [], None, None

    def _apply(self, number: int, name: str, found: Found) -> None:
        head, body = found.head, found.body
        if not isinstance(body, Body):
            self._harmed(name, found.offset, "a record of slots stands in a log of entries")
            return
        if self._highest_sequence < 0:
            self._first = (name, found.offset)
        if head.kind == Kind.ANEW:
            self._harm = None
            self._entries, self._start = [], None
            self._forget_from(LogIndex(0))
        elif self._sequence is not None and head.sequence != self._sequence:
            lost = f"records {self._sequence} to {head.sequence - 1} are missing before this one"
            self._harmed(name, found.offset, lost)
        self._sequence = head.sequence + 1
        self._highest_sequence = max(self._highest_sequence, head.sequence)
        self.hard_state, self.amnesia = body.hard_state, body.amnesia
        if body.last > self.highest:
            self.highest = body.last
        if body.entries:
            self._add(number, found.offset, body.entries)
        elif self._start is None:
            self._start = LogIndex(body.last.index + 1)
        self._last = body.last

    def _add(self, number: int, offset: int, batch: tuple[Entry, ...]) -> None:
        first = batch[0].index
        if self._start is None or first <= self._start:
            self._entries, self._start = list(batch), first
        elif first <= self._last.index:
            del self._entries[first - self._start :]
            self._entries.extend(batch)
        elif first == self._last.index + 1:
            self._entries.extend(batch)
        else:
            lost = f"entries {self._last.index + 1} to {first - 1} are missing before this record"
            self._harmed(record.segment_name(number), offset, lost)
            self._entries, self._start = list(batch), first
        self._forget_from(first)
        self.tops[number] = batch[-1].index

    def _forget_from(self, index: LogIndex) -> None:
        """Entries at and after *index* are overwritten: they no longer keep their segments alive."""
        if index <= self._last.index:
            for number, top in self.tops.items():
                self.tops[number] = LogIndex(min(top, max(index - 1, 0)))

    def _report(self, harm: Harm, intact: EntryId, *, repaired: bool) -> DamageReport:
        return DamageReport(
            file=harm.file,
            offset=harm.offset,
            reason=harm.reason,
            intact=intact,
            missing=LogIndex(intact.index + 1),
            highest=max(self.highest, intact),
            hard_state_trustworthy=self._start is not None,
            repaired=repaired,
        )


def _holds(entries: Sequence[Entry], last: EntryId, wanted: EntryId) -> bool:
    """Whether the log (*entries*, or an empty one that ends at *last*) has the entry *wanted*, or has it behind it."""
    if not entries:
        return last == wanted
    place = wanted.index - entries[0].index
    if place < 0:
        return True
    return place < len(entries) and entries[place].term == wanted.term


def _suspect_from(items: Sequence[Found | Bad], cut: int | None) -> int:
    """Offset of the first record of the last segment that no record calls durable; 0 if there is none that is.

    After a failed fsync the kernel may keep a page in memory and call it clean, although the disk never got it. A
    process that starts again reads such bytes as if they were there, so what no later record vouches for is written
    again before anybody is told of it.
    """
    found = [item for item in items if isinstance(item, Found) and (cut is None or item.offset < cut)]
    if not found:
        return 0
    durable = found[-1].head.durable_before
    kept = [item.offset for item in found if item.head.sequence >= durable]
    return 0 if len(kept) == len(found) else kept[0]
