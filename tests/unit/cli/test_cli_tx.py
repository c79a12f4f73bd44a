"""The operator's commands over a log that cannot be asked."""

import json
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from troth.cli.exit_codes import EXIT_UNAVAILABLE, EXIT_USAGE
from troth.cli.main import cli
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import BranchRef, Commit, Heuristic
from troth.errors import StorageError
from troth.transactions.log.file import FileLog

sa = pytest.importorskip("sqlalchemy")

from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.participants.base import Prepared  # noqa: E402
from troth.transactions.participants.sqlite import Sqlite  # noqa: E402


def test_resolve_goes_against_no_decision_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(log: FileLog, gid: Gid) -> None:
        raise StorageError("another process began to take this place over")

    monkeypatch.setattr(FileLog, "verdict", silent)
    where = ["--log", f"{tmp_path}/log", "--db", f"last=sqlite:///{tmp_path}/last.db"]
    log = FileLog(tmp_path / "log")
    gid = Gid(log.log_id, "0", 1, 1)
    log.close()
    result = CliRunner().invoke(cli, ["tx", "resolve", str(gid), "--abort", "--i-know", *where])
    assert result.exit_code != 0
    assert "may have decided" in result.output + str(result.exception)


def test_a_decision_left_to_the_last_resource_is_not_listed_as_committed(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path}/last.db", str(tmp_path / "log")

    def die(step: str) -> None:
        if step == "before_last_resource":
            raise KeyboardInterrupt

    engine = sa.create_engine(url)
    with TwoPhaseCommit({"last": engine}, log=log, recover_every=None, on_step=die) as dying:
        with pytest.raises(KeyboardInterrupt), dying.begin(key="order-1") as tx:
            tx["last"].exec_driver_sql("CREATE TABLE made (x)")
    found = CliRunner().invoke(cli, ["tx", "list", "--json", "--log", log, "--db", f"last={url}"])
    (row,) = json.loads(found.output)
    assert (row["decision"], row["database"]) == ("open", "last")
    found = CliRunner().invoke(cli, ["tx", "recover", "--log", log, "--db", f"last={url}"])
    assert found.exit_code == 0
    found = CliRunner().invoke(cli, ["tx", "list", "--json", "--log", log, "--db", f"last={url}"])
    assert json.loads(found.output) == []


def test_what_the_others_can_do_is_done_while_one_database_is_down(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path}/last.db", str(tmp_path / "log")
    where = ["--log", log, "--db", f"last={url}", "--db", f"down=sqlite:///{tmp_path}/no/a.db"]

    def die(step: str) -> None:
        if step == "before_last_resource":
            raise KeyboardInterrupt

    with TwoPhaseCommit({"last": sa.create_engine(url)}, log=log, recover_every=None, on_step=die) as dying:
        with pytest.raises(KeyboardInterrupt), dying.begin(key="order-1") as tx:
            tx["last"].exec_driver_sql("CREATE TABLE made (x)")
    found = CliRunner().invoke(cli, ["tx", "list", "--json", *where])
    assert [row["database"] for row in json.loads(found.stdout)] == ["last"]
    assert found.exit_code == EXIT_UNAVAILABLE, "the list may lack something"
    found = CliRunner().invoke(cli, ["tx", "recover", "--json", *where])
    assert found.exit_code == EXIT_UNAVAILABLE
    assert "unable to open" in json.loads(found.stdout)["unreachable"]["down"]
    assert "down" in found.stderr and "unable to open" in found.stderr
    found = CliRunner().invoke(cli, ["tx", "list", "--json", "--log", log, "--db", f"last={url}"])
    assert json.loads(found.output) == [], "it was recovered"
    found = CliRunner().invoke(cli, ["tx", "list", *where])
    assert found.stderr.startswith("nothing is in doubt in the databases that answered\n")


def test_a_database_that_does_not_answer_is_told_in_two_lines(tmp_path: Path) -> None:
    FileLog(tmp_path / "log").close()
    result = CliRunner().invoke(
        cli, ["tx", "list", "--log", f"{tmp_path}/log", "--db", f"a=sqlite:///{tmp_path}/no/a.db"]
    )
    assert result.exit_code == EXIT_UNAVAILABLE
    cause, advice = result.stderr.splitlines()
    assert "unable to open database file" in cause and "every --db answer" in advice


def test_an_outcome_is_forgotten_by_a_user_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container often runs under a number that stands in no file of users."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    log = FileLog(tmp_path / "log")
    gid = str(Gid(log.log_id, "0", 1, 1))
    log.note_heuristic(Heuristic(gid, "bank", "rolled back, although the decision is commit"))
    log.close()
    where = ["--log", f"{tmp_path}/log", "--db", f"last=sqlite:///{tmp_path}/last.db"]
    result = CliRunner().invoke(cli, ["tx", "forget", gid, *where])
    assert (result.exit_code, result.output) == (0, "forgotten\n")


def test_a_log_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    """Nothing would be in doubt in it, whatever is in the one that was meant."""
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "a file").touch()
    for log in (tmp_path / "none", tmp_path / "else"):
        before = sorted(tmp_path.rglob("*"))
        found = CliRunner().invoke(
            cli, ["tx", "list", "--log", str(log), "--db", f"last=sqlite:///{tmp_path}/last.db"]
        )
        assert found.exit_code == EXIT_USAGE
        assert "is no decision log" in found.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_when_the_log_is_lost_an_empty_directory_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    found = CliRunner().invoke(
        cli, ["tx", "list", "--log", f"{tmp_path}/new", "--db", f"last=sqlite:///{tmp_path}/last.db"]
    )
    assert (found.exit_code, found.stderr) == (0, "nothing is in doubt\n")


@pytest.mark.parametrize("lives", [True, False])
def test_what_is_listed_says_whose_business_it_is(
    lives: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FileLog(tmp_path / "log", coordinator="other")
    committed, applied, undecided = (Gid(other.log_id, "other", 1, number) for number in (1, 2, 3))
    for gid in (committed, applied):
        other.decide([Commit(str(gid), (BranchRef("last", f"{gid}.0", ""),))])
    elsewhere = Gid("another0", "other", 1, 1)
    listed = [Prepared(gid, f"{gid}.0", 1.0) for gid in (committed, undecided, elsewhere)]
    monkeypatch.setattr(Sqlite, "prepared", lambda database: listed)
    if not lives:
        other.close()
    where = ["--log", f"{tmp_path}/log", "--db", f"last=sqlite:///{tmp_path}/last.db"]
    rows = json.loads(CliRunner().invoke(cli, ["tx", "list", "--json", *where]).stdout)
    found = {row["gid"]: (row["decision"], row["next"]) for row in rows}
    assert found == {
        str(committed): (
            ("committed", "its coordinator lives, and commits it; recover --even-if-alive fences it off")
            if lives
            else ("committed", "recover commits it")
        ),
        str(applied): (
            "committed",
            "its coordinator lives, and ends it" if lives else "recover notes it as applied",
        ),
        str(undecided): (
            ("open", "its coordinator lives; recover --even-if-alive fences it off")
            if lives
            else ("open", "recover decides it")
        ),
        str(elsewhere): ("foreign", "of log another0: give that one as --log; tx resolve only if it is lost"),
    }
    other.close()


def test_a_url_with_a_driver_of_asyncio_is_refused_with_what_to_write(tmp_path: Path) -> None:
    """Applications on asyncio have such URLs, and the command is to be given theirs."""
    pytest.importorskip("aiosqlite")
    log = tmp_path / "log"
    FileLog(log).close()
    found = CliRunner().invoke(
        cli, ["tx", "list", "--log", str(log), "--db", f"a=sqlite+aiosqlite:///{tmp_path}/a.db"]
    )
    assert found.exit_code == EXIT_USAGE
    assert "--db a: sqlite+aiosqlite is a driver of asyncio" in found.stderr
    assert "with sqlite" in found.stderr


def test_what_went_against_a_decision_is_listed_until_it_is_forgotten(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "log")
    gid = str(Gid(log.log_id, "0", 1, 1))
    log.note_heuristic(Heuristic(gid, "bank", "rolled back, although the decision is commit"))
    log.close()
    where = ["--json", "--log", f"{tmp_path}/log", "--db", f"last=sqlite:///{tmp_path}/last.db"]
    (row,) = json.loads(CliRunner().invoke(cli, ["tx", "list", *where]).stdout)
    assert (row["gid"], row["database"], row["decision"]) == (gid, "bank", "heuristic_mixed")
    assert row["next"].endswith("then tx forget")
    CliRunner().invoke(cli, ["tx", "forget", gid, *where])
    assert json.loads(CliRunner().invoke(cli, ["tx", "list", *where]).stdout) == []


def test_whose_decisions_cannot_be_known_is_listed(tmp_path: Path) -> None:
    """Silence would say that nothing is in doubt."""
    log = FileLog(tmp_path / "log", coordinator="one")
    log._place.path(log.epoch.number + 1).touch()  # somebody takes its place over
    found = CliRunner().invoke(
        cli, ["tx", "list", "--json", "--log", f"{tmp_path}/log", "--db", f"last=sqlite:///{tmp_path}/last.db"]
    )
    (row,) = json.loads(found.stdout)
    assert (row["database"], row["decision"]) == ("log of one", "not known")
    assert "began to take this place over" in row["next"]
    log.close()
