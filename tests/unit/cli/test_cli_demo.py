"""The demo's own record of what was acknowledged."""

from pathlib import Path
from typing import Any

from click.testing import Result

from troth.cli.demo import Ledger
from troth.cli.rows import Row


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
