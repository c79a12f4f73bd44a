"""The examples run, are short, and hashing needs nothing of the cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("hashing_*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_runs(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
    done = subprocess.run([sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_importing_hashing_imports_nothing_of_the_cluster() -> None:
    code = "import sys, troth.hashing, troth.hashing.compat; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("troth.") and not name.startswith("troth.hashing")}
    assert ours <= {"troth.errors", "troth.ids"}
    assert not loaded & {"asyncio", "uvloop", "grpc", "troth.client", "troth.server"}
