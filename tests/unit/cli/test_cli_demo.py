"""The demo and torture: what they keep, what they say, what they leave behind."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from troth.cli.demo import Ledger
from troth.cli.rows import Row
from troth.errors import Unavailable


def test_of_two_rows_with_one_key_the_later_revision_counts() -> None:
    ledger = Ledger()
    ledger.acknowledged(Row(b"k", b"new"), 7)
    ledger.acknowledged(Row(b"k", b"old"), 6)  # it was asked again after a kill, so its answer comes later
    assert ledger.rows == {b"k": b"new"} and len(ledger.times_s) == 2


def test_a_file_of_any_name_can_be_loaded_as_the_message_says(run: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("k,v\n")
    refused: Result = run("demo", "--input", str(rows))
    assert refused.exit_code == 2 and "--format csv" in refused.stderr
    read: Result = run("demo", "--input", str(rows), "--format", "csv")
    assert "read 0 rows" in read.stdout and "nothing to load" in read.stderr
    assert run("demo", "--rows", "0").exit_code == 2


def test_a_directory_that_cannot_be_made_is_told_before_any_work(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inventory(**_: object) -> list[Row]:
        raise AssertionError("it began to work")

    monkeypatch.setattr("troth.cli.demo.inventory", inventory)
    result: Result = run("demo", "--data", "/proc/nothing")
    assert result.exit_code == 2 and "/proc/nothing" in result.stderr, result.output


class Ended:
    """A server that has ended."""

    is_alive = False

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode


def test_what_ended_the_servers_is_told_before_their_logs_go(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cluster:
        servers = {"n1": Ended(-9), "n2": Ended(3)}  # n1 was killed by the demo itself

        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Cluster":
            return self

        def __exit__(self, *_: object) -> None: ...
        def log_file(self, name: str) -> Path:
            return tmp_path / f"{name}.log"

    async def perform(*_: object) -> list[str]:
        raise Unavailable("no answer within 20 s")

    (tmp_path / "n1.log").write_text("serving\n")
    (tmp_path / "n2.log").write_text("serving\nthis server stops: No space left on device\n")
    (tmp_path / "rows.csv").write_text("k,v\na,1\n")
    monkeypatch.setattr("troth.server.local.LocalCluster", Cluster)
    monkeypatch.setattr("troth.cli.demo._perform", perform)
    result: Result = run("demo", "--input", str(tmp_path / "rows.csv"))
    assert result.exit_code == 4 and "n1" not in result.stderr, result.output
    assert "n2 has ended (exit code 3): this server stops: No space left on device" in result.stderr


def test_a_plan_of_torture_leaves_nothing_behind(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = ("torture", "--plan", "--seed", "7", "--minutes", "1", "--output", str(tmp_path / "new"))
    result: Result = run(*words)
    assert result.exit_code == 0 and " s  kill" in result.stdout, result.output
    assert not list(tmp_path.iterdir())
