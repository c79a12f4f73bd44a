"""The benchmark runs and prints its table. How fast anything was is not looked at here."""

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
