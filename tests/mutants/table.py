"""``python tests/mutants/table.py``: puts every pitfall back, and prints which check catches it (`make mutants`).

Two columns: the first test that fails, and the rule of the simulation that breaks, with the number of seeds it took.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from pitfalls import PITFALLS, Pitfall, changed_source, path_of
from trial import ROOT, Verdict, module_name, try_mutant


def try_pitfall(pitfall: Pitfall, seeds: int, seconds: int) -> tuple[Verdict, Verdict]:
    """By the tests, and by the simulation alone."""
    path = path_of(pitfall)
    sources = {module_name(path): changed_source(pitfall, (ROOT / path).read_text())}
    return try_mutant(sources), try_mutant(sources, tests=(), seeds=seeds, chaos_seconds=seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="pitfalls with this in their name")
    options = parser.parse_args()
    chosen = [pitfall for pitfall in PITFALLS if options.only in pitfall.name]
    print("| row | pitfall | met in | caught by | simulation: rule | seeds |\n|---|---|---|---|---|---|")
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda pitfall: try_pitfall(pitfall, options.seeds, options.seconds), chosen)
        for pitfall, (by_test, by_seed) in zip(chosen, results, strict=True):
            missed += not by_test.caught_by and not by_seed.caught_by
            rule = by_seed.caught_by.removeprefix("simulation: ") or "-"
            test = by_test.caught_by or "**nothing**"
            print(
                f"| {pitfall.row} | {pitfall.name} | {pitfall.found} | {test} | {rule} | {by_seed.seeds or '-'} |",
                flush=True,
            )
    print(f"\n{len(chosen)} pitfalls, {missed} caught by nothing")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
