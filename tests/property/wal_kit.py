"""What the log's property tests share: a dumb twin of the log, power cuts at any call, and every fate of a moment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from troth.core.interface import ORIGIN, Entry, EntryId, EntryKind, HardState, Membership, Persist, SnapshotMeta
from troth.ids import LogIndex, NodeId, Term
from troth.ports import File, FileSystem
from troth.simulate.disk import SimulatedDisk
from troth.storage.log import WriteAheadLog
from troth.storage.opening import Recovered

T = TypeVar("T")


def entries(first: int, count: int, term: int, size_bytes: int = 20) -> tuple[Entry, ...]:
    """*count* entries from index *first*; their payloads say which they are."""
    return tuple(
        Entry(
            LogIndex(index),
            Term(term),
            EntryKind.COMMANDS,
            f"{term}/{index} ".encode().ljust(size_bytes, b"."),
        )
        for index in range(first, first + count)
    )


def hard_state(term: int, vote: int) -> HardState:
    return HardState(Term(term), NodeId(vote))


def snapshot(term: int, index: int) -> SnapshotMeta:
    return SnapshotMeta(EntryId(Term(term), LogIndex(index)), Membership(voters=(NodeId(1), NodeId(2), NodeId(3))))


@dataclass(frozen=True)
class Twin:
    """What a log is: a hard state, and a dict of entries behind some base. Slow and obvious."""

    hard_state: HardState = field(default_factory=HardState)
    base: EntryId = ORIGIN
    entries: dict[int, Entry] = field(default_factory=dict)

    @property
    def last(self) -> EntryId:
        if not self.entries:
            return self.base
        newest = self.entries[max(self.entries)]
        return EntryId(newest.term, newest.index)

    def holds(self, wanted: EntryId) -> bool:
        if wanted == self.base:
            return True
        entry = self.entries.get(wanted.index)
        return entry is not None and entry.term == wanted.term

    def apply(self, persist: Persist) -> "Twin":
        twin = self
        if persist.hard_state is not None:
            twin = replace(twin, hard_state=persist.hard_state)
        if persist.snapshot is not None and not twin.holds(persist.snapshot.last):
            twin = replace(twin, base=persist.snapshot.last, entries={})
        if persist.entries:
            first = persist.entries[0].index
            kept = {index: entry for index, entry in twin.entries.items() if index < first}
            twin = replace(twin, entries=kept | {entry.index: entry for entry in persist.entries})
        return twin

    def agrees_with(self, recovered: Recovered, needed_from: int) -> bool:
        """Whether *recovered* is this log; entries before *needed_from* may be gone."""
        found = {int(entry.index): entry for entry in recovered.entries}
        wanted = {index: entry for index, entry in self.entries.items() if index >= needed_from}
        return (
            recovered.hard_state == self.hard_state
            and recovered.last == self.last
            and max(found, default=0) <= self.last.index
            and all(found.get(index) == entry for index, entry in wanted.items())
            and all(self.entries.get(index, entry) == entry for index, entry in found.items())
            and sorted(found) == list(range(min(found, default=0), min(found, default=0) + len(found)))
        )


class PowerCut(BaseException):
    """The lights go out."""


class Stepped:
    """A file system on which the power fails just before the *fatal*-th call that changes something."""

    def __init__(self, files: SimulatedDisk, fatal: int | None = None) -> None:
        self.files = files
        self.fatal = fatal
        self.steps = 0

    def step(self) -> None:
        if self.steps == self.fatal:
            raise PowerCut
        self.steps += 1

    def names(self) -> list[str]:
        return self.files.names()

    def open(self, name: str) -> File:
        return SteppedFile(self, self.files.open(name))

    def create(self, name: str, reserve: int = 0) -> File:
        self.step()
        return SteppedFile(self, self.files.create(name, reserve))

    def rename(self, old: str, new: str) -> None:
        self.step()
        self.files.rename(old, new)

    def remove(self, name: str) -> None:
        self.step()
        self.files.remove(name)

    def sync_directory(self) -> None:
        self.step()
        self.files.sync_directory()


class SteppedFile:
    def __init__(self, steps: Stepped, file: File) -> None:
        self._steps = steps
        self._file = file

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, size)

    def write_at(self, offset: int, data: bytes) -> None:
        self._steps.step()
        self._file.write_at(offset, data)

    def sync(self) -> None:
        self._steps.step()
        self._file.sync()

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        self._steps.step()
        self._file.truncate(size)

    def close(self) -> None:
        self._file.close()


class Choices:
    """An `Rng` that follows a script, and then always takes the first; `every` walks through all scripts."""

    def __init__(self, script: Sequence[int] = ()) -> None:
        self._script = script
        self.taken: list[tuple[int, int]] = []

    def randrange(self, start: int, stop: int) -> int:
        place = len(self.taken)
        choice = self._script[place] if place < len(self._script) else 0
        self.taken.append((choice, stop - start))
        return start + choice

    def random(self) -> float:
        return self.randrange(0, 16) / 16

    def getrandbits(self, k: int, /) -> int:
        return self.randrange(0, 1 << k)

    def choice(self, seq: Sequence[T], /) -> T:
        return seq[self.randrange(0, len(seq))]

    def next_script(self) -> list[int] | None:
        """The next script in counting order, None after the last."""
        taken = list(self.taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return None
        return [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


def every_fate(disk: SimulatedDisk, limit: int) -> Iterator[SimulatedDisk]:
    """All states (at most *limit*) in which a power loss can leave *disk*."""
    script: list[int] | None = []
    while script is not None and limit > 0:
        choices = Choices(script)
        fate = disk.fork(choices)
        fate.power_loss()
        yield fate
        script = choices.next_script()
        limit -= 1


Step = Persist | str | int
"""A persist to append (a list of them is one append), "sync", or an index to compact up to."""


@dataclass
class Run:
    """Plays a script on a log, beside its twin; knows at any time what must and what may be on the disk."""

    files: FileSystem
    segment_bytes: int
    states: list[Twin] = field(default_factory=lambda: [Twin()])
    durable: int = 0
    """Index in `states` of the newest one that was acknowledged."""
    needed_from: int = 1
    snapshot: SnapshotMeta | None = None

    def play(self, script: Sequence[object]) -> None:
        log, _ = WriteAheadLog.open(self.files, segment_bytes=self.segment_bytes)
        for step in script:
            match step:
                case "sync":
                    log.sync()
                    self.durable = len(self.states) - 1
                case int():
                    self.needed_from = max(self.needed_from, step)
                    newest = self.states[-1]
                    last = newest.entries.get(step - 1)
                    if last is not None:
                        self.snapshot = snapshot(last.term, step - 1)
                    log.compact(LogIndex(step))
                case list():
                    for persist in step:
                        self._install(persist)
                        self.states.append(self.states[-1].apply(persist))
                    log.append(step)
        log.close()
        self.durable = len(self.states) - 1

    def _install(self, persist: Persist) -> None:
        if persist.snapshot is not None:
            self.snapshot = persist.snapshot
            self.needed_from = max(self.needed_from, persist.snapshot.last.index + 1)

    def verdict(self, recovered: Recovered) -> str | None:
        """None when *recovered* is a state between the last acknowledged and the last written; else what is wrong."""
        for state in self.states[self.durable :]:
            if self._with_snapshot(state).agrees_with(recovered, self.needed_from):
                return None
        return f"{recovered} is none of {self.states[self.durable :]}"

    def _with_snapshot(self, state: Twin) -> Twin:
        """A snapshot that is on the disk already counts, even when the log has not heard of it."""
        if self.snapshot is None:
            return state
        return state.apply(Persist(snapshot=self.snapshot))
