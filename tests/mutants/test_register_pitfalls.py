"""Every known bug, put back into the registers, is caught: by a test of a rule, and most of them by the simulation."""

import ast
import sys

import pytest
from pitfalls import Pitfall
from register_pitfalls import REGISTER_PITFALLS, TESTS
from trial import ROOT, Verdict, module_name, try_mutant


def mutated(pitfall: Pitfall) -> str:
    text = (ROOT / pitfall.file).read_text()
    assert text.count(pitfall.old) == 1, f"{pitfall.name}: its text occurs {text.count(pitfall.old)} times"
    return text.replace(pitfall.old, pitfall.new)


def tried(pitfall: Pitfall, *, seeds: int = 0) -> Verdict:
    sources = {module_name(pitfall.file): mutated(pitfall)}
    return try_mutant(sources, tests=() if seeds else TESTS, seeds=seeds, simulation="registers")


@pytest.mark.parametrize("pitfall", REGISTER_PITFALLS, ids=lambda pitfall: pitfall.name)
def test_register_pitfall_can_still_be_put_back(pitfall: Pitfall) -> None:
    ast.parse(mutated(pitfall))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("pitfall", REGISTER_PITFALLS, ids=lambda pitfall: pitfall.name)
def test_register_pitfall_is_caught(pitfall: Pitfall) -> None:
    assert tried(pitfall).caught_by, pitfall.name


BY_RULE = {
    "an accepted state is not written": "a promise was forgotten",
    "a ballot is used twice": "two values at one ballot",
    "the lowest accepted state is adopted": "not linearizable",
    "a change in doubt is made again": "an append is answered wrongly",
    "a decided register can be changed": "decided twice",
    "the scan of a change hears a phase-1 quorum alone": "an acknowledged change is lost",
}
"""A bug for each rule of the simulation's judge."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("name", BY_RULE)
def test_the_simulation_alone_finds_it_within_100_seeds(name: str) -> None:
    verdict = tried(next(each for each in REGISTER_PITFALLS if each.name == name), seeds=100)
    assert verdict.caught_by.startswith(f"simulation: {BY_RULE[name]}"), verdict


def main() -> int:
    """``python tests/mutants/test_register_pitfalls.py``: which check catches each, and how many seeds it takes."""
    print("| pitfall | caught by | simulation: rule | seeds |\n|---|---|---|---|")
    missed = 0
    for pitfall in REGISTER_PITFALLS:
        by_test, by_seed = tried(pitfall), tried(pitfall, seeds=600)
        missed += not by_test.caught_by and not by_seed.caught_by
        rule = by_seed.caught_by.removeprefix("simulation: ") or "-"
        test = by_test.caught_by or "**nothing**"
        print(f"| {pitfall.name} | {test} | {rule} | {by_seed.seeds or '-'} |", flush=True)
    print(f"\n{len(REGISTER_PITFALLS)} pitfalls, {missed} caught by nothing")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
