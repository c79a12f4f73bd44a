"""Bugs put back into servers, storage and clients: the text is still there, and the simulation finds some right here.
The whole table: ``make mutants ARGS='--subject servers'``."""

import ast
import sys

import pytest
from pitfalls import Pitfall
from planted import changed
from servers import SERVER_PITFALLS
from trial import module_name, try_mutant

QUICK = (
    *("sessions remember no answers", "leaves when it is handed to it", "begins one revision too late"),
    *("shows what it has shown", "while a snapshot is loaded", "segments go that are still needed"),
)


@pytest.mark.parametrize("pitfall", SERVER_PITFALLS, ids=lambda pitfall: pitfall.name)
def test_server_pitfall_can_still_be_put_back(pitfall: Pitfall) -> None:
    ast.parse(changed(pitfall))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("name", QUICK)
def test_server_pitfall_is_found(name: str) -> None:
    pitfall = next(pitfall for pitfall in SERVER_PITFALLS if name in pitfall.name)
    sources = {module_name(pitfall.file): changed(pitfall)}
    assert try_mutant(sources, tests=(), seeds=60, chaos_seconds=30, simulation="servers").caught_by
