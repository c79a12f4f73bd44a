"""What may be going on while a snapshot takes its look, and what makes it look again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from recovering import Place, claimed, decided, name, prepared  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402

from troth.errors import Unavailable, UsageError  # noqa: E402
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
    found = [{"a branch"}, set(), {"one", "two"}, {"two"}, {"another"}, {"another"}]
    monkeypatch.setattr(snapshot, "_standing", lambda core: found.pop(0))
    with open_snapshot(core, Recovery(core), None, 1.0) as snap:
        assert snap["bank"].scalar(sa.text("SELECT 1")) == 1
    assert found == []
    core.close()


@pytest.mark.parametrize(
    ("standing", "is_whole", "why", "passes"),
    [
        (set(), False, "commits went on meanwhile", 0),
        (None, True, "half committed", 3),
    ],
    ids=["too slow", "half committed"],
)
def test_a_snapshot_that_cannot_be_taken_says_why_and_recovers_only_what_is_half_done(
    standing: set[str] | None,
    is_whole: bool,
    why: str,
    passes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No database is blamed for commits that did not wait."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db")
    core = Core(
        [Sqlite("bank", engine, engine)], FileLog(tmp_path / "log"), barrier=Barrier(None), on_step=nothing
    )
    clock = iter(range(100))
    recovered: list[int] = []
    recovery: Any = SimpleNamespace(run=lambda: recovered.append(1))
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(snapshot, "_standing", lambda core: standing)
    monkeypatch.setattr(core.barrier, "is_whole", lambda: is_whole)
    with pytest.raises(Unavailable, match=why), open_snapshot(core, recovery, None, 7.0):
        pass
    assert len(recovered) == passes
    core.close()


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[sa.Engine]:
    """A file with a table, in WAL mode: others may commit while a snapshot is open."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("CREATE TABLE work (x)")
    yield engine
    engine.dispose()


COUNT = sa.select(sa.func.count()).select_from(sa.table("work"))


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.get_transaction().rollback(),
        lambda connection: after_a_read(connection).rollback(),
    ],
    ids=["commit", "rollback", "the transaction's rollback", "a session's rollback"],
)
def test_a_snapshot_does_not_end_before_its_block(
    end: Callable[[sa.Connection], object], bank: sa.Engine, tmp_path: Path
) -> None:
    with TwoPhaseCommit({"bank": bank}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.snapshot() as snap:
            with pytest.raises(UsageError, match="would end the snapshot"):
                end(snap["bank"])
            with bank.begin() as other:
                other.exec_driver_sql("INSERT INTO work VALUES (1)")
            assert snap["bank"].scalar(COUNT) == 0
        with tpc.snapshot() as snap:
            assert snap["bank"].scalar(COUNT) == 1


def after_a_read(connection: sa.Connection) -> Session:
    session = Session(connection)
    session.scalar(COUNT)
    return session


def test_a_session_may_come_and_go_on_a_snapshot(bank: sa.Engine, tmp_path: Path) -> None:
    with TwoPhaseCommit({"bank": bank}, log=tmp_path / "log", recover_every=None) as tpc, tpc.snapshot() as snap:
        with Session(snap["bank"]) as session, session.begin():
            assert session.scalar(COUNT) == 0
        with bank.begin() as other:
            other.exec_driver_sql("INSERT INTO work VALUES (1)")
        with Session(snap["bank"]) as session:
            assert session.scalar(COUNT) == 0


def test_a_snapshot_whose_connection_was_lost_does_not_go_on_with_another(bank: sa.Engine, tmp_path: Path) -> None:
    with TwoPhaseCommit({"bank": bank}, log=tmp_path / "log", recover_every=None) as tpc, tpc.snapshot() as snap:
        transaction = snap["bank"].get_transaction()
        snap["bank"].invalidate()
        with pytest.raises(UsageError):
            transaction.rollback()
        with pytest.raises(sa.exc.ResourceClosedError, match="lost"):
            snap["bank"].scalar(COUNT)


def test_the_transaction_of_a_snapshot_takes_no_commit(bank: sa.Engine, tmp_path: Path) -> None:
    with TwoPhaseCommit({"bank": bank}, log=tmp_path / "log", recover_every=None) as tpc, tpc.snapshot() as snap:
        with pytest.raises(UsageError, match="would end the snapshot"):
            snap["bank"].get_transaction().commit()
        assert snap["bank"].connection.driver_connection.in_transaction


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_snapshot_sees_what_the_engines_own_events_and_options_show(
    when: str, bank: sa.Engine, tmp_path: Path
) -> None:
    """Whether they were there when the coordinator was made, or came later."""
    other = f"{tmp_path}/other.db"
    tables = sa.MetaData()
    work = sa.Table("work", tables, sa.Column("x", sa.Integer))
    tables.create_all(sa.create_engine(f"sqlite:///{other}"))
    with sa.create_engine(f"sqlite:///{other}").begin() as filling:
        filling.execute(sa.insert(work), [{"x": 7}])
    engine = sa.create_engine(bank.url).execution_options(schema_translate_map={None: "there"})

    def listen() -> None:
        sa.event.listen(engine, "connect", lambda raw, _: raw.execute(f"ATTACH '{other}' AS there"))

    if when == "before":
        listen()
    with TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        if when == "after":
            engine.dispose()
            listen()
        with tpc.begin() as tx:
            assert tx[engine].scalars(sa.select(work)).all() == [7]
        with tpc.snapshot() as snap:
            assert snap[engine].scalars(sa.select(work)).all() == [7]
    engine.dispose()


def test_a_snapshot_of_a_file_writes_nothing_though_the_engines_events_begin_to(
    bank: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy's recipe for a SQLite whose transactions do not fail later; and a look that has to be taken again."""
    engine = sa.create_engine(bank.url, connect_args={"timeout": 0})

    def no_begin(raw: Any, _: object) -> None:
        raw.isolation_level = None

    sa.event.listen(engine, "connect", no_begin)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    found = [{"a branch"}, set(), set()]
    monkeypatch.setattr(snapshot, "_standing", lambda core: found.pop(0))
    with TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        with engine.begin() as other:
            other.exec_driver_sql("INSERT INTO work VALUES (1)")
            with tpc.snapshot() as snap:
                assert snap["bank"].scalar(COUNT) == 0
        monkeypatch.undo()
        with tpc.snapshot() as snap, tpc.begin() as tx:
            tx["bank"].exec_driver_sql("INSERT INTO work VALUES (2)")
            assert snap["bank"].scalar(COUNT) == 1
    engine.dispose()


def test_first_connections_are_told_of_once_and_who_listens_later_is_told(bank: sa.Engine, tmp_path: Path) -> None:
    engine = sa.create_engine(bank.url)
    told: list[str] = []
    sa.event.listen(engine, "first_connect", lambda *_: told.append("first"))
    with TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        for _ in range(2):
            with tpc.snapshot():
                pass
        assert told == ["first"]
        sa.event.listen(engine, "connect", lambda *_: told.append("later"))
        with tpc.snapshot():
            assert told == ["first", "later"]
    engine.dispose()


def test_a_snapshot_takes_an_engine_with_options(bank: sa.Engine, tmp_path: Path) -> None:
    optional = bank.execution_options(schema_translate_map={"here": None})
    count = sa.select(sa.func.count()).select_from(sa.Table("work", sa.MetaData(), schema="here"))
    with TwoPhaseCommit({"bank": bank}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.snapshot([optional]) as snap:
            assert snap[optional].scalar(count) == 0
            assert snap[bank] is snap["bank"] is snap[optional]
        with tpc.snapshot() as snap, pytest.raises(UsageError, match="other options"):
            snap[optional]


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


def test_what_may_stand_in_a_place_that_somebody_is_taking_over_may_be_half_done(place: Place) -> None:
    """Its owner died between two databases, and who recovers it is paused."""
    gid = name(place.other)
    first, second = prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.bank.states[first] = "committed"
    place.die()
    claimed(place.other)
    assert snapshot._standing(place.core) is None
    assert place.run().committed == [second], "as a snapshot does then"
    assert snapshot._standing(place.core) == set()


def test_the_listeners_of_an_engine_are_told_of_a_snapshot_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all databases but SQLite; on real ones: integration/test_twophase_snapshots.py."""
    engine = sa.create_engine("sqlite://")
    monkeypatch.setattr(engine.dialect, "name", "another")
    monkeypatch.setitem(snapshot.FIRST_LOOK, "another", "SELECT 1")
    told: list[object] = []
    sa.event.listen(engine, "begin", told.append)
    with snapshot.SnapshotConnection(engine) as connection:
        connection.look("another")
        connection.execute(sa.text("SELECT 1"))
        assert told == [connection]
