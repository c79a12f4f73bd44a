"""The operator's commands over a log that cannot be asked."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from troth.cli.main import cli
from troth.core.twophase.gid import Gid
from troth.errors import StorageError
from troth.transactions.log.file import FileLog

pytest.importorskip("sqlalchemy")


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
