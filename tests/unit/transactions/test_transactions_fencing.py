"""A coordinator that was taken for dead goes on."""

from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.core.twophase.cells import Verdict  # noqa: E402
from troth.core.twophase.records import Commit  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402


def test_the_last_of_a_closed_epoch_close_no_other(tmp_path: Path) -> None:
    """Eight clients once closed each other's epochs after a single recovery, and nearly all they did was aborted."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        core = tpc._core
        first, second = core.next_gid(), core.next_gid()
        rescuer = FileLog(tmp_path / "log", coordinator="rescuer")
        assert rescuer.close_epoch(core.epoch.coordinator, even_if_alive=True)
        assert core.decide(Commit(first, ())).verdict is Verdict.ABORT
        third = core.next_gid()
        assert core.decide(Commit(second, ())).verdict is Verdict.ABORT
        fourth = core.next_gid()
        assert [core.decide(Commit(gid, ())).verdict for gid in (third, fourth)] == [Verdict.COMMIT] * 2
        rescuer.close()
