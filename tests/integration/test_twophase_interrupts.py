"""An exception at any step (Ctrl-C, a cancelled task, a bug in a hook) leaves nothing half done and nothing locked."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from bank import prepared, settle

from troth import TwoPhaseCommit
from troth.errors import Aborted
from troth.torture.databases import PostgresServer
from troth.transactions.steps import COMMIT_STEPS

pytestmark = pytest.mark.integration

entry = sa.Table("interrupted", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


class Interrupted(BaseException):
    """What nobody expects."""


@pytest.fixture
def engines(postgres: PostgresServer, postgres_other: PostgresServer) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    both = sa.create_engine(postgres.url()), sa.create_engine(postgres_other.url())
    for engine in both:
        settle(str(engine.url))
        with engine.begin() as connection:
            entry.drop(connection, checkfirst=True)
            entry.create(connection)
    yield both
    for engine in both:
        engine.dispose()


def rows(engine: sa.Engine) -> list[int]:
    with sa.create_engine(engine.url, poolclass=sa.NullPool).connect() as connection:
        return list(connection.scalars(sa.select(entry.c.id).order_by(entry.c.id)))


@pytest.mark.parametrize("step", COMMIT_STEPS)
def test_an_interruption_at_any_step_is_finished_by_the_same_coordinator(
    step: str, engines: tuple[sa.Engine, sa.Engine], tmp_path: Path
) -> None:
    left, right = engines
    armed = [False]

    def on_step(name: str) -> None:
        if name == step and armed[0]:
            armed[0] = False
            raise Interrupted

    log = str(tmp_path / "log")
    with TwoPhaseCommit([left, right], log=log, on_step=on_step) as tpc:
        armed[0] = True
        with pytest.raises(Interrupted), tpc.begin() as tx:
            tx[left].execute(entry.insert().values(id=1))
            tx[right].execute(entry.insert().values(id=1))
        assert not armed[0]
        if step == "decision_written":
            # What is in the file is not known here, so this coordinator decides nothing any more.
            with pytest.raises(Aborted), tpc.begin() as tx:
                tx[left].execute(entry.insert().values(id=3))
                tx[right].execute(entry.insert().values(id=3))
        else:
            tpc.recover()
            decided = COMMIT_STEPS.index(step) >= COMMIT_STEPS.index("after_decision")
            assert (rows(left), rows(right)) == (([1], [1]) if decided else ([], []))
            # Neither the pool nor the log has suffered.
            with tpc.begin() as tx:
                tx[left].execute(entry.insert().values(id=2))
                tx[right].execute(entry.insert().values(id=2))
            assert 2 in rows(left) and 2 in rows(right)
    with TwoPhaseCommit([left, right], log=log) as tpc:
        tpc.recover()
    assert rows(left) == rows(right)
    assert prepared(str(left.url)) + prepared(str(right.url)) == []


def test_an_interruption_while_a_snapshot_is_waited_for_leaves_the_next_one_alone(
    engines: tuple[sa.Engine, sa.Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = engines
    with TwoPhaseCommit([left, right], log=str(tmp_path / "log"), recover_every=None) as tpc:
        barrier = tpc._core.barrier
        barrier.enter_exclusive(1.0, "a snapshot")

        def interrupted(who: str, until: float) -> None:
            raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(barrier, "enter_shared", interrupted)
            with pytest.raises(Interrupted), tpc.begin() as tx:
                tx[left].execute(entry.insert().values(id=1))
                tx[right].execute(entry.insert().values(id=1))
        barrier.leave_exclusive("a snapshot")
        tpc.recover()
        with tpc.snapshot(timeout=2.0) as snap:
            assert snap[left].scalar(sa.select(entry.c.id)) == snap[right].scalar(sa.select(entry.c.id)) == 1
