"""docs/verify.md: its code runs, and it names everything there is."""

import re
from pathlib import Path

import pytest

from troth.verify.check import MODELS
from troth.verify.models import OBJECTS
from troth.verify.transactions.scans import SCANS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "verify.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_in_the_document_runs(block: str) -> None:
    exec(compile(block, "verify.md", "exec"), {})


def test_the_document_names_every_object_model_and_scan() -> None:
    for name in (*MODELS, *OBJECTS, *SCANS):
        assert f"`{name}`" in DOCUMENT or f"{name}," in DOCUMENT or f", {name}" in DOCUMENT, name
