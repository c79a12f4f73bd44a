"""The examples run, are short, and hashing needs nothing of the cluster."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from troth.hashing import ALGORITHMS, balance

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("hashing_*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_runs(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
    done = subprocess.run([sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


DOCUMENT = Path(__file__).parents[3] / "docs" / "hashing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_in_the_document_runs(block: str) -> None:
    exec(compile(block, str(DOCUMENT), "exec"), {})


def test_the_document_tells_what_each_algorithm_can_do_and_how_even_it_is() -> None:
    text = DOCUMENT.read_text()
    for kind in ALGORITHMS.values():
        can = kind.can
        flags = (can.weights, can.replicas, can.remove_any, can.minimal, can.order_free, can.ranges)
        peak = balance(kind([f"node-{number}" for number in range(100)])).peak_to_mean
        cells = [f"`{kind.__name__}`", *("yes" if flag else "-" for flag in flags), f"{peak:.3f}"]
        assert f"| {' | '.join(cells)} |" in text


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3 and BLOCKS


def test_importing_hashing_imports_nothing_of_the_cluster() -> None:
    code = "import sys, troth.hashing, troth.hashing.compat; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("troth.") and not name.startswith("troth.hashing")}
    assert ours <= {"troth.errors", "troth.ids"}
    assert not loaded & {"asyncio", "uvloop", "grpc", "troth.client", "troth.server"}
