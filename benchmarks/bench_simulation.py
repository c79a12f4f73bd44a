"""How fast whole servers are simulated: seeds of clusters of one size, under all faults and the load of the plan.

Told are the mean over seeds of simulated seconds a CPU second, and what all of them took together: slow seeds weigh
more in that. On a busy machine CPU time grows with what else runs, so that only figures taken in turns can be compared.
"""

import argparse
import os
import time
from statistics import mean

from troth.rehearsal.plan import draw
from troth.rehearsal.run import Outcome, Rehearsal

STRUCK = (
    *("partition", "flap", "reset", "crash", "power", "power_all", "pause", "clock", "slow_disk", "disk_hang"),
    *("full_disk", "failed_sync", "rot", "wipe", "transfer", "change", "compaction", "hint"),
)
"""Faults that are counted one by one."""


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
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60, help="of chaos")
    parser.add_argument("--consensus", default="raft")
    parser.add_argument("--best", type=int, default=1, help="of so many runs of each seed")
    options = parser.parse_args()
    seeds = range(1, options.seeds + 1)
    simulated_s = cpu_s = 0.0
    events = answered = faults = 0
    speeds = []
    for seed in seeds:
        took_s = []
        for _ in range(options.best):
            began_s = time.process_time()
            outcome = run(seed, options)
            took_s.append(time.process_time() - began_s)
        cpu_s += min(took_s)
        simulated_s += outcome.simulated_us / 1e6
        speeds.append(outcome.simulated_us / 1e6 / min(took_s))
        events += outcome.events
        answered += outcome.operations.get("ok", 0)
        faults += sum(outcome.faults.get(name, 0) for name in STRUCK)
    print(
        f"{options.servers} servers, {len(seeds)} seeds: {simulated_s:.0f} simulated s, {cpu_s:.1f} CPU s; in a "
        f"simulated second {events / simulated_s:.0f} events, {answered / simulated_s:.1f} recorded answers, "
        f"{faults / simulated_s:.2f} faults besides those of packets"
    )
    print(
        f"simulated s a CPU second: {mean(speeds):.1f} in the mean over seeds, {simulated_s / cpu_s:.1f} in all "
        f"(load of the machine {os.getloadavg()[0]:.1f})"
    )
    print(f"seeds of 60 simulated s a CPU minute: {simulated_s / cpu_s:.1f}")


if __name__ == "__main__":
    main()
