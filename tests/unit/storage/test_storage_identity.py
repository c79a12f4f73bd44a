"""Who a server is, on disk: written once, whole or not at all, and never guessed."""

from pathlib import Path

import pytest
from log_kit import batch, disk, entry_id, snapshot

from troth.core.interface import HardState, Member, Membership, Persist
from troth.errors import Corrupt, IdentityLost, StorageError, UsageError
from troth.ids import ClusterId, NodeId, Term
from troth.simulate.disk import SimulatedDisk
from troth.storage import block, identity, record
from troth.storage.directory import open_directory
from troth.storage.identity import Identity
from troth.storage.log import WriteAheadLog
from troth.storage.names import segment_numbers, snapshot_name
from troth.storage.replay import LogDamaged

GENESIS = Membership(
    voters=(NodeId(7), NodeId(9)), members={NodeId(7): Member("a", "h1:1", "h1:2"), NodeId(9): Member("b", "h2:1")}
)
NEWBORN = Identity(ClusterId(1 << 62), NodeId(7), "a", GENESIS)
GOLDEN = Path(__file__).parent / "golden" / "identity-v1.hex"


def test_golden_identity() -> None:
    files = disk()
    identity.store(files, NEWBORN)
    assert files.content("identity") == bytes.fromhex(GOLDEN.read_text())
    assert identity.load(files) == NEWBORN


def test_there_is_none_in_an_empty_directory() -> None:
    assert identity.load(disk()) is None


def test_it_is_never_changed() -> None:
    files = disk()
    identity.store(files, NEWBORN)
    with pytest.raises(UsageError, match="never changed"):
        identity.store(files, NEWBORN)


def test_power_loss_leaves_all_of_it_or_nothing() -> None:
    """No rename without its content."""
    outcomes = set()
    for seed in range(40):
        for skip in range(3):
            files = disk(seed)
            files.fail_next_sync(skip=skip)
            try:
                identity.store(files, NEWBORN)
            except StorageError:
                pass
            files.heal()
            files.power_loss()
            found = identity.load(files)
            assert found in (None, NEWBORN)
            assert found == NEWBORN or skip < 2, "once stored, it is durable"
            outcomes.add(found is None)
    assert outcomes == {True, False}


def test_every_rotted_byte_is_noticed() -> None:
    pristine = disk()
    identity.store(pristine, NEWBORN)
    for offset in range(len(pristine.content("identity"))):
        files = pristine.fork(pristine._rng)
        files.rot("identity", offset, 3)
        with pytest.raises(Corrupt):
            identity.load(files)


@pytest.mark.parametrize("content", [b"", b"TROTHIDN", b"something else altogether, of some length"])
def test_a_file_that_is_none_is_refused(content: bytes) -> None:
    files = disk()
    files.create("identity").write_at(0, content)
    with pytest.raises(Corrupt, match="not what was written") as caught:
        identity.load(files)
    assert caught.value.path == "identity"


def test_a_newer_format_is_refused_with_advice() -> None:
    files = disk()
    files.create("identity").write_at(0, block.seal(identity.MAGIC, 3, b"x"))
    with pytest.raises(StorageError, match=r"format version 3.*newer version"):
        identity.load(files)


def test_a_body_that_makes_no_sense_is_corrupt() -> None:
    files = disk()
    files.create("identity").write_at(0, block.seal(identity.MAGIC, 1, b"\x91\x01"))
    with pytest.raises(Corrupt, match="does not make sense"):
        identity.load(files)


def test_a_disk_that_can_not_be_read_or_written() -> None:
    files = disk()
    identity.store(files, NEWBORN)
    files.fail_next_read("identity")
    with pytest.raises(StorageError, match="can not be read"):
        identity.load(files)
    files = disk()
    files.capacity_bytes = 10
    with pytest.raises(StorageError, match=r"can not be written.*Make room"):
        identity.store(files, NEWBORN)


def test_a_file_that_vanishes_while_it_is_opened() -> None:
    class Vanishing(SimulatedDisk):
        def names(self) -> list[str]:
            return ["identity"]

    with pytest.raises(StorageError, match="can not be opened"):
        identity.load(Vanishing(disk()._rng))


# The directory as a whole.


def test_an_empty_directory_becomes_the_newborns_home() -> None:
    files = disk()
    opened = open_directory(files, NEWBORN)
    assert opened.is_new
    assert opened.identity == NEWBORN
    opened.log.append([batch(1)])
    opened.close()
    files.power_loss()
    other = Identity(ClusterId(5), NodeId(1234), "other", GENESIS)
    again = open_directory(files, other)
    assert not again.is_new
    assert again.identity == NEWBORN
    assert again.recovered.last == entry_id(1, 1)


def test_a_server_begins_a_cluster_once_also_if_it_has_written_nothing_yet() -> None:
    """It may have confirmed a lease before it went down: only who has never run need not wait for that to end."""
    files = disk()
    opened = open_directory(files, NEWBORN)
    assert opened.begins_cluster
    opened.close()
    files.power_loss()
    again = open_directory(files, NEWBORN)
    assert again.recovered.is_empty
    assert not again.begins_cluster


def test_a_server_that_joins_begins_no_cluster() -> None:
    joining = Identity(NEWBORN.cluster_id, NodeId(8), "c", Membership(voters=()))
    assert not open_directory(disk(), joining).begins_cluster


def test_a_wiped_directory_does_not_come_back_as_the_same_server() -> None:
    """The id lives with the data, so it is gone with them."""
    open_directory(disk(), NEWBORN).close()
    drawn_again = Identity(NEWBORN.cluster_id, NodeId(8), "a", GENESIS)
    assert open_directory(disk(), drawn_again).identity.node_id != NEWBORN.node_id


def test_a_crash_at_any_time_of_the_first_start_leaves_a_directory_that_starts() -> None:
    for seed in range(60):
        files = disk(seed)
        files.fail_next_sync(skip=seed % 6)
        try:
            open_directory(files, NEWBORN)
        except StorageError:
            pass
        files.heal()
        files.power_loss()
        other = Identity(ClusterId(5), NodeId(1234), "other", GENESIS)
        opened = open_directory(files, other)
        assert opened.identity in (NEWBORN, other)
        opened.close()
        assert open_directory(files, NEWBORN).identity == opened.identity


def test_segments_are_read_in_their_order_however_they_are_listed() -> None:
    assert segment_numbers([record.segment_name(number) for number in (12, 3, 11)]) == [3, 11, 12]


def test_an_identity_without_a_log_is_refused() -> None:
    files = disk()
    open_directory(files, NEWBORN).close()
    for name in files.names():
        if name.startswith("wal-"):
            files.remove(name)
    with pytest.raises(IdentityLost, match="is gone"):
        open_directory(files, NEWBORN)


VOTE = Persist(hard_state=HardState(Term(3), NodeId(1)))


@pytest.mark.parametrize(
    ("owner", "written"), [(NEWBORN.node_id, batch(1)), (NodeId(99), batch(1)), (NEWBORN.node_id, VOTE)]
)
def test_a_log_without_an_identity_is_refused(owner: NodeId, written: Persist) -> None:
    files = disk()
    log, _ = WriteAheadLog.open(files, owner=owner)
    log.append([written])
    log.close()
    with pytest.raises(IdentityLost, match="has a log"):
        open_directory(files, NEWBORN)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_snapshots_without_an_identity_are_refused(is_damaged: bool) -> None:
    files = disk()
    opened = open_directory(files, NEWBORN)
    opened.snapshots.write(snapshot(1, 1), [b"state"])
    opened.close()
    files.remove("identity")
    if is_damaged:
        files.open(snapshot_name(snapshot(1, 1).last)).write_at(0, b"not")
    with pytest.raises(IdentityLost, match="has snapshots"):
        open_directory(files, NEWBORN)


def test_damage_and_salvage_pass_through() -> None:
    files = disk()
    opened = open_directory(files, NEWBORN)
    opened.log.append([batch(1)])
    opened.log.sync()
    opened.log.append([batch(2)])
    opened.close()
    files.crash()
    files.rot("wal-0000000000000001.log", 80)
    with pytest.raises(LogDamaged):
        open_directory(files, NEWBORN)
    opened = open_directory(files, NEWBORN, salvage=True)
    assert opened.recovered.amnesia is not None


def test_a_snapshot_goes_before_the_log_it_replaces() -> None:
    files = disk()
    opened = open_directory(files, NEWBORN)
    opened.log.append([batch(1, 5)])
    opened.snapshots.write(snapshot(2, 9), [b"state"])
    opened.close()
    again = open_directory(files, NEWBORN)
    assert again.recovered.snapshot == snapshot(2, 9)
    assert again.recovered.last == entry_id(2, 9)


def test_another_servers_log_under_this_identity() -> None:
    files = disk()
    open_directory(files, NEWBORN).close()
    foreign = disk()
    log, _ = WriteAheadLog.open(foreign, owner=NodeId(99))
    log.append([batch(1)])
    log.close()
    name = "wal-0000000000000001.log"
    files.create(name).write_at(0, foreign.content(name))
    with pytest.raises(IdentityLost, match="server 63"):
        open_directory(files, NEWBORN)
