"""Damage in a file of the embedded log is told from a write that was cut short, and from one that is going on."""

import builtins
from io import FileIO
from itertools import product
from pathlib import Path

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import BranchRef, Commit, Opened
from troth.errors import Corrupt
from troth.storage.record import RECORD_HEAD_BYTES, SECTOR_BYTES
from troth.transactions.log import framing, place
from troth.transactions.log.file import FileLog

LOG = "goldlog0"
SECTORS = 4


def commit(number: int, size: int = 0) -> Commit:
    name = str(Gid(LOG, "0", 2, number))
    return Commit(name, (BranchRef("bank", name + "x" * size),))


def opened() -> bytes:
    head = framing.encode_head(2, LOG)
    return head + framing.encode_opened(Opened(2, 1, 4096, (commit(1),)), number=2, log_id=LOG)


def batch(size: int = 0) -> bytes:
    return framing.encode_batch((commit(2, size),), sequence=1, number=2, log_id=LOG)


def scanned(data: bytes) -> int:
    return len(list(framing.scan(data, number=2, log_id=LOG, path="x")))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_bit_that_has_changed_in_the_last_record_is_no_torn_write(is_first: bool) -> None:
    """That would be an abort of what was acknowledged."""
    before, record = (
        (framing.encode_head(2, LOG), opened()[framing.HEAD_BYTES :]) if is_first else (opened(), batch())
    )
    whole = len(record.rstrip(b"\xa5"))
    for bit in range(8 * whole):
        data = bytearray(before + record + bytes(4096))
        at = len(before) + bit // 8
        data[at] ^= 1 << bit % 8
        if at == len(before) + RECORD_HEAD_BYTES - 1 and not data[at]:
            continue
        with pytest.raises(Corrupt, match="has changed since"):
            scanned(bytes(data))


def test_a_write_of_which_sectors_are_missing_was_told_to_nobody() -> None:
    """Whichever they are: the disk writes them in any order."""
    before = opened()
    record = batch((SECTORS - 1) * SECTOR_BYTES)
    end = len(before) + len(record)
    first = len(before) // SECTOR_BYTES
    sectors = range(first, end // SECTOR_BYTES + 1)
    assert len(sectors) >= SECTORS
    for kept in product([False, True], repeat=len(sectors)):
        data = bytearray(before + record + bytes(4096))
        for sector, is_kept in zip(sectors, kept, strict=True):
            if not is_kept:
                lo, hi = max(len(before), sector * SECTOR_BYTES), min(end, (sector + 1) * SECTOR_BYTES)
                data[lo:hi] = bytes(hi - lo)
        assert scanned(bytes(data)) == 1 + all(kept), kept


@pytest.mark.parametrize("which", [0, 1])
def test_damage_to_the_last_record_keeps_its_place_from_everybody(which: int, tmp_path: Path) -> None:
    log = FileLog(tmp_path, coordinator="a")
    gid = log.epoch.name(1)
    log.decide([Commit(gid, (BranchRef("bank", gid),))])
    if not which:
        log.renew()  # it stands in the first record of the only file
    log.close()
    file = log._place.path(log._place.number)
    data = bytearray(file.read_bytes())
    data[data.index(gid.encode())] ^= 1
    file.write_bytes(data)
    other = FileLog(tmp_path)
    assert other.epoch.coordinator == "0"
    for ask in (lambda: other.verdict(Gid(log.log_id, "a", 1, 1)), lambda: other.close_epoch("a")):
        with pytest.raises(Corrupt, match="is damaged"):
            ask()
    with pytest.raises(Corrupt):
        FileLog(tmp_path, coordinator="a")
    other.close()


class Early(FileIO):
    """It is read while it is being written: of the pages that are, one is read too early, and the next is not."""

    missed: tuple[bytes, ...] = ()

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1)
        for each in Early.missed[:1]:
            data = data.replace(each, bytes(len(each)))
        Early.missed = Early.missed[1:]
        return data


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_written_while_it_is_read_is_no_damage(
    is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, reader = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="r")
    if is_known:
        reader.unapplied()
    records = []
    for number in range(1, 5):
        end = owner._place.end
        owner.decide([Commit(owner.epoch.name(number), ())])
        records.append(owner._place.path(1).read_bytes()[end : owner._place.end])
    monkeypatch.setattr(place, "open", lambda path, *_, **__: Early(path), raising=False)
    Early.missed = (records[0], records[2], records[1])  # in this order each time an intact one stands behind it
    assert len(reader.unapplied()) == 4
    assert not Early.missed
    monkeypatch.setattr(place, "open", builtins.open)
    owner.close()
    reader.close()


def test_what_is_missing_for_good_is_damage_though_more_is_written_behind_it(tmp_path: Path) -> None:
    owner, reader = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="r")
    gid = owner.epoch.name(1)
    owner.decide([Commit(gid, ())])
    file = owner._place.path(1)
    with open(file, "r+b") as damaged:
        at = file.read_bytes().index(gid.encode())
        damaged.seek(at)
        damaged.write(bytes(len(gid)))
    owner.decide([Commit(owner.epoch.name(2), ())])
    with pytest.raises(Corrupt, match="record 2 behind it is intact"):
        reader.verdict(Gid(owner.log_id, "a", 1, 2))
    assert Verdict.OPEN is owner.verdict(Gid(owner.log_id, "a", 1, 3))
    owner.close()
    reader.close()
