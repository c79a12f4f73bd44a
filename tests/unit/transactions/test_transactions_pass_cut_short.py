"""Ctrl-C anywhere in a pass of recovery, or in a snapshot: nobody is kept waiting, and the next one does the rest."""

from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy")

from interrupting import Interrupted, everywhere  # noqa: E402
from recovering import Place, decided, prepared  # noqa: E402

from troth.transactions.barrier import Barrier  # noqa: E402
from troth.transactions.core import Core  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.participants.sqlite import Sqlite  # noqa: E402
from troth.transactions.recovery import Recovery  # noqa: E402
from troth.transactions.snapshot import open_snapshot  # noqa: E402
from troth.transactions.steps import nothing  # noqa: E402

MODULES = tuple(f"troth.transactions.{name}" for name in ("recovery", "resolver", "snapshot", "core", "barrier"))


def let_in(barrier: Barrier) -> None:
    """A commit is, and then a snapshot."""
    assert barrier.try_enter_shared("a commit")
    barrier.leave_shared("a commit")
    barrier.enter_exclusive(0.001, "a snapshot")
    barrier.leave_exclusive("a snapshot")


@pytest.mark.slow
@pytest.mark.parametrize("again_after", [0, 1])
def test_a_pass_that_is_interrupted_anywhere_keeps_nobody_waiting_and_is_done_by_the_next(
    again_after: int, place: Place, tmp_path: Path
) -> None:
    place.die()
    passes = 0
    for interruption in everywhere(*MODULES, again_after=again_after):
        passes += 1
        with_cell, without = place.core.next_gid(), place.core.next_gid()
        place.core.dropped(with_cell)
        place.core.dropped(without)
        one, two = prepared(with_cell, place.bank, place.stock)
        (three,) = prepared(without, place.bank)
        decided(place.log, with_cell, place.bank, place.stock)
        try:
            interruption.run(place.run)
        except Interrupted:
            pass
        let_in(place.core.barrier)
        place.run()
        assert (place.bank.states.pop(one), place.stock.states.pop(two)) == ("committed", "committed")
        assert place.bank.states.pop(three) == "rolled back"
        assert place.log.unapplied() == []
    assert passes > 50


def something_to_do(place: Place) -> None:
    place.die()
    gid = place.core.next_gid()
    place.core.dropped(gid)
    prepared(gid, place.bank, place.stock)
    decided(place.log, gid, place.bank, place.stock)


def test_a_pass_that_is_interrupted_as_it_begins_to_finish_keeps_no_snapshot_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That much of the one before in no time; so the next."""
    something_to_do(place)
    share = place.core.share_barrier

    def share_barrier(who: str) -> None:
        share(who)
        raise Interrupted("as asked")

    monkeypatch.setattr(place.core, "share_barrier", share_barrier)
    with pytest.raises(Interrupted):
        place.run()
    let_in(place.core.barrier)


@pytest.mark.parametrize("times", [1, 2])
def test_a_pass_that_is_interrupted_as_it_ends_keeps_no_snapshot_waiting(
    times: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    something_to_do(place)
    interrupts = [Interrupted("as asked")] * times
    leave = place.core.barrier.leave_shared

    def leave_shared(who: str) -> None:
        if interrupts:
            raise interrupts.pop()
        leave(who)

    monkeypatch.setattr(place.core.barrier, "leave_shared", leave_shared)
    with pytest.raises(Interrupted):
        place.run()
    assert not interrupts
    let_in(place.core.barrier)


@pytest.mark.parametrize("again_after", [0, 1, 3])
def test_a_snapshot_that_is_interrupted_anywhere_keeps_no_commit_waiting(again_after: int, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db")
    barrier = Barrier(tmp_path / "barrier")
    core = Core(
        [Sqlite("bank", engine, engine)],
        FileLog(tmp_path / "log"),
        barrier=barrier,
        on_step=nothing,
    )

    def look() -> None:
        with open_snapshot(core, Recovery(core), None, 1.0) as snap:
            snap["bank"].scalar(sa.text("SELECT 1"))

    looks = 0
    for interruption in everywhere(*MODULES, again_after=again_after):
        looks += 1
        try:
            interruption.run(look)
        except Interrupted:
            pass
        let_in(barrier)
    assert looks > 25
    core.close()
