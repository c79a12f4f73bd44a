"""Every transcript comes out as it is written down. ``make rewrite`` writes them anew; then read the diff."""

import os
from pathlib import Path

import pytest
from scenario import replay, transcripts


@pytest.mark.parametrize("path", transcripts(), ids=lambda path: path.stem)
def test_transcript_comes_out_as_written(path: Path) -> None:
    written = path.read_text()
    played = replay(written)
    if os.environ.get("TROTH_REWRITE"):
        path.write_text(played)
    else:
        assert played == written
