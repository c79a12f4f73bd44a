"""Fixtures of several test files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from recovering import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Place":
    """A process that recovers, and another one, on a log where no power fails."""
    pytest.importorskip("sqlalchemy")
    from recovering import Place

    for call in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, call, lambda descriptor: None)
    return Place(tmp_path)
