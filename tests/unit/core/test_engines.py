"""Engines by name."""

import pytest

from troth.core.engines import ENGINES, engine_kind
from troth.errors import UsageError


def test_an_engine_is_found_by_its_name() -> None:
    assert {name: engine_kind(name).name for name in ENGINES} == {name: name for name in ENGINES}


def test_an_unknown_engine_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(UsageError, match=r"'zab'; there are: .*raft"):
        engine_kind("zab")
