"""Every way to lose atomicity that is known, put back into two-phase commit, is caught."""

import ast
import sys

import pytest
from trial import ROOT, module_name, try_mutant
from twophase import MUTANTS, Mutant

TESTS = ("tests/unit/core/test_twophase_table.py", "tests/unit/core/test_twophase_cells.py")
WORLD_ALONE = ("tests/simulation/test_twophase.py",)
BY_UNIT_TESTS = {
    "absent_is_taken_for_done": "in the simulated world nobody decides for himself, so absent is always done",
    "a_cell_that_says_abort_is_overwritten": "only operators write an abort into an open epoch",
    "a_forgotten_commit_is_presumed_aborted": "the simulated world restores no backups",
    "one_key_commits_twice": "the simulated owners use no keys",
}
"""Mutants that the simulation cannot see, and why."""


def changed(mutant: Mutant) -> dict[str, str]:
    source = (ROOT / mutant.path).read_text()
    assert source.count(mutant.right) == 1, f"{mutant.name}: the text to change stands there once"
    return {module_name(mutant.path): source.replace(mutant.right, mutant.wrong)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_can_still_be_put_back(mutant: Mutant) -> None:
    for source in changed(mutant).values():
        ast.parse(source)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(mutant: Mutant) -> None:
    tests = TESTS if mutant.name in BY_UNIT_TESTS else WORLD_ALONE
    assert try_mutant(changed(mutant), tests=tests, seeds=0).caught_by, mutant.name


@pytest.mark.slow
def test_the_unchanged_protocol_is_not_caught() -> None:
    path = "src/troth/core/twophase/table.py"
    source = {module_name(path): (ROOT / path).read_text()}
    assert not try_mutant(source, tests=(*TESTS, *WORLD_ALONE), seeds=0).caught_by
