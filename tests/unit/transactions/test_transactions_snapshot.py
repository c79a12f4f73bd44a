"""What may be going on while a snapshot takes its look, and what makes it look again."""

from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy")

from recovering import Place, decided, name, prepared  # noqa: E402

from troth.errors import UsageError  # noqa: E402
from troth.transactions import snapshot  # noqa: E402
from troth.transactions.barrier import Barrier  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.core import Core  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.participants.sqlite import Sqlite  # noqa: E402
from troth.transactions.recovery import Recovery  # noqa: E402
from troth.transactions.snapshot import open_snapshot  # noqa: E402
from troth.transactions.steps import nothing  # noqa: E402


def test_a_look_during_which_another_process_has_finished_something_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was decided and told to nobody when the look began."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db")
    core = Core(
        [Sqlite("bank", engine, engine)],
        FileLog(tmp_path / "log"),
        barrier=Barrier(None),
        on_step=nothing,
    )
    found = [{"a branch"}, set(), {"another"}, {"another"}]
    monkeypatch.setattr(snapshot, "_standing", lambda core: found.pop(0))
    with open_snapshot(core, Recovery(core), None, 1.0) as snap:
        assert snap["bank"].scalar(sa.text("SELECT 1")) == 1
    assert found == []
    core.close()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_snapshot_does_not_end_before_its_block(end: str, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db")
    with engine.begin() as other:
        other.exec_driver_sql("PRAGMA journal_mode = WAL")
        other.exec_driver_sql("CREATE TABLE work (x)")
    with TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.snapshot() as snap:
            with pytest.raises(UsageError, match="would end the snapshot"):
                getattr(snap["bank"], end)()
            with engine.begin() as other:
                other.exec_driver_sql("INSERT INTO work VALUES (1)")
            assert snap["bank"].scalar(sa.text("SELECT count(*) FROM work")) == 0
        with tpc.snapshot() as snap:
            assert snap["bank"].scalar(sa.text("SELECT count(*) FROM work")) == 1
    engine.dispose()


def test_what_is_decided_tears_no_look_while_nobody_was_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    decided(place.log, gid, place.bank, delegate="stock")
    assert snapshot._standing(place.core) == {branch}
    place.stock.marker_says = True
    assert snapshot._standing(place.core) is None, "the last resource, which commits first, has"
    place.stock.marker_says = None

    def away() -> None:
        raise OSError("as asked")

    monkeypatch.setattr(place.bank, "prepared", away)
    assert snapshot._standing(place.core) is None
