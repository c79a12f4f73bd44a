"""The embedded decision log: one directory beside the application, one file that is written.

It may be shared by the processes of one machine (workers of a web server, a command that recovers): each takes a
place of its own, named by a number, and holds it by a kernel lock that goes when it dies (directory.py). Whoever finds
a place without a holder may close its epoch and finish its transactions. How an owner that was paused is kept from
deciding then stands in place.py, the bytes in framing.py.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from troth.core.twophase.cells import Verdict, replay
from troth.core.twophase.gid import NAME_RULE, Epoch, Gid, is_name, parse_gid
from troth.core.twophase.records import Abort, Applied, Commit, Forget, Heuristic, Member, Record
from troth.errors import Corrupt, NotApplied, OutcomeUnknown, StorageError, TrothError, UsageError, required
from troth.transactions.log.directory import KEYS_WAIT_S, Directory
from troth.transactions.log.interface import Coordinator, Decided
from troth.transactions.log.place import Fenced, Opener, Place
from troth.transactions.log.writer import Writer
from troth.transactions.steps import OnStep, nothing

COMPACT_BYTES = 8 << 20
"""A file that has become so long is carried over into the next one."""
DONE_MAX = 4096
"""So many applied transactions are noted before a record is written for them alone."""

_log = logging.getLogger("troth.transactions")


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
        """Take a place (*coordinator*, or the first that nobody holds and that can be read) and open its next epoch.

        Raises:
            StorageError: the directory cannot be used, or the place is held by a process that runs.
            Corrupt: decisions of *coordinator* that were durable are damaged.
            UsageError: *coordinator* is no name (gid.py).
        """
        if coordinator is not None and not is_name(coordinator):
            raise UsageError(f"coordinator={coordinator!r}: {NAME_RULE}")
        self._lock = threading.RLock()
        self._on_step = on_step
        self._others: dict[str, Place] = {}
        try:
            self._directory = Directory(Path(path).absolute())  # a daemon may leave its directory
            name = self._take_place(coordinator, compact_bytes)
        except OSError as error:
            raise StorageError(
                f"the decision log {path} can not be used: {error}. Name another directory (log=...), or give this"
                " user the right to write there"
            ) from error
        self._epoch = Epoch(self._directory.log_id, name, self._place.cells.epoch)

    def _take_place(self, coordinator: str | None, compact_bytes: int) -> str:
        """Hold a place and open its next file; the place's name."""
        unusable: list[str] = []
        while True:
            name, self._hold = self._directory.take_place(coordinator, but=unusable)
            try:
                self._place = Place(self._directory.root, self._directory.log_id, name)
                self._place.refresh()  # a damaged place is to get no next file
                self._writer = Writer(self._place, self._hold, compact_bytes=compact_bytes, on_step=self._on_step)
            except (StorageError, PermissionError) as error:
                self._hold.let_go()
                if coordinator is not None or not _is_of_one_place(error):
                    raise
                unusable.append(name)
                _log.warning("a place of the decision log is passed over: %s", error)
            except BaseException:
                self._hold.let_go()
                raise
            else:
                return name

    def _other(self, name: str) -> Place:
        found = self._others.get(name)
        if found is None:
            found = self._others[name] = Place(self._directory.root, self._directory.log_id, name)
        return found

    # ---- what the interface asks for ---------------------------------------------------------------------

    @property
    def log_id(self) -> str:
        return self._directory.log_id

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    def renew(self) -> Epoch:
        with self._lock:
            self._writer.renew()
            self._epoch = Epoch(self._directory.log_id, self._place.coordinator, self._place.cells.epoch)
            return self._epoch

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        """See `DecisionLog.decide`. Keys are unique in the whole log, so that batches with keys wait for each other."""
        with self._lock:
            fault = self._writer.fault
            if fault is not None:
                # Of these nothing was written, so their owners may roll back, and keep no lock until somebody recovers.
                never = NotApplied(f"the decision log takes nothing any more: {fault}")
                never.__cause__ = fault
                return [never] * len(commits)
            if not any(commit.key for commit in commits):
                return self._decide(commits)
            # Their holder may be paused for ever.
            root = self._directory.root
            why = f"another process holds the keys of {root} for more than {KEYS_WAIT_S} s; is one paused?"
            may_be_written = False
            try:
                with self._directory.keys_held() as is_held:
                    if is_held:
                        self._refresh_others()
                        may_be_written = True
                        return self._decide(commits)
            except (StorageError, OSError) as error:
                if may_be_written:
                    raise
                why = str(error)
            # Work without a key has nothing to do with it.
            others = iter(self._decide([commit for commit in commits if not commit.key]))
            refused = NotApplied(why)
            return [refused if commit.key else next(others) for commit in commits]

    def _refresh_others(self) -> None:
        """Read what is new in the places of other processes.

        Raises:
            StorageError: one of them is damaged, which stops itself and work with keys; all others are read.
        """
        found: StorageError | None = None
        for name in self._directory.names():
            if name != self._place.coordinator:
                try:
                    self._other(name).refresh()
                except StorageError as error:
                    text = (
                        f"whether a key is taken cannot be read, so that work with one is refused: {error}. Work"
                        " without one goes on"
                    )
                    found = Corrupt(text, path=error.path) if isinstance(error, Corrupt) else StorageError(text)
        if found is not None:
            raise found

    def _decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        cells = self._place.cells
        won: list[Record] = []
        answers: list[Decided | TrothError] = []
        keys: dict[str, str] = {}
        for commit in commits:
            try:
                holder = keys.get(commit.key) or self._holder_elsewhere(commit.key) if commit.key else None
            except StorageError as error:
                answers.append(NotApplied(f"whether the key {commit.key!r} is taken cannot be read: {error}"))
                continue
            known = cells.record_of(commit.gid)
            verdict, about = cells.judge(commit)
            if holder is not None and known is None and verdict is not Verdict.ABORT:
                verdict, about = Verdict.COMMIT, holder
            if known is None and about == commit.gid and verdict in (Verdict.COMMIT, Verdict.DELEGATED):
                won.append(commit)
                if commit.key:
                    keys[commit.key] = commit.gid
            answers.append(Decided(verdict, about))
        try:
            if won:
                self._writer.append(won)
        except Fenced:
            return [self._verdict_of_successor(commit) for commit in commits]
        except NotApplied as refused:
            return [refused if commit in won else answer for commit, answer in zip(commits, answers, strict=True)]
        return answers

    def _holder_elsewhere(self, key: str) -> str | None:
        """Who has *key* in another place. Raises StorageError: perhaps somebody, if what is written there counts."""
        for place in self._others.values():
            if place.cells.holder_of(key) is not None and not place.is_settled:
                place.read_settled()
            holder = place.cells.holder_of(key)
            if holder is not None:
                return holder
        return None

    def _verdict_of_successor(self, commit: Commit) -> Decided | TrothError:
        """What the one that fenced us has carried over of *commit*."""
        try:
            self._place.read_settled()
        except StorageError:
            # Whoever fenced us died before it had written down what counts. So we do, as the next owner.
            try:
                self.renew()
            except StorageError as error:
                return OutcomeUnknown(f"{commit.gid}: {error}")
        gid, _ = required(parse_gid(commit.gid), "a decision about what is no transaction", gid=commit.gid)
        return Decided(self._place.cells.verdict(gid), commit.gid)

    def _note(self, *records: Record) -> None:
        """Write down what holds in any epoch: who was fenced does so in its next one. Raises StorageError."""
        try:
            self._writer.append(records)
        except Fenced:
            self.renew()
            self._writer.append_or_fail(records)

    def note_applied(self, gids: Sequence[str]) -> None:
        """Kept for the next record that is written (or `close`), so that it costs no sync of its own."""
        with self._lock:
            mine, others = self._by_place(gids)
            replay(self._place.cells, [Applied(tuple(mine))])
            if self._writer.note_done(mine) > DONE_MAX:
                self._note()
            for name, found in others.items():
                self._add_to(name, Applied(tuple(found)))

    def note_refused(self, gid: str) -> None:
        with self._lock:
            mine, others = self._by_place([gid])
            if mine and self._writer.is_fenced:
                self.renew()  # and then read again, since whoever had the place may have noted it as applied
            if mine and self._place.cells.may_be_refused(gid):
                self._writer.append_or_fail([Abort(gid, "the last resource")])
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
        with self._directory.held(name) as is_held:
            if is_held:
                place = self._other(name)
                place.refresh()  # a place that cannot be read gets no next file
                _close(place, [record])

    def verdict(self, gid: Gid) -> Verdict:
        with self._lock:
            place = self._at(gid)
            return place.cells.verdict(gid) if place else Verdict.FOREIGN

    def commit_of(self, gid: Gid) -> Commit | None:
        with self._lock:
            place = self._at(gid)
            return place.cells.record_of(str(gid)) if place else None

    def _at(self, gid: Gid) -> Place | None:
        """The place that *gid* was named by, up to date; None if it is not of this log."""
        if gid.log != self._directory.log_id:
            return None
        if gid.coordinator == self._place.coordinator:
            return self._own()
        if gid.coordinator not in self._directory.names():
            return None
        place = self._other(gid.coordinator)
        place.read_settled()
        return place

    def _own(self) -> Place:
        """Our own place. What we wrote last we may not know the end of: then the file says it, or it is raised."""
        place, writer = self._place, self._writer
        if writer.is_displaced and writer.fault is not None:
            raise writer.fault
        if writer.fault is not None or writer.is_fenced:
            place.read_settled()
        return place

    def holder_of(self, key: str) -> str | None:
        with self._lock:
            self._refresh_others()
            return self._own().cells.holder_of(key) or self._holder_elsewhere(key)

    def abort(self, record: Abort) -> Verdict:
        """See `DecisionLog.abort`. Of another place, only after its epoch was closed."""
        with self._lock:
            found = parse_gid(record.gid)
            if found is None or found[0].log != self._directory.log_id:
                return Verdict.FOREIGN
            standing = self.verdict(found[0])
            if standing is not Verdict.OPEN or found[0].coordinator != self._place.coordinator:
                return standing
            try:
                self._writer.append([record])
            except Fenced:
                answer = self._verdict_of_successor(Commit(record.gid, ()))
                if isinstance(answer, TrothError):
                    raise answer from None
                return answer.verdict
            return Verdict.ABORT

    def coordinators(self) -> list[Coordinator]:
        with self._lock:
            return [self._coordinator(name) for name in self._directory.names()]

    def _coordinator(self, name: str) -> Coordinator:
        if name == self._place.coordinator:
            return Coordinator(name, self._place.cells.epoch, is_alive=True)
        place = self._other(name)
        problem, is_alive = "", True
        try:
            place.refresh()
        except StorageError as error:
            problem = str(error)
        try:
            with self._directory.held(name) as is_held:
                is_alive = not is_held
        except StorageError as error:
            problem = problem or str(error)
        return Coordinator(name, place.cells.epoch, is_alive, problem)

    def close_epoch(self, coordinator: str, *, even_if_alive: bool = False) -> bool:
        if coordinator == self._place.coordinator:
            return False
        with self._lock:
            place = self._other(coordinator)
            with self._directory.held(coordinator) as is_held:
                if not is_held and not even_if_alive:
                    return False
                if not place.refresh() or place.cells.is_owned:
                    _close(place)
                    self._on_step("epoch_closed")
            return True

    def unapplied(self, unread: dict[str, str] | None = None) -> list[Commit]:
        """See `DecisionLog.unapplied`. Of a place that somebody is about to take over, perhaps not all counts."""
        with self._lock:
            found = list(self._own().cells.unapplied.values())
            for name in self._directory.names():
                if name != self._place.coordinator:
                    place = self._other(name)
                    try:
                        place.read_settled(waits=unread is None)
                    except StorageError as error:
                        if unread is None:
                            raise
                        unread[name] = str(error)
                    else:
                        found += place.cells.unapplied.values()
            return found

    def register(self, members: Sequence[Member]) -> None:
        with self._lock:
            known = self._place.cells.members
            new = [member for member in members if known.get(member.name) != member]
            if new:
                self._note(*new)

    def members(self) -> dict[str, dict[str, Member]]:
        with self._lock:
            return {place.coordinator: dict(place.cells.members) for place in self._all_places()}

    def note_heuristic(self, record: Heuristic) -> bool:
        with self._lock:
            is_new = not any(place.cells.knows(record) for place in self._all_places())
            if is_new:
                self._note(record)
            return is_new

    def _all_places(self) -> list[Place]:
        """`coordinators` tells of those that cannot be read; what they said before is known. For a process must be able
        to start, and to finish what is not damaged."""
        with suppress(StorageError):
            self._refresh_others()
        with suppress(StorageError):
            self._own()
        return [self._place, *self._others.values()]

    def heuristics(self) -> list[Heuristic]:
        with self._lock:
            places = [place.cells for place in self._all_places()]
            # Whoever forgets writes that into its own place: the one that noted it may live, and write there itself.
            return [
                Heuristic(gid, participant, seen)
                for cells in places
                for gid, found in cells.heuristics.items()
                for participant, seen in found.items()
                if not any(each.is_dealt_with(gid, participant) for each in places)
            ]

    def forget(self, gid: str, by: str) -> bool:
        with self._lock:
            found = {noted.participant: None for noted in self.heuristics() if noted.gid == gid}
            if found:
                self._note(Forget(gid, by, tuple(found)))
            return bool(found)

    def close(self) -> None:
        with self._lock:
            if self._writer.close():
                self._hold.let_go()


def _is_of_one_place(error: Exception) -> bool:
    """Whether what is wrong is wrong with one place: damaged, or another user's."""
    return isinstance(error, Corrupt | PermissionError) or isinstance(error.__cause__, PermissionError)


def _close(place: Place, extra: Sequence[Record] = ()) -> None:
    """Close all epochs of *place*, and write down *extra* there. Raises StorageError."""
    try:
        os.close(place.open(Opener.NOBODY, extra))
    except OSError as error:
        raise StorageError(
            f"{place.directory} can not begin its next file: {error}. Make room: what is prepared waits until then"
        ) from error
