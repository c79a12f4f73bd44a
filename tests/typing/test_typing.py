"""The public API means to type checkers what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def checked(*files: Path) -> str:
    """What strict mypy finds wrong."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", *map(str, files)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    return outcome.stdout if outcome.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*_api.py")))
def test_type_checkers_see_the_public_api(file: str) -> None:
    """An expected error is a ``type: ignore[code]``, and an ignore that is not needed is an error."""
    assert checked(HERE / file) == ""


@pytest.mark.slow
def test_type_checkers_find_nothing_wrong_with_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    files = [tmp_path / f"readme_{number}.py" for number in range(len(blocks))]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(block)
    assert checked(*files) == ""
