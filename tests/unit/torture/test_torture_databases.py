"""Database servers without their processes."""

import tempfile
from pathlib import Path

import pytest
from typing_extensions import override

from troth.torture import databases
from troth.torture.databases import DatabaseFailed, DatabaseServer


class Refusing(DatabaseServer):
    """Its data can not be made."""

    drivers = {"none": "none"}

    @override
    def _locate(self) -> None: ...

    @override
    def _prepare(self) -> None:
        raise DatabaseFailed("no room")

    @override
    def _command(self) -> list[str]:
        return []

    @override
    def _ready(self) -> bool:
        return False


def test_a_server_that_does_not_start_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(databases, "_privileges_dropped", list)
    with pytest.raises(DatabaseFailed, match="no room"), Refusing():
        raise AssertionError("it did not start")
    assert list(tmp_path.iterdir()) == []
