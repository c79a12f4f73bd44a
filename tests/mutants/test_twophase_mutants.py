"""Every way to lose atomicity that is known, put back into two-phase commit, is caught."""

import ast
import re
import sys

import pytest
from pitfalls import Pitfall
from planted import changed
from trial import ROOT, module_name, try_mutant
from twophase import MUTANTS, TESTS

WORLD_ALONE = ("tests/simulation/test_twophase.py",)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_can_still_be_put_back(mutant: Pitfall) -> None:
    ast.parse(changed(mutant))


def test_there_are_so_many_as_the_page_says() -> None:
    page = (ROOT / "docs" / "transactions.md").read_text()
    assert re.findall(r"`tests/mutants/twophase\.py` puts (\d+) known bugs back", page) == [str(len(MUTANTS))]


SEEDS = 200
"""Simulated worlds after the quick tests: what takes a rare order of events is found there."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant: Pitfall) -> None:
    sources = {module_name(mutant.file): changed(mutant)}
    assert try_mutant(sources, tests=TESTS).caught_by, mutant.name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulated_world_alone_finds_it(mutant: Pitfall) -> None:
    sources = {module_name(mutant.file): changed(mutant)}
    verdict = try_mutant(sources, tests=WORLD_ALONE, seeds=SEEDS, simulation="twophase")
    assert verdict.caught_by, mutant.name


@pytest.mark.slow
def test_the_unchanged_protocol_is_not_caught() -> None:
    path = "src/troth/core/twophase/table.py"
    source = {module_name(path): (ROOT / path).read_text()}
    assert not try_mutant(source, tests=(*TESTS, *WORLD_ALONE), seeds=0).caught_by
