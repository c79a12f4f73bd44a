"""``python tests/mutants/survivors.py [FILE...]``: tries every generic mutant of the core, and prints who survives.

Takes minutes; not part of any test run. ``--seeds N`` also tries the survivors in the simulation.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from generic import Mutant, mutants_of
from trial import ROOT, Verdict, module_name, try_mutant

FILES = (
    "src/troth/core/quorum.py",
    "src/troth/core/membership.py",
    "src/troth/core/config.py",
    *(
        f"src/troth/core/raft/{name}.py"
        for name in (
            *("log", "progress", "messages", "state", "replication", "snapshots"),
            *("reads", "changes", "elections", "node"),
        )
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    survived = total = 0
    for path in options.files:
        found = list(mutants_of(path.removeprefix("src/troth/"), (ROOT / path).read_text()))

        def attempt(mutant: Mutant, path: str = path) -> tuple[Mutant, Verdict]:
            return mutant, try_mutant({module_name(path): mutant.source}, seeds=options.seeds)

        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, verdict in pool.map(attempt, found):
                total += 1
                if not verdict.caught_by:
                    survived += 1
                    print(f"SURVIVED {mutant.name}", flush=True)
                elif verdict.caught_by.startswith("simulation"):
                    print(f"by {verdict.caught_by} after {verdict.seeds} seeds: {mutant.name}", flush=True)
        print(f"# {path}: {len(found)} mutants", flush=True)
    print(f"{total} mutants, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
