"""The hand that writes one place: records to its newest file, each made durable and then looked after (place.py)."""

import os
from collections.abc import Sequence

from troth.core.twophase.cells import replay
from troth.core.twophase.records import Applied, Commit, Record
from troth.errors import StorageError, SyncFailed, invariant
from troth.runtime.files import DiskFile
from troth.transactions.forks import made_before
from troth.transactions.log import framing
from troth.transactions.log.directory import Hold
from troth.transactions.log.place import AHEAD_BYTES, Fenced, Opener, Place
from troth.transactions.steps import OnStep


class Writer:
    """Used by one thread at a time. After a fault, or once fenced, it writes nothing any more.

    Attributes:
        fault: why nothing is decided any more.
        is_fenced: whether somebody has closed our epoch; `renew` opens another one.
        is_displaced: whether the place is not where it was. What is there now says nothing of what we decided.
    """

    def __init__(self, place: Place, hold: Hold, *, compact_bytes: int, on_step: OnStep) -> None:
        """Open the next epoch of *place*, which we *hold*; until a fault: then somebody else can have it, and finish
        what is prepared.

        Raises:
            StorageError, OSError: it cannot be written.
        """
        self.place = place
        self.fault: StorageError | None = None
        self.is_fenced = False
        self.is_displaced = False
        self._hold = hold
        self._is_closed = False
        self._compact_bytes = compact_bytes
        self._on_step = on_step
        self._done: list[str] = []
        self._pid = os.getpid()
        self._take(place.open(Opener.NEW))

    def _take(self, descriptor: int) -> None:
        try:
            self._check_there(self.place.number)
        except StorageError:
            os.close(descriptor)
            raise
        self._file = DiskFile(descriptor)
        self._number = self.place.number
        self._zeroed = self._file.size()

    def _check_there(self, newest: int) -> None:
        """Raise StorageError if the log was moved or removed. Else there are files up to *newest* at least."""
        try:
            is_there = self._hold.is_there() and max(self.place.numbers(), default=0) >= newest
        except OSError:
            is_there = False
        if not is_there:
            self.is_displaced = True
            raise self._give_up(
                StorageError(
                    f"the decision log's place {self.place.directory} was moved, removed or replaced under this"
                    " process. What it was just writing is in the files that were there, so it decides nothing any"
                    " more: put the log back and start again. Prepared branches wait until then"
                )
            )

    def renew(self) -> None:
        """Open another epoch. Raises StorageError, also after a fault: somebody else may have the place by then."""
        self._check_usable()
        self._check_there(self._number)
        before = self._file
        self.is_fenced = True  # however this ends, but well: the place may know another's file by then
        try:
            self._take(self.place.open(Opener.NEW))
        except OSError as error:
            raise self._give_up(self._no_next_file(error)) from error
        except StorageError:
            raise
        except BaseException as error:
            # Perhaps the next file is there, and this one still open: what is written here would count for nothing.
            self._give_up(_cut_short(error))
            raise
        before.close()
        self.is_fenced = False

    def note_done(self, gids: Sequence[str]) -> int:
        """Kept for the next record that is written; how many there are now."""
        self._done += gids
        return len(self._done)

    def append(self, records: Sequence[Record]) -> None:
        """Make *records*, and what was applied since, durable as one record of the file; then look (see place.py).

        Raises:
            Fenced: somebody has raised a higher number; whether the records counted is written there.
            SyncFailed, StorageError: nothing is known about them; the log is not written any more.
            NotApplied: one of them could not be read back; nothing was written.
        """
        self._check_usable()
        if self.is_fenced:
            raise Fenced
        place, done = self.place, list(self._done)
        batch = (*records, Applied(tuple(done))) if done else tuple(records)
        content = framing.encode_batch(batch, sequence=place.sequence, number=place.number, log_id=place.log_id)
        try:
            del self._done[: len(done)]
            self._append(records, content)
        except (Fenced, StorageError):
            raise
        except BaseException as error:
            # A signal cut in, or a bug: what the file holds is not known here, so nothing may be written over it.
            fault = self._give_up(_cut_short(error))
            if not isinstance(error, Exception):
                raise
            raise fault from error

    def _check_usable(self) -> None:
        if self.fault is not None:
            raise self.fault
        if self._pid != os.getpid():
            raise made_before()

    def _append(self, records: Sequence[Record], content: bytes) -> None:
        place = self.place
        invariant(
            place.number == self._number and place.end > framing.HEAD_BYTES,
            "a record is written into another place of a file than its end",
            number=place.number,
            end=place.end,
        )
        end = place.end + len(content)
        try:
            if end > self._zeroed:
                self._zeroed = (end // AHEAD_BYTES + 1) * AHEAD_BYTES
                content += bytes(self._zeroed - end)
            self._file.write_at(place.end, content)
            if records and isinstance(records[0], Commit):
                self._on_step("decision_written")
        except OSError as error:
            raise self._give_up(
                StorageError(
                    f"the decision log {place.path(place.number)} can not be written: {error}. Make room or repair the"
                    " disk, then start again: prepared branches wait until then"
                )
            ) from error
        self._sync()
        place.end, place.sequence = end, place.sequence + 1
        if place.is_superseded(place.number, self._file.fileno()):
            self.is_fenced = True
            # Our own memory of the file stops before this record: only the successor's counts.
            place.end = 0
            self._check_there(self._number + 1)
            raise Fenced
        replay(place.cells, records)
        if end > self._compact_bytes:
            self._compact()

    def append_or_fail(self, records: Sequence[Record]) -> None:
        """`append`, for records that nobody can take over. Raises StorageError, also when fenced."""
        try:
            self.append(records)
        except Fenced:
            raise StorageError(f"another process has taken over the place {self.place.directory}") from None

    def _sync(self) -> None:
        try:
            self._file.sync()
        except OSError as error:
            self.place.unsynced = self.place.number
            raise self._give_up(
                SyncFailed(
                    f"{self.place.path(self.place.number)}: fsync failed: {error}. What was decided since the last one"
                    " may be lost or not, so this process decides nothing any more. See the kernel's log, check the"
                    " disk, start again"
                )
            ) from error

    def _give_up(self, fault: StorageError) -> StorageError:
        self.fault = fault
        self._hold.let_go()
        return fault

    def _no_next_file(self, error: OSError) -> StorageError:
        return StorageError(
            f"the decision log {self.place.directory} can not begin its next file: {error}. Make room, or put the log"
            " back if it was moved; then start again: prepared branches wait until then"
        )

    def _compact(self) -> None:
        old = self._file
        try:
            self._take(self.place.open_next(Opener.SAME))
        except Fenced:
            self.is_fenced = True  # the place may know the other's file by now, and ours is written no more
            return
        except StorageError as error:
            self._give_up(error)  # nor could the next process read it
            return
        except OSError as error:
            # What was decided so far stands. But if the next file's name is taken by now, it fences this one off.
            if self.place.is_superseded(self._number, old.fileno()):
                self._give_up(self._no_next_file(error))
                return
            # Again soon, while this file still has room to grow, and not at each decision.
            self._compact_bytes = self.place.end + AHEAD_BYTES
        else:
            old.close()
            # Or else each decision would rewrite what alone is longer.
            self._compact_bytes = max(self._compact_bytes, 2 * self.place.end)

    def close(self) -> bool:
        """Write down what was applied, if that is possible. False if it was closed before."""
        if self._is_closed:
            return False
        try:
            if self._done and self.fault is None and self._pid == os.getpid():
                self.append([])
        except (Fenced, StorageError):
            pass  # what was applied is found out again by recovery
        finally:
            self._file.close()
            self._is_closed = True
            self.fault = self.fault or StorageError("the decision log is closed")
        return True


def _cut_short(error: BaseException) -> StorageError:
    return StorageError(
        f"a write of the decision log was cut short by {type(error).__name__}. Start again: prepared branches wait"
    )
