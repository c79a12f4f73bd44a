"""``python -m troth.simulate``: run seeds; a red one prints what was broken and the command that replays it."""

import argparse
import sys
from collections import Counter

from troth.core.engines import ENGINES
from troth.simulate.run import Outcome, run_seed


def main() -> int:
    """Exit code 1 when a seed was red."""
    parser = argparse.ArgumentParser(prog="python -m troth.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone and tell what happened in it")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seconds", type=int, default=60, help="simulated seconds of chaos a seed (default 60)")
    parser.add_argument("--consensus", choices=sorted(ENGINES), default="raft", help="the engine (default raft)")
    parser.add_argument("--stop", action="store_true", help="stop at the first red seed")
    parser.add_argument("--digest", action="store_true", help="print the digest of everything that happened")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = run_seed(
            options.seed, chaos_seconds=options.seconds, record=options.digest, consensus=options.consensus
        )
        _tell(outcome)
        if options.digest:
            print(outcome.digest)
        return 1 if outcome.violation else 0
    return _campaign(options.first, options.seeds, options.seconds, consensus=options.consensus, stop=options.stop)


def _campaign(first: int, count: int, seconds: int, *, consensus: str, stop: bool) -> int:
    red = 0
    totals: Counter[str] = Counter()
    for seed in range(first, first + count):
        outcome = run_seed(seed, chaos_seconds=seconds, consensus=consensus)
        totals.update({"simulated seconds": outcome.simulated_us // 1_000_000, "commits": outcome.committed})
        totals.update({"reads": outcome.reads, "events": outcome.events})
        totals.update(outcome.faults)
        if sys.stderr.isatty():
            print(f"\r{seed - first + 1}/{count} seeds, {red} red", end="", file=sys.stderr, flush=True)
        if outcome.violation:
            red += 1
            print(f"seed {seed}: {outcome.violation}\n  replay: {outcome.replay}", flush=True)
            if stop:
                break
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{red} red; " + ", ".join(f"{count} {name}" for name, count in sorted(totals.items())))
    return 1 if red else 0


def _tell(outcome: Outcome) -> None:
    print(f"seed {outcome.plan.seed}: {outcome.plan.describe()}")
    print(f"{outcome.committed} commits, {outcome.reads} reads, {outcome.events} events")
    print("faults: " + ", ".join(f"{name} {count}" for name, count in outcome.faults.items()))
    print("told:   " + ", ".join(f"{name} {count}" for name, count in outcome.traces.items()))
    if outcome.violation:
        print("\n".join(outcome.last_events))
        print(f"violation: {outcome.violation}\nreplay: {outcome.replay}")


if __name__ == "__main__":
    sys.exit(main())
