"""What the end of a transaction is to its ORM sessions, which are not asked: their objects, and who listens to them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship  # noqa: E402

from troth.core.twophase.records import Heuristic  # noqa: E402
from troth.errors import Aborted, TransactionInDoubt, UsageError  # noqa: E402
from troth.transactions.aio import AsyncTwoPhaseCommit  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    lines: Mapped[list["Line"]] = relationship()


class Line(Base):
    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column(sa.ForeignKey("orders.id"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    found = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    Base.metadata.create_all(found)
    with Session(found) as session, session.begin():
        session.add(Order(id=1, name="old"))
    yield found
    found.dispose()


@pytest.fixture
def tpc(engine: Any, tmp_path: Path) -> Iterator[TwoPhaseCommit]:
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as opened:
        yield opened


def orders(engine: Any) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.name for row in connection.execute(sa.select(Order.id, Order.name))}


def flushed(tx: Any, work: Callable[[Any], None]) -> Any:
    session = tx.session()
    work(session)
    session.flush()
    return session  # who is given up is not there any more, and has no objects


def closed(tx: Any, work: Callable[[Any], None]) -> None:
    with tx.session() as session:
        work(session)
        session.flush()


def committed(tx: Any, work: Callable[[Any], None]) -> None:
    with tx.session() as session:
        work(session)
        session.commit()


def begun(tx: Any, work: Callable[[Any], None]) -> None:
    with tx.session() as session, session.begin():
        work(session)


def in_savepoint(tx: Any, work: Callable[[Any], None]) -> None:
    with tx.savepoint(), tx.session() as session, session.begin():
        work(session)


WAYS = [flushed, closed, committed, begun, in_savepoint]


def attempt(tpc: TwoPhaseCommit, engine: Any, way: Any, work: Callable[[Any], None], *, fails: str) -> Any:
    """Do *work* in a transaction, which *fails* by the vote of its database, an error or a rollback; or not at all."""
    with tpc.begin() as tx:
        tx[engine]
        kept = way(tx, work)
        if fails == "its vote":
            tx[engine].rollback()
        elif fails == "an error":
            raise ZeroDivisionError
        elif fails == "a rollback":
            tx.rollback()
    return kept


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fails", ["its vote", "an error", "a rollback"])
def test_what_an_abort_has_undone_is_inserted_by_the_next_attempt(
    fails: str, way: Any, tpc: TwoPhaseCommit, engine: Any
) -> None:
    order = Order(name="new", lines=[Line(), Line()])
    try:
        attempt(tpc, engine, way, lambda session: session.add(order), fails=fails)
    except (Aborted, ZeroDivisionError):
        pass
    assert sa.inspect(order).transient
    assert order.name == "new"
    kept = attempt(tpc, engine, way, lambda session: session.add(order), fails="")
    assert orders(engine) == {1: "old", 2: "new"}
    with engine.connect() as connection:
        assert connection.scalars(sa.select(Line.order)).all() == [2, 2]
    del kept


@pytest.mark.parametrize("way", [closed, committed, begun, in_savepoint])
@pytest.mark.parametrize("change", ["an update", "a deletion", "an update by a statement"])
def test_what_an_abort_has_undone_of_an_object_that_was_there_is_done_by_the_next_attempt(
    change: str, way: Any, tpc: TwoPhaseCommit, engine: Any
) -> None:
    with Session(engine) as before:
        order = before.get_one(Order, 1)

    def work(session: Any) -> None:
        session.add(order)
        if change == "an update":
            order.name += "er"
        elif change == "an update by a statement":
            assert order.name == "old"
            session.execute(sa.update(Order).values(name=Order.name + "er"))
        else:
            session.delete(order)

    with pytest.raises(Aborted):
        attempt(tpc, engine, way, work, fails="its vote")
    assert orders(engine) == {1: "old"}
    attempt(tpc, engine, way, work, fails="")
    assert orders(engine) == ({} if change == "a deletion" else {1: "older"})


def test_what_is_in_doubt_is_not_taken_for_done(engine: Any, tmp_path: Path) -> None:
    """A retry with its key does nothing if it was done, and has to do all if it was not."""

    def on_step(step: str) -> None:
        if step == "before_last_resource" and not broken:
            broken.append(step)
            raise OSError

    broken: list[str] = []
    order = Order(name="new")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None, on_step=on_step) as tpc:
        for _ in range(2):
            try:
                with tpc.begin(key="once") as tx, tx.session() as session:
                    session.add(order)
                    session.commit()
            except (OSError, TransactionInDoubt):
                tpc.recover()
    assert broken
    assert orders(engine) == {1: "old", 2: "new"}


def test_what_was_undone_before_and_has_been_inserted_elsewhere_stays_so(tpc: TwoPhaseCommit, engine: Any) -> None:
    order, other = Order(id=2, name="two"), Order(id=3, name="three")
    with pytest.raises(Aborted), tpc.begin() as tx:
        session = tx.session()
        session.get_one(Order, 1)
        idle = tx.session()
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.add(order)
            session.flush()
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            idle.add(other)
            idle.flush()
            raise ZeroDivisionError
        tx[engine].rollback()
        with Session(engine, expire_on_commit=False) as elsewhere:
            elsewhere.add_all([order, other])
            elsewhere.commit()
    assert sa.inspect(order).detached
    assert sa.inspect(other).detached


def test_a_committed_session_is_over_with_its_transaction(tpc: TwoPhaseCommit, engine: Any) -> None:
    order = Order(name="new")
    with tpc.begin() as tx:
        session = tx.session()
        session.add(order)
    session.rollback()  # of nothing, any more
    assert sa.inspect(order).persistent
    assert order.name == "new"


def test_an_operator_is_told_what_was_finished_against_a_decision_and_what_is_no_name(tpc: TwoPhaseCommit) -> None:
    gid = str(tpc.log.epoch.name(1))
    assert tpc.check() == []
    tpc.log.note_heuristic(Heuristic(gid, "bank", "rolled back, although the decision is commit"))
    assert tpc.check() == [
        f"{gid}: bank was rolled back, although the decision is commit: repair it, then: troth tx forget {gid}"
    ]
    with pytest.raises(UsageError, match="None is no transaction's name"):
        tpc.outcome(None)  # type: ignore[arg-type]


def test_a_child_has_nothing_to_ask_of_what_is_its_parents(tpc: TwoPhaseCommit) -> None:
    gid = str(tpc.log.epoch.name(1))
    tpc._core.on_forked()

    def snapshot() -> None:
        with tpc.snapshot():
            pass

    for ask in (tpc.begin, tpc.recover, snapshot, tpc.check, lambda: tpc.outcome(gid)):
        with pytest.raises(UsageError, match="before a fork"):
            ask()


# ---- listeners ---------------------------------------------------------------------------------------------

EVENTS = ("before_commit", "after_commit", "after_rollback", "after_soft_rollback")


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What listeners of all sessions are told."""
    told: list[str] = []
    listeners = [(name, lambda session, *_, name=name: told.append(name)) for name in EVENTS]
    for name, listener in listeners:
        sa.event.listen(Session, name, listener)
    yield told
    for name, listener in listeners:
        sa.event.remove(Session, name, listener)


def test_listeners_of_a_session_hear_of_the_end_of_the_block(
    tpc: TwoPhaseCommit, engine: Any, heard: list[str]
) -> None:
    with tpc.begin() as tx:
        tx.session().add(Order(name="new"))
        tx.session()  # which does nothing
        assert heard == []
    assert heard == ["before_commit", "after_commit"]
    heard.clear()
    with pytest.raises(Aborted), tpc.begin() as tx:
        tx.session().add(Order(name="another"))
        tx[engine].rollback()
    assert heard == ["before_commit", "after_rollback", "after_soft_rollback"]
    heard.clear()
    with pytest.raises(ZeroDivisionError), tpc.begin() as tx:
        tx.session().add(Order(name="another"))
        raise ZeroDivisionError
    assert heard == ["after_rollback", "after_soft_rollback"]


@pytest.mark.parametrize("way", [committed, begun, in_savepoint])
def test_a_commit_of_a_sessions_own_is_told_when_its_transaction_has_committed_or_not(
    way: Any, tpc: TwoPhaseCommit, engine: Any, heard: list[str]
) -> None:
    def work(session: Session) -> None:
        session.add(Order(name="new"))

    with tpc.begin() as tx:
        tx[engine]
        way(tx, work)
        assert heard == ["before_commit"]
    assert heard == ["before_commit", "after_commit"]
    heard.clear()
    with pytest.raises(Aborted), tpc.begin() as tx:
        tx[engine]
        way(tx, work)
        tx[engine].rollback()
    assert heard == ["before_commit", "after_rollback", "after_soft_rollback"]


def test_a_commit_that_a_savepoint_has_undone_is_told_to_nobody(tpc: TwoPhaseCommit, engine: Any) -> None:
    heard = []
    with tpc.begin() as tx:
        tx[engine]
        with pytest.raises(ZeroDivisionError), tx.savepoint(), tx.session() as session:
            sa.event.listen(session, "after_commit", heard.append)
            with session.begin():
                session.add(Order(name="new"))
            raise ZeroDivisionError
    assert (tx.outcome, heard) == (Outcome.COMMITTED, [])


def test_a_session_that_commits_twice_is_told_once(tpc: TwoPhaseCommit, heard: list[str]) -> None:
    with tpc.begin() as tx, tx.session() as session:
        for number in (2, 3):
            with session.begin():
                session.add(Order(id=number, name="new"))
    assert heard == ["before_commit", "before_commit", "after_commit"]


def test_who_begins_to_listen_in_a_commit_hears_of_its_end(tpc: TwoPhaseCommit) -> None:
    heard = []

    def listen(session: Session) -> None:
        sa.event.listen(session, "after_commit", lambda _: heard.append(tx.outcome), once=True)

    with tpc.begin() as tx, tx.session() as session:
        sa.event.listen(session, "before_commit", listen)
        session.add(Order(name="new"))
        session.commit()
    assert heard == [Outcome.COMMITTED]


def test_what_before_commit_adds_is_part_of_the_transaction(tpc: TwoPhaseCommit, engine: Any) -> None:
    def audit(session: Session) -> None:
        session.add_all(Line(order=each.id) for each in list(session.new))

    with tpc.begin() as tx:
        session = tx.session()
        sa.event.listen(session, "before_commit", audit)
        session.add(Order(id=2, name="new"))
    with engine.connect() as connection:
        assert connection.scalars(sa.select(Line.order)).all() == [2]


def test_what_a_flush_leaves_to_be_flushed_is_flushed_too(tpc: TwoPhaseCommit, engine: Any) -> None:
    def more(session: Session, *_: object) -> None:
        if session.get(Order, 3) is None:
            session.add(Order(id=3, name="three"))

    with tpc.begin() as tx:
        session = tx.session()
        sa.event.listen(session, "after_flush_postexec", more)
        session.add(Order(id=2, name="two"))
    assert orders(engine) == {1: "old", 2: "two", 3: "three"}


def test_a_before_commit_that_fails_aborts(tpc: TwoPhaseCommit, engine: Any) -> None:
    def fail(_: Session) -> None:
        raise ZeroDivisionError

    with pytest.raises(Aborted) as aborted, tpc.begin() as tx:
        session = tx.session()
        sa.event.listen(session, "before_commit", fail)
        session.add(Order(name="new"))
    assert isinstance(aborted.value.__cause__, ZeroDivisionError)
    assert orders(engine) == {1: "old"}


def test_an_after_commit_that_fails_changes_nothing(
    tpc: TwoPhaseCommit, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = []

    def fail(_: Session) -> None:
        outcomes.append(tx.outcome)
        raise ZeroDivisionError

    with tpc.begin() as tx:
        session = tx.session()
        sa.event.listen(session, "after_commit", fail)
        session.add(Order(name="new"))
    assert outcomes == [tx.outcome] == [Outcome.COMMITTED]
    assert "a listener failed when it was told that a transaction has committed" in caplog.text
    assert orders(engine) == {1: "old", 2: "new"}


def test_with_asyncio_sessions_end_likewise(tmp_path: Path, engine: Any, heard: list[str]) -> None:
    pytest.importorskip("aiosqlite")
    order = Order(name="new")

    async def main() -> None:
        twin = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
        async with AsyncTwoPhaseCommit([twin], log=tmp_path / "aio", recover_every=None) as tpc:
            with pytest.raises(Aborted):
                async with tpc.begin() as tx:
                    async with tx.session() as session:
                        session.add(order)
                        await session.flush()
                    await (await tx.connection(twin)).rollback()
            assert sa.inspect(order).transient
            heard.clear()
            async with tpc.begin() as tx:
                tx.session().add(order)
            assert heard == ["before_commit", "after_commit"]
        await twin.dispose()

    asyncio.run(main())
    assert orders(engine) == {1: "old", 2: "new"}
