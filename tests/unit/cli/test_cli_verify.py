"""`troth verify`: the verdict is printed, and is the exit code."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
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


def lines(path: Path, *rows: tuple[int, str, str, object]) -> Path:
    """(process, type, f, value) as JSON lines."""
    names = ("process", "type", "f", "value")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def test_what_was_recorded_is_found_out_and_said(run: Run, tmp_path: Path) -> None:
    """The object and the format; and what was passed over."""
    log = tmp_path / "jepsen.log"
    log.write_text(
        "INFO  jepsen.core - go\nINFO  jepsen.util - 0\t:invoke\t:write\t1\nINFO  jepsen.util - 0\t:ok\t:write\t1\n"
    )
    result = run("verify", str(log), "--no-html")
    assert result.exit_code == 0
    assert "format: jepsen-log; taken for a register" in result.stdout
    assert "note: passed over" in result.stdout and "line 1" in result.stdout
    path = tmp_path / "skew.edn.gz"
    path.write_bytes(gzip.compress(SKEW.encode()))
    result = run("verify", str(path), "--no-html", "-o", "json")
    told = json.loads(result.stdout)
    assert (told["object"], told["model"], told["format"]) == ("list-append", "strict-serializable", "elle-edn")
    assert result.exit_code == 1
    votes = lines(tmp_path / "votes", (0, "invoke", "vote", True), (0, "ok", "vote", True))
    assert json.loads(run("verify", str(votes), "--no-html", "-o", "json").stdout)["model"] == "atomic-commit"
    for model in ("atomic-commit", "lock-safety"):
        assert run("verify", str(votes), "--no-html", "--model", model).exit_code == 0


def test_an_unknown_object_asks_for_its_name(run: Run, tmp_path: Path) -> None:
    path = lines(tmp_path / "fly.jsonl", (0, "invoke", "fly", None))
    result = run("verify", str(path), "--no-html")
    assert result.exit_code == 2
    assert "--object" in result.stderr


@pytest.mark.parametrize("initial", ['{"a": "1"}', "null"])
def test_a_map_of_beginnings_is_refused_where_all_keys_begin_alike(run: Run, tmp_path: Path, initial: str) -> None:
    rows = [
        ("invoke", "put", "a", "2"),
        ("ok", "put", "a", "2"),
        ("invoke", "get", "b", None),
        ("ok", "get", "b", None),
    ]
    path = tmp_path / "kv.jsonl"
    path.write_text(
        "".join(json.dumps({"process": 0, "type": t, "f": f, "key": k, "value": v}) + "\n" for t, f, k, v in rows)
    )
    result = run("verify", str(path), "--no-html", "--initial", initial)
    if initial == "null":
        assert result.exit_code == 0
    else:
        assert result.exit_code == 2
        assert "all keys of a kv start with one value" in result.stderr


def test_scans_of_workloads(run: Run, tmp_path: Path) -> None:
    rows = [(0, "invoke", "transfer", {"from": 0, "to": 1, "amount": 1}), (0, "ok", "transfer", None)]
    for total in (10, 11):
        rows += [(1, "invoke", "read", None), (1, "ok", "read", {"0": 5, "1": total - 5})]
    path = str(lines(tmp_path / "bank.jsonl", *rows))
    result = run("verify", path, "--no-html")
    assert result.exit_code == 1
    assert "wrong-total" in result.stdout
    initial = '{"0": 6, "1": 4}'
    result = run("verify", path, "--no-html", "--model", "linearizable", "--object", "bank", "--initial", initial)
    assert result.exit_code == 1
    assert "cannot be placed: [2]" in result.stdout
    assert run("verify", path, "--no-html", "--initial", "{").exit_code == 2


def test_the_reading_can_be_overridden(run: Run, tmp_path: Path) -> None:
    """A failed cas that ought to have succeeded; a read of nil after a write."""
    rows = [(0, "invoke", "write", 1), (0, "ok", "write", 1)]
    cas = [*rows, (0, "invoke", "cas", [1, 2]), (0, "fail", "cas", [1, 2])]
    path = str(lines(tmp_path / "cas.jsonl", *cas))
    assert run("verify", path, "--no-html").exit_code == 0
    assert run("verify", path, "--no-html", "--failed", "observed").exit_code == 1
    nil = [*rows, (0, "invoke", "read", None), (0, "ok", "read", None)]
    path = str(lines(tmp_path / "nil.jsonl", *nil))
    assert run("verify", path, "--no-html").exit_code == 1
    assert run("verify", path, "--no-html", "--nil-read", "unknown").exit_code == 0


def test_bounds_of_time_and_memory_are_kept_and_named(run: Run, tmp_path: Path) -> None:
    """Twelve overlapping pushes of two values, taken by pops of which some crashed: far too many orders."""
    count = 12
    rows: list[tuple[int, str, str, object]] = [(at, "invoke", "push", at % 3) for at in range(count)]
    rows += [(at, "ok", "push", at % 3) for at in range(count)]
    for at in range(3):
        rows += [(100 + at, "invoke", "pop", None), (100 + at, "info", "pop", None)]
    for at in range(count - 2):
        rows += [(0, "invoke", "pop", None), (0, "ok", "pop", (at * at) % 3)]
    path = str(lines(tmp_path / "hard.jsonl", *rows))
    result = run("verify", path, "--no-html", "--timeout", "0.2")
    assert result.exit_code == 3, result.stdout
    assert "out of time (--timeout 0.2) after" in result.stdout
    result = run("verify", path, "--no-html", "--memory", "1")
    assert result.exit_code == 3
    assert "out of memory (--memory 1) after" in result.stdout


def test_what_is_known_of_the_store_can_be_said(run: Run, tmp_path: Path) -> None:
    """Only real time says that the version read is the older one; whoever knows that keys follow it sees a circle."""
    txns = [("w", 1), ("w", 2), ("r", 1)]
    rows: list[tuple[int, str, str, object]] = []
    for process, (f, value) in enumerate(txns):
        rows += [(process, "invoke", "txn", [[f, "x", value if f == "w" else None]])]
        rows += [(process, "ok", "txn", [[f, "x", value]])]
    path = str(lines(tmp_path / "stale.jsonl", *rows))
    args = ("verify", path, "--no-html", "--object", "rw-register", "--model", "strict-serializable", "-o", "json")
    told = json.loads(run(*args).stdout)
    assert told["verdict"] == "illegal" and "cyclic-versions" not in told["violated"]
    told = json.loads(run(*args, "--assume", "linearizable-keys").stdout)
    assert told["verdict"] == "illegal" and told["violated"] == ["cyclic-versions"]


def test_a_page_that_cannot_be_drawn_takes_no_verdict_away(run: Run, tmp_path: Path) -> None:
    path = history(tmp_path / "run.jsonl", "1")
    (tmp_path / "run.jsonl.html").mkdir()
    result = run("verify", str(path))
    assert (result.exit_code, result.stdout.partition(":")[0]) == (0, "OK")
    assert "--no-html" in result.stderr


def test_nothing_recorded_is_not_ok(run: Run, tmp_path: Path) -> None:
    """A recording that broke would pass every check."""
    path = tmp_path / "run.jsonl"
    path.write_text("")
    result = run("verify", str(path), "--no-html")
    assert result.exit_code == 3
    assert "was anything recorded?" in result.stdout


def test_the_page_says_the_whole_command(run: Run, tmp_path: Path) -> None:
    """Typed again, it gives the same verdict."""
    path = history(tmp_path / "a run.jsonl", "1")
    run("verify", str(path), "--model", "bounded", "--versions-behind", "1", "--nil-read", "unknown")
    page = (tmp_path / "a run.jsonl.html").read_text()
    assert "troth verify 'a run.jsonl' --model bounded --object kv --nil-read unknown --versions-behind 1" in page


def test_every_model_names_the_object_that_was_found_out(run: Run, tmp_path: Path) -> None:
    path = str(history(tmp_path / "run.jsonl", "1"))
    for model in ("linearizable", "sequential", "causal", "session", "monotonic-reads", "eventual"):
        shown = run("verify", path, "--no-html", "--model", model).stdout
        assert f"2 operations, {model}, object kv" in shown, model
        assert "taken for a kv" in shown


def test_watches_are_checked_where_they_are_asked_for(run: Run, tmp_path: Path) -> None:
    path = history(tmp_path / "run.jsonl", "1")
    assert run("verify", str(path), "--no-html", "--model", "watch").exit_code == 3
    shown = {
        "process": "watch/1",
        "type": "info",
        "f": "watch",
        "value": ["k", "", 1, 2, [[2, "k", "1"], [2, "k", "1"]]],
    }
    path.write_text(path.read_text() + json.dumps(shown) + "\n")
    assert run("verify", str(path), "--no-html").exit_code == 0
    result = run("verify", str(path), "--no-html", "--model", "watch")
    assert result.exit_code == 1
    assert 'watch-repeats: watch/1 is shown "k" = "1" at revision 2 twice' in result.stdout


def test_one_operation_is_not_called_operations(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"process": 0, "type": "invoke", "f": "put", "key": "k", "value": "1"}\n')
    assert run("verify", str(path), "--no-html").stdout.startswith("OK: 1 operation, ")
