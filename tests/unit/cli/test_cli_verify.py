"""`troth verify`: the verdict is printed, and is the exit code."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]


def history(path: Path, read: str) -> Path:
    """One put of "1", then one read that saw *read*."""
    events = [
        {"troth_history": 1},
        {"process": 0, "type": "invoke", "f": "put", "key": "k", "value": "1", "time": 1},
        {"process": 0, "type": "ok", "f": "put", "key": "k", "value": "1", "time": 2},
        {"process": 1, "type": "invoke", "f": "get", "key": "k", "value": None, "time": 3},
        {"process": 1, "type": "ok", "f": "get", "key": "k", "value": read, "time": 4},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_a_legal_history_is_ok(run: Run, tmp_path: Path) -> None:
    result = run("verify", str(history(tmp_path / "run.jsonl", "1")))
    assert result.exit_code == 0
    assert result.stdout.startswith("OK: 2 operations")


def test_an_illegal_history_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    result = run("verify", str(history(tmp_path / "run.jsonl", "2")), "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "illegal"


def test_bounds_belong_to_bounded(run: Run, tmp_path: Path) -> None:
    path = str(history(tmp_path / "run.jsonl", "1"))
    assert run("verify", path, "--staleness-ms", "5").exit_code == 2
    assert run("verify", path, "--model", "bounded").exit_code == 2
    assert run("verify", path, "--model", "bounded", "--versions-behind", "1").exit_code == 0


def test_a_file_that_is_no_history_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("once upon a time\n")
    result = run("verify", str(tmp_path / "x"))
    assert result.exit_code == 2
    assert "expected one of" in result.stderr


def test_the_history_is_drawn_as_a_page_that_needs_nothing_else(run: Run, tmp_path: Path) -> None:
    path = history(tmp_path / "run.jsonl", "2")
    run("verify", str(path))
    page = (tmp_path / "run.jsonl.html").read_text()
    assert "<html" in page
    assert "cannot be placed" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    run("verify", str(path), "--html", str(tmp_path / "other.html"))
    assert (tmp_path / "other.html").exists()
    (tmp_path / "run.jsonl.html").unlink()
    run("verify", str(path), "--no-html")
    assert not (tmp_path / "run.jsonl.html").exists()


SKEW = """
{:type :invoke, :process 0, :f :txn, :value [[:append x 1] [:r y nil]], :index 0, :time 0}
{:type :invoke, :process 1, :f :txn, :value [[:append y 1] [:r x nil]], :index 1, :time 1}
{:type :ok, :process 0, :f :txn, :value [[:append x 1] [:r y []]], :index 2, :time 2}
{:type :ok, :process 1, :f :txn, :value [[:append y 1] [:r x []]], :index 3, :time 3}
"""


def test_transactions_are_judged_and_the_cycle_is_told_in_words(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "skew.edn"
    path.write_text(SKEW)
    result = run("verify", str(path), "--object", "list-append")
    assert result.exit_code == 1
    assert "G2-item" in result.stdout
    assert "a contradiction" in result.stdout
    assert run("verify", str(path), "--object", "list-append", "--model", "snapshot-isolation").exit_code == 0


def test_a_model_of_transactions_does_not_fit_single_objects(run: Run, tmp_path: Path) -> None:
    path = str(history(tmp_path / "run.jsonl", "1"))
    result = run("verify", path, "--model", "serializable")
    assert result.exit_code == 2
    assert "list-append" in result.stderr
