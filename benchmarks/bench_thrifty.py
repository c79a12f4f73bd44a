"""What thrifty accepts save, and what they cost: five servers, pure cores moved by hand, every message counted.

    python benchmarks/bench_thrifty.py            writes the table of docs/raft-or-paxos.md, in some seconds

The same on every machine. A heartbeat is five ticks of 10 ms.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_engines import PAGE, Counted
from cluster.systems import VALUE

from troth.core.engines import EngineConfig

BEGIN, END = "<!-- thrifty: written by benchmarks/bench_thrifty.py -->", "<!-- thrifty: end -->"
SERVERS, LEADER, ASKED, SPARED = 5, 1, 2, 5
TICKS = 200
RATES = (1, 10)
"""Values proposed in a tick, one after the other."""
WAYS = {"Raft": ("raft", False), "Multi-Paxos": ("paxos", False), "thrifty": ("paxos", True)}


def cluster(way: str) -> Counted:
    """Five servers, of which the first has led for a while."""
    consensus, thrifty = WAYS[way]
    made = Counted(consensus, servers=SERVERS, config=EngineConfig(thrifty=thrifty))
    made.stage.elect(LEADER)
    made.run(20)
    made.taken()
    return made


def per_commit(way: str, rate: int) -> tuple[float, float, float]:
    """Messages and bytes for a commit, heartbeats included; and the mean number of ticks until all servers have it."""
    one = cluster(way)
    before, lag = one.stage.commit(LEADER), 0
    for _ in range(TICKS):
        one.propose(rate)
        one.run(1)
        lag += one.stage.commit(LEADER) - one.stage.commit(SPARED)
    one.run(20)
    commits = one.stage.commit(LEADER) - before
    messages, size = one.taken()
    return messages / commits, size / commits, lag / commits


def after_a_death(way: str, *, seen: bool) -> int:
    """A server that is asked dies between two heartbeats, and its connection breaks or not: the most ticks until the
    first value after that is chosen. All later ones are chosen at once."""
    worst = 0
    for offset in range(EngineConfig().heartbeat_ticks):
        one = cluster(way)
        one.propose(3)
        one.run(offset)
        one.stage.crash(ASKED)
        if seen:
            one.stage[LEADER].engine.unreachable(one.stage[ASKED].node_id)
        before, waited = one.stage.commit(LEADER), 0
        one.stage.propose(LEADER, VALUE)
        one.settle()
        while one.stage.commit(LEADER) == before:
            one.run(1)
            waited += 1
        worst = max(worst, waited)
        for count in range(20):
            one.propose(1)
            assert one.stage.commit(LEADER) == before + 2 + count
    return worst


def table() -> list[str]:
    lines = ["| five servers, values of 256 bytes | " + " | ".join(WAYS) + " |", "|---|" + "---|" * len(WAYS)]
    for rate in RATES:
        figures = [per_commit(way, rate) for way in WAYS]
        for place, name in enumerate(("messages for a commit", "bytes for a commit", "ticks until all have it")):
            shown = " | ".join(f"{each[place]:,.2f}" for each in figures)
            lines.append(f"| {rate} {'value' if rate == 1 else 'values'} a tick: {name} | {shown} |")
    for seen, name in ((True, "and its connection breaks"), (False, "and is silent")):
        shown = " | ".join(str(after_a_death(way, seen=seen)) for way in WAYS)
        lines.append(f"| one of those who are asked dies {name}: ticks that one commit waits, at most | {shown} |")
    return lines


def main() -> int:
    lines = table()
    print("\n".join(lines))
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    if tail:
        PAGE.write_text(f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
