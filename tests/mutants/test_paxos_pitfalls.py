"""Every known bug, put back into Multi-Paxos, is caught: by a test of a rule, and most of them by the simulation."""

import ast
import sys

import pytest
from paxos_pitfalls import PAXOS_PITFALLS, TESTS
from pitfalls import Pitfall
from trial import ROOT, Verdict, module_name, try_mutant


def mutated(pitfall: Pitfall) -> str:
    text = (ROOT / pitfall.file).read_text()
    assert text.count(pitfall.old) == 1, f"{pitfall.name}: its text occurs {text.count(pitfall.old)} times"
    return text.replace(pitfall.old, pitfall.new)


def tried(pitfall: Pitfall, *, seeds: int = 0, first: int = 0) -> Verdict:
    sources = {module_name(pitfall.file): mutated(pitfall)}
    return try_mutant(sources, tests=() if seeds else TESTS, seeds=seeds, first=first, simulation="paxos")


@pytest.mark.parametrize("pitfall", PAXOS_PITFALLS, ids=lambda pitfall: pitfall.name)
def test_paxos_pitfall_can_still_be_put_back(pitfall: Pitfall) -> None:
    ast.parse(mutated(pitfall))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("pitfall", PAXOS_PITFALLS, ids=lambda pitfall: pitfall.name)
def test_paxos_pitfall_is_caught(pitfall: Pitfall) -> None:
    assert tried(pitfall).caught_by, pitfall.name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("name", ["the first value reported wins", "the last value reported wins"])
def test_the_simulation_alone_sees_values_merged_in_a_wrong_order(name: str) -> None:
    """Agreement breaks only in rare runs, so what each promise asks for is held against the proposals."""
    verdict = tried(next(each for each in PAXOS_PITFALLS if each.name == name), seeds=40, first=1000)
    assert verdict.caught_by.startswith("simulation: a new leader proposes another value"), verdict


BY_RULE = {
    "a leader of a lower ballot is not told": "does not tell an older term of the newer",
    "the old quorum alone elects a leader that has heard of new voters": "leads without the promises of a quorum",
    "the slot behind a membership is counted with gaps before it": "a leaving is announced to the world before",
}
"""Bugs that hurt a cluster only together with others, and the rule by which the simulation sees them all the same."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("name", BY_RULE)
def test_the_simulation_alone_finds_it_within_100_seeds(name: str) -> None:
    verdict = tried(next(each for each in PAXOS_PITFALLS if each.name == name), seeds=100)
    assert verdict.caught_by.startswith(f"simulation: {BY_RULE[name]}"), verdict


def main() -> int:
    """``python tests/mutants/test_paxos_pitfalls.py``: which check catches each, and how many seeds it takes."""
    print("| pitfall | caught by | simulation: rule | seeds |\n|---|---|---|---|")
    missed = 0
    for pitfall in PAXOS_PITFALLS:
        by_test, by_seed = tried(pitfall), tried(pitfall, seeds=600)
        missed += not by_test.caught_by and not by_seed.caught_by
        rule = by_seed.caught_by.removeprefix("simulation: ") or "-"
        test = by_test.caught_by or "**nothing**"
        print(f"| {pitfall.name} | {test} | {rule} | {by_seed.seeds or '-'} |", flush=True)
    print(f"\n{len(PAXOS_PITFALLS)} pitfalls, {missed} caught by nothing")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
