"""The write-ahead log: everything a server must not forget before it speaks (Raft figure 2, "persistent state").

One log per data directory, written by one thread. `append` puts any number of `Persist` into one write, `sync` makes
them durable, `open` reads them back and says what it found. `record` draws the bytes and says what a crash leaves
behind; `replay` says what damage means, `opening` reads it all back.

Measured on ext4 (Linux 6.18, virtio disk), 4 KiB per fdatasync: 4 900/s when the file grows with each write and
also into space that was only reserved (fallocate), since each sync then journals metadata; 7 500/s into
zeros written before, whether 64 MiB of them at creation (100 to 180 ms more to start) or 256 KiB ahead of the
last record. So a write that reaches beyond the zeros carries the next 256 KiB of them with it.

Poisoned: after any failed write or sync the log refuses to do anything more, for ever. The kernel may have dropped
the pages, and a second fsync that succeeds proves nothing ("Can Applications Recover from fsync Failures?",
Rebello et al., ATC 2020).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from troth.core.interface import EntryId, Persist, SnapshotMeta
from troth.errors import InvariantViolation, StorageError, SyncFailed, invariant
from troth.ids import LogIndex, NodeId
from troth.ports import File, FileSystem
from troth.storage import record
from troth.storage.opening import Recovered, read_log
from troth.storage.record import SEGMENT_HEAD_BYTES, SLOTS_VERSION, VERSION, Amnesia, Body, Kind, SlotsBody
from troth.storage.replay import Replayed
from troth.storage.scan import Found, Segment, read
from troth.storage.terms import Terms

SEGMENT_BYTES = 64 << 20
AHEAD_BYTES = 256 << 10
"""Zeros written ahead of the last record, and the granularity of that."""

_ADVICE = "Make room or repair the disk, then start this server again: nothing that was acknowledged is lost"


@dataclass(slots=True)
class _Kept:
    """A segment that is still needed."""

    number: int
    top: LogIndex
    """Highest index of an entry in it that a later one does not overwrite."""


class WriteAheadLog:
    """See the module. Made by `open`; not for use by two threads at once."""

    @classmethod
    def open(
        cls,
        files: FileSystem,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        snapshot: SnapshotMeta | None = None,
        owner: NodeId = NodeId(0),
        must_exist: bool = False,
        salvage: bool = False,
        holds_slots: bool = False,
    ) -> tuple["WriteAheadLog", Recovered]:
        """Read the log in *files*, or begin one, and make durable whatever it says.

        Args:
            segment_bytes: a segment gets no further write once it would grow beyond this.
            snapshot: the newest one that can be loaded (`SnapshotStore.newest`); entries up to it are not needed.
            owner: this server; a log that another one wrote is refused.
            must_exist: this server has run before, so a missing log is a lost one.
            salvage: keep the intact part of a damaged log, under a durable `Amnesia` mark.
            holds_slots: it is a log of Multi-Paxos, with slots in place of entries.

        Raises:
            LogDamaged: durable bytes are not what was written; says where, what is affected and what to do.
            IdentityLost: the log is another server's, or gone.
            StorageError: the disk fails, the format is newer than this program, or a stranger's file is in the way.
        """
        try:
            segments, replayed = read_log(
                files,
                snapshot=snapshot,
                owner=owner,
                must_exist=must_exist,
                salvage=salvage,
                holds_slots=holds_slots,
            )
            log = cls(files, segment_bytes=segment_bytes, owner=owner, replayed=replayed, holds_slots=holds_slots)
            torn_bytes = log._take_over(segments, replayed)
        except OSError as error:
            raise StorageError(f"the log can not be opened: {error}. {_ADVICE}") from error
        return log, Recovered.of(replayed, snapshot, torn_bytes)

    def __init__(
        self,
        files: FileSystem,
        *,
        segment_bytes: int,
        owner: NodeId,
        replayed: Replayed,
        holds_slots: bool,
    ) -> None:
        """Use `open`."""
        self._files = files
        self._segment_bytes = segment_bytes
        self._owner = owner
        self._amnesia = replayed.amnesia
        self._hard_state = replayed.hard_state
        self._terms = Terms(replayed.last, replayed.entries)
        self._holds_slots = holds_slots
        self._chosen = replayed.chosen
        self._floor = replayed.floor
        self._oldest = replayed.oldest
        """Number of the oldest segment that is needed; see `record.SlotsBody`."""
        self._sequence = replayed.next_sequence
        """Of the next record."""
        self._durable = replayed.next_sequence
        """All records before this sequence are durable."""
        self._segments: list[_Kept] = []
        self._file: File | None = None
        self._offset = 0
        """Where the next record goes in the newest segment; all behind it reads as zeros."""
        self._zeroed = 0
        """Up to here the newest segment is written; the zeros behind `_offset` included."""
        self._seed = 0
        self._fault: StorageError | None = None

    @property
    def last(self) -> EntryId:
        """The last entry appended, durable or not."""
        return self._terms.last

    @property
    def amnesia(self) -> Amnesia | None:
        return self._amnesia

    def append(self, persists: Sequence[Persist]) -> None:
        """Write *persists*, in order, in one write. Nothing is durable before `sync`.

        Raises:
            StorageError: the write failed (no space, for one); the log is poisoned.
            InvariantViolation: the entries do not join the log.
        """
        bodies = [self._body_of(persist) for persist in persists]
        self._guarded(lambda: self._write(bodies))

    def sync(self) -> None:
        """Return when all that was appended is durable: one fdatasync, none if nothing was appended.

        Raises:
            SyncFailed: nothing is known about what was appended; the log is poisoned.
        """
        self._guarded(self._sync)

    def compact(self, keep_from: LogIndex) -> None:
        """Remove the oldest segments, as many as hold only entries before *keep_from*.

        The caller has a durable snapshot at or after ``keep_from - 1``. The hard state needs no care: the newest
        segment has it in every record.
        """
        self._guarded(lambda: self._compact(keep_from))

    def clear_amnesia(self) -> None:
        """Remove the mark durably: this server has caught up with what a leader had committed after its restart."""
        if self._amnesia is not None:
            self._amnesia = None
            self.append((Persist(),))
            self.sync()

    def close(self) -> None:
        """Let everything become durable and release the files. A poisoned log is just released.

        A last record vouches for the ones before it, so that a rotted one is not taken for a torn write later.
        """
        if self._file is None:
            return
        try:
            if self._fault is None:
                self.sync()
                self.append((Persist(),))
                self.sync()
        finally:
            self._file.close()
            self._file = None
            self._fault = self._fault or StorageError("the log is closed; open it again")

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._fault is not None:
            raise self._fault
        try:
            action()
        except StorageError as error:
            self._fault = error
            raise
        except OSError as error:
            self._fault = StorageError(f"the log can not be written: {error}. {_ADVICE}")
            raise self._fault from error

    def _body_of(self, persist: Persist) -> tuple[Kind, Body | SlotsBody]:
        """The record for *persist*; the log's own idea of hard state and last entry moves on."""
        kind = Kind.CHANGE
        if persist.hard_state is not None:
            self._hard_state = persist.hard_state
        if self._holds_slots:
            return Kind.SLOTS, self._slots_body(persist)
        if persist.snapshot is not None and not self._terms.holds(persist.snapshot.last):
            kind = Kind.ANEW
            self._terms.begin_anew(persist.snapshot.last)
            for segment in self._segments:
                segment.top = LogIndex(0)
        if persist.entries:
            first = persist.entries[0].index
            if first <= self._terms.last.index:
                for segment in self._segments:
                    segment.top = LogIndex(min(segment.top, first - 1))
            self._terms.append(persist.entries)
        return kind, Body(self._hard_state, self._terms.last, persist.entries, persist.snapshot, self._amnesia)

    def _slots_body(self, persist: Persist) -> SlotsBody:
        invariant(not persist.entries, "entries are given to a log of slots")
        self._chosen = max(self._chosen, persist.chosen)
        if persist.snapshot is not None:
            self._floor = max(self._floor, persist.snapshot.last.index)
        return SlotsBody(
            self._hard_state,
            self._chosen,
            self._floor,
            self._oldest,
            persist.slots,
            persist.snapshot,
            self._amnesia,
        )

    def _write(self, bodies: Sequence[tuple[Kind, Body | SlotsBody]]) -> None:
        encoded = [(kind, record.encode_body(body)) for kind, body in bodies]
        size = sum(record.RECORD_HEAD_BYTES + record.padded_bytes(len(body)) for _, body in encoded)
        if self._offset + size > self._segment_bytes and self._offset > SEGMENT_HEAD_BYTES:
            self._roll()
        parts: list[bytes] = []
        for kind, body in encoded:
            parts.append(
                record.encode_record_head(
                    kind=kind,
                    body=body,
                    sequence=self._sequence,
                    unsynced=self._sequence - self._durable,
                    seed=self._seed,
                )
            )
            parts += body, record.padding(len(body))
            self._sequence += 1
        end = self._offset + size
        if end > self._zeroed:
            self._zeroed = (end // AHEAD_BYTES + 1) * AHEAD_BYTES
            parts.append(bytes(self._zeroed - end))
        self._open_file.write_at(self._offset, b"".join(parts))
        self._offset = end
        newest = self._segments[-1]
        for _, said in bodies:
            if isinstance(said, SlotsBody):
                for slot in said.slots:
                    newest.top = max(newest.top, slot.entry.index)
            elif said.entries:
                newest.top = said.entries[-1].index

    @property
    def _open_file(self) -> File:
        file = self._file
        if file is None:
            raise InvariantViolation("the log is used before it is open")
        return file

    def _sync(self) -> None:
        if self._durable == self._sequence:
            return
        self._sync_file(self._open_file)
        self._durable = self._sequence

    def _sync_file(self, file: File) -> None:
        try:
            file.sync()
        except OSError as error:
            raise SyncFailed(
                f"{record.segment_name(self._segments[-1].number)}: fsync failed: {error}. What was written since the"
                " last one may be lost, so this process stops. See the kernel's log, check the disk, start again"
            ) from error

    def _roll(self) -> None:
        """Begin the next segment. The old one is synced first: only the newest may ever have a torn tail."""
        self._sync()
        self._open_file.close()
        self._create_segment(self._segments[-1].number + 1)

    def _create_segment(self, number: int) -> None:
        """Create the segment *number* durably; a crash leaves nothing, an empty file, zeros, or a header."""
        file = self._files.create(record.segment_name(number))
        self._segments.append(_Kept(number=number, top=LogIndex(0)))
        self._use(file, number, SEGMENT_HEAD_BYTES)
        version = SLOTS_VERSION if self._holds_slots else VERSION
        head = record.encode_segment_head(number, self._owner, version)
        file.write_at(0, head + bytes(AHEAD_BYTES - SEGMENT_HEAD_BYTES))
        self._zeroed = AHEAD_BYTES
        self._sync_file(file)
        self._files.sync_directory()

    def _use(self, file: File, number: int, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._seed = record.segment_seed(number, self._owner)

    def _compact(self, keep_from: LogIndex) -> None:
        if len(self._segments) > 1:
            if self._holds_slots:
                self._floor = max(self._floor, LogIndex(keep_from - 1))
                kept = (segment.number for segment in self._segments[:-1] if segment.top >= keep_from)
                self._oldest = next(kept, self._segments[-1].number)
                self._write([self._body_of(Persist())])
            elif self._offset == SEGMENT_HEAD_BYTES:
                self._write([self._body_of(Persist())])
            self._sync()
        while len(self._segments) > 1 and self._is_superfluous(self._segments[0], keep_from):
            self._files.remove(record.segment_name(self._segments[0].number))
            # One at a time: directory changes may become durable in any order, and a hole reads as a lost file.
            self._files.sync_directory()
            del self._segments[0]

    def _is_superfluous(self, segment: _Kept, keep_from: LogIndex) -> bool:
        """Whether *segment* may go. A record of slots may have begun another one just now; the one before, which it
        calls needed, goes next time."""
        return segment.top < keep_from and not (self._holds_slots and segment.number >= self._oldest)

    def _take_over(self, segments: Sequence[Segment], replayed: Replayed) -> int:
        """Go on writing where the last run stopped. Returns how many bytes of torn tail were cut."""
        torn_bytes = 0
        number = 0
        if segments:
            newest = segments[-1]
            number = newest.number
            self._segments = [_Kept(number=s.number, top=replayed.tops[s.number]) for s in segments]
            for segment in segments[:-1]:
                segment.file.close()
            if newest.blank:
                newest.file.close()
                self._segments.pop()
                self._create_segment(number)
            else:
                torn_bytes = self._mend(newest, replayed)
        if not segments or replayed.anew:
            if self._file is not None:
                self._file.close()
            self._create_segment(number + 1)
        if replayed.anew:
            self._begin_anew(replayed)
        return torn_bytes

    def _mend(self, newest: Segment, replayed: Replayed) -> int:
        """Make the newest segment's intact records durable and everything behind them zeros."""
        name = record.segment_name(newest.number)
        size = newest.file.size()
        end = max((item.end for item in newest.items if isinstance(item, Found)), default=SEGMENT_HEAD_BYTES)
        if replayed.cut is not None:
            end = replayed.cut
            for offset in range(end, size, AHEAD_BYTES):
                newest.file.write_at(offset, bytes(min(AHEAD_BYTES, size - offset)))
        self._use(newest.file, newest.number, end)
        self._zeroed = size
        for offset in range(replayed.suspect, end, AHEAD_BYTES):
            part = read(newest.file, name, offset, min(AHEAD_BYTES, end - offset))
            newest.file.write_at(offset, part)
        self._sync_file(newest.file)
        self._files.sync_directory()
        return 0 if replayed.cut is None else size - end

    def _begin_anew(self, replayed: Replayed) -> None:
        """Write the whole log as one record (one checksum: it is there or not) of a new segment; drop the others."""
        if self._holds_slots:
            self._oldest = self._segments[-1].number
            self._write([(Kind.SLOTS_ANEW, self._slots_body(Persist(slots=replayed.slots)))])
        else:
            body = Body(self._hard_state, replayed.last, tuple(replayed.entries), None, self._amnesia)
            self._write([(Kind.ANEW, body)])
        self._sync()
        for segment in self._segments[:-1]:
            self._files.remove(record.segment_name(segment.number))
        self._files.sync_directory()
        del self._segments[:-1]
