"""ORM sessions inside of a transaction: its savepoints and its end are theirs as well."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column  # noqa: E402

from troth.errors import Aborted  # noqa: E402
from troth.transactions.aio import AsyncTwoPhaseCommit  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    found = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    Base.metadata.create_all(found)
    with Session(found) as session, session.begin():
        session.add(Person(id=1, name="old"))
    yield found
    found.dispose()


@pytest.fixture
def tpc(engine: Any, tmp_path: Path) -> Iterator[TwoPhaseCommit]:
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as opened:
        yield opened


def people(engine: Any) -> dict[int, str]:
    with Session(engine) as session:
        return {person.id: person.name for person in session.scalars(sa.select(Person))}


@pytest.mark.parametrize("ends", ["flush", "commit"])
def test_what_a_failed_savepoint_undoes_its_sessions_do_not_take_for_done(
    ends: str, tpc: TwoPhaseCommit, engine: Any
) -> None:
    with tpc.begin() as tx, tx.session() as session:
        person, other = session.get_one(Person, 1), Person(id=2, name="two")
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            person.name = "new"
            session.add(other)
            getattr(session, ends)()
            raise ZeroDivisionError
        assert person.name == "old"
        assert other not in session
        person.name = "new"
        session.add(other)
        session.commit()
    assert people(engine) == {1: "new", 2: "two"}


def test_what_was_pending_before_a_savepoint_is_not_undone_with_it(tpc: TwoPhaseCommit, engine: Any) -> None:
    with tpc.begin() as tx, tx.session() as session:
        session.add(Person(id=2, name="two"))
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            session.delete(session.get_one(Person, 1))
            session.flush()
            raise ZeroDivisionError
        session.commit()
    assert people(engine) == {1: "old", 2: "two"}


def test_a_session_that_was_made_in_a_failed_savepoint_begins_anew(tpc: TwoPhaseCommit, engine: Any) -> None:
    other = Person(id=2, name="two")
    with tpc.begin() as tx:
        tx[engine]
        early = tx.session()
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            late = tx.session()
            early.get_one(Person, 1).name = "new"
            late.add(other)
            late.commit()
            early.flush()
            raise ZeroDivisionError
        assert other not in late
        assert early.get_one(Person, 1).name == "old"
        late.add(other)
        late.commit()
    assert people(engine) == {1: "old", 2: "two"}


def test_a_savepoint_that_ends_well_keeps_what_sessions_have_done(tpc: TwoPhaseCommit, engine: Any) -> None:
    with tpc.begin() as tx, tx.session() as session:
        with tx.savepoint():
            session.add(Person(id=2, name="two"))
            with tx.savepoint():
                session.add(Person(id=3, name="three"))
            with pytest.raises(sa.exc.IntegrityError), tx.savepoint():
                session.add(Person(id=4, name="three"))
        session.add(Person(id=5, name="five"))
        session.commit()
    assert people(engine) == {1: "old", 2: "two", 3: "three", 5: "five"}


def test_a_session_that_comes_after_an_inner_savepoint_gives_up_what_it_did_alone(
    tpc: TwoPhaseCommit, engine: Any
) -> None:
    person = sa.insert(Person)
    with tpc.begin() as tx:
        tx[engine].execute(person.values(id=2, name="two"))
        session = tx.session()
        with tx.savepoint():
            with tx.savepoint():
                tx[engine].execute(person.values(id=3, name="three"))
            session.add(Person(id=4, name="four"))
            session.flush()
            session.rollback()
            tx[engine].execute(person.values(id=5, name="five"))
    assert people(engine) == {1: "old", 2: "two", 3: "three", 5: "five"}


@pytest.mark.parametrize("ends", ["flush", "commit"])
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_session_that_is_closed_in_a_savepoint_has_done_what_it_flushed(
    ends: str, is_used_before: bool, tpc: TwoPhaseCommit, engine: Any
) -> None:
    with tpc.begin() as tx:
        tx[engine]
        session = tx.session()
        if is_used_before:
            session.get_one(Person, 1)
        with tx.savepoint():
            with tx.savepoint(), session:
                session.add(Person(id=2, name="two"))
                getattr(session, ends)()
                session.add(Person(id=3, name="not flushed"))
            with tx.session() as late:
                late.add(Person(id=4, name="four"))
                getattr(late, ends)()
            with tx.savepoint(), tx.session() as late, late.begin():
                late.add(Person(id=5, name="five"))
            late = tx.session()
            with tx.savepoint():
                late.add(Person(id=6, name="six"))
            late.add(Person(id=7, name="seven"))
    assert people(engine) == {1: "old", 2: "two", 4: "four", 5: "five", 6: "six", 7: "seven"}


def test_an_error_in_a_session_that_closes_in_a_savepoint_is_the_one_that_is_raised(
    tpc: TwoPhaseCommit, engine: Any
) -> None:
    with tpc.begin() as tx:
        tx[engine].execute(sa.update(Person).values(name="new"))
        with pytest.raises(sa.exc.IntegrityError), tx.savepoint(), tx.session() as session:
            session.add(Person(id=2, name="new"))
            session.flush()
        with pytest.raises(sa.exc.OperationalError), tx.savepoint(), tx.session() as session:
            session.execute(sa.text("SELECT nothing"))
        with tx.savepoint():
            with pytest.raises(sa.exc.IntegrityError), tx.session() as session:
                session.add(Person(id=2, name="new"))
                session.flush()
    assert people(engine) == {1: "new"}


def test_a_flush_that_failed_in_a_savepoint_undoes_its_session_only(tpc: TwoPhaseCommit, engine: Any) -> None:
    """Of a branch that was opened there, too."""
    with tpc.begin() as tx, tx.savepoint():
        tx[engine].execute(sa.update(Person).values(name="new"))
        other = tx.session()
        other.add(Person(id=2, name="two"))
        other.flush()
        with pytest.raises(sa.exc.IntegrityError), tx.session() as session:
            session.add(Person(id=3, name="new"))
            session.flush()
        other.add(Person(id=4, name="four"))
    assert people(engine) == {1: "new", 2: "two", 4: "four"}


@pytest.mark.parametrize("are_used_before", [False, True])
def test_sessions_are_used_in_a_savepoint_in_any_order(
    are_used_before: bool, tpc: TwoPhaseCommit, engine: Any
) -> None:
    with tpc.begin() as tx:
        tx[engine]
        sessions = [tx.session(), tx.session()]
        if are_used_before:
            for session in sessions:
                session.get_one(Person, 1)
        for number, order in ((2, 1), (4, -1)):
            with tx.savepoint():
                for each, session in enumerate(sessions[::order]):
                    session.add(Person(id=number + each, name=f"{number + each}"))
                    session.flush()
    assert people(engine) == {1: "old", 2: "2", 3: "3", 4: "4", 5: "5"}


def test_a_session_that_has_committed_by_itself_in_a_savepoint_begins_again(
    tpc: TwoPhaseCommit, engine: Any
) -> None:
    """In the middle of what another one does, and in another savepoint."""
    with tpc.begin() as tx:
        tx[engine]
        session, another = tx.session(), tx.session()
        with tx.savepoint():
            with session.begin():
                session.add(Person(id=2, name="two"))
            another.get_one(Person, 1)
            session.add(Person(id=3, name="three"))
            session.flush()
        with tx.savepoint():
            with session.begin():
                session.add(Person(id=4, name="four"))
            with tx.savepoint():
                session.add(Person(id=5, name="five"))
    assert people(engine) == {1: "old", 2: "two", 3: "three", 4: "four", 5: "five"}


@pytest.mark.parametrize("is_used_before", [False, True])
@pytest.mark.parametrize("whose", ["the connection's", "another session's"])
def test_a_session_is_used_first_in_a_savepoint_of_the_callers_in_one_of_the_transaction(
    whose: str, is_used_before: bool, tpc: TwoPhaseCommit, engine: Any
) -> None:
    """That ends before the transaction's does."""
    with tpc.begin() as tx:
        connection, another, session, other = tx[engine], tx.session(), tx.session(), Person(id=2, name="two")
        another.get_one(Person, 1)
        if is_used_before:
            session.get_one(Person, 1)

        def work() -> None:
            with (connection if whose == "the connection's" else another).begin_nested():
                another.get_one(Person, 1)
                session.get_one(Person, 1).name = "new"
                session.add(other)
                session.flush()

        with pytest.raises(ZeroDivisionError), tx.savepoint():
            work()
            raise ZeroDivisionError
        assert other not in session
        with tx.savepoint():
            work()
        session.add(Person(id=3, name="three"))
        session.commit()
    assert people(engine) == {1: "new", 2: "two", 3: "three"}


@pytest.mark.parametrize("is_made_in", ["the transaction", "the outer", "the inner"])
@pytest.mark.parametrize("is_used_in_outer", [False, True])
def test_what_an_outer_savepoint_undoes_a_session_does_not_take_for_done(
    is_used_in_outer: bool, is_made_in: str, tpc: TwoPhaseCommit, engine: Any
) -> None:
    other = Person(id=2, name="two")
    with tpc.begin() as tx:
        tx[engine]
        session = tx.session()
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            if is_made_in == "the outer":
                session = tx.session()
            with tx.savepoint():
                if is_made_in == "the inner":
                    session = tx.session()
                person = session.get_one(Person, 1)
                person.name = "new"
                session.add(other)
                session.flush()
            if is_used_in_outer:
                person.name = "newer"
                session.flush()
            raise ZeroDivisionError
        assert person.name == "old"
        person.name = "new"
        session.add(other)
        session.commit()
    assert people(engine) == {1: "new", 2: "two"}


def test_a_session_that_rolls_back_after_a_savepoint_ends_the_transaction(
    tpc: TwoPhaseCommit, engine: Any
) -> None:
    """Though it has come to the database in the savepoint only."""
    with pytest.raises(Aborted), tpc.begin() as tx, tx.session() as session:
        tx[engine]
        session.add(Person(id=2, name="two"))
        session.expunge_all()
        with tx.savepoint():
            session.add(Person(id=3, name="three"))
        session.rollback()
    assert people(engine) == {1: "old"}


def test_what_an_open_session_has_not_flushed_is_flushed_at_the_end(tpc: TwoPhaseCommit, engine: Any) -> None:
    with tpc.begin() as tx:
        tx.session().add(Person(id=2, name="two"))
    assert tx.outcome is Outcome.COMMITTED
    assert people(engine) == {1: "old", 2: "two"}


def test_a_flush_that_fails_at_the_end_aborts(tpc: TwoPhaseCommit, engine: Any) -> None:
    with pytest.raises(Aborted, match="UNIQUE") as aborted, tpc.begin() as tx:
        session = tx.session()
        session.add(Person(id=2, name="two"))
        session.flush()
        session.add(Person(id=3, name="old"))
    assert isinstance(aborted.value.__cause__, sa.exc.IntegrityError)
    assert people(engine) == {1: "old"}


def test_an_interrupt_of_the_flush_at_the_end_rolls_back(tpc: TwoPhaseCommit, engine: Any) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tpc.begin() as tx:
        session = tx.session()
        session.add(Person(id=2, name="two"))
        sa.event.listen(session, "before_flush", interrupted)
    assert tx.outcome is Outcome.ABORTED
    assert engine.pool.checkedout() == 0
    assert people(engine) == {1: "old"}


def test_with_asyncio_it_is_the_same(tmp_path: Path, engine: Any) -> None:
    pytest.importorskip("aiosqlite")

    async def main() -> None:
        twin = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/last.db")
        async with AsyncTwoPhaseCommit([twin], log=tmp_path / "aio", recover_every=None) as tpc:
            async with tpc.begin() as tx, tx.session() as session:
                person = await session.get_one(Person, 1)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(None) as patience, tx.savepoint():
                        person.name = "new"
                        await session.flush()
                        patience.reschedule(0)
                        await asyncio.Event().wait()
                await session.refresh(person)
                assert person.name == "old"
            async with tpc.begin() as tx:
                tx.session(bind=twin).add(Person(id=2, name="two"))
        await twin.dispose()

    asyncio.run(main())
    assert people(engine) == {1: "old", 2: "two"}
