"""The simulated disk really does what its module threatens, and nothing worse than a real one."""

import errno
import random

import pytest

from troth.simulate.disk import DiskFaults, SimulatedDisk

SEEDS = range(60)


def new_disk(seed: int = 1, **options: object) -> SimulatedDisk:
    return SimulatedDisk(random.Random(seed), **options)  # type: ignore[arg-type]


def durable_file(disk: SimulatedDisk, content: bytes = b"") -> None:
    file = disk.create("f")
    file.write_at(0, content)
    file.sync()
    disk.sync_directory()


def test_what_was_synced_is_kept() -> None:
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk, b"a" * 3000)
        disk.power_loss()
        assert disk.content("f") == b"a" * 3000


def test_a_process_crash_loses_nothing_and_closes_files() -> None:
    disk = new_disk()
    file = disk.create("f")
    file.write_at(0, b"abc")
    disk.crash()
    assert disk.content("f") == b"abc"
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.read_at(0, 1)


def test_unsynced_writes_are_lost_torn_and_reordered_by_sectors() -> None:
    outcomes = set()
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk, bytes(1536))
        file = disk.open("f")
        file.write_at(0, b"1" * 512)
        file.write_at(512, b"2" * 1024)
        disk.power_loss()
        content = disk.content("f")
        sectors = tuple(content[start : start + 512] for start in (0, 512, 1024))
        assert all(len(set(sector)) == 1 for sector in sectors), "no sector is torn in itself"
        outcomes.add(tuple(chr(sector[0]) for sector in sectors))
    assert ("1", "2", "2") in outcomes
    assert ("\0", "\0", "\0") in outcomes
    assert ("\0", "2", "2") in outcomes, "the later write without the earlier one"
    assert ("1", "\0", "2") in outcomes, "a torn write"


def test_a_sector_ends_at_one_of_its_states_in_time() -> None:
    seen = set()
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk, b"0" * 512)
        file = disk.open("f")
        file.write_at(0, b"1" * 100)
        file.write_at(100, b"2" * 100)
        disk.power_loss()
        seen.add(disk.content("f"))
    assert seen == {b"0" * 512, b"1" * 100 + b"0" * 412, b"1" * 100 + b"2" * 100 + b"0" * 312}


def test_a_files_length_is_lost_too() -> None:
    lengths = set()
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk, b"a" * 100)
        file = disk.open("f")
        file.write_at(100, b"b" * 100)
        file.truncate(50)
        disk.power_loss()
        lengths.add(len(disk.content("f")))
    assert lengths == {50, 100, 200}


def test_names_are_forgotten_each_for_itself() -> None:
    outcomes = set()
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk, b"old")
        disk.create("new").sync()
        disk.rename("f", "g")
        disk.power_loss()
        outcomes.add(tuple(disk.names()))
        assert any(disk.content(name) == b"old" for name in disk.names()), "a rename is one step"
    assert outcomes == {("f",), ("g",), ("f", "new"), ("g", "new")}
    outcomes = set()
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk)
        disk.remove("f")
        disk.power_loss()
        outcomes.add(tuple(disk.names()))
    assert outcomes == {(), ("f",)}


def test_a_failed_sync_is_never_made_up_for() -> None:
    """fsyncgate: the second sync succeeds, the page cache shows the data, the platter never had them."""
    lost = 0
    for seed in SEEDS:
        disk = new_disk(seed)
        durable_file(disk, bytes(100))
        file = disk.open("f")
        file.write_at(0, b"x" * 100)
        disk.fail_next_sync()
        with pytest.raises(OSError, match="fsync"):
            file.sync()
        file.sync()
        assert file.read_at(0, 100) == b"x" * 100
        disk.power_loss()
        lost += disk.content("f") == bytes(100)
    assert 0 < lost < len(SEEDS)
    assert disk.fired["sync_failed"] == 1


def test_a_failed_sync_of_the_directory() -> None:
    disk = new_disk()
    disk.create("f")
    disk.fail_next_sync()
    with pytest.raises(OSError, match="directory"):
        disk.sync_directory()
    disk.power_loss()
    assert disk.names() == []


def test_a_failed_sync_may_leave_the_file_short() -> None:
    disk = new_disk()
    durable_file(disk, b"a" * 2000)
    file = disk.open("f")
    file.truncate(100)
    file.write_at(0, b"b" * 100)
    disk.fail_next_sync()
    with pytest.raises(OSError, match="fsync"):
        file.sync()
    disk.power_loss()
    assert len(disk.content("f")) == 2000


def test_the_disk_fills_up_in_mid_write() -> None:
    disk = new_disk(capacity_bytes=1000)
    file = disk.create("f")
    with pytest.raises(OSError, match="No space left") as caught:
        file.write_at(0, b"x" * 1500)
    assert caught.value.errno == errno.ENOSPC
    assert file.size() == 1000
    file.write_at(0, b"y" * 1000)
    with pytest.raises(OSError, match="No space left"):
        disk.create("g", reserve=10)
    assert disk.fired["no_space"] == 2
    assert disk.used_bytes() == 1000


def test_reads_fail_when_told() -> None:
    disk = new_disk()
    durable_file(disk, b"abc")
    disk.fail_next_read("f", skip=1)
    file = disk.open("f")
    assert file.read_at(0, 3) == b"abc"
    with pytest.raises(OSError, match="in read"):
        file.read_at(0, 3)
    assert file.read_at(0, 3) == b"abc"


def test_faults_by_chance_are_counted_and_can_be_healed() -> None:
    disk = new_disk(faults=DiskFaults(sync_fails=0.3, read_fails=0.3, write_fails=0.3))
    file = disk.create("f")
    failures = 0
    for _ in range(50):
        for use in (lambda: file.write_at(0, b"abc"), lambda: file.read_at(0, 3), file.sync):
            try:
                use()
            except OSError:
                failures += 1
    assert failures == disk.fired["sync_failed"] + disk.fired["read_failed"] + disk.fired["no_space"]
    assert min(disk.fired["sync_failed"], disk.fired["read_failed"], disk.fired["no_space"]) > 5
    disk.heal()
    file.write_at(0, b"abc")
    file.sync()
    assert file.read_at(0, 3) == b"abc"


def test_rot_flips_one_bit_of_what_is_durable() -> None:
    disk = new_disk()
    assert disk.rot_somewhere() is None
    durable_file(disk, b"\0\0abc\0")
    where = disk.rot_somewhere()
    assert where is not None
    name, offset = where
    assert name == "f"
    assert offset in (2, 3, 4)
    before, after = b"\0\0abc\0"[offset], disk.content("f")[offset]
    assert (before ^ after).bit_count() == 1
    disk.power_loss()
    assert disk.content("f")[offset] == after
    assert disk.fired["rot"] == 1


def test_forks_go_their_own_ways() -> None:
    disk = new_disk()
    durable_file(disk, b"a" * 10)
    disk.open("f").write_at(0, b"b" * 10)
    disk.create("g")
    disk.remove("g")
    fork = disk.fork(random.Random(5))
    fork.open("f").write_at(0, b"c" * 10)
    fork.open("f").sync()
    assert disk.content("f") == b"b" * 10
    fork.power_loss()
    assert fork.content("f") == b"c" * 10
    assert disk.content("f") == b"b" * 10


def test_the_same_seed_gives_the_same_disk() -> None:
    def run(seed: int) -> list[bytes]:
        disk = new_disk(seed)
        durable_file(disk)
        contents = []
        for round_number in range(20):
            disk.open("f").write_at(round_number * 100, bytes([round_number + 1]) * 700)
            disk.power_loss()
            contents.append(disk.content("f"))
        return contents

    assert run(7) == run(7)
    assert run(7) != run(8)
