"""Every known pitfall, put back, is caught: by a test of the core, in this very run."""

import ast
import sys

import pytest
from generic import mutants_of
from pitfalls import PITFALLS, Pitfall, changed_source, first_tests, path_of
from trial import ROOT, Verdict, module_name, try_mutant

pytestmark = pytest.mark.slow


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
    first = first_tests(pitfall)
    assert (first and try_mutant(sources, tests=first).caught_by) or try_mutant(sources).caught_by, pitfall.name


BY_RULE = {
    "commit an earlier term's entry by counting replicas": "a leader commits through an entry of an older term",
    "truncate on any append with an older previous index": "writes anew what it has acknowledged",
    "what is compacted counts as a conflict": "rejects what it has compacted",
    "answers of an older term count": "leads without the votes of a quorum",
    "a read is answered without a quorum": "a read is not confirmed by a quorum",
    "a truncated membership stays in force": "another membership than the newest in its log",
    "a change while another is not committed": "a change before the last has committed",
    "entries are accepted while leadership is offered": "takes a command while it gives up leadership",
    "pre-vote without check-quorum": "leads though no quorum answers",
    "check-quorum without disregarding disruptive candidates": "a candidate disturbs who hears a leader",
    "a repeated request of the same candidate is refused": "denies the vote it has given",
    "a leader of an older term is not told": "does not tell an older term of the newer",
    "a follower in flight is not bounded": "too much in flight",
}
"""Bugs that hardly ever hurt a cluster, and the rule by which the simulation sees them all the same."""

FIRST = {"answers of an older term count": 100}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("name", BY_RULE)
def test_the_simulation_alone_finds_it_within_100_seeds(name: str) -> None:
    """And names the rule, so that no rule is one that can not break."""
    pitfall = next(each for each in PITFALLS if each.name == name)
    path = path_of(pitfall)
    sources = {module_name(path): changed_source(pitfall, (ROOT / path).read_text())}
    # Where the first red seed breaks another rule as well, and before this one, the search begins behind it.
    verdict = try_mutant(sources, tests=(), seeds=100, first=FIRST.get(name, 0), chaos_seconds=8)
    assert verdict.caught_by.startswith(f"simulation: {BY_RULE[name]}"), verdict


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


def test_a_trial_says_which_tests_it_could_not_ask() -> None:
    """And does not take it for a failure that none of a file's tests is quick."""
    path = "src/troth/verify/specification/explore.py"
    slow = "tests/unit/verify/specification/test_specification_explorer.py"
    verdict = try_mutant({module_name(path): (ROOT / path).read_text()}, tests=(slow,))
    assert verdict == Verdict("", not_asked=("test_specification_explorer.py",))


@pytest.mark.parametrize(
    ("body", "died_of"),
    [("return majorities(count)", "NameError: name 'majorities' is not defined"), ("return 1", "")],
)
def test_a_trial_says_whether_a_mutant_died_of_an_error_of_its_own(body: str, died_of: str) -> None:
    path = "src/troth/core/quorum.py"
    broken = (ROOT / path).read_text().replace("return count // 2 + 1", body)
    verdict = try_mutant({module_name(path): broken}, tests=("tests/unit/core/test_quorum.py",))
    assert verdict.caught_by
    assert verdict.died_of == died_of
