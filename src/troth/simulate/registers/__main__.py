"""``python -m troth.simulate.registers``: run seeds; a red one tells how to replay it."""

import argparse
import sys
from collections import Counter

from troth.simulate.registers.run import run_seed


def main() -> int:
    """Exit code 1 when a seed was red."""
    parser = argparse.ArgumentParser(prog="python -m troth.simulate.registers", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone and tell what happened in it")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--ms", type=int, default=300, help="simulated milliseconds of chaos a seed (default 300)")
    parser.add_argument("--stop", action="store_true", help="stop at the first red seed")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else (options.seed,)
    totals: Counter[str] = Counter()
    red = 0
    for seed in seeds:
        outcome = run_seed(seed, chaos_ms=options.ms)
        totals.update(outcome.counts)
        totals["events"] += outcome.events
        if outcome.violation:
            red += 1
            print(
                f"seed {seed}: {outcome.violation}\n  {outcome.plan.describe()}\n  replay: {outcome.replay}",
                flush=True,
            )
            if options.stop:
                break
    print(f"{red} red; " + ", ".join(f"{count} {name}" for name, count in sorted(totals.items())))
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
