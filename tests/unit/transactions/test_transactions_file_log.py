"""The bytes of the embedded decision log: golden file, torn tails, damage, carry-over, and places."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Abort, Applied, BranchRef, Commit, Heuristic, Member, Opened
from troth.errors import Corrupt, NotApplied, OutcomeUnknown, StorageError, SyncFailed, UsageError
from troth.storage.record import RECORD_HEAD_BYTES
from troth.transactions.barrier import Barrier
from troth.transactions.log import directory, framing, place, writer
from troth.transactions.log import file as file_module
from troth.transactions.log.file import FileLog

GOLDEN = Path(__file__).with_name("golden") / "decisions-v1.log"
LOG = "goldlog0"


def golden_bytes() -> bytes:
    """One of everything, as version 1 writes it."""
    name = str(Gid(LOG, "0", 2, 7))
    commit = Commit(name, (BranchRef("bank", f"{name}.0", "742"), BranchRef("ledger", f"{name}.1")), "order-1")
    opened = Opened(2, 1, 4096, (Member("bank", "postgresql", "pg:1:2"), commit))
    batch = (
        Commit(str(Gid(LOG, "0", 2, 8)), (), delegate="lite"),
        Abort(str(Gid(LOG, "0", 2, 9)), "operator"),
        Heuristic(name, "bank", "rolled back"),
        Applied((name,)),
    )
    return (
        framing.encode_head(2, LOG)
        + framing.encode_opened(opened, number=2, log_id=LOG)
        + framing.encode_batch(batch, sequence=1, number=2, log_id=LOG)
    )


def test_bytes_of_version_1_are_read_and_written_for_ever() -> None:
    if os.environ.get("TROTH_REWRITE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_bytes(golden_bytes())
    data = GOLDEN.read_bytes()
    assert data == golden_bytes()
    opened, batch = (found.content for found in framing.scan(data, number=2, log_id=LOG, path="golden"))
    assert isinstance(opened, Opened)
    assert (opened.epoch, opened.sealed, opened.sealed_bytes) == (2, 1, 4096)
    assert isinstance(batch, tuple)
    assert [type(record).__name__ for record in batch] == ["Commit", "Abort", "Heuristic", "Applied"]


def test_a_torn_tail_is_cut_wherever_it_is_torn() -> None:
    data = golden_bytes()
    first = next(framing.scan(data, number=2, log_id=LOG, path="x")).end
    for end in range(first, len(data) - 8):  # without a part of its padding it is whole
        torn = data[:end] + bytes(4096)
        found = list(framing.scan(torn, number=2, log_id=LOG, path="x"))
        assert len(found) == 1, end


def test_a_torn_opening_is_a_file_that_was_never_opened() -> None:
    data = golden_bytes()
    first = next(framing.scan(data, number=2, log_id=LOG, path="x")).end
    for end in range(first - 8):
        assert not list(framing.scan(data[:end] + bytes(64), number=2, log_id=LOG, path="x"))


@pytest.mark.parametrize("count", [1, 2])
def test_damage_in_front_of_an_intact_record_is_refused(count: int) -> None:
    """However many records in a row are damaged, and whatever they look like by themselves."""
    last = (framing.encode_batch((), sequence=sequence, number=2, log_id=LOG) for sequence in (2, 3))
    data = bytearray(golden_bytes() + b"".join(last))
    opened, *damaged = framing.scan(bytes(data), number=2, log_id=LOG, path="x")
    for before, each in zip((opened, *damaged)[:count], damaged, strict=False):
        data[before.end + RECORD_HEAD_BYTES] ^= 1
        data[each.end - 1] = 0
    with pytest.raises(Corrupt, match="behind it is intact"):
        list(framing.scan(bytes(data), number=2, log_id=LOG, path="x"))


def test_a_damaged_header_is_that_of_no_file_that_was_never_opened() -> None:
    """Whoever took it for one would carry nothing over, and all that was decided would be aborted."""
    for bit in range(8 * framing.HEAD_BYTES):
        data = bytearray(golden_bytes())
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt, match="header is damaged"):
            list(framing.scan(bytes(data), number=2, log_id=LOG, path="x"))


def test_the_zeros_behind_the_last_record_are_searched_and_not_walked_through() -> None:
    """A file grows by a MiB of them; who looks at other places (for each key) reads them again."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    data = golden_bytes() + bytes(1 << 20)
    sys.settrace(trace)
    try:
        assert list(framing.scan(data, number=2, log_id=LOG, path="x"))
    finally:
        sys.settrace(None)
    assert lines < 1000


def test_a_file_of_another_log_or_of_the_future_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = golden_bytes()
    with monkeypatch.context() as future:
        future.setattr(framing, "VERSION", framing.VERSION + 1)
        later = golden_bytes()
    with pytest.raises(Corrupt, match="Upgrade"):
        list(framing.scan(later, number=2, log_id=LOG, path="x"))
    with pytest.raises(Corrupt, match="another"):
        list(framing.scan(data, number=3, log_id=LOG, path="x"))
    with pytest.raises(Corrupt, match="another"):
        list(framing.scan(data, number=2, log_id="otherlog", path="x"))


def decide(log: FileLog, sequence: int) -> str:
    name = str(Gid(log.log_id, log.epoch.coordinator, log.epoch.number, sequence))
    (answer,) = log.decide([Commit(name, (BranchRef("a", name),))])
    if isinstance(answer, Exception):
        raise answer
    assert answer.verdict is Verdict.COMMIT
    return name


def files(path: Path) -> list[Path]:
    return sorted((path / "0").glob("decisions-*.log"))


def test_a_long_file_is_carried_over_and_nothing_is_lost(tmp_path: Path) -> None:
    log = FileLog(tmp_path, compact_bytes=20_000)
    names = [decide(log, sequence) for sequence in range(1, 400)]
    log.note_applied(names[:-3])
    names.append(decide(log, 400))
    assert len(files(tmp_path)) == 1
    assert int(files(tmp_path)[0].name[10:26], 16) > 1, "it was never carried over"
    assert log.epoch.number == 1, "a new file is not a new epoch"
    reader = FileLog(tmp_path)
    assert reader.verdict(Gid(log.log_id, "0", 1, 401)) is Verdict.OPEN, "nor to anybody who reads it"
    reader.close()
    log.close()
    again = FileLog(tmp_path)
    assert {commit.gid for commit in again.unapplied()} == set(names[-4:])
    assert all(again.verdict(Gid(log.log_id, "0", 1, n)) is Verdict.COMMIT for n in (1, 200, 400))
    assert again.verdict(Gid(log.log_id, "0", 1, 401)) is Verdict.ABORT
    again.close()


def test_a_file_that_is_long_from_its_beginning_is_let_grow(tmp_path: Path) -> None:
    """What is not applied is carried over; a bound that this alone passes would have each decision rewrite it all."""
    log = FileLog(tmp_path, compact_bytes=1)
    for sequence in range(1, 101):
        decide(log, sequence)
    assert log._place.number < 10
    log.close()


def test_what_is_applied_is_written_down_without_a_decision_when_it_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "DONE_MAX", 3)
    mine, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    gids = [decide(mine, sequence) for sequence in range(1, 6)]
    left = []
    for gid in gids:
        mine.note_applied([gid])
        other.coordinators()
        left.append(len(other.unapplied()))
    assert left == [5, 5, 5, 1, 1]
    mine.close()
    other.close()


def test_a_closed_log_decides_nothing_and_has_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, close = set[int](), os.close
    open_ = os.open

    def opening(*arguments: Any, **options: Any) -> int:
        opened.add(descriptor := open_(*arguments, **options))
        return descriptor

    def closing(descriptor: int) -> None:
        opened.discard(descriptor)
        close(descriptor)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "close", closing)
    log = FileLog(tmp_path)
    open_before = len(opened)
    log.renew()
    assert len(opened) == open_before, "an epoch that is over keeps no file open"
    log.close()
    assert not opened
    with pytest.raises(NotApplied, match="closed"):
        decide(log, 1)


@pytest.mark.parametrize("looks_before", [0, 1, 2])
def test_a_successor_that_goes_while_it_is_looked_for_is_seen(
    looks_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one after it removes it, and before it the file whose owner looks."""
    paused, looks = place.Place(tmp_path, LOG, "0"), list[str]()
    paused.directory.mkdir()
    for number in (1, 2):
        paused.path(number).touch()
    descriptor = os.open(paused.path(1), os.O_RDONLY)

    def goes_meanwhile(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any, *rest: Any) -> Any:
            if len(looks) == looks_before:
                for number in (1, 2):
                    paused.path(number).unlink()
            looks.append(str(path))
            return real(path, *rest)

        return look

    for name in ("access", "stat"):
        monkeypatch.setattr(os, name, goes_meanwhile(getattr(os, name)))
    is_superseded = paused.is_superseded(1, descriptor)
    monkeypatch.undo()
    assert is_superseded, looks
    os.close(descriptor)


def test_a_record_that_was_not_seen_by_the_successor_does_not_count(tmp_path: Path) -> None:
    """Write, then look; raise, then read: the two halves of fencing, interleaved at the worst moment."""
    zombie = FileLog(tmp_path, coordinator="0")
    other = FileLog(tmp_path, coordinator="1")
    before = decide(zombie, 1)
    assert other.close_epoch("0", even_if_alive=True)
    name = str(Gid(zombie.log_id, "0", 1, 2))
    (answer,) = zombie.decide([Commit(name, ())])
    assert not isinstance(answer, Exception)
    assert answer.verdict is Verdict.ABORT
    assert [commit.gid for commit in other.unapplied()] == [before]
    zombie.close()
    other.close()


def test_a_successor_that_raised_its_file_while_the_record_was_written_decides(tmp_path: Path) -> None:
    other = FileLog(tmp_path, coordinator="1")

    def fence(step: str) -> None:
        # The record is in the file, not yet synced: the successor reads it, so it counts, and the owner is told so.
        if step == "decision_written":
            assert other.close_epoch("0", even_if_alive=True)

    zombie = FileLog(tmp_path, coordinator="0", on_step=fence)
    name = str(Gid(zombie.log_id, "0", zombie.epoch.number, 1))
    (answer,) = zombie.decide([Commit(name, ())])
    assert not isinstance(answer, Exception)
    assert answer.verdict is Verdict.COMMIT
    assert [commit.gid for commit in other.unapplied()] == [name]
    zombie.close()
    other.close()


def test_what_was_decided_until_the_next_file_was_there_is_carried_into_it(tmp_path: Path) -> None:
    """Whoever takes a place over has read it before; what it goes by is what stands there once nothing more counts."""
    owner = FileLog(tmp_path, coordinator="0")
    taken = place.Place(tmp_path, owner.log_id, "0")
    taken.refresh()
    name = decide(owner, 1)
    os.close(taken.open_next(place.Opener.NOBODY))
    assert taken.cells.record_of(name) is not None
    later = place.Place(tmp_path, owner.log_id, "0")
    later.refresh()
    assert later.number == taken.number and later.cells.record_of(name) is not None
    owner.close()


def test_a_claim_that_was_never_opened_is_passed_over(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    name = decide(log, 1)
    log.close()
    (tmp_path / "0" / framing.file_name(2)).write_bytes(b"")
    again = FileLog(tmp_path)
    assert again.epoch.number == 3
    assert [commit.gid for commit in again.unapplied()] == [name]
    again.close()


def test_a_full_disk_is_not_filled_with_claims_that_nobody_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass of recovery, in every process, would leave one more."""
    log, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    name = decide(log, 1)
    log.close()
    before = place.Place(tmp_path, other.log_id, "0").numbers()

    def full(descriptor: int, content: bytes, at: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(place, "write_all", full)
        for _ in range(3):
            with pytest.raises(StorageError, match=r"No space left on device\. Make room"):
                other.close_epoch("0")
            assert place.Place(tmp_path, other.log_id, "0").numbers() == before
            assert not list((tmp_path / "0").glob(".room*"))
    assert other.close_epoch("0")
    assert [commit.gid for commit in other.unapplied()] == [name]
    other.close()


def test_a_log_that_is_to_make_room_needs_no_more_than_it_takes_and_tries_again_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, bound = 4096, 20_000
    free = bound + bound // 2
    write_all = place.write_all
    tried: list[int] = []

    def written(descriptor: int, content: bytes, at: int) -> None:
        tried.append(len(content))
        if len(content) > free:
            raise OSError(28, "No space left on device")
        write_all(descriptor, content, at)

    for module in (place, writer):
        monkeypatch.setattr(module, "AHEAD_BYTES", page)
    mine, other = FileLog(tmp_path, coordinator="0", compact_bytes=bound), FileLog(tmp_path, coordinator="1")
    monkeypatch.setattr(place, "write_all", written)

    def go_on(until: Callable[[], bool]) -> None:
        while not until():
            assert len(sequences) < 1000, (mine._place.number, mine._place.end, tried[-3:])
            sequences.append(len(sequences) + 1)
            mine.note_applied([decide(mine, sequences[-1])])

    sequences: list[int] = []
    go_on(lambda: mine._place.end > bound - 300)
    assert len(other.unapplied()) == 1, "it has read all of it; what is applied is told with the next"
    with pytest.raises(StorageError, match="No space left"):
        other.close_epoch("0", even_if_alive=True)  # nobody knows whether it carries over less than all of it
    assert min(tried) >= 2 * (bound - 300)
    go_on(lambda: mine._place.number == 2)

    free = 0
    tried.clear()
    go_on(lambda: len(tried) == 1)
    end = mine._place.end
    go_on(lambda: len(tried) == 2)
    assert page <= mine._place.end - end < 2 * page, "not with each decision"
    free, end = 10 * bound, mine._place.end
    go_on(lambda: mine._place.number == 3 or mine._place.end > end + 2 * page)
    assert mine._place.number == 3
    mine.close()
    other.close()


def test_a_claim_on_a_closed_place_is_taken_over_by_who_closes_it_again(tmp_path: Path) -> None:
    """Whoever made it has died, so nobody could read the place any more."""
    log, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    gid = Gid(log.log_id, "0", log.epoch.number, 1)
    log.close()
    assert other.close_epoch("0")
    (tmp_path / "0" / framing.file_name(3)).write_bytes(b"")
    assert other.close_epoch("0")
    assert other.verdict(gid) is Verdict.ABORT
    other.close()


def test_a_coordinator_that_lives_writes_in_its_place_alone(tmp_path: Path) -> None:
    """Whoever opens a file there fences it; whoever notes something for the dead may have seen it dead before."""
    mine, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    decided = decide(mine, 1)
    open_gid = Gid(mine.log_id, "0", mine.epoch.number, 2)
    other.note_applied([decided])
    other.note_refused(decided)
    assert other.abort(Abort(str(open_gid), "recovery")) is Verdict.OPEN
    assert other.verdict(open_gid) is Verdict.OPEN
    decide(mine, 2)
    assert [other.verdict(open_gid), mine.verdict(open_gid)] == [Verdict.COMMIT] * 2
    mine.close()
    other.close()


def test_a_decision_that_could_not_be_written_does_not_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path)
    gid = Gid(log.log_id, "0", log.epoch.number, 1)

    def full(at: int, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._writer._file, "write_at", full)
    with pytest.raises(StorageError, match="No space left"):
        log.decide([Commit(str(gid), (BranchRef("a", f"{gid}.0"),))])
    assert log.verdict(gid) is Verdict.OPEN
    assert log.unapplied() == []
    log.close()


def test_files_go_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is gone its owner knows thereby that there was a next one."""
    log = FileLog(tmp_path)
    decide(log, 1)
    log.close()
    (tmp_path / "0" / framing.file_name(2)).write_bytes(b"")
    gone: list[str] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            gone.append(path.name)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    FileLog(tmp_path).close()
    assert gone == [framing.file_name(1), framing.file_name(2)]


@pytest.mark.slow
def test_an_owner_that_was_fenced_by_one_that_died_at_once_goes_on(tmp_path: Path) -> None:
    """The next file is claimed and never opened; nobody else has the place, so the owner itself settles it."""
    log = FileLog(tmp_path)
    (tmp_path / "0" / framing.file_name(2)).write_bytes(b"")
    first = log.epoch
    name = str(Gid(log.log_id, "0", first.number, 1))
    (answer,) = log.decide([Commit(name, ())])
    assert not isinstance(answer, Exception)
    assert answer.verdict is Verdict.COMMIT, "it stood in the file that the new one has carried over"
    assert log.epoch.number > first.number
    assert [commit.gid for commit in log.unapplied()] == [name]
    decide(log, 2)
    log.close()


def test_a_held_place_is_not_taken_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "PLACE_WAIT_S", 0.01)
    log = FileLog(tmp_path, coordinator="web")
    with pytest.raises(StorageError, match=str(os.getpid())):
        FileLog(tmp_path, coordinator="web")
    with pytest.raises(UsageError):
        FileLog(tmp_path, coordinator="Web.1")
    log.close()


def test_a_failed_sync_ends_all_deciding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsyncgate: a second sync that succeeds proves nothing."""
    log = FileLog(tmp_path)
    decide(log, 1)
    real = os.fdatasync

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(SyncFailed):
        decide(log, 2)
    monkeypatch.setattr(os, "fdatasync", real)
    with pytest.raises(NotApplied) as caught:  # for certain: it was not written
        decide(log, 3)
    assert isinstance(caught.value.__cause__, SyncFailed)
    with pytest.raises(SyncFailed):
        log.verdict(Gid(log.log_id, "0", 1, 2))  # it stands in the file, for now
    with pytest.raises(SyncFailed):
        log.unapplied()  # what it has written last may be decided, or not
    again = FileLog(tmp_path)  # while the first still lives: it has given up its place
    assert again.epoch.coordinator == "0"
    log.close()
    assert again.verdict(Gid(again.log_id, "0", 1, 1)) is Verdict.COMMIT
    again.close()


def test_a_log_that_is_moved_away_decides_nothing_and_nobody_presumes_an_abort(tmp_path: Path) -> None:
    """The record went where the log is now: who starts with that one commits, so nobody may roll back here."""
    log = FileLog(tmp_path / "log")
    first, moved = decide(log, 1), tmp_path / "moved"
    (tmp_path / "log").rename(moved)
    with pytest.raises(StorageError, match="moved, removed or replaced"):
        decide(log, 2)
    second = Gid(log.log_id, "0", 1, 2)
    with pytest.raises(StorageError, match="moved, removed or replaced"):
        log.verdict(second)
    with pytest.raises(StorageError):
        log.abort(Abort(str(second), "recovery"))
    with pytest.raises(StorageError):
        log.coordinators()
    with pytest.raises(NotApplied) as caught:  # for certain, and begin() refuses from now on
        decide(log, 3)
    assert "put the log back" in str(caught.value.__cause__)
    log.close()
    again = FileLog(moved)
    assert [commit.gid for commit in again.unapplied()] == [first, str(second)]
    again.close()


def test_an_epoch_is_not_opened_twice_though_its_file_is_gone(tmp_path: Path) -> None:
    log, other = FileLog(tmp_path), FileLog(tmp_path, coordinator="1")
    decide(log, 1)
    assert len(other.unapplied()) == 1
    for file in files(tmp_path):
        file.unlink()
    for open_another in (log.renew, partial(other.close_epoch, "0", even_if_alive=True)):
        with pytest.raises(StorageError, match=r"put (it|the log) back"):
            open_another()
    assert not files(tmp_path)
    with pytest.raises(NotApplied):
        decide(log, 2)
    log.close()
    other.close()


def test_an_interrupt_in_the_middle_of_a_write_lets_nobody_write_over_it(tmp_path: Path) -> None:
    def interrupt(step: str) -> None:
        if step == "decision_written":
            raise KeyboardInterrupt

    log = FileLog(tmp_path, on_step=interrupt)
    with pytest.raises(KeyboardInterrupt):
        decide(log, 1)
    with pytest.raises(NotApplied):
        decide(log, 2)
    log.close()
    again = FileLog(tmp_path)
    assert again.verdict(Gid(again.log_id, "0", 1, 2)) is Verdict.ABORT
    assert again.verdict(Gid(again.log_id, "0", 1, 1)) is Verdict.COMMIT, "it is in the file, so it counts"
    again.close()


def test_what_other_processes_have_registered_and_noted_is_known_at_once(tmp_path: Path) -> None:
    first = FileLog(tmp_path)
    member = Member("bank", "postgresql", "pg:1:2")
    first.register([member])
    noted = Heuristic(decide(first, 1), "bank", "rolled back")
    first.note_heuristic(noted)
    second = FileLog(tmp_path)
    assert second.members() == {"0": {"bank": member}, "1": {}}
    moved = Member("bank", "postgresql", "pg:3:4")
    second.register([moved])
    assert second.members() == {"0": {"bank": member}, "1": {"bank": moved}}
    assert second.heuristics() == [noted]
    assert second.forget(noted.gid, "operator")  # though the first lives, and has it in its own file
    assert first.heuristics() == second.heuristics() == []
    assert not first.forget(noted.gid, "operator")
    first.close()
    second.close()
    third = FileLog(tmp_path, coordinator="1")
    assert third.heuristics() == [], "carried over"
    third.close()


def test_a_place_that_is_looked_at_for_a_moment_is_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's recovery holds the lock of a place to see whether anybody does."""
    other = FileLog(tmp_path)
    FileLog(tmp_path, coordinator="web").close()
    looking = ExitStack()
    assert looking.enter_context(other._directory.held("web"))
    # The look ends while the place is waited for.
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: looking.close())
    monkeypatch.setattr(directory, "time", clock)
    FileLog(tmp_path, coordinator="web").close()
    other.close()


def test_a_lock_is_let_go_though_a_forked_child_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork while the keys were held, or a place was looked at: the child has the descriptor as long as it runs."""
    log = FileLog(tmp_path)
    dead = FileLog(tmp_path, coordinator="dead")
    dead.close()
    with monkeypatch.context() as inherited:
        inherited.setattr(os, "close", lambda descriptor: None)
        with log._directory.keys_held() as is_held:
            assert is_held
        assert log.close_epoch("dead")
        with log._directory.held("dead") as is_held:
            assert is_held
    monkeypatch.setattr("troth.transactions.log.directory.KEYS_WAIT_S", 0.0)
    with log._directory.keys_held() as is_held:
        assert is_held
    FileLog(tmp_path, coordinator="dead").close()
    log.close()


def damage(place: Path) -> None:
    """Of *place*, where two decisions were made, the first."""
    (damaged,) = place.glob("decisions-*.log")
    content = bytearray(damaged.read_bytes())
    content[content.index(b"T1.")] ^= 1
    damaged.write_bytes(content)


def test_a_damaged_place_of_another_process_stops_only_work_with_a_key(tmp_path: Path) -> None:
    dead = FileLog(tmp_path, coordinator="dead")
    decide(dead, 1)
    decide(dead, 2)
    dead.close()
    damage(tmp_path / "dead")
    log = FileLog(tmp_path)
    assert (log.members()["dead"], log.heuristics()) == ({}, [])
    decide(log, 1)
    name = str(Gid(log.log_id, log.epoch.coordinator, log.epoch.number, 2))
    (answer,) = log.decide([Commit(name, (), "order-1")])
    assert isinstance(answer, NotApplied)
    assert "work with one is refused" in str(answer) and "move the whole directory" in str(answer)
    with pytest.raises(Corrupt, match="work with one is refused"):
        log.holder_of("order-1")
    decide(log, 3)
    log.close()


def test_a_place_that_is_damaged_is_passed_over_by_who_wants_any(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = FileLog(tmp_path)
    decide(first, 1)
    decide(first, 2)
    first.close()
    damage(tmp_path / "0")
    before = sorted(tmp_path.joinpath("0").iterdir())
    with pytest.raises(Corrupt):
        FileLog(tmp_path, coordinator="0")
    assert caplog.records == []
    newcomer = FileLog(tmp_path)
    assert newcomer.epoch.coordinator == "1"
    (warning,) = caplog.records
    assert "passed over" in warning.getMessage() and "damaged" in warning.getMessage()
    assert sorted(tmp_path.joinpath("0").iterdir()) == before, "nor does each newcomer leave a file there"
    with newcomer._directory.held("0") as is_held:
        assert is_held
    newcomer.close()


class Calls:
    """What is done to files from now on, in order: (call, number of the file on its disk)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int]] = []
        for name in ("pwrite", "fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._spy(name, getattr(os, name)))
        unlink = Path.unlink

        def removing(path: Path, missing_ok: bool = False) -> None:
            if path.exists():
                self.made.append(("unlink", path.stat().st_ino))
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", removing)

    def _spy(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, *rest: Any) -> Any:
            self.made.append((name, os.fstat(descriptor).st_ino))
            return real(descriptor, *rest)

        return call

    def of(self, *paths: Path) -> list[tuple[str, Path]]:
        """The calls about *paths*, in order."""
        by_number = {path.stat().st_ino: path for path in paths}
        return [(call, by_number[number]) for call, number in self.made if number in by_number]


def test_a_decision_is_synced_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(tmp_path)
    (file,) = files(tmp_path)
    calls = Calls(monkeypatch)
    decide(log, 1)
    assert calls.of(file) == [("pwrite", file), ("fdatasync", file)]
    log.close()


def test_the_next_file_is_whole_and_named_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileLog(tmp_path).close()
    (old,) = files(tmp_path)
    number = old.stat().st_ino
    calls = Calls(monkeypatch)
    log = FileLog(tmp_path)
    (new,) = files(tmp_path)
    removed = calls.made.index(("unlink", number))
    before = calls.made[:removed]
    written = before.index(("pwrite", new.stat().st_ino))
    assert ("fsync", new.stat().st_ino) in before[written:]
    assert ("fsync", new.parent.stat().st_ino) in before[written:]
    log.close()


def test_what_another_process_has_written_is_synced_before_anybody_acts_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may not have come to its own sync; a power cut would take back what was acted on."""
    writer, reader = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    decide(writer, 1)
    (file,) = files(tmp_path)
    for sequence in (1, 2):
        calls = Calls(monkeypatch)
        assert reader.verdict(Gid(writer.log_id, "0", 1, sequence)) is Verdict.COMMIT
        synced = calls.of(file, file.parent)
        assert ("fsync", file) in synced and ("fsync", file.parent) in synced
        decide(writer, sequence + 1)
    calls = Calls(monkeypatch)
    reader.verdict(Gid(writer.log_id, "0", 1, 3))
    calls.made.clear()
    reader.verdict(Gid(writer.log_id, "0", 1, 3))
    assert calls.of(file) == [], "nothing new, nothing to sync"
    writer.close()
    reader.close()


def test_what_could_not_be_synced_is_not_believed_at_the_second_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    gid = Gid(writer.log_id, "0", 1, 1)
    assert reader.verdict(gid) is Verdict.OPEN
    decide(writer, 1)

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        for _ in range(2):
            with pytest.raises(StorageError, match=r"Input/output|fsync has failed"):
                reader.verdict(gid)
    with pytest.raises(SyncFailed, match="fsync has failed here"):
        reader.verdict(gid)  # the kernel says of a page that it could not write but once that it could not
    with pytest.raises(SyncFailed, match="fsync has failed here"):
        reader.unapplied()
    writer._hold.let_go()
    for step in (partial(reader.close_epoch, "0"), partial(reader.note_applied, [str(gid)])):
        with pytest.raises(SyncFailed):
            step()
    assert len(files(tmp_path)) == 1, "a place that can not be read gets no next file"
    assert writer.renew().number == 2
    assert reader.verdict(gid) is Verdict.COMMIT, "it stands in another file now"
    writer.close()
    reader.close()


def test_the_logs_name_is_on_the_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    log = FileLog(tmp_path / "new")
    named = tmp_path / "new" / "log-id"
    assert [call for call, _ in calls.of(named)][:2] == ["pwrite", "fsync"]
    synced = [
        path for call, path in calls.of(named, tmp_path, named.parent, named.parent / "0") if call == "fsync"
    ]
    assert synced[:4] == [tmp_path, named, named.parent, tmp_path]
    assert named.parent in synced[4 : synced.index(named.parent / "0")], "and so are the names of places"
    log.close()
    calls.made.clear()
    FileLog(tmp_path / "new").close()
    synced = [path for call, path in calls.of(tmp_path, named.parent) if call == "fsync"]
    assert synced[:3] == [named.parent, tmp_path, named.parent], "whoever found them there, also"


def test_two_that_open_the_next_file_at_once_do_not_open_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name can be created once. Who comes second takes the one after it."""
    log, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    decide(log, 1)
    opened, first = os.open, [True]

    def opening(path: Any, flags: int, *rest: Any) -> int:
        if str(path).endswith(framing.file_name(2)) and first:
            first.clear()
            log.renew()  # between the other's look and its create
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", opening)
    assert other.close_epoch("0", even_if_alive=True)
    assert not first
    assert other._other("0").number == 3
    assert other.verdict(Gid(log.log_id, "0", 1, 1)) is Verdict.COMMIT
    name = str(Gid(log.log_id, "0", log.epoch.number, 2))
    (answer,) = log.decide([Commit(name, ())])
    assert not isinstance(answer, Exception)
    assert answer.verdict is Verdict.ABORT
    log.close()
    other.close()


def test_a_coordinator_that_was_told_that_it_is_fenced_writes_nothing_more_in_that_epoch(tmp_path: Path) -> None:
    log, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    assert other.close_epoch("0", even_if_alive=True)
    first, second = (Commit(str(Gid(log.log_id, "0", 1, n)), ()) for n in (1, 2))
    (answer,) = log.decide([first])
    assert not isinstance(answer, Exception) and answer.verdict is Verdict.ABORT
    before = {path: path.read_bytes() for path in files(tmp_path)}
    (answer,) = log.decide([second])
    assert not isinstance(answer, Exception) and answer.verdict is Verdict.ABORT
    assert {path: path.read_bytes() for path in files(tmp_path)} == before
    log.register([Member("bank", "postgresql", "1")])
    assert log.epoch.number > 1, "what holds in any epoch is written in the next one"
    decide(log, 3)
    log.close()
    other.close()


def test_a_forked_child_does_not_write_in_its_parents_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path)
    decide(log, 1)
    before = [path.read_bytes() for path in files(tmp_path)]
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        with pytest.raises(UsageError, match="before a fork"):
            decide(log, 2)
        assert [path.read_bytes() for path in files(tmp_path)] == before
    decide(log, 3)
    log.close()


def in_child(check: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_a_forked_child_holds_nothing_of_its_parents(tmp_path: Path) -> None:
    """A lock goes with its last descriptor: a child would hold it for a parent that has died."""
    log, gate = FileLog(tmp_path), Barrier(tmp_path / "barrier")
    assert in_child(lambda: log._hold._descriptor < 0 and gate._file < 0)
    log.close()
    gate.close()


def test_who_opens_a_place_is_fenced_by_who_opens_the_next_file_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_first = place.sync_directory, [True]

    def synced(path: Path) -> None:
        if path.name == "0" and is_first.pop():
            (path / framing.file_name(2)).write_bytes(b"")
            monkeypatch.undo()
        real(path)

    monkeypatch.setattr(place, "sync_directory", synced)
    log = FileLog(tmp_path)
    assert log.epoch.number == 3
    log.close()


def test_while_a_place_is_being_taken_over_nobody_says_what_counts_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner may have written after its successor has read."""
    monkeypatch.setattr(place, "SETTLE_PAUSE_S", 0)
    mine, other = FileLog(tmp_path, coordinator="0"), FileLog(tmp_path, coordinator="1")
    gid = Gid(mine.log_id, "0", mine.epoch.number, 1)
    assert other.verdict(gid) is Verdict.OPEN
    (tmp_path / "0" / framing.file_name(2)).write_bytes(b"")
    with pytest.raises(StorageError, match="began to take this place over"):
        other.verdict(gid)
    mine.close()
    other.close()


def test_a_commit_whose_name_is_dropped_is_none_that_was_aborted_in_any_later_file(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    log._place.cells._applied_kept = 1
    gids = [decide(log, sequence) for sequence in (1, 2, 3)]
    log.note_applied(gids)
    first = Gid(log.log_id, "0", log.epoch.number, 1)
    assert log.verdict(first) is Verdict.FORGOTTEN
    log.renew()
    for _ in range(2):
        assert log.verdict(first) is Verdict.FORGOTTEN
        log.close()
        log = FileLog(tmp_path)
    log.close()


def test_a_record_counts_once() -> None:
    data = golden_bytes()
    first, second = framing.scan(data, number=2, log_id=LOG, path="x")
    again = data[: second.end] + data[first.end : second.end] + bytes(64)
    found = framing.scan(again, number=2, log_id=LOG, path="x")
    assert [next(found), next(found)] == [first, second]
    with pytest.raises(Corrupt, match="record 2"):
        next(found)  # what stood there is lost


def test_a_log_has_the_name_that_was_drawn_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = directory.Directory(tmp_path).log_id
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert directory.Directory(tmp_path).log_id == first


def test_one_at_a_time_decides_about_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "KEYS_WAIT_S", 0.01)
    one, two = (directory.Directory(tmp_path) for _ in range(2))
    with one.keys_held() as first:
        with two.keys_held() as second:
            assert (first, second) == (True, False)
    with two.keys_held() as second:
        assert second


@pytest.mark.parametrize("key", [None, 5, b"x", "\ud800"])
def test_a_record_that_could_not_be_read_back_is_never_written(key: Any, tmp_path: Path) -> None:
    log = FileLog(tmp_path, coordinator="one")
    bad, good = (str(Gid(log.log_id, "one", log.epoch.number, sequence)) for sequence in (1, 2))
    (answer,) = log.decide([Commit(bad, (), key)])
    assert isinstance(answer, NotApplied)
    assert log.decide([Commit(good, (), "x")]) == [(Verdict.COMMIT, good)]
    with pytest.raises(NotApplied):
        log.register([Member(key, "sqlite", "x")])
    log.close()
    again = FileLog(tmp_path, coordinator="one")
    assert (again.holder_of("x"), again.members()["one"]) == (good, {})
    again.close()


def test_what_was_applied_is_told_though_the_record_that_it_was_to_go_with_is_refused(tmp_path: Path) -> None:
    log = FileLog(tmp_path, coordinator="one")
    done, bad, next_one = (str(Gid(log.log_id, "one", log.epoch.number, sequence)) for sequence in (1, 2, 3))
    log.decide([Commit(done, ())])
    log.note_applied([done])
    log.decide([Commit(bad, (), cast(Any, None))])
    log.decide([Commit(next_one, ())])
    other = FileLog(tmp_path, coordinator="two")
    assert [commit.gid for commit in other.unapplied()] == [next_one]
    other.close()
    log.close()


def test_a_decision_that_was_durable_before_a_successor_died_without_a_word_is_told_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever fenced us off has claimed the next file, and written nothing in it: what we have written counts."""

    def on_step(step: str) -> None:
        if step == "decision_written":
            log._place.path(log._place.number + 1).touch()

    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    log = FileLog(tmp_path, on_step=on_step)
    gid = log.epoch.name(1)
    (told,) = log.decide([Commit(gid, (BranchRef("bank", f"{gid}.0"),))])
    assert not isinstance(told, Exception) and told.verdict is Verdict.COMMIT
    log.close()


def test_who_was_fenced_off_and_could_not_go_on_reads_what_the_next_one_carries_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_step(step: str) -> None:
        if step == "decision_written":
            log._place.path(log._place.number + 1).touch()

    def renew() -> None:
        raise StorageError("no room")

    monkeypatch.setattr(place, "SETTLE_TIMES", 1)
    log = FileLog(tmp_path, on_step=on_step)
    monkeypatch.setattr(log, "renew", renew)
    gid = log.epoch.name(1)
    (told,) = log.decide([Commit(gid, (BranchRef("bank", f"{gid}.0"),))])
    assert isinstance(told, OutcomeUnknown)
    rescuer = FileLog(tmp_path, coordinator="rescuer")
    assert rescuer.close_epoch(log.epoch.coordinator, even_if_alive=True)
    told_of = [log.verdict(Gid(log.log_id, log.epoch.coordinator, log.epoch.number, number)) for number in (1, 2)]
    assert told_of == [Verdict.COMMIT, Verdict.ABORT], "what it had not decided is closed"
    rescuer.close()
    log.close()


def test_a_place_that_says_what_no_log_can_say_stops_itself_alone(tmp_path: Path) -> None:
    """An earlier troth wrote that down (a refusal of what was applied), and nobody could read the log any more."""
    log = FileLog(tmp_path, coordinator="0")
    gid = decide(log, 1)
    log._writer.place.cells.apply = lambda record: None  # type: ignore[method-assign]
    log._writer.append([Abort(gid, "the last resource")])
    log.close()
    other = FileLog(tmp_path, coordinator="1")
    assert "says what no log can say" in {known.name: known.problem for known in other.coordinators()}["0"]
    decide(other, 1)
    with pytest.raises(Corrupt, match="Begin a new log"):
        FileLog(tmp_path, coordinator="0")
    other.close()


def test_a_full_disk_leaves_no_draft_of_the_logs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes, at: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(directory, "write_all", full)
        with pytest.raises(StorageError, match="No space left"):
            FileLog(tmp_path)
    assert list(tmp_path.iterdir()) == []
    FileLog(tmp_path).close()
