"""Fixtures of several test files."""

import pytest
from register_acceptors import Acceptors, reached


@pytest.fixture
def acceptors(monkeypatch: pytest.MonkeyPatch) -> Acceptors:
    """Those that registers' clients reach."""
    return reached(monkeypatch)
