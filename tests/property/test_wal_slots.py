"""An acceptor's log against a dumb twin: power cuts before every call and in every fate, crashes, damage."""

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from wal_kit import PowerCut, Stepped, entries, every_fate, hard_state, snapshot

from troth.core.interface import CHOSEN, Ballot, HardState, Persist, Slot, SnapshotMeta
from troth.errors import StorageError
from troth.ids import LogIndex, NodeId, Term
from troth.ports import FileSystem
from troth.simulate.disk import SimulatedDisk
from troth.storage.log import WriteAheadLog
from troth.storage.opening import Recovered
from troth.storage.replay import LogDamaged

SEGMENT_BYTES = 2048
FATES_MAX = 200


def slot(index: int, round_: int, size_bytes: int = 20, node: int = 1) -> Slot:
    """A value at *index*, accepted at the ballot (*round_*, *node*)."""
    return Slot(Ballot(Term(round_), NodeId(node)), entries(index, 1, round_, size_bytes)[0])


def accept(*slots: Slot, chosen: int = 0, promise: HardState | None = None) -> Persist:
    return Persist(hard_state=promise, slots=slots, chosen=LogIndex(chosen))


@dataclass(frozen=True)
class Twin:
    """What an acceptor's disk is: a promise, a dict of slots, and how far they are chosen. Slow and obvious."""

    hard_state: HardState = field(default_factory=HardState)
    slots: dict[int, Slot] = field(default_factory=dict)
    chosen: int = 0

    def apply(self, persist: Persist) -> "Twin":
        return replace(
            self,
            hard_state=persist.hard_state or self.hard_state,
            slots=self.slots | {int(each.entry.index): each for each in persist.slots},
            chosen=max(self.chosen, persist.chosen),
        )

    def agrees_with(self, recovered: Recovered, needed_from: int) -> bool:
        """Whether *recovered* is this; slots before *needed_from* may be gone, or older than they were."""
        found = {int(each.entry.index): each for each in recovered.slots if each.entry.index >= needed_from}
        wanted = {index: each for index, each in self.slots.items() if index >= needed_from}
        return recovered.hard_state == self.hard_state and found == wanted and recovered.chosen == self.chosen


def open_log(
    files: FileSystem, base: SnapshotMeta | None, *, salvage: bool = False
) -> tuple[WriteAheadLog, Recovered]:
    return WriteAheadLog.open(
        files, segment_bytes=SEGMENT_BYTES, snapshot=base, holds_slots=True, owner=NodeId(7), salvage=salvage
    )


SCRIPTS: dict[str, list[object]] = {
    "slots out of order, one overwritten": [
        [accept(promise=hard_state(1, 1))],
        "sync",
        [accept(slot(1, 1), slot(3, 1, 700))],
        [accept(slot(2, 1), chosen=1)],
        "sync",
        [accept(slot(3, 2, 600, 2), promise=hard_state(2, 2), chosen=2)],
        [accept(slot(5, 2))],
        "sync",
        [accept(Slot(CHOSEN, slot(4, 2).entry), chosen=5)],
    ],
    "segments roll and are dropped": [
        [accept(slot(1, 1, 900), slot(2, 1, 900), promise=hard_state(1, 1))],
        "sync",
        [accept(slot(4, 1, 900), chosen=2)],
        [accept(slot(3, 1, 900), chosen=4)],
        "sync",
        3,
        [accept(slot(5, 1, 900), chosen=4)],
        "sync",
        5,
        [accept(slot(7, 1, 900), promise=hard_state(3, 0))],
        "sync",
        [accept(slot(6, 3, 900, 3), chosen=5)],
    ],
    "a snapshot takes the place of what is below it, and of nothing above": [
        [accept(slot(1, 1, 400), slot(2, 1, 400), slot(25, 1, 400), promise=hard_state(1, 1))],
        "sync",
        [Persist(hard_state=hard_state(5, 0), snapshot=snapshot(5, 20), chosen=LogIndex(20))],
        "sync",
        [accept(slot(21, 5, 400), slot(22, 5, 400), chosen=20)],
        "sync",
        21,
        [accept(slot(25, 5, 900, 2), chosen=22)],
    ],
}


@dataclass
class Run:
    """Plays a script on a log, beside its twin; knows at any time what must and what may be on the disk."""

    files: FileSystem
    states: list[Twin] = field(default_factory=lambda: [Twin()])
    durable: int = 0
    needed_from: int = 1
    snapshot: SnapshotMeta | None = None

    def play(self, script: list[object]) -> None:
        log, _ = open_log(self.files, None)
        for step in script:
            match step:
                case "sync":
                    log.sync()
                    self.durable = len(self.states) - 1
                case int():
                    self._covered(
                        snapshot(self.states[-1].slots[step - 1].entry.term, step - 1) if step < 21 else None
                    )
                    log.compact(LogIndex(step))
                case list():
                    for persist in step:
                        self._covered(persist.snapshot)
                        self.states.append(self.states[-1].apply(persist))
                    log.append(step)
        log.close()
        self.durable = len(self.states) - 1

    def _covered(self, base: SnapshotMeta | None) -> None:
        """The snapshot is durable before the log hears of it."""
        if base is not None:
            self.snapshot = base
            self.needed_from = max(self.needed_from, base.last.index + 1)

    def fits(self, recovered: Recovered) -> bool:
        return any(state.agrees_with(recovered, self.needed_from) for state in self.states[self.durable :])


@pytest.mark.parametrize("name", SCRIPTS)
def test_power_loss_before_every_call_loses_no_accepted_slot(name: str) -> None:
    fatal, fates = 0, 0
    while True:
        disk = SimulatedDisk(random.Random(fatal))
        run = Run(Stepped(disk, fatal))
        try:
            run.play(SCRIPTS[name])
        except PowerCut:
            pass
        else:
            break
        for fate in every_fate(disk, FATES_MAX):
            fates += 1
            _, recovered = open_log(fate, run.snapshot)
            assert recovered.damaged is None, f"call {fatal}: {recovered.damaged}"
            assert run.fits(recovered), f"call {fatal}: {recovered} is none of {run.states[run.durable :]}"
            # What was read once stays, whatever happens next: the engine has been told that it is durable.
            fate.power_loss()
            _, again = open_log(fate, run.snapshot)
            assert (again.hard_state, again.slots, again.chosen) == (
                recovered.hard_state,
                recovered.slots,
                recovered.chosen,
            )
        fatal += 1
    assert fates > fatal, "some moments have several fates"


class SlotsMachine(RuleBasedStateMachine):
    """Any sequence of writes, syncs, snapshots, compactions, crashes, failing disks and rotten bits."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.disk = SimulatedDisk(random.Random(seed))
        self.states = [Twin()]
        self.needed_from = 1
        self.snapshot: SnapshotMeta | None = None
        self.round = 1
        self.log, _ = open_log(self.disk, None)

    @property
    def now(self) -> Twin:
        return self.states[-1]

    def write(self, *persists: Persist) -> None:
        self.states += [self.now.apply(persist) for persist in persists[:1]]
        for persist in persists[1:]:
            self.states.append(self.now.apply(persist))
        self.log.append(persists)

    @rule(
        indexes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
        size=st.sampled_from([0, 30, 400, 1500]),
        raise_chosen=st.booleans(),
    )
    def accept_somewhere(self, indexes: list[int], size: int, raise_chosen: bool) -> None:
        self.round += 1
        slots = {index: slot(self.needed_from + index, self.round, size) for index in indexes}
        chosen = self.now.chosen + 1 if raise_chosen else 0
        self.write(accept(*slots.values(), chosen=chosen))

    @rule(vote=st.integers(0, 3))
    def promise(self, vote: int) -> None:
        self.round += 1
        self.write(accept(promise=hard_state(self.round, vote)))

    @rule(ahead=st.integers(1, 6), behind=st.integers(0, 2))
    def local_snapshot(self, ahead: int, behind: int) -> None:
        self.log.sync()
        self.states = [self.now]
        index = self.needed_from - 1 + ahead
        self.snapshot = snapshot(1, index)
        self.needed_from = index + 1
        self.log.compact(LogIndex(max(1, index + 1 - behind)))

    @rule(ahead=st.integers(1, 8))
    def snapshot_from_leader(self, ahead: int) -> None:
        index = self.needed_from - 1 + ahead
        self.snapshot = snapshot(1, index)
        self.needed_from = index + 1
        self.write(Persist(snapshot=self.snapshot, chosen=LogIndex(index)))

    @rule()
    def sync(self) -> None:
        self.log.sync()
        self.states = [self.now]

    @rule(close=st.booleans())
    def process_crash(self, close: bool) -> None:
        if close:
            self.log.close()
        self.reopen(newest_only=True)

    @rule()
    def power_loss(self) -> None:
        self.disk.power_loss()
        self.reopen(newest_only=False)

    @rule(then_power_loss=st.booleans())
    def sync_fails_once(self, then_power_loss: bool) -> None:
        self.round += 1
        self.write(accept(slot(self.needed_from + 1, self.round, 300)))
        self.disk.fail_next_sync()
        with pytest.raises(StorageError):
            self.log.sync()
        if then_power_loss:
            self.disk.power_loss()
        self.reopen(newest_only=not then_power_loss)

    @precondition(lambda self: len(self.states) == 1)
    @rule(data=st.data())
    def bit_rot(self, data: st.DataObject) -> None:
        """On a copy of the disk: refused, or nothing is missing. Salvaged: nothing invented, and it is marked."""
        copy = self.disk.fork(random.Random(data.draw(st.integers(0, 2**16))))
        if copy.rot_somewhere() is None:
            return
        try:
            _, recovered = open_log(copy, self.snapshot)
        except LogDamaged as error:
            _, recovered = open_log(copy, self.snapshot, salvage=True)
            assert recovered.amnesia is not None
            assert recovered.chosen <= self.now.chosen
            if error.damage.hard_state_trustworthy:
                assert recovered.hard_state == hard_state(self.now.hard_state.term + 1, 0)
            _, again = open_log(copy, self.snapshot)
            assert (again.slots, again.amnesia) == (recovered.slots, recovered.amnesia)
            return
        assert self.now.agrees_with(recovered, self.needed_from)

    def reopen(self, *, newest_only: bool) -> None:
        self.disk.crash()
        self.log, recovered = open_log(self.disk, self.snapshot)
        assert recovered.damaged is None, recovered.damaged
        candidates = self.states[-1:] if newest_only else self.states
        agreeing = [state for state in candidates if state.agrees_with(recovered, self.needed_from)]
        assert agreeing, f"{recovered} is none of {candidates}"
        self.states = [agreeing[-1]]


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=20, stateful_step_count=25)


@pytest.mark.slow
class TestSlotsMachineAtLength(SlotsMachine.TestCase):
    settings = settings(max_examples=120, stateful_step_count=25)
