"""The public API means to type checkers what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*_api.py")))
def test_type_checkers_see_the_public_api(file: str) -> None:
    """Strict mypy; an expected error is a ``type: ignore[code]``, and an ignore that is not needed is an error."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(HERE / file)]
    outcome = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=240)
    assert outcome.returncode == 0, outcome.stdout
