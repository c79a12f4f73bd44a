"""`troth demo` keeps what it promises, on any input, and says so with its exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

DEMO = [sys.executable, "-c", "from troth.cli.main import main; main()", "demo"]


def run(*words: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*DEMO, *words], capture_output=True, text=True, timeout=120, cwd=directory, check=False)


def test_the_demo_of_this_machine_s_files(tmp_path: Path) -> None:
    done = run("--rows", "20000", "--data", str(tmp_path / "data"), directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL to the leader" in done.stdout
    assert done.stdout.count("20,000 of 20,000 acknowledged rows read back") == 3
    assert "All of it holds; nothing is left running." in done.stdout
    assert {path.name for path in (tmp_path / "data").iterdir() if path.is_dir()} == {"n1", "n2", "n3"}


def test_the_demo_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"id": {n}, "v": "{n * n}"}}\n' for n in range(3000)))
    done = run("--input", "rows.jsonl", directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("3,000 of 3,000 acknowledged rows") == 3


def test_a_bad_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("k,v\na,1\nb\n")
    done = run("--input", "rows.csv", directory=tmp_path)
    assert done.returncode == 2
    assert "line 3" in done.stderr
