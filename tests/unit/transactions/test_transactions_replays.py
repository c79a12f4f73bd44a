"""A retry ends when what it finds committed can be seen, or says where it cannot."""

from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy")

from recovering import Database, Place, claimed, decided, name, prepared  # noqa: E402

from troth.core.twophase.records import Commit  # noqa: E402
from troth.core.twophase.table import Finding  # noqa: E402
from troth.errors import StorageError  # noqa: E402
from troth.transactions import replays, transaction  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.core import Core  # noqa: E402
from troth.transactions.replays import see_applied  # noqa: E402
from troth.transactions.transaction import Transaction  # noqa: E402


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "WITHIN_S", 0.0)


def half_done(place: Place) -> str:
    """The owner has died between its decision and the second commit."""
    gid = name(place.other)
    first, _ = prepared(gid, place.bank, place.stock)
    decided(place.other, gid, place.bank, place.stock)
    place.bank.states[first] = "committed"
    place.bank.proof = Finding.PROVED_COMMITTED
    return gid


def states(*databases: Database) -> set[str]:
    return {state for database in databases for state in database.states.values()}


def test_what_a_dead_owner_has_left_prepared_is_committed(place: Place) -> None:
    gid = half_done(place)
    place.die()
    assert see_applied(place.core, gid, "me") == ()
    assert states(place.bank, place.stock) == {"committed"}
    assert place.log.unapplied() == []
    assert place.core.metrics.recovered["committed"] == 1
    place.core.barrier.enter_exclusive(0.0, "a snapshot")


def test_what_is_applied_is_not_asked_for(place: Place) -> None:
    gid = half_done(place)
    place.other.note_applied([gid])
    place.die()
    assert see_applied(place.core, gid, "me") == ()
    assert (place.bank.looks, place.stock.looks) == (0, 0)


def test_a_living_owner_is_left_to_it_and_what_is_prepared_is_told(place: Place) -> None:
    gid = half_done(place)
    assert see_applied(place.core, gid, "me") == ("stock",)
    assert states(place.stock) == {"prepared"}
    place.stock.states[f"{gid}.1"] = "committed"
    assert see_applied(place.core, gid, "me") == (), "although the owner has not noted it yet"
    assert place.log.unapplied() != []


def test_who_is_at_work_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "WITHIN_S", 60.0)
    gid = half_done(place)

    class Later:
        def wait(self, seconds_max: float) -> None:
            place.stock.states[f"{gid}.1"] = "committed"

    monkeypatch.setattr(place.core.waiting, "flag", Later)
    assert see_applied(place.core, gid, "me") == ()


def test_a_database_that_cannot_be_asked_is_told_of_and_so_is_one_that_takes_no_part_here(place: Place) -> None:
    gid = name(place.other)
    elsewhere = Database("elsewhere")
    prepared(gid, place.bank, place.stock, elsewhere)
    decided(place.other, gid, place.bank, place.stock, elsewhere)
    place.stock.is_up = False
    assert see_applied(place.core, gid, "me") == ("bank", "stock", "elsewhere")
    place.die()
    assert see_applied(place.core, gid, "me") == ("stock", "elsewhere")
    assert states(place.bank) == {"committed"}


def test_of_what_cannot_be_read_all_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = half_done(place)
    place.die()
    claimed(place.other)
    assert see_applied(place.core, gid, "me") == ("bank", "stock")

    def broken(unread: dict[str, str] | None = None) -> list[Commit]:
        raise StorageError("cannot be read")

    monkeypatch.setattr(place.log, "unapplied", broken)
    assert see_applied(place.core, gid, "me") == ("bank", "stock")


@pytest.mark.parametrize("wait", ["applied", "decided"])
def test_the_end_of_a_block_that_found_its_work_done(wait: str, place: Place) -> None:
    gid = half_done(place)
    place.die()
    with Transaction(place.core, timeout=None, key="", wait=wait) as tx:
        tx._replay(gid)
        tx["bank"]
    assert (tx.replayed, tx.pending) == (True, ())
    assert states(place.stock) == {"committed" if wait == "applied" else "prepared"}


@pytest.mark.parametrize("collides", [True, False])
def test_a_block_that_found_out_at_its_end(
    collides: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a database, or in the log: another one has committed under its key meanwhile."""
    asked: list[str] = []

    def asks(core: Core, gid: str, who: str) -> tuple[str, ...]:
        asked.append(gid)
        return ("elsewhere",)

    monkeypatch.setattr(transaction, "see_applied", asks)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE work (x INTEGER PRIMARY KEY)")
    with (
        TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc,
        tpc.begin(key="order-1") as second,
    ):
        with tpc.begin(key="order-1") as first:
            first["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
        second["last"].exec_driver_sql(f"INSERT INTO work VALUES ({1 if collides else 2})")
    assert (second.replayed, second.pending, asked) == (True, ("elsewhere",), [first.gid])
