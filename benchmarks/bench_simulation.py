"""How fast whole servers are simulated: seeds of clusters of one size, under all faults and the load of the plan.

The best of several runs of each seed counts. On a busy machine CPU time grows with what else runs, so that only figures
taken in turns can be compared.
"""

import argparse
import os
import time

from troth.rehearsal.plan import draw
from troth.rehearsal.run import Outcome, Rehearsal


def run(seed: int, options: argparse.Namespace) -> Outcome:
    """One seed; a red one ends the measurement."""
    plan = draw(seed, chaos_seconds=options.seconds, consensus=options.consensus, servers=options.servers)
    outcome = Rehearsal(plan).run()
    if outcome.violation:
        raise SystemExit(f"seed {seed}: {outcome.violation}")
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20, help="of chaos")
    parser.add_argument("--consensus", default="raft")
    parser.add_argument("--best", type=int, default=3, help="of so many runs of each seed")
    options = parser.parse_args()
    seeds = range(1, options.seeds + 1)
    simulated_s = cpu_s = 0.0
    events = 0
    for seed in seeds:
        took_s = []
        for _ in range(options.best):
            began_s = time.process_time()
            outcome = run(seed, options)
            took_s.append(time.process_time() - began_s)
        cpu_s += min(took_s)
        simulated_s += outcome.simulated_us / 1e6
        events += outcome.events
    print(
        f"{options.servers} servers, {len(seeds)} seeds: {simulated_s:.0f} simulated s, {events} events, "
        f"{cpu_s:.2f} CPU s: {simulated_s / cpu_s:.1f} simulated s a CPU second "
        f"(load of the machine {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    main()
