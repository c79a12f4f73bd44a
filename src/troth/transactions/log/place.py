"""The files of one coordinator: read by anybody, and taken over by whoever opens the next one.

Only the file with the highest number is written. Opening the next one carries over what counts of those before it: so
compaction, the closing of an epoch and fencing are one mechanism.

**Fencing without a lock.** A coordinator that was paused may wake up at any instruction, so no lock that it checked
before is worth anything. Instead:

* *write, then look*: the owner writes its record, syncs it, and then looks whether a file with a higher number
  exists. Only if there is none was its record in time.
* *raise, then read*: a successor creates the file with the next number, and then reads the one before it. What it
  finds there it carries into its own first record; what it does not find was written later, so that its writer, who
  looks after writing, sees the higher number.
* *read, then look*: who only reads lists the files again afterwards, and if there is a higher one reads again. Or else
  a record that was written behind the back of a successor would count for the reader alone, and a first record that
  its writer is about to be fenced for would, too.

So each record is seen by at least one of the two, and the first record of the successor says durably which counted
(LogCabin, openraft: a seal; Lamport's bakery is the same flag-then-read). An owner that finds itself fenced reads the
successor's verdict. While the newest file is claimed and nothing stands in it, nobody knows what counts (`is_settled`).

**What can be read is on the disk.** A file is claimed empty; what it is opened with is written and synced under another
name, and then takes that one. So a sync that failed leaves a claim, and nobody believes what a power cut may take back.

**A name is not a file.** The highest number only rises, but a lower one may come again: whoever was paused after it had
listed the files creates one that others have removed since. It lists them once more, finds the higher one, and goes no
further. An owner therefore looks whether the file of its name is the one that it has open; so it also sees that the log
was moved, removed or replaced. What it has made empty, nobody takes for a file that it has read before.

Needs a local file system, where a created name is seen by all at once: not NFS.
"""

import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from io import FileIO
from pathlib import Path

from troth.core.twophase.cells import Cells, replay
from troth.core.twophase.forgotten import Forgotten
from troth.core.twophase.records import Abort, Commit, Opened, Record
from troth.errors import Corrupt, InvariantViolation, StorageError, SyncFailed
from troth.runtime.files import sync_directory
from troth.transactions.log import framing
from troth.transactions.log.directory import advice, create, is_at, write_all
from troth.transactions.log.framing import Found

AHEAD_BYTES = 1 << 20
"""The file grows by so many zeros at a time: a sync then has no new length to make durable."""
SETTLE_TIMES = 100
SETTLE_PAUSE_S = 0.005
REFRESH_TIMES = 1000
OPEN_TIMES = 100
"""So often something is done again because others were faster. Losing more often means that something is wrong."""


class Fenced(Exception):
    """Another process has opened a higher file of this place."""


class Opener(Enum):
    """Who opens a file."""

    NEW = "a coordinator that starts: all earlier epochs are closed"
    SAME = "the coordinator that owns the epoch, to have a shorter file"
    NOBODY = "a recoverer: all epochs are closed"


class Place:
    """The files of one coordinator, as read by this process."""

    def __init__(self, root: Path, log_id: str, coordinator: str) -> None:
        self.directory = root / coordinator
        self.log_id = log_id
        self.coordinator = coordinator
        self.cells = Cells(log_id, coordinator)
        self.number = 0
        self.end = 0
        self.sequence = 0
        self.is_settled = False
        """Whether `cells` are what counts, as last read; or else a successor is about to write down what does."""
        self.unsynced = 0
        """The file whose sync has failed here (0: none). What is read there need not be on the disk, whatever a second
        sync says."""
        self._closed = 0
        """A file without an owner that was settled. Nobody adds to it, so that what it says stands, though somebody has
        claimed the next one and could not write it."""
        self._file = (0, 0)
        """Which file was read until `end`."""
        self._looks_for = (0, "", "")

    def numbers(self) -> list[int]:
        """The numbers of the files that are there, ascending."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(n for n in map(framing.number_of, names) if n is not None)

    def path(self, number: int) -> Path:
        return self.directory / framing.file_name(number)

    def refresh(self) -> bool:
        """Read what is new. False if the newest file was claimed and its claimant has not opened it (yet).

        Raises:
            Corrupt, StorageError; also when the files that were read before are gone.
        """
        self.is_settled = False
        for _ in range(REFRESH_TIMES):
            try:
                numbers = self.numbers()
                if not numbers and not self.number:
                    self.is_settled = True
                    return True
                if max(numbers, default=0) < self.number:
                    continue  # one went, and the next one came, while the names were read; or else all are gone
                found = self._read_newest(numbers)
                if self._has_moved_on(numbers[-1], found):
                    continue  # what was read since may not count
                if not found and (self.number or numbers[0] > 1):
                    raise self._lost()
            except FileNotFoundError:
                continue  # compacted away between listing and opening: list again
            except OSError as error:
                raise StorageError(f"{self.directory} can not be read: {error}{advice(error)}") from error
            is_read = found == numbers[-1]
            if is_read and not self.cells.is_owned:
                self._closed = self.number
            self.is_settled = is_read or self.number == self._closed
            return is_read
        raise self._gone()

    def _gone(self) -> StorageError:
        return StorageError(
            f"the files of {self.directory} are gone, or change faster than they can be read. If the log was moved or"
            " removed, put it back and start again: prepared branches wait until then"
        )

    def _lost(self) -> Corrupt:
        """A file is removed when a later one says all that counted of it, durably."""
        return Corrupt(
            f"{self.directory}: the newest file that was opened is damaged from its beginning: decisions that were"
            f" durable are lost. {framing.WHAT_TO_DO}",
            path=str(self.directory),
        )

    def _read_newest(self, numbers: list[int]) -> int:
        """Read the newest of *numbers* that was opened; which that is, or 0."""
        for number in reversed(numbers):
            if number == self.unsynced:
                raise SyncFailed(
                    f"{self.path(number)}: fsync has failed here, so what stands in it may not be on the disk. See the"
                    " kernel's log, check the disk, start again"
                )
            if (number == self.number and self.end and self._read_on()) or self._read_from_start(number):
                return number
        return 0

    def _has_moved_on(self, newest: int, found: int) -> bool:
        """Whether *newest* is not the newest any more, or was opened after it was found not to be: then the file
        *found* may have been removed before it was read, and be another of that name."""
        if found != newest and self._is_opened(newest):
            return True
        return not self._is_newest(newest)

    def _is_opened(self, number: int) -> bool:
        with open(self.path(number), "rb", buffering=0) as file:
            return bool(self._read(file, number))

    def _read(self, file: FileIO, number: int, start: int = 0, sequence: int = 0) -> list[Found]:
        """The records of *file* from *start* on. What is written meanwhile may be seen in any order: so damage is
        believed when it is seen twice, for the second time from a moment on at which what was bad had been written."""
        path, seen = str(self.path(number)), ""
        while True:
            file.seek(start)
            data = file.read()
            try:
                return list(
                    framing.scan(
                        data, number=number, log_id=self.log_id, path=path, start=start, sequence=sequence
                    )
                )
            except Corrupt as error:
                if str(error) == seen:
                    raise
                seen = str(error)

    def _read_from_start(self, number: int) -> bool:
        with open(self.path(number), "rb", buffering=0) as file:
            cells = Cells(self.log_id, self.coordinator)
            end = sequence = 0
            for found in self._read(file, number):
                _take(cells, found.content, str(self.path(number)))
                end, sequence = found.end, found.sequence + 1
            if not end:
                return False
            self._make_durable(number, file.fileno())
            self.cells, self.number, self.end, self.sequence = cells, number, end, sequence
            self._file = _identity(file.fileno())
        return True

    def _read_on(self) -> bool:
        """Whether the file is still the one that was read before."""
        with open(self.path(self.number), "rb", buffering=0) as file:
            if _identity(file.fileno()) != self._file:
                return False
            new = self._read(file, self.number, self.end, self.sequence)
            if new:
                self._make_durable(self.number, file.fileno())
        for found in new:
            _take(self.cells, found.content, str(self.path(self.number)))
            self.end, self.sequence = found.end, found.sequence + 1
        return True

    def _make_durable(self, number: int, descriptor: int) -> None:
        """What was read may not have been synced by its writer yet; nobody may act on what a power cut can undo."""
        try:
            os.fsync(descriptor)
            sync_directory(self.directory)
        except OSError:
            self.unsynced = number
            raise

    def is_superseded(self, number: int, descriptor: int) -> bool:
        """Whether a file after *number*, which is open as *descriptor*, was ever created; or the log was moved.

        Files are removed oldest first, so a successor that is gone again has taken this one with it: look for the
        successor before looking for the file itself.
        """
        if self._looks_for[0] != number:
            self._looks_for = (number, str(self.path(number + 1)), str(self.path(number)))
        _, successor, own = self._looks_for
        return _may_be_there(successor) or not is_at(descriptor, own)

    def read_settled(self, *, waits: bool = True) -> None:
        """`refresh`; while another process has claimed the next file and not yet written it, wait a moment, if *waits*.

        Raises:
            StorageError: it does not write it.
        """
        for _ in range(SETTLE_TIMES if waits else 1):
            if self.refresh() or self.is_settled:
                return
            if waits:
                time.sleep(SETTLE_PAUSE_S)
        raise StorageError(
            f"{self.directory}: another process began to take this place over, and has not finished. The next recovery"
            " takes it over instead"
        )

    def open(self, opener: Opener, extra: Sequence[Record] = ()) -> int:
        """`open_next`, again while others are faster."""
        for _ in range(OPEN_TIMES):
            try:
                return self.open_next(opener, extra=extra)
            except Fenced:
                continue
        raise StorageError(f"{self.directory}: other processes open this place again and again")

    def open_next(self, opener: Opener, *, extra: Sequence[Record] = ()) -> int:
        """Create the next file, carry over what counted of the ones before, make it durable; its descriptor.

        *extra* is added to what is carried over. Raises:
            Fenced: somebody else has created a later one meanwhile.
            StorageError: the files that were read before are gone; no number is given twice, and no epoch.
        """
        numbers = self.numbers()
        newest = max(numbers, default=0)
        if newest < self.number:
            raise self._gone()
        if opener is Opener.SAME and newest != self.number:
            raise Fenced
        number = newest + 1
        # Of another one's files not all may have been read; our own, of which little counts mostly, are to make room.
        is_own = opener is Opener.SAME
        self._find_room(len(self._opening(number, opener, self.cells)) if is_own else max(1, 2 * self.end))
        self._claim(number)
        draft = self._draft(number)
        draft.unlink(missing_ok=True)  # a power cut may leave it there without the claim
        descriptor = create(draft)
        try:
            self.refresh()
            cells = self._with(extra) if extra else self.cells
            content = self._opening(number, opener, cells)
            self._publish(number, descriptor, content)
            self.cells, self.number, self.end, self.sequence = cells, number, len(content), 1
            self._file = _identity(descriptor)
            is_owned = opener is not Opener.NOBODY
            if not is_own:
                self.cells.begin(number, is_owned=is_owned)
            self.is_settled = True
            self._closed = 0 if is_owned else number
            for old in numbers:
                self._draft(old).unlink(missing_ok=True)
                self.path(old).unlink(missing_ok=True)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        return descriptor

    def _opening(self, number: int, opener: Opener, cells: Cells) -> bytes:
        """What the next file begins with, behind the one that is known here."""
        epoch = cells.epoch if opener is Opener.SAME else number
        is_owned = opener is not Opener.NOBODY
        opened = Opened(epoch, self.number, self.end, cells.carried(), cells.forgotten.state(), is_owned)
        return framing.encode_head(number, self.log_id) + framing.encode_opened(
            opened, number=number, log_id=self.log_id
        )

    def _claim(self, number: int) -> None:
        try:
            os.close(create(self.path(number)))
        except FileExistsError:
            raise Fenced from None
        if not self._is_newest(number):
            raise Fenced  # perhaps it was there before, and others have removed it

    def _draft(self, number: int) -> Path:
        return self.path(number).with_suffix(".draft")

    def _is_newest(self, number: int) -> bool:
        return self.numbers()[-1:] == [number]

    def _publish(self, number: int, draft: int, content: bytes) -> None:
        """Make the open *draft* durable, and only then let it be read in the place of the empty file that was claimed:
        what could be read before, and its sync failed, others would sync once more, with success, and believe."""
        write_all(draft, content + bytes(-len(content) % AHEAD_BYTES), 0)
        os.fsync(draft)
        try:
            os.rename(self._draft(number), self.path(number))
        except FileNotFoundError:
            raise Fenced from None  # who has opened a later one has tidied up
        self._make_durable(number, draft)
        if not self._is_newest(number):
            raise Fenced

    def _find_room(self, size: int) -> None:
        """Raise OSError if the disk has no room for a file of *size*. One that is claimed and cannot be written has to
        stay, since others may have seen it and stand back; and each who tries in vain would leave one more."""
        trial = self.directory / f".room-{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = create(trial)
        try:
            os.unlink(trial)
            write_all(descriptor, bytes(size + -size % AHEAD_BYTES), 0)
        finally:
            os.close(descriptor)

    def _with(self, extra: Sequence[Record]) -> Cells:
        """What `cells` come to with *extra*; they themselves stay as they are until that is durable."""
        cells = Cells(self.log_id, self.coordinator)
        replay(cells, self.cells.carried())
        cells.forgotten = Forgotten(self.cells.forgotten.state())
        cells.epoch = self.cells.epoch
        replay(
            cells,
            (record for record in extra if not isinstance(record, Abort) or cells.may_be_refused(record.gid)),
        )
        return cells


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _may_be_there(path: str) -> bool:
    """Whoever cannot see whether it is there acts as if it were. (`os.access` would ask for the real user, and not for
    the effective one, as whom all else is done.)"""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _take(cells: Cells, content: Opened | tuple[Record, ...], path: str) -> None:
    for record in content.carried if isinstance(content, Opened) else content:
        if isinstance(record, Commit) and not record.gid.startswith(cells.prefix):
            raise Corrupt(
                f"{path} holds the decision {record.gid}, of another place: its directory was copied or renamed. Move"
                " it out of the log, or back",
                path=path,
            )
    try:
        if isinstance(content, Opened):
            replay(cells, content.carried)
            cells.forgotten = Forgotten(content.forgotten)
            cells.begin(content.epoch, is_owned=content.owned)
        else:
            replay(cells, content)
    except InvariantViolation as error:
        # One place stops itself, and not everybody who reads the log.
        raise Corrupt(f"{path} says what no log can say: {error}. {framing.WHAT_TO_DO}", path=path) from error
