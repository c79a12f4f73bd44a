"""The embedded decision log: one directory beside the application, one file that is written.

It may be shared by the processes of one machine (workers of a web server, a command that recovers): each takes a
place of its own, named by a number, and holds it by a kernel lock that goes when it dies. Whoever finds a place
without a holder may close its epoch and finish its transactions.

**Fencing without a lock.** A coordinator that was paused may wake up at any instruction, so no lock that it checked
before is worth anything. Instead:

* *write, then look*: the owner writes its record, syncs it, and then looks whether a file with a higher number
  exists. Only if there is none was its record in time.
* *raise, then read*: a successor creates the file with the next number (it can only be created once), and then reads
  the one before it. What it finds there it carries into its own first record; what it does not find was written later,
  so that its writer, who looks after writing, sees the higher number.

So each record is seen by at least one of the two, and the first record of the successor says durably which counted
(LogCabin, openraft: a seal; Lamport's bakery is the same flag-then-read). An owner that finds itself fenced reads the
successor's verdict. Needs a local file system, where a created name is seen by all at once: not NFS.
"""

import errno
import fcntl
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from troth.core.twophase.cells import Cells, Verdict, replay
from troth.core.twophase.forgotten import Forgotten
from troth.core.twophase.gid import LOG_CHARS, Epoch, Gid, base36, is_name, parse_gid
from troth.core.twophase.records import Abort, Applied, Commit, Forget, Heuristic, Member, Opened, Record
from troth.errors import (
    Corrupt,
    NotApplied,
    OutcomeUnknown,
    StorageError,
    SyncFailed,
    TrothError,
    UsageError,
    invariant,
)
from troth.transactions.log import framing
from troth.transactions.log.interface import Coordinator, Decided
from troth.transactions.steps import OnStep, nothing

AHEAD_BYTES = 1 << 20
"""The file grows by so many zeros at a time: a sync then has no new length to make durable."""
COMPACT_BYTES = 8 << 20
"""A file that has become so long is carried over into the next one."""
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
PLACES_MAX = 4096
SETTLE_TIMES = 100
SETTLE_PAUSE_S = 0.005
PLACE_WAIT_S = 0.5
KEYS_WAIT_S = 2.0
KEYS_POLL_S = 0.0005


class _Fenced(Exception):
    """Another process has opened a higher file of this place."""


class _Owner(Enum):
    """Who opens a file."""

    NEW = "a coordinator that starts: all earlier epochs are closed"
    SAME = "the coordinator that owns the epoch, to have a shorter file"
    NOBODY = "a recoverer: all epochs are closed"


class _Place:
    """The files of one coordinator, as read by this process."""

    def __init__(self, root: Path, log_id: str, coordinator: str) -> None:
        self.directory = root / coordinator
        self.log_id = log_id
        self.coordinator = coordinator
        self.cells = Cells(log_id, coordinator)
        self.number = 0
        self.end = 0
        self.sequence = 0
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
            Corrupt, StorageError.
        """
        for _ in range(1000):
            numbers = self.numbers()
            if not numbers:
                return True
            try:
                for number in reversed(numbers):
                    if number == self.number and self.end:
                        self._read_on()
                        break
                    if self._read_from_start(number):
                        break
                else:
                    return False
                return self.number == numbers[-1]
            except FileNotFoundError:
                continue  # compacted away between listing and opening: list again
        raise StorageError(f"{self.directory} changes faster than it can be read")

    def _read_from_start(self, number: int) -> bool:
        data = self.path(number).read_bytes()
        cells = Cells(self.log_id, self.coordinator)
        end = sequence = 0
        path = str(self.path(number))
        for found in framing.scan(data, number=number, log_id=self.log_id, path=path):
            _take(cells, found.content)
            end, sequence = found.end, found.sequence + 1
        if not end:
            return False
        self._make_durable(number)
        self.cells, self.number, self.end, self.sequence = cells, number, end, sequence
        return True

    def _read_on(self) -> None:
        with open(self.path(self.number), "rb") as file:
            file.seek(self.end)
            data = file.read()
        before = self.end
        for found in framing.scan(
            data,
            number=self.number,
            log_id=self.log_id,
            path=str(self.path(self.number)),
            start=self.end,
            sequence=self.sequence,
        ):
            _take(self.cells, found.content)
            self.end, self.sequence = found.end, found.sequence + 1
        if self.end > before:
            self._make_durable(self.number)

    def _make_durable(self, number: int) -> None:
        """What was read may not have been synced by its writer yet; nobody may act on what a power cut can undo."""
        descriptor = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_directory(self.directory)

    def is_superseded(self, number: int) -> bool:
        """Whether a file after *number* was ever created.

        Files are removed oldest first, so a successor that is gone again has taken this one with it: look for the
        successor before looking for the file itself.
        """
        if self._looks_for[0] != number:
            self._looks_for = (number, str(self.path(number + 1)), str(self.path(number)))
        _, successor, own = self._looks_for
        return os.access(successor, os.F_OK) or not os.access(own, os.F_OK)

    def open_next(self, owner: "_Owner", *, extra: Sequence[Record] = ()) -> int:
        """Create the next file, carry over what counted of the ones before, make it durable; its descriptor.

        *extra* is added to what is carried over. Raises:
            _Fenced: somebody else has created a later one meanwhile.
        """
        numbers = self.numbers()
        number = (numbers[-1] if numbers else 0) + 1
        try:
            descriptor = os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        except FileExistsError:
            raise _Fenced from None
        try:
            self.refresh()
            before = self.number
            epoch = self.cells.epoch if owner is _Owner.SAME else number
            replay(self.cells, extra)
            opened = Opened(
                epoch,
                before,
                self.end,
                self.cells.carried(),
                self.cells.forgotten.state(),
                owner is not _Owner.NOBODY,
            )
            content = framing.encode_head(number, self.log_id) + framing.encode_opened(
                opened, number=number, log_id=self.log_id
            )
            _write_all(descriptor, content + bytes(-len(content) % AHEAD_BYTES), 0)
            os.fsync(descriptor)
            _sync_directory(self.directory)
            if self.is_superseded(number):
                raise _Fenced
            self.number, self.end, self.sequence = number, len(content), 1
            self.cells.epoch, self.cells.is_owned = epoch, opened.owned
            for old in numbers:
                self.path(old).unlink(missing_ok=True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _take(cells: Cells, content: Opened | tuple[Record, ...]) -> None:
    if isinstance(content, Opened):
        replay(cells, content.carried)
        cells.forgotten = Forgotten(content.forgotten)
        cells.epoch, cells.is_owned = content.epoch, content.owned
    else:
        replay(cells, content)


class FileLog:
    """A `DecisionLog` in the directory *path*; created if need be."""

    def __init__(
        self,
        path: Path | str,
        *,
        coordinator: str | None = None,
        on_step: OnStep = nothing,
        compact_bytes: int = COMPACT_BYTES,
    ) -> None:
        """Take a place (*coordinator*, or the first that nobody holds) and open its next epoch.

        Raises:
            StorageError: the directory cannot be used, or the place is held by a process that runs.
            Corrupt: decisions that were durable are damaged.
            UsageError: *coordinator* is not 1 to 16 small letters, digits, - or _.
        """
        if coordinator is not None and not is_name(coordinator):
            raise UsageError(f"coordinator={coordinator!r}: 1 to 16 small letters, digits, - or _")
        self._root = Path(path)
        self._on_step = on_step
        self._compact_bytes = compact_bytes
        self._lock = threading.RLock()
        self._fault: StorageError | None = None
        self._is_fenced = False
        """Whether somebody has closed our epoch; `renew` opens another one."""
        self._unsynced = 0
        """The file whose sync has failed."""
        self._done: list[str] = []
        self._others: dict[str, _Place] = {}
        self._pid = os.getpid()
        try:
            self._log_id = _log_id(self._root)
            name, self._holder = self._take_place(coordinator)
            self._place = _Place(self._root, self._log_id, name)
            self._descriptor = self._open(self._place, _Owner.NEW)
        except OSError as error:
            raise StorageError(
                f"the decision log {self._root} can not be used: {error}. Name another directory (log=...), or give"
                " this user the right to write there"
            ) from error
        self._epoch = Epoch(self._log_id, name, self._place.cells.epoch)
        self._zeroed = os.fstat(self._descriptor).st_size
        _close_in_children(self)

    # ---- places ----------------------------------------------------------------------------------------

    def _take_place(self, wanted: str | None) -> tuple[str, int]:
        """The name of a place, and the descriptor of its lock, which this process now holds."""
        until = time.monotonic() + PLACE_WAIT_S
        for name in map(base36, range(PLACES_MAX)) if wanted is None else itertools.repeat(wanted):
            holder = self._hold(name)
            if holder is not None:
                return name, holder
            if wanted is not None:
                # Recovery of another process holds it for a moment, to see whether anybody does.
                if time.monotonic() >= until:
                    break
                time.sleep(SETTLE_PAUSE_S)
        raise StorageError(
            f"the place {wanted or ''} of the decision log {self._root} is held by {self._holder_text(wanted or '0')}:"
            " stop that process first, or leave coordinator= out to have a place of its own"
        )

    def _hold(self, name: str) -> int | None:
        (self._root / name).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        lock = os.open(self._root / name / "holder", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        return lock

    def _holder_text(self, name: str) -> str:
        try:
            pid = (self._root / name / "holder").read_text().strip()
        except OSError:
            pid = ""
        return f"process {pid}" if pid else "another process"

    def _open(self, place: _Place, owner: _Owner, extra: Sequence[Record] = ()) -> int:
        for _ in range(100):
            try:
                return place.open_next(owner, extra=extra)
            except _Fenced:
                continue
        raise StorageError(f"{place.directory}: other processes open this place again and again")

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self._root) if is_name(entry.name) and entry.is_dir())

    def _other(self, name: str) -> _Place:
        return self._others.setdefault(name, _Place(self._root, self._log_id, name))

    # ---- what the interface asks for ---------------------------------------------------------------------

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    def renew(self) -> Epoch:
        with self._lock:
            before = self._descriptor
            self._descriptor = self._open(self._place, _Owner.NEW)
            os.close(before)
            self._zeroed = os.fstat(self._descriptor).st_size
            self._is_fenced = False
            self._epoch = Epoch(self._log_id, self._place.coordinator, self._place.cells.epoch)
            return self._epoch

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        """See `DecisionLog.decide`. Keys are unique in the whole log, so that batches with keys wait for each other."""
        with self._lock:
            if not any(commit.key for commit in commits):
                return self._decide(commits)
            # Their holder may be paused for ever.
            why = f"another process holds the keys of {self._root} for more than {KEYS_WAIT_S} s; is one paused?"
            with self._keys_held() as is_held:
                if is_held:
                    error = self._refresh_others()
                    if error is None:
                        return self._decide(commits)
                    why = f"whether the key is taken cannot be read: {error}"
            # Work without a key has nothing to do with it.
            others = iter(self._decide([commit for commit in commits if not commit.key]))
            refused = NotApplied(why)
            return [refused if commit.key else next(others) for commit in commits]

    def _refresh_others(self) -> StorageError | None:
        """Read what is new in the places of other processes. One that is damaged stops nothing but itself."""
        found = None
        for name in self._names():
            if name != self._place.coordinator:
                try:
                    self._other(name).refresh()
                except StorageError as error:
                    found = error
        return found

    def _decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        cells = self._place.cells
        won: list[Record] = []
        answers: list[Decided | None] = []
        keys: dict[str, str] = {}
        for commit in commits:
            holder = keys.get(commit.key) or self._holder_elsewhere(commit.key) if commit.key else None
            known = cells.record_of(commit.gid)
            verdict, about = cells.judge(commit)
            if holder is not None and known is None and verdict is not Verdict.ABORT:
                verdict, about = Verdict.COMMIT, holder
            mine = known is None and about == commit.gid and verdict in (Verdict.COMMIT, Verdict.DELEGATED)
            if mine:
                won.append(commit)
                if commit.key:
                    keys[commit.key] = commit.gid
            answers.append(Decided(verdict, about))
        try:
            if won:
                self._append(won)
        except _Fenced:
            return [self._verdict_of_successor(commit) for commit in commits]
        return [answer for answer in answers if answer is not None]

    def _holder_elsewhere(self, key: str) -> str | None:
        for place in self._others.values():
            holder = place.cells.holder_of(key)
            if holder is not None:
                return holder
        return None

    def _verdict_of_successor(self, commit: Commit) -> Decided | TrothError:
        """What the one that fenced us has carried over of *commit*."""
        self._is_fenced = True
        try:
            self._read_settled(self._place)
        except StorageError:
            # Whoever fenced us died before it had written down what counts. So we do, as the next owner.
            try:
                self.renew()
            except (StorageError, OSError) as error:
                return OutcomeUnknown(f"{commit.gid}: {error}")
        found = parse_gid(commit.gid)
        invariant(found is not None, "a decision about what is no transaction", gid=commit.gid)
        verdict = self._place.cells.verdict(found[0]) if found else Verdict.FOREIGN
        return Decided(verdict, commit.gid)

    def note_applied(self, gids: Sequence[str]) -> None:
        """Kept for the next record that is written (or `close`), so that it costs no sync of its own."""
        with self._lock:
            mine, others = self._by_place(gids)
            self._done += mine
            replay(self._place.cells, [Applied(tuple(mine))])
            if len(self._done) > 4096:
                self._append_or_fail([])
            for name, found in others.items():
                self._add_to(name, Applied(tuple(found)))

    def note_refused(self, gid: str) -> None:
        with self._lock:
            mine, others = self._by_place([gid])
            if mine:
                self._append_or_fail([Abort(gid, "the last resource")])
            for name in others:
                self._add_to(name, Abort(gid, "the last resource"))

    def _by_place(self, gids: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
        mine: list[str] = []
        others: dict[str, list[str]] = {}
        prefix = self._epoch.prefix
        if all(gid.startswith(prefix) for gid in gids):
            return list(gids), others
        for gid in gids:
            found = parse_gid(gid)
            if found is None or found[0].coordinator == self._place.coordinator:
                mine.append(gid)
            else:
                others.setdefault(found[0].coordinator, []).append(gid)
        return mine, others

    def _add_to(self, name: str, record: Record) -> None:
        """Add *record* to a place without a coordinator. One that has a coordinator again is that one's business."""
        holder = self._hold(name)
        if holder is not None:
            try:
                os.close(self._open(self._other(name), _Owner.NOBODY, [record]))
            finally:
                _let_go(holder)

    def verdict(self, gid: Gid) -> Verdict:
        with self._lock:
            place = self._at(gid)
            return place.cells.verdict(gid) if place else Verdict.FOREIGN

    def commit_of(self, gid: Gid) -> Commit | None:
        with self._lock:
            place = self._at(gid)
            return place.cells.record_of(str(gid)) if place else None

    def _at(self, gid: Gid) -> _Place | None:
        """The place that *gid* was named by, up to date; None if it is not of this log."""
        if gid.log != self._log_id:
            return None
        if gid.coordinator == self._place.coordinator:
            if self._fault is not None or self._is_fenced:
                self._read_settled(self._place)
                if self._place.number == self._unsynced and self._fault is not None:
                    # What is read there need not be on the disk, whatever a second sync says.
                    raise self._fault
            return self._place
        if gid.coordinator not in self._names():
            return None
        place = self._other(gid.coordinator)
        self._read_settled(place)
        return place

    def _read_settled(self, place: _Place) -> None:
        """Read *place*; while another process has claimed its next file and not yet written it, wait a moment."""
        for _ in range(SETTLE_TIMES):
            if place.refresh():
                return
            time.sleep(SETTLE_PAUSE_S)
        raise StorageError(
            f"{place.directory}: another process began to take this place over, and has not finished. The next recovery"
            " takes it over instead"
        )

    def holder_of(self, key: str) -> str | None:
        with self._lock:
            error = self._refresh_others()
            if error is not None:
                raise error
            return self._place.cells.holder_of(key) or self._holder_elsewhere(key)

    def abort(self, record: Abort) -> Verdict:
        """See `DecisionLog.abort`. Of another place, only after its epoch was closed."""
        with self._lock:
            found = parse_gid(record.gid)
            if found is None or found[0].log != self._log_id:
                return Verdict.FOREIGN
            standing = self.verdict(found[0])
            if standing is not Verdict.OPEN or found[0].coordinator != self._place.coordinator:
                return standing
            try:
                self._append([record])
            except _Fenced:
                answer = self._verdict_of_successor(Commit(record.gid, ()))
                if isinstance(answer, TrothError):
                    raise answer from None
                return answer.verdict
            return Verdict.ABORT

    def coordinators(self) -> list[Coordinator]:
        found = []
        with self._lock:
            for name in self._names():
                place = self._place if name == self._place.coordinator else self._other(name)
                if place is not self._place:
                    place.refresh()
                is_alive = place is self._place or not self._is_free(name)
                found.append(Coordinator(name, place.cells.epoch, is_alive))
        return found

    def _is_free(self, name: str) -> bool:
        holder = self._hold(name)
        if holder is None:
            return False
        _let_go(holder)
        return True

    def close_epoch(self, coordinator: str, *, even_if_alive: bool = False) -> bool:
        if coordinator == self._place.coordinator:
            return False
        with self._lock:
            place = self._other(coordinator)
            holder = self._hold(coordinator)
            if holder is None and not even_if_alive:
                return False
            try:
                if not place.refresh() or place.cells.is_owned:
                    os.close(self._open(place, _Owner.NOBODY))
                    self._on_step("epoch_closed")
            finally:
                if holder is not None:
                    _let_go(holder)
            return True

    def unapplied(self) -> list[Commit]:
        with self._lock:
            return [
                commit
                for place in (self._place, *self._others.values())
                for commit in place.cells.unapplied.values()
            ]

    def register(self, members: Sequence[Member]) -> None:
        with self._lock:
            known = self._place.cells.members
            new = [member for member in members if known.get(member.name) != member]
            if new:
                self._append_or_fail(new)

    def members(self) -> dict[str, Member]:
        with self._lock:
            self._refresh_others()
            found: dict[str, Member] = {}
            for place in (*self._others.values(), self._place):
                found |= place.cells.members
            return found

    def note_heuristic(self, record: Heuristic) -> None:
        with self._lock:
            if self._place.cells.heuristics.get(record.gid, {}).get(record.participant) != record.seen:
                self._append_or_fail([record])

    def heuristics(self) -> list[Heuristic]:
        with self._lock:
            self._refresh_others()
            return [
                Heuristic(gid, participant, seen)
                for place in (self._place, *self._others.values())
                for gid, found in place.cells.heuristics.items()
                for participant, seen in found.items()
            ]

    def forget(self, gid: str, by: str) -> bool:
        with self._lock:
            self._refresh_others()
            noted = [name for name, place in self._others.items() if gid in place.cells.heuristics]
            for name in noted:
                self._add_to(name, Forget(gid, by))
                if gid in self._other(name).cells.heuristics:
                    raise StorageError(
                        f"{gid} was noted by {self._holder_text(name)}, which lives: stop it first, or call"
                        " tpc.log.forget there"
                    )
            if gid in self._place.cells.heuristics:
                self._append_or_fail([Forget(gid, by)])
                return True
            return bool(noted)

    def close(self) -> None:
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                if self._done and self._fault is None and self._pid == os.getpid():
                    self._append([])
            except (_Fenced, StorageError):
                pass  # what was applied is found out again by recovery
            finally:
                os.close(self._descriptor)
                if self._holder >= 0:
                    os.close(self._holder)
                self._descriptor = self._holder = -1
                self._fault = self._fault or StorageError("the decision log is closed")

    # ---- writing -----------------------------------------------------------------------------------------

    def _append_or_fail(self, records: Sequence[Record]) -> None:
        try:
            self._append(records)
        except _Fenced:
            raise StorageError(
                f"another process has taken over the place {self._epoch.coordinator} of {self._root}"
            ) from None

    def _append(self, records: Sequence[Record]) -> None:
        """Make *records*, and what was applied since, durable as one record of the file; then look (see above).

        Raises:
            _Fenced: somebody has raised a higher number; whether the records counted is written there.
            SyncFailed, StorageError: nothing is known about them; the log is not written any more.
        """
        if self._fault is not None:
            raise self._fault
        if self._is_fenced:
            raise _Fenced
        if self._pid != os.getpid():
            raise UsageError("this TwoPhaseCommit was made before a fork; make one in each process")
        place = self._place
        done, self._done = self._done, []
        batch: tuple[Record, ...] = (*records, Applied(tuple(done))) if done else tuple(records)
        content = framing.encode_batch(batch, sequence=place.sequence, number=place.number, log_id=self._log_id)
        end = place.end + len(content)
        try:
            if end > self._zeroed:
                self._zeroed = (end // AHEAD_BYTES + 1) * AHEAD_BYTES
                content += bytes(self._zeroed - end)
            _write_all(self._descriptor, content, place.end)
            if any(isinstance(record, Commit) for record in records):
                self._on_step("decision_written")
            self._sync()
        except BaseException as error:
            # Also when a signal cuts in: what is in the file now is not known here, so nothing may be written over it.
            if isinstance(error, StorageError):
                raise
            fault = self._give_up(
                StorageError(
                    f"the decision log {place.path(place.number)} can not be written: {error}. Make room or repair the"
                    " disk, then start again: prepared branches wait until then"
                )
            )
            if not isinstance(error, Exception):
                raise
            raise fault from error
        place.end, place.sequence = end, place.sequence + 1
        if place.is_superseded(place.number):
            # Our own memory of the file stops before this record: only the successor's counts.
            place.end = 0
            raise _Fenced
        replay(place.cells, records)
        if place.end > self._compact_bytes:
            self._compact()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._unsynced = self._place.number
            raise self._give_up(
                SyncFailed(
                    f"{self._place.path(self._place.number)}: fsync failed: {error}. What was decided since the last"
                    " one may be lost or not, so this process decides nothing any more. See the kernel's log, check"
                    " the disk, start again"
                )
            ) from error

    def _give_up(self, fault: StorageError) -> StorageError:
        """Decide nothing any more, and let somebody else have the place, who can then finish what is prepared."""
        self._fault = fault
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1
        return fault

    def _compact(self) -> None:
        old = self._descriptor
        try:
            self._descriptor = self._place.open_next(_Owner.SAME)
        except _Fenced:
            return  # the next decision sees it
        except OSError as error:
            # What was decided so far stands. But the next file's name may be taken now, and it fences this one off.
            self._give_up(
                StorageError(
                    f"the decision log {self._place.directory} can not begin its next file: {error}. Make room, then"
                    " start again: prepared branches wait until then"
                )
            )
            return
        os.close(old)
        self._zeroed = os.fstat(self._descriptor).st_size
        self._compact_bytes = max(self._compact_bytes, 2 * self._place.end)

    @contextmanager
    def _keys_held(self) -> Iterator[bool]:
        """Whether they could be had within `KEYS_WAIT_S`."""
        lock = os.open(self._root / "keys", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        until = time.monotonic() + KEYS_WAIT_S
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= until:
                        yield False
                        return
                    time.sleep(KEYS_POLL_S)
                else:
                    yield True
                    return
        finally:
            _let_go(lock)


def _let_go(lock: int) -> None:
    """Not by closing alone: a child that was forked meanwhile has the descriptor too, and would hold the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def _close_in_children(log: FileLog) -> None:
    """A forked child must not hold the place of a parent that dies: the lock goes with its last descriptor."""
    found = weakref.ref(log)

    def close() -> None:
        log = found()
        if log is not None and log._holder >= 0:
            os.close(log._holder)
            log._holder = -1

    os.register_at_fork(after_in_child=close)


def _log_id(root: Path) -> str:
    """The log's name; drawn, durably, by the first process that comes."""
    root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path = root / "log-id"
    if not path.exists():
        drawn = "".join(base36(secrets.randbelow(36)) for _ in range(LOG_CHARS))
        draft = root / f".log-id-{os.getpid()}-{threading.get_ident()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            _write_all(descriptor, f"{drawn}\n".encode("ascii"), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)  # unlike a rename, this fails if another process was first
        except FileExistsError:
            pass
        draft.unlink()
        _sync_directory(root)
        _sync_directory(root.parent)
    log_id = path.read_text().strip()
    if len(log_id) != LOG_CHARS or not is_name(log_id):
        raise Corrupt(f"{path} does not hold a log's name; restore it from a backup", path=str(path))
    return log_id


def _write_all(descriptor: int, content: bytes, at: int) -> None:
    written = os.pwrite(descriptor, content, at)
    while written < len(content):
        written += os.pwrite(descriptor, memoryview(content)[written:], at + written)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
