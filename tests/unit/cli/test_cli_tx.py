"""The operator's commands over a log that cannot be asked."""

import json
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from troth.cli.failures import EXIT_UNAVAILABLE
from troth.cli.main import cli
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Heuristic
from troth.errors import StorageError
from troth.transactions.log.file import FileLog

sa = pytest.importorskip("sqlalchemy")

from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402


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


def test_a_database_that_does_not_answer_is_told_in_two_lines(tmp_path: Path) -> None:
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
