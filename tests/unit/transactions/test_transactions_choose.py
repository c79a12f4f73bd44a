"""From what the caller gave to participants."""

import pickle
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.errors import PreflightFailed, UsageError  # noqa: E402
from troth.transactions.aio_waiting import InTasks  # noqa: E402
from troth.transactions.coordinator import open_log, preflight  # noqa: E402
from troth.transactions.participants import choose as choose_module  # noqa: E402
from troth.transactions.participants.base import Facts  # noqa: E402
from troth.transactions.participants.choose import choose  # noqa: E402
from troth.transactions.participants.sqlite import LastResource  # noqa: E402
from troth.transactions.steps import nothing  # noqa: E402
from troth.transactions.waiting import InThreads  # noqa: E402


def test_what_preflight_says_is_the_same_in_another_process() -> None:
    there = pickle.loads(pickle.dumps(PreflightFailed(["one", "two"])))
    assert (str(there), there.problems) == ("one\ntwo", ("one", "two"))


class Client:
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("refused", [{"other": 7}, {"troth://b": "troth://b"}])
def test_who_is_refused_leaves_no_client_of_ours_open(
    refused: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Client] = []

    def connect(url: str) -> Client:
        if len(made) == 1:
            raise UsageError("as asked")
        made.append(Client())
        return made[-1]

    monkeypatch.setattr(choose_module, "connect", connect)
    with pytest.raises(UsageError):
        choose({"troth://a": "troth://a", **refused}, InThreads())
    assert [client.is_closed for client in made] == [True]


def test_two_without_a_name_of_their_own_have_to_be_named(tmp_path: Path) -> None:
    engines = [sa.create_engine(f"sqlite:///{tmp_path}/one.db") for _ in range(2)]
    with pytest.raises(UsageError, match="two participants would be called"):
        choose(engines, InThreads())


def test_one_database_takes_part_once(tmp_path: Path) -> None:
    """Its two branches would wait for each other."""
    engines = {name: sa.create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("bank", "ledger")}
    found = choose(engines, InThreads())
    for each in found:
        each.can_prepare = True
    facts = {"bank": Facts("one", ()), "ledger": Facts("another", ())}
    assert preflight(found, facts) == []
    (problem,) = preflight(found, {**facts, "ledger": facts["bank"]})
    assert "bank and ledger are the same database" in problem


def test_who_can_prepare_is_no_last_resource() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UsageError, match="postgresql can"):
        choose({"bank": LastResource(sa.create_engine("postgresql+psycopg://host/bank"))}, InThreads())


@pytest.mark.parametrize(
    ("driver", "is_async", "problem"),
    [
        (
            "sqlite+aiosqlite",
            False,
            "bank: sqlite\\+aiosqlite is a driver of asyncio: AsyncTwoPhaseCommit takes it",
        ),
        ("sqlite", True, "bank: sqlite\\+pysqlite blocks: make it with create_async_engine"),
    ],
)
def test_an_engine_is_given_to_who_can_wait_for_its_driver(driver: str, is_async: bool, problem: str) -> None:
    pytest.importorskip("aiosqlite")
    waiting = InTasks() if is_async else InThreads()
    with pytest.raises(UsageError, match=problem):
        choose({"bank": sa.create_engine(f"{driver}:///bank.db")}, waiting)


@pytest.mark.parametrize("given", [None, 7, "troth://a:1", "bank"])
def test_what_is_no_list_of_participants_is_refused_as_such(given: Any) -> None:
    with pytest.raises(UsageError, match="is no list of participants"):
        choose(given, InThreads())


@pytest.mark.parametrize("name", [5, None, b"x", "", "\ud800", "x" * 1025])
def test_a_name_that_no_log_can_keep_is_refused(name: Any, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/one.db")
    with pytest.raises(UsageError, match="no name for a participant"):
        choose({"first": engine, name: engine}, InThreads())
    engine.dispose()


def test_what_begins_like_a_url_and_is_none_is_not_connected_to() -> None:
    for given in ("troth", "troth-bank", "trothy://a:1"):
        with pytest.raises(UsageError, match="is no participant"):
            choose([given], InThreads())


def test_a_log_is_a_url_or_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log, barrier = open_log("trothlog", "troth", None, nothing)
    assert barrier == Path("trothlog/barrier")
    log.close()
    with pytest.raises(UsageError, match="does not start with troth://"):
        open_log("etcd://a:1", "troth", None, nothing)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trothlog"]
