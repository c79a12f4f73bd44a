"""The directory of an embedded log and the places in it: what one process makes of what others do there, or leave."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Abort, BranchRef, Commit
from troth.errors import Corrupt, NotApplied, StorageError, SyncFailed
from troth.storage.record import RECORD_HEAD_BYTES
from troth.transactions.log import directory, framing, place
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided


def decide(log: FileLog, sequence: int, key: str = "") -> Gid:
    name = log.epoch.name(sequence)
    assert log.decide([Commit(name, (BranchRef("bank", f"{name}.0"),), key)]) == [Decided(Verdict.COMMIT, name)]
    return gid_of(log, sequence)


def gid_of(log: FileLog, sequence: int) -> Gid:
    return Gid(log.log_id, log.epoch.coordinator, log.epoch.number, sequence)


def claim(log: FileLog) -> None:
    """Somebody takes the place of *log* over, and has come no further than the next file's name."""
    log._place.path(log._place.numbers()[-1] + 1).touch()


# ---- the directory ----


def test_what_the_disk_takes_in_pieces_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: real(descriptor, data[:7], at))
    content = bytes(range(100))
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    directory.write_all(descriptor, content, 3)
    assert os.pread(descriptor, 200, 0) == bytes(3) + content
    os.close(descriptor)


def test_keys_are_waited_for_while_another_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (directory.Directory(tmp_path) for _ in range(2))
    deciding = ExitStack()
    assert deciding.enter_context(one.keys_held())
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: deciding.close())
    monkeypatch.setattr(directory, "time", clock)
    with two.keys_held() as is_held:
        assert is_held


def test_of_keys_that_cannot_be_locked_nothing_is_written_and_work_without_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path)
    real = os.open

    def full(path: Path, *rest: int) -> int:
        if Path(path).name == "keys":
            raise OSError(24, "Too many open files")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", full)
    keyed, other = (Commit(log.epoch.name(number), (), key) for number, key in ((1, "order-1"), (2, "")))
    refused, answer = log.decide([keyed, other])
    assert isinstance(refused, NotApplied) and "Too many open files" in str(refused)
    assert answer == Decided(Verdict.COMMIT, other.gid)
    log.close()


def test_a_daemon_that_leaves_its_directory_goes_on_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = FileLog("log", coordinator="a")
    decide(log, 1)
    monkeypatch.chdir("/")
    decide(log, 2, key="order-1")
    log.renew()
    log.close()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00abcde\n", b"", b"short\n"])
def test_a_log_whose_name_is_damaged_says_so(content: bytes, tmp_path: Path) -> None:
    FileLog(tmp_path).close()
    (tmp_path / "log-id").write_bytes(content)
    with pytest.raises(Corrupt, match="does not hold a log's name"):
        FileLog(tmp_path)


def test_a_file_with_a_number_that_no_file_can_follow_is_none_of_ours(tmp_path: Path) -> None:
    FileLog(tmp_path, coordinator="a").close()
    (tmp_path / "a" / framing.file_name((1 << 64) - 1)).touch()
    log = FileLog(tmp_path, coordinator="a")
    assert log.epoch.number == 2
    log.close()


def test_a_place_that_was_copied_within_the_log_is_not_asked_about_for_ever(tmp_path: Path) -> None:
    """What is applied is noted under the name in the decision, so in the copy it never would be."""
    log = FileLog(tmp_path, coordinator="a")
    first = decide(log, 1)
    shutil.copytree(tmp_path / "a", tmp_path / "a-old")
    other = FileLog(tmp_path, coordinator="b")
    assert "copied or renamed" in {each.name: each.problem for each in other.coordinators()}["a-old"]
    unread: dict[str, str] = {}
    assert [commit.gid for commit in other.unapplied(unread)] == [str(first)] and list(unread) == ["a-old"]
    shutil.rmtree(tmp_path / "a-old")
    assert [commit.gid for commit in other.unapplied()] == [str(first)]
    log.close()
    other.close()


# ---- places of others ----


def test_what_is_noted_for_the_dead_takes_nothing_from_what_is_known_of_forgotten_names(tmp_path: Path) -> None:
    """Or else an old commit would be an abort from then on."""
    dead, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    dead._place.cells._applied_kept = 1
    first, second = decide(dead, 1), decide(dead, 2)
    dead.note_applied([str(first), str(second)])
    dead.renew()
    left = decide(dead, 3)
    dead.close()
    assert other.close_epoch("a")
    other.note_applied([str(left)])
    third = FileLog(tmp_path, coordinator="c")
    for each in (other, third):
        assert [each.verdict(gid) for gid in (first, second, left)] == [
            Verdict.FORGOTTEN,
            Verdict.COMMIT,
            Verdict.COMMIT,
        ]
        each.close()


def test_a_claim_makes_nobody_believe_what_could_not_be_synced_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    other.coordinators()
    decide(dead, 1)

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(StorageError, match="Input/output"):
            other.unapplied()
    dead.close()
    claim(dead)
    with pytest.raises(SyncFailed, match="fsync has failed here"):
        other.close_epoch("a")
    other.close()


def test_damage_is_told_each_time(tmp_path: Path) -> None:
    """It is not passed over because it was told once."""
    log, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    first = decide(log, 1)
    log.note_applied([str(first)])
    decide(log, 2)
    assert other.verdict(first) is Verdict.COMMIT
    log._place.cells.apply = lambda record: None  # type: ignore[method-assign]
    log._writer.append([Abort(str(first), "the last resource")])
    log._writer.append([Commit(log.epoch.name(3), ())])
    for _ in range(2):
        with pytest.raises(Corrupt, match="what no log can say"):
            other.verdict(first)
    log.close()
    other.close()


def test_who_takes_a_place_over_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has claimed the next file, and writes it in a moment: no question fails for that."""
    log, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    undecided = gid_of(log, 1)
    claim(log)

    def opened(_: float) -> None:
        os.close(place.Place(tmp_path, log.log_id, "a").open(place.Opener.NOBODY))

    monkeypatch.setattr(place, "time", SimpleNamespace(sleep=opened))
    assert other.verdict(undecided) is Verdict.ABORT
    log.close()
    other.close()


def test_what_this_process_has_closed_it_can_read_though_somebody_claims_the_next_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    dead, other = FileLog(tmp_path, coordinator="a"), FileLog(tmp_path, coordinator="b")
    first = decide(dead, 1)
    dead.close()
    assert other.close_epoch("a")
    claim(dead)
    assert other.verdict(first) is Verdict.COMMIT
    assert [commit.gid for commit in other.unapplied()] == [str(first)]
    other.close()


def test_a_short_record_that_is_damaged_is_not_torn_though_the_next_one_begins_right_behind_it() -> None:
    head = framing.encode_head(2, "goldlog0")
    first = framing.encode_batch((), sequence=0, number=2, log_id="goldlog0")
    second = framing.encode_batch((), sequence=1, number=2, log_id="goldlog0")
    assert len(first) < 64
    data = bytearray(head + first + second + bytes(4096))
    assert len(list(framing.scan(bytes(data), number=2, log_id="goldlog0", path="x"))) == 2
    data[len(head) + RECORD_HEAD_BYTES] ^= 1
    data[len(head) + len(first) - 1] = 0
    with pytest.raises(Corrupt, match="behind it is intact"):
        list(framing.scan(bytes(data), number=2, log_id="goldlog0", path="x"))
