"""A disk as the cores see it: writes in order, durable some time after they were made, lost in a crash until then.

It models the promise of `core.interface` (writes may be merged, never reordered) and nothing below it; torn sectors,
bit rot and lost directory entries belong to the file system under the real log (simulate/disk.py).

::

    durable state   <- oldest unsynced write <- ... <- newest unsynced write
                       \\_______ one sync covers all that were there when it began

A crash keeps a prefix of the unsynced writes; of the first one that is lost, the hard state and some of the entries
may have survived, since nobody promised that a `Persist` is atomic.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from troth.core.interface import Ballot, Entry, EntryId, HardState, Membership, Persist, Slot, SnapshotMeta
from troth.ids import LogIndex, Term


class Luck(Protocol):
    """The chance that a crash needs."""

    def randrange(self, stop: int, /) -> int: ...

    def random(self) -> float: ...


@dataclass(slots=True)
class Stored:
    """What a disk holds: Raft's log in `entries`, or Paxos's accepted `slots`. `digests[i]` is the digest of the log's
    history up to ``entries[i]``."""

    base: SnapshotMeta
    """The newest snapshot; the log that counts begins behind it."""
    base_digest: int
    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    slots: dict[LogIndex, Slot] = field(default_factory=dict)
    chosen: LogIndex = LogIndex(0)

    @property
    def begins_with(self) -> HardState:
        """The term and vote that a server begins with (Paxos: the promise): its snapshot's, if that is newer."""
        own, floor = Ballot(self.hard_state.term, self.hard_state.voted_for), self.base.floor
        return HardState(floor.round, floor.node) if floor > own else self.hard_state

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.base.last.index + len(self.entries))

    def term_at(self, index: LogIndex) -> Term | None:
        """Term of the entry at *index*, if it is here or is the snapshot's last."""
        at = index - self.base.last.index
        if at == 0:
            return self.base.last.term
        if index in self.slots:
            return self.slots[index].entry.term
        return self.entries[at - 1].term if 0 < at <= len(self.entries) else None

    def digest_at(self, index: LogIndex) -> int | None:
        """Digest of everything up to *index*; None when it is not here."""
        at = index - self.base.last.index
        if at == 0:
            return self.base_digest
        return self.digests[at - 1] if 0 < at <= len(self.digests) else None

    def write(self, entries: tuple[Entry, ...]) -> None:
        """Entries overwrite what stands at and after the first of them."""
        if not entries:
            return
        at = entries[0].index - self.base.last.index - 1
        if at < 0:
            entries, at = entries[-at:], 0
        del self.entries[at:]
        del self.digests[at:]
        digest = self.digests[-1] if self.digests else self.base_digest
        for entry in entries:
            digest = chained(digest, entry)
            self.entries.append(entry)
            self.digests.append(digest)

    def accept(self, slots: Iterable[Slot]) -> None:
        """Each slot overwrites what stands at its own index."""
        for slot in slots:
            if slot.entry.index > self.base.last.index:
                self.slots[slot.entry.index] = slot

    def begin_behind(self, base: SnapshotMeta, digest: int) -> None:
        """A newer snapshot is here: keep the log behind it only if it is the same history."""
        if base.last.index <= self.base.last.index:
            return
        agrees = self.term_at(base.last.index) == base.last.term
        drop = base.last.index - self.base.last.index
        self.entries = self.entries[drop:] if agrees else []
        self.digests = self.digests[drop:] if agrees else []
        self.slots = {index: slot for index, slot in self.slots.items() if index > base.last.index}
        self.base, self.base_digest = base, digest


@dataclass(frozen=True, slots=True)
class Write:
    persist: Persist
    snapshot_digest: int


class Journal:
    """One node's disk: `durable`, what a crash leaves; `volatile`, what it holds once everything is synced."""

    def __init__(self, genesis: Membership) -> None:
        meta = SnapshotMeta(EntryId(Term(0), LogIndex(0)), genesis)
        self.durable = Stored(base=meta, base_digest=0)
        self.volatile = Stored(base=meta, base_digest=0)
        self.written = 0
        """Number of the newest write."""
        self.synced = 0
        """Number of the newest write that is durable."""
        self.file, self.file_digest = meta, 0
        """The newest snapshot on the disk and its digest."""
        self._unsynced: list[Write] = []

    @property
    def unsynced(self) -> tuple["Write", ...]:
        """Writes that are not durable yet, oldest first."""
        return tuple(self._unsynced)

    def append(self, persist: Persist, snapshot_digest: int) -> int:
        """Take a write; returns its number."""
        self.written += 1
        write = Write(persist, snapshot_digest)
        self._unsynced.append(write)
        _apply(self.volatile, write)
        return self.written

    def sync_upto(self, number: int) -> None:
        """All writes up to *number* are durable."""
        count = number - self.synced
        for write in self._unsynced[:count]:
            _apply(self.durable, write)
        del self._unsynced[:count]
        self.synced = number

    def snapshot_saved(self, meta: SnapshotMeta, digest: int) -> None:
        """A snapshot (its own file, synced) is durable; the log is not touched by that."""
        if meta.last.index > self.file.last.index:
            self.file, self.file_digest = meta, digest

    def trim(self, meta: SnapshotMeta, digest: int) -> None:
        """The log in front of a snapshot of our own state may go."""
        for stored in (self.durable, self.volatile):
            if stored.term_at(meta.last.index) == meta.last.term:
                stored.begin_behind(meta, digest)

    def lose_end(self, rng: Luck) -> bool:
        """Durable entries at the end of the log can not be read any more (a process that starts finds that out, see
        `storage.replay`); term and vote can. False when there are none."""
        kept = self.durable
        if kept.slots:
            return self._lose_slots(rng)
        if not kept.entries:
            return False
        keep = rng.randrange(len(kept.entries))
        del kept.entries[keep:]
        del kept.digests[keep:]
        self.volatile = replayed(kept, ())
        return True

    def _lose_slots(self, rng: Luck) -> bool:
        """Slots tell nothing of each other: any may be gone. Whoever finds that out begins a round of its own, so that
        nobody goes on counting what was acknowledged in the last (`storage.log`)."""
        kept = self.durable
        lost = [index for index in kept.slots if rng.random() < 0.5]
        for index in lost:
            del kept.slots[index]
        kept.chosen = min(kept.chosen, *(LogIndex(index - 1) for index in lost), kept.chosen)
        kept.hard_state = HardState(Term(kept.hard_state.term + 1))
        self.volatile = replayed(kept, ())
        return bool(lost)

    def crash(self, rng: Luck, keep_permille: int) -> None:
        """Lose what was not synced, or all of it but a prefix."""
        for write in self._unsynced:
            if rng.randrange(1000) >= keep_permille:
                if keep_permille and rng.random() < 0.5:
                    _apply_torn(self.durable, write, rng)
                break
            _apply(self.durable, write)
        self._unsynced.clear()
        self.synced = self.written
        # What a start does first: begin behind the newest snapshot, whether or not the log says that it was installed.
        kept = self.durable
        kept.begin_behind(self.file, self.file_digest)
        self.volatile = replayed(kept, ())


def chained(digest: int, entry: Entry) -> int:
    """Digest of a history that goes on with *entry*. Compared within one process only."""
    return hash((digest, entry.index, entry.term, entry.kind, entry.payload))


def replayed(stored: Stored, writes: Sequence[Write]) -> Stored:
    """What a disk that holds *stored* holds after *writes*; *stored* stays as it is."""
    after = Stored(
        base=stored.base,
        base_digest=stored.base_digest,
        hard_state=stored.hard_state,
        entries=list(stored.entries),
        digests=list(stored.digests),
        slots=dict(stored.slots),
        chosen=stored.chosen,
    )
    for write in writes:
        _apply(after, write)
    return after


def _apply(stored: Stored, write: Write) -> None:
    persist = write.persist
    if persist.hard_state is not None:
        stored.hard_state = persist.hard_state
    if persist.snapshot is not None:
        stored.begin_behind(persist.snapshot, write.snapshot_digest)
    stored.write(persist.entries)
    stored.accept(persist.slots)
    stored.chosen = max(stored.chosen, persist.chosen)


def _apply_torn(stored: Stored, write: Write, rng: Luck) -> None:
    if write.persist.hard_state is not None:
        stored.hard_state = write.persist.hard_state
    if write.persist.snapshot is None and write.persist.entries:
        stored.write(write.persist.entries[: rng.randrange(len(write.persist.entries) + 1)])
    if write.persist.slots:
        stored.accept(slot for slot in write.persist.slots if rng.random() < 0.5)
