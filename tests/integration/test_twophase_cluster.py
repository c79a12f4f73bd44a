"""A troth cluster as the decision log and as a participant, beside PostgreSQL; and the operator's commands."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from bank import context, prepared
from click.testing import CliRunner

from troth import LocalCluster, TwoPhaseCommit, connect
from troth.cli.main import cli
from troth.core.twophase.gid import Gid
from troth.errors import Aborted, UsageError
from troth.torture.databases import PostgresServer
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Begun
from troth.transactions.participants.cluster import Cluster
from troth.transactions.waiting import InThreads

pytestmark = pytest.mark.integration

STEPS = (
    "before_prepare",
    "after_first_prepare",
    "after_prepares",
    "after_decision",
    "after_first_commit",
    "after_commits",
)

note = sa.Table("note", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3) as started:
        yield started


@pytest.fixture
def engine(postgres: PostgresServer) -> Iterator[sa.Engine]:
    made = sa.create_engine(postgres.url())
    with made.begin() as connection:
        note.drop(connection, checkfirst=True)
        note.create(connection)
    yield made
    made.dispose()


def notes(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(note.c.id).order_by(note.c.id)))


def work(url: str, cluster_url: str, name: str, number: int, step: str) -> None:
    """One transaction over PostgreSQL and the cluster, in a process that kills itself at *step*."""

    def on_step(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with TwoPhaseCommit(
        {"pg": sa.create_engine(url), "kv": cluster_url},
        log=cluster_url,
        name=name,
        recover_every=None,
        on_step=on_step,
    ) as tpc:
        with tpc.begin() as tx:
            tx["pg"].execute(note.insert().values(id=number))
            tx["kv"].put(f"{name}/{number}", "there")


def test_a_killed_coordinator_is_finished_by_another_process(
    cluster: LocalCluster, engine: sa.Engine, postgres: PostgresServer
) -> None:
    """The log is in the cluster: whoever survives knows what was decided, once it has closed the epoch."""
    name = "killed"
    with TwoPhaseCommit(
        {"pg": engine, "kv": cluster.url}, log=cluster.url, name=name, recover_every=None
    ) as survivor:
        for number, step in enumerate(STEPS):
            child = context.Process(target=work, args=(postgres.url(), cluster.url, name, number, step))
            child.start()
            child.join()
            assert child.exitcode == -signal.SIGKILL
            report = survivor.recover(even_if_alive=True)
            assert not report.left
            assert not report.unreachable
            with survivor.begin() as tx:
                in_cluster = tx["kv"].get(f"{name}/{number}") is not None
            assert in_cluster == (number in notes(engine)) == (STEPS.index(step) >= STEPS.index("after_decision"))
        assert prepared(postgres.url()) == []
        assert survivor.log.unapplied() == []


def test_a_living_coordinator_is_left_alone(cluster: LocalCluster, engine: sa.Engine) -> None:
    options = {"log": cluster.url, "name": "living", "recover_every": None}
    with TwoPhaseCommit({"pg": engine}, **options) as one, TwoPhaseCommit({"pg": engine}, **options) as two:
        assert one.coordinator != two.coordinator
        two.recover()
        with one.begin(key="living-1") as tx:
            tx[engine].execute(note.insert().values(id=1))
        assert tx.outcome is Outcome.COMMITTED
        assert two.outcome(tx.gid) is Outcome.COMMITTED


def test_a_coordinator_that_was_taken_for_dead_aborts_once_and_goes_on(
    cluster: LocalCluster, engine: sa.Engine
) -> None:
    options = {"log": cluster.url, "name": "fenced", "recover_every": None}
    with TwoPhaseCommit({"pg": engine}, **options) as one, TwoPhaseCommit({"pg": engine}, **options) as two:
        with pytest.raises((Aborted, sa.exc.DBAPIError)), one.begin(key="k") as tx:
            tx[engine].execute(note.insert().values(id=1))
            two.recover(even_if_alive=True)
        engine.dispose()
        for number in (2, 3):
            try:
                with one.begin(key=f"k{number}") as tx:
                    tx[engine].execute(note.insert().values(id=number))
            except Aborted:
                assert number == 2, "it opens a new epoch after the first refusal"
        assert 1 not in notes(engine)
        assert 3 in notes(engine)


def test_what_was_read_in_a_cluster_must_not_change(cluster: LocalCluster, engine: sa.Engine) -> None:
    with TwoPhaseCommit(
        {"pg": engine, "kv": cluster.url}, log=cluster.url, name="reads", recover_every=None
    ) as tpc:
        with tpc.begin() as tx:
            tx["kv"].put("reads/a", "1")
        with pytest.raises(Aborted), tpc.begin() as tx:
            assert tx["kv"].get("reads/a") == b"1"
            tx["kv"].put("reads/b", "2")
            tx[engine].execute(note.insert().values(id=7))
            with tpc.begin() as other:
                other["kv"].put("reads/a", "changed")
        with tpc.begin() as tx:
            assert tx["kv"].get("reads/b") is None
            with pytest.raises(ZeroDivisionError), tx.savepoint():
                tx["kv"].put("reads/a", "lost")
                1 / 0  # noqa: B018
            assert tx["kv"].get("reads/a") == b"changed"
        assert notes(engine) == []


def test_the_operator_sees_recovers_and_resolves(
    engine: sa.Engine, postgres: PostgresServer, tmp_path: Path
) -> None:
    log = str(tmp_path / "log")
    child = context.Process(target=local_work, args=(postgres.url(), log, "after_prepares"))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    where = ["--log", log, "--db", f"pg={postgres.url()}", "--db", f"lite=sqlite:///{tmp_path}/lite.db", "--json"]

    def run(*arguments: str) -> object:
        result = CliRunner().invoke(cli, ["tx", *arguments, *where], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    (found,) = run("list")  # type: ignore[misc]
    assert found["database"] == "pg"
    assert found["decision"] == "aborted", "the command took the dead coordinator's place, and so closed its epoch"
    shown = run("show", found["gid"])
    assert shown["prepared"] == ["pg"]  # type: ignore[index]
    refused = CliRunner().invoke(cli, ["tx", "resolve", found["gid"], "--commit", "--i-know", *where])
    assert refused.exit_code != 0
    assert "abort" in refused.output
    report = run("recover")
    assert report["rolled_back"] == [found["branch"]]  # type: ignore[index]
    assert run("list") == []
    assert notes(engine) == []


def test_an_orphan_is_reported_left_alone_and_resolved_by_hand(
    engine: sa.Engine, postgres: PostgresServer, tmp_path: Path
) -> None:
    gid = str(Gid("lostlog0", "0", 1, 1))
    with engine.connect() as connection:
        connection.execute(note.insert().values(id=1))
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{gid}.0'")
        connection.commit()
    with TwoPhaseCommit({"pg": engine}, log=str(tmp_path / "log"), recover_every=None) as tpc:
        assert tpc.recover(even_if_alive=True).orphans == [f"{gid}.0"]
        assert prepared(postgres.url()) == [f"{gid}.0"]
    where = ["--log", str(tmp_path / "log"), "--db", f"pg={postgres.url()}"]
    careless = CliRunner().invoke(cli, ["tx", "resolve", gid, "--abort", *where])
    assert careless.exit_code != 0
    assert "--i-know" in careless.output
    resolved = CliRunner().invoke(
        cli, ["tx", "resolve", gid, "--abort", "--i-know", *where], catch_exceptions=False
    )
    assert resolved.exit_code == 0, resolved.output
    assert prepared(postgres.url()) == []


def local_work(url: str, log: str, step: str) -> None:
    """A transaction over PostgreSQL and SQLite in a process that kills itself at *step*."""

    def on_step(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    lite = sa.create_engine(f"sqlite:///{Path(log).parent}/lite.db")
    with lite.begin() as connection:
        note.create(connection, checkfirst=True)
    with TwoPhaseCommit({"pg": sa.create_engine(url), "lite": lite}, log=log, on_step=on_step) as tpc:
        with tpc.begin() as tx:
            tx["pg"].execute(note.insert().values(id=1))
            tx["lite"].execute(note.insert().values(id=1))


def test_a_branch_that_somebody_rolled_back_is_found_out(
    engine: sa.Engine, postgres: PostgresServer, tmp_path: Path
) -> None:
    """PostgreSQL knows what became of a transaction id: a heuristic outcome is reported, not taken for done."""
    log = str(tmp_path / "log")
    child = context.Process(target=decided_work, args=(postgres.url(), log))
    child.start()
    child.join()
    (branch,) = prepared(postgres.url())
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(f"ROLLBACK PREPARED '{branch}'")
    with TwoPhaseCommit({"pg": engine}, log=log, recover_every=None) as tpc:
        report = tpc.recover()
        assert report.heuristic == [branch]
        (noted,) = tpc.log.heuristics()
        assert noted.participant == "pg"
        gid = noted.gid
    where = ["--log", log, "--db", f"pg={postgres.url()}", "--json"]
    listed = CliRunner().invoke(cli, ["tx", "show", gid, *where], catch_exceptions=False)
    assert json.loads(listed.output)["against_the_decision"][0]["database"] == "pg"
    done = CliRunner().invoke(cli, ["tx", "forget", gid, *where], catch_exceptions=False)
    assert json.loads(done.output)["forgotten"]


def decided_work(url: str, log: str) -> None:
    def on_step(reached: str) -> None:
        if reached == "after_decision":
            os.kill(os.getpid(), signal.SIGKILL)

    with TwoPhaseCommit({"pg": sa.create_engine(url)}, log=log, on_step=on_step) as tpc:
        with tpc.begin(key="k") as tx:
            tx["pg"].execute(note.insert().values(id=1))


def test_as_much_as_a_cluster_votes_for_it_can_commit(cluster: LocalCluster) -> None:
    """A commit that did not fit into one transaction of the store would be decided, and never be done."""
    with connect(cluster.url) as client:
        participant = Cluster("kv", client, InThreads())
        begun = Begun("T1.loglogxx.room.1.1", None)
        branch = participant.open(0, begun)
        count = 0
        with pytest.raises(UsageError, match="split"):
            for count in range(1000):
                branch.handle.get(f"room/{count}")
                branch.handle.put(f"room/{count}", "there")
        assert count == 63
        with pytest.raises(UsageError, match="split"):
            branch.handle.put("room/more", "there")
        branch.prepare()()
        branch.commit_prepared()()
        assert client.range(prefix="room/").count == count
        assert participant.prepared() == []
