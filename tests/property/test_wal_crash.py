"""The power fails before every call to the disk, which ends in every state it can: nothing acknowledged is lost."""

import random

import pytest
from wal_kit import PowerCut, Run, Stepped, entries, every_fate, hard_state, snapshot

from troth.core.interface import Persist
from troth.simulate.disk import SimulatedDisk
from troth.storage.log import WriteAheadLog

FATES_MAX = 300

SCRIPTS: dict[str, list[object]] = {
    "one sync per append": [
        [Persist(hard_state=hard_state(1, 1))],
        "sync",
        [Persist(entries=entries(1, 3, 1))],
        "sync",
        [Persist(hard_state=hard_state(2, 3), entries=entries(3, 2, 2))],
        "sync",
        [Persist(hard_state=hard_state(3, 2))],
        "sync",
    ],
    "records larger than sectors": [
        [Persist(hard_state=hard_state(1, 1), entries=entries(1, 3, 1, size_bytes=500))],
        "sync",
        [Persist(entries=entries(4, 1, 1, size_bytes=1300))],
        "sync",
        [Persist(entries=entries(5, 2, 1, size_bytes=1))],
        "sync",
    ],
    "several appends in one sync": [
        [Persist(hard_state=hard_state(1, 1)), Persist(entries=entries(1, 2, 1))],
        [Persist(entries=entries(3, 1, 1, size_bytes=400)), Persist(entries=entries(4, 1, 1, size_bytes=400))],
        [Persist(hard_state=hard_state(2, 2), entries=entries(4, 2, 2, size_bytes=300))],
        "sync",
        [Persist(entries=entries(6, 1, 2))],
        [Persist(entries=entries(7, 1, 2, size_bytes=700))],
        [Persist(entries=entries(6, 1, 3))],
    ],
    "segments roll and are dropped": [
        [Persist(hard_state=hard_state(1, 1), entries=entries(1, 2, 1, size_bytes=600))],
        "sync",
        [Persist(entries=entries(3, 2, 1, size_bytes=600))],
        [Persist(entries=entries(5, 1, 1, size_bytes=600))],
        "sync",
        [Persist(entries=entries(6, 1, 1, size_bytes=900)), Persist(hard_state=hard_state(4, 0))],
        "sync",
        5,
        [Persist(entries=entries(7, 1, 4, size_bytes=900))],
        "sync",
        7,
        [Persist(entries=entries(8, 1, 4))],
    ],
    "a snapshot replaces the log": [
        [Persist(hard_state=hard_state(1, 1), entries=entries(1, 4, 1, size_bytes=400))],
        "sync",
        [Persist(hard_state=hard_state(5, 0), snapshot=snapshot(5, 20))],
        "sync",
        [Persist(entries=entries(21, 2, 5, size_bytes=400))],
        "sync",
        21,
        [Persist(entries=entries(23, 1, 5))],
        "sync",
    ],
    "a snapshot inside the log keeps what follows it": [
        [Persist(hard_state=hard_state(1, 1), entries=entries(1, 6, 1, size_bytes=100))],
        "sync",
        [Persist(snapshot=snapshot(1, 4))],
        [Persist(entries=entries(7, 1, 1))],
        "sync",
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_power_loss_before_every_call_loses_nothing_acknowledged(name: str) -> None:
    script = SCRIPTS[name]
    fatal, fates = 0, 0
    while True:
        disk = SimulatedDisk(random.Random(fatal))
        run = Run(Stepped(disk, fatal), segment_bytes=2048)
        try:
            run.play(script)
        except PowerCut:
            pass
        else:
            break
        for fate in every_fate(disk, FATES_MAX):
            fates += 1
            _, recovered = WriteAheadLog.open(fate, segment_bytes=2048, snapshot=run.snapshot)
            assert recovered.damaged is None, f"call {fatal}: {recovered.damaged}"
            assert (wrong := run.verdict(recovered)) is None, f"call {fatal}: {wrong}"
            # What was read once stays, whatever happens next: the engine has been told that it is durable.
            fate.power_loss()
            _, again = WriteAheadLog.open(fate, segment_bytes=2048, snapshot=run.snapshot)
            assert (again.hard_state, again.last, again.entries) == (
                recovered.hard_state,
                recovered.last,
                recovered.entries,
            )
        fatal += 1
    assert fates > fatal, "some moments have several fates"


@pytest.mark.parametrize("name", SCRIPTS)
def test_power_loss_during_recovery_from_power_loss(name: str) -> None:
    """The second cut comes before every call that recovery makes; chance decides what both leave behind."""
    rng = random.Random(name)
    for fatal in range(0, 60, 2):
        disk = SimulatedDisk(rng)
        run = Run(Stepped(disk, fatal), segment_bytes=2048)
        try:
            run.play(SCRIPTS[name])
        except PowerCut:
            pass
        disk.power_loss()
        for second in range(40):
            fate = disk.fork(rng)
            try:
                WriteAheadLog.open(Stepped(fate, second), segment_bytes=2048, snapshot=run.snapshot)
            except PowerCut:
                pass
            else:
                break
            fate.power_loss()
            _, recovered = WriteAheadLog.open(fate, segment_bytes=2048, snapshot=run.snapshot)
            assert recovered.damaged is None, f"calls {fatal}, {second}: {recovered.damaged}"
            assert (wrong := run.verdict(recovered)) is None, f"calls {fatal}, {second}: {wrong}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_process_crash_keeps_everything_written(name: str) -> None:
    """kill -9 loses no write, synced or not: the machine lives on."""
    fatal = 0
    while True:
        disk = SimulatedDisk(random.Random(1))
        run = Run(Stepped(disk, fatal), segment_bytes=2048)
        try:
            run.play(SCRIPTS[name])
        except PowerCut:
            pass
        else:
            break
        disk.crash()
        _, recovered = WriteAheadLog.open(disk, segment_bytes=2048, snapshot=run.snapshot)
        assert recovered.damaged is None
        assert (wrong := run.verdict(recovered)) is None, wrong
        fatal += 1


def test_fates_are_all_different_states_of_the_disk() -> None:
    """The enumeration is exhaustive for two sectors: each lost or there, and both lengths of the file."""
    disk = SimulatedDisk(random.Random(0))
    file = disk.create("f")
    file.sync()
    disk.sync_directory()
    file.write_at(0, b"a" * 1024)
    states = {fate.content("f") for fate in every_fate(disk, 1000)}
    kept, lost = b"a" * 512, bytes(512)
    assert states == {b"", lost + lost, lost + kept, kept + lost, kept + kept}
