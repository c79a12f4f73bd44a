"""Bugs put back into servers, storage and clients: the text is still there, and the simulation finds some right here.
The whole table: ``python tests/mutants/servers.py``."""

import ast
import sys

import pytest
from servers import SERVER_PITFALLS, ServerPitfall, changed, find

QUICK = ("sessions remember no answers", "leaves when it is handed to it", "begins one revision too late")


@pytest.mark.parametrize("pitfall", SERVER_PITFALLS, ids=lambda pitfall: pitfall.name)
def test_server_pitfall_can_still_be_put_back(pitfall: ServerPitfall) -> None:
    ast.parse(changed(pitfall)[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("name", QUICK)
def test_server_pitfall_is_found(name: str) -> None:
    pitfall = next(pitfall for pitfall in SERVER_PITFALLS if name in pitfall.name)
    assert find(pitfall, seeds=60, shrink_within_s=0).rule
