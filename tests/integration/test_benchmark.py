"""The benchmark runs and prints its table. How fast anything was is not looked at here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_cluster.py"


def test_a_short_run_of_troth_beside_the_ceiling(tmp_path: Path) -> None:
    words = ["--quick", "--systems", "troth,ceiling", "--seconds", "0.1", "--outstanding", "1,16", "--rows", "500"]
    done = subprocess.run(
        [sys.executable, str(BENCH), *words, "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for heading in ("## Puts", "## Linearizable gets", "## Loss of the leader", "## Memory and start"):
        assert heading in done.stdout
    assert "| troth : ceiling |" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_profile_of_a_write_runs() -> None:
    script = BENCH.with_name("profile_write.py")
    done = subprocess.run(
        [sys.executable, str(script), "--seconds", "0.02"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "us of processor time per command" in done.stdout and "puts in batches of 64" in done.stdout


def test_a_short_run_of_two_phase_commit() -> None:
    words = ["--rounds", "1", "--seconds", "0.1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(BENCH.with_name("bench_2pc.py")), *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for heading in ("## On this disk", "## +2 ms a sync", "## Ratios"):
        assert heading in done.stdout
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| 1 |")]
    assert {row[2].strip() for row in rows} == {"unsafe", "floor", "stock", "troth", "decided", "session"}
    # What is counted is not a matter of speed: two syncs for each database, and one for the decision.
    syncs = [[float(part) for part in row[7].split("/")] for row in rows if row[2].strip() == "troth"]
    assert all(count >= least for found in syncs for count, least in zip(found, (1.9, 1.9, 0.9), strict=True))


def test_what_a_commit_costs_each_engine_is_counted() -> None:
    """Counted, not timed: a commit is a round trip to two followers, and at most a notice to each."""
    script = BENCH.with_name("bench_engines.py")
    done = subprocess.run(
        [sys.executable, str(script), "--counted"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert all(4 <= each["messages_per_commit"] <= 6 for each in counted.values())
    assert all(each["return_disturbs_leader"] == 0 for each in counted.values())
