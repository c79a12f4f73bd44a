"""Every known pitfall, put back, is caught: by a test of the core, in this very run."""

import ast
import sys

import pytest
from generic import mutants_of
from pitfalls import PITFALLS, Pitfall, changed_source, path_of
from trial import ROOT, module_name, try_mutant


@pytest.mark.parametrize("pitfall", PITFALLS, ids=lambda pitfall: pitfall.name)
def test_pitfall_can_still_be_put_back(pitfall: Pitfall) -> None:
    """The text that a mutant changes is still there, and the result is Python."""
    ast.parse(changed_source(pitfall, (ROOT / path_of(pitfall)).read_text()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("pitfall", PITFALLS, ids=lambda pitfall: pitfall.name)
def test_pitfall_is_caught(pitfall: Pitfall) -> None:
    path = path_of(pitfall)
    sources = {module_name(path): changed_source(pitfall, (ROOT / path).read_text())}
    assert try_mutant(sources).caught_by, pitfall.name


def test_a_trial_of_the_unchanged_core_catches_nothing() -> None:
    """Or else every mutant would seem to be caught."""
    path = "src/troth/core/quorum.py"
    source = {module_name(path): (ROOT / path).read_text()}
    assert not try_mutant(source, tests=("tests/unit/core/test_quorum.py",), seeds=1, chaos_seconds=2).caught_by


def test_a_trial_names_what_caught_a_mutant() -> None:
    path = "src/troth/core/quorum.py"
    broken = {module_name(path): (ROOT / path).read_text().replace("count // 2 + 1", "1")}
    assert try_mutant(broken, tests=("tests/unit/core/test_quorum.py",)).caught_by.startswith("test_quorum.py::")
    by_seed = try_mutant(broken, tests=(), seeds=50, chaos_seconds=5)
    assert by_seed.caught_by.startswith("simulation: ")
    assert by_seed.seeds >= 1


def test_generic_mutants_are_many_and_each_is_python_and_different() -> None:
    source = (ROOT / "src/troth/core/quorum.py").read_text()
    plain = ast.unparse(ast.parse(source))
    found = list(mutants_of("quorum.py", source))
    assert len(found) > 40
    assert all(mutant.source != plain for mutant in found)
    for mutant in found:
        ast.parse(mutant.source)
