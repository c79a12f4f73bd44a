"""The log against a dumb twin: any sequence of writes, syncs, snapshots, compactions, crashes and failing disks."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from wal_kit import Twin, entries, hard_state, snapshot

from troth.core.interface import Persist, SnapshotMeta
from troth.errors import StorageError
from troth.ids import LogIndex
from troth.simulate.disk import SimulatedDisk
from troth.storage.log import WriteAheadLog
from troth.storage.replay import LogDamaged

SEGMENT_BYTES = 3000


class LogMachine(RuleBasedStateMachine):
    """States between `durable` and the newest are what a power loss may leave; a process crash leaves the newest."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.disk = SimulatedDisk(random.Random(seed))
        self.states = [Twin()]
        self.needed_from = 1
        self.snapshot: SnapshotMeta | None = None
        self.term = 1
        self.log, _ = WriteAheadLog.open(self.disk, segment_bytes=SEGMENT_BYTES)

    @property
    def now(self) -> Twin:
        return self.states[-1]

    @property
    def committed(self) -> int:
        """A snapshot is of committed entries, so no later entry contradicts it."""
        return 0 if self.snapshot is None else self.snapshot.last.index

    def write(self, *persists: Persist) -> None:
        for persist in persists:
            self.states.append(self.now.apply(persist))
        self.log.append(persists)
        assert self.log.last == self.now.last

    @rule(count=st.integers(1, 4), size=st.sampled_from([0, 30, 400, 1500]))
    def append_entries(self, count: int, size: int) -> None:
        self.write(Persist(entries=entries(self.now.last.index + 1, count, self.term, size)))

    @rule(vote=st.integers(0, 3), with_entry=st.booleans())
    def next_term(self, vote: int, with_entry: bool) -> None:
        self.term += 1
        more = entries(self.now.last.index + 1, 1, self.term) if with_entry else ()
        self.write(Persist(hard_state=hard_state(self.term, vote), entries=more))

    @rule(back=st.integers(1, 6), count=st.integers(1, 3))
    def overwrite(self, back: int, count: int) -> None:
        """A new leader replaces the uncommitted tail."""
        self.term += 1
        first = max(self.committed + 1, self.now.last.index + 1 - back)
        self.write(
            Persist(hard_state=hard_state(self.term, 0)), Persist(entries=entries(first, count, self.term, 100))
        )

    @rule(data=st.data())
    def local_snapshot(self, data: st.DataObject) -> None:
        if self.now.last.index > self.committed:
            index = data.draw(st.integers(self.committed + 1, self.now.last.index))
            self.log.sync()
            self.states = [self.now]
            self.snapshot = snapshot(self.now.entries[index].term, index)
            keep = data.draw(st.integers(max(1, index - 3), index + 1))
            self.needed_from = max(self.needed_from, keep)
            self.log.compact(LogIndex(keep))

    @rule(ahead=st.integers(-3, 5), told=st.booleans())
    def snapshot_from_leader(self, ahead: int, told: bool) -> None:
        """Durable in the store first; a crash may come before the log hears of it."""
        index = self.now.last.index + ahead
        if index <= self.committed:
            return
        self.term += 1
        self.snapshot = snapshot(self.term, index)
        self.needed_from = index + 1
        if told:
            self.write(Persist(hard_state=hard_state(self.term, 0), snapshot=self.snapshot))
        else:
            self.reopen(newest_only=True)

    @rule()
    def sync(self) -> None:
        self.log.sync()
        self.states = [self.now]

    @rule()
    def process_crash(self) -> None:
        self.reopen(newest_only=True)

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.reopen(newest_only=True)

    @rule()
    def power_loss(self) -> None:
        self.disk.power_loss()
        self.reopen(newest_only=False)

    @rule(then_power_loss=st.booleans())
    def sync_fails_once(self, then_power_loss: bool) -> None:
        self.write(Persist(entries=entries(self.now.last.index + 1, 2, self.term, 300)))
        self.disk.fail_next_sync()
        try:
            self.log.sync()
        except StorageError:
            pass
        else:
            raise AssertionError("the sync failed, and nobody was told")
        if then_power_loss:
            self.disk.power_loss()
        self.reopen(newest_only=not then_power_loss)

    @precondition(lambda self: len(self.states) == 1)
    @rule(data=st.data())
    def bit_rot(self, data: st.DataObject) -> None:
        """On a copy of the disk: refused, or nothing that counts is missing."""
        copy = self.disk.fork(random.Random(data.draw(st.integers(0, 2**16))))
        if copy.rot_somewhere() is None:
            return
        try:
            _, recovered = WriteAheadLog.open(copy, segment_bytes=SEGMENT_BYTES, snapshot=self.snapshot)
        except LogDamaged as error:
            _, recovered = WriteAheadLog.open(
                copy, segment_bytes=SEGMENT_BYTES, snapshot=self.snapshot, salvage=True
            )
            assert recovered.amnesia is not None
            assert recovered.last == error.damage.intact
            assert recovered.hard_state.term <= self.now.hard_state.term + 1
            if error.damage.hard_state_trustworthy:
                assert recovered.hard_state == hard_state(self.now.hard_state.term + 1, 0)
            return
        assert self.now.agrees_with(recovered, self.committed + 1), "what the snapshot covers may be gone"

    def reopen(self, *, newest_only: bool) -> None:
        self.disk.crash()
        self.log, recovered = WriteAheadLog.open(self.disk, segment_bytes=SEGMENT_BYTES, snapshot=self.snapshot)
        assert recovered.damaged is None, recovered.damaged
        known = Persist(snapshot=self.snapshot)
        candidates = [state.apply(known) for state in (self.states[-1:] if newest_only else self.states)]
        agreeing = [state for state in candidates if state.agrees_with(recovered, self.needed_from)]
        assert agreeing, f"{recovered} is none of {candidates}"
        self.states = [agreeing[-1]]
        self.term = max(self.term, self.now.hard_state.term)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=30, stateful_step_count=30)


@pytest.mark.slow
class TestLogMachineAtLength(LogMachine.TestCase):
    settings = settings(max_examples=200, stateful_step_count=30)
