"""Reading a log back: every segment as it is found, what they add up to, and whether a server may go on with that."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from troth.core.interface import ORIGIN, Entry, EntryId, HardState, Slot, SnapshotMeta
from troth.errors import IdentityLost, StorageError
from troth.ids import LogIndex, NodeId, Term
from troth.ports import File, FileSystem
from troth.storage import names, record
from troth.storage.record import SLOTS_VERSION, VERSION, Amnesia
from troth.storage.replay import DamageReport, LogDamaged, Replay, Replayed
from troth.storage.scan import Segment, check_owner, scan
from troth.storage.slot_replay import SlotReplay


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the log held when it was opened.

    `entries` are contiguous, begin no later than right behind `snapshot` (they may begin before it, since only
    whole segments are dropped) and end at `last`. `amnesia` is set when durable bytes were lost (see `Amnesia`).
    `damaged` tells of damage that was repaired or salvaged in this very opening.
    """

    hard_state: HardState
    entries: tuple[Entry, ...]
    last: EntryId
    snapshot: SnapshotMeta | None
    damaged: DamageReport | None
    amnesia: Amnesia | None
    torn_bytes: int
    """Length of the torn tail that was cut; 0 in nearly every case."""
    slots: tuple[Slot, ...] = ()
    """What a Paxos acceptor has accepted, ascending; it may begin before the snapshot, and slots up to `chosen` hold
    chosen values."""
    chosen: LogIndex = LogIndex(0)

    @classmethod
    def of(cls, replayed: Replayed, snapshot: SnapshotMeta | None, torn_bytes: int) -> Self:
        """What *replayed* says to who opens the log."""
        return cls(
            hard_state=replayed.hard_state,
            entries=tuple(replayed.entries),
            last=replayed.last,
            snapshot=snapshot,
            damaged=replayed.damage,
            amnesia=replayed.amnesia,
            torn_bytes=torn_bytes,
            slots=replayed.slots,
            chosen=replayed.chosen,
        )

    @property
    def is_empty(self) -> bool:
        """Nothing was ever written to this log."""
        return self.hard_state == HardState() and self.last == ORIGIN and not self.slots


def read_log(
    files: FileSystem,
    *,
    snapshot: SnapshotMeta | None,
    owner: NodeId,
    must_exist: bool,
    salvage: bool,
    holds_slots: bool,
) -> tuple[Sequence[Segment], Replayed]:
    """The segments in *files*, open, and what their records say; nothing is written yet. See `WriteAheadLog.open`."""
    numbers = names.segment_numbers(files.names())
    if must_exist and not numbers:
        raise IdentityLost(
            "this server has run before, but its log (wal-*.log) is gone: put the files back, or remove this"
            " server from the cluster and add it again with an empty data directory"
        )
    opened: list[File] = []
    try:
        segments = []
        for number in numbers:
            opened.append(files.open(record.segment_name(number)))
            segments.append(scan(opened[-1], number, owner, SLOTS_VERSION if holds_slots else VERSION))
        if numbers == [1] and not segments[0].items:
            # Created and never written to, by a server that crashed before it had an identity: begin once more.
            segments.pop().file.close()
        for segment in segments:
            check_owner(segment, owner)
        replay = SlotReplay() if holds_slots else Replay()
        replay.apply_all(segments)
        replayed = replay.finish(snapshot)
        damage = replayed.damage
        if damage is not None and not damage.repaired:
            if not salvage:
                raise LogDamaged(damage)
            replayed = _salvaged(replayed, damage)
    except (OSError, StorageError):
        for file in opened:
            file.close()
        raise
    return segments, replayed


def _salvaged(replayed: Replayed, damage: DamageReport) -> Replayed:
    """What is intact, under the mark that keeps this server from voting."""
    earlier = replayed.amnesia or Amnesia(ORIGIN, False)
    forgot = earlier.hard_state_lost or not damage.hard_state_trustworthy
    return replace(
        replayed,
        amnesia=Amnesia(max(earlier.until, damage.highest), forgot),
        # A leader may still hold, or be about to receive, an acknowledgement of what is lost. In a new term all
        # of them are void: hearing of it, the leader steps down, and whoever is elected asks anew.
        hard_state=HardState(Term(replayed.hard_state.term + 1), NodeId(0)),
    )
