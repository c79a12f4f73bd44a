"""Known bugs above and below the core, put back one at a time into servers, storage and clients: the whole-server
simulation is to find each. ``python tests/mutants/servers.py`` prints what breaks, after how many seeds, and shrunk to
what; docs/verification-servers.md keeps what such runs have said, and which bugs are undecided.

Rows are numbers in the list that the pitfalls were collected in; 0: not from that list.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

ROOT = Path(__file__).parents[2]
CHAOS_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPitfall:
    """One bug: the text *old* of *file* (which must occur once) becomes *new*."""

    name: str
    row: int
    file: str
    old: str
    new: str


SERVER_PITFALLS = (
    ServerPitfall(
        name="a retry is applied again: sessions remember no answers",
        row=36,
        file="replica/sessions.py",
        old="        self._sessions[session_id].results[first_seq] = results\n",
        new="",
    ),
    ServerPitfall(
        name="a failed sync is taken for a good one",
        row=26,
        file="storage/log.py",
        old="        except OSError as error:\n            raise SyncFailed(",
        new="        except OSError as error:\n            return\n            raise SyncFailed(",
    ),
    ServerPitfall(
        name="what must wait for the disk leaves when it is handed to it",
        row=2,
        file="runtime/node.py",
        old="while outbox and outbox[0][0] <= self._durable:",
        new="while outbox and outbox[0][0] <= self._submitted:",
    ),
    ServerPitfall(
        name="a linearizable read is served from the state at hand",
        row=13,
        file="replica/reading.py",
        old="            case LevelName.LINEARIZABLE:\n                self._reads.wait_point(waiting)",
        new="            case LevelName.LINEARIZABLE:\n                serve(-1)",
    ),
    ServerPitfall(
        name="a session read does not wait for what the session has seen",
        row=0,
        file="replica/reading.py",
        old="if self.machine.store.revision >= level.seen_revision:",
        new="if self.machine.store.revision >= 0:",
    ),
    ServerPitfall(
        name="a snapshot leaves the sessions out",
        row=36,
        file="replica/machine.py",
        old="StateHeader(STATE_VERSION, sessions, next_session)",
        new="StateHeader(STATE_VERSION, [], next_session)",
    ),
    ServerPitfall(
        name="a watch that moves begins one revision too late",
        row=0,
        file="client/watch.py",
        old="0 if self._from_now else self._next_revision,",
        new="0 if self._from_now else self._next_revision + 1,",
    ),
    ServerPitfall(
        name="a watch that moves shows what it has shown",
        row=0,
        file="client/watch.py",
        old="events = [event for event in events if event.kv.mod_revision >= next_revision]",
        new="pass",
    ),
    ServerPitfall(
        name="what was committed while a snapshot is loaded is not applied",
        row=23,
        file="replica/replica.py",
        old="        backlog, self._backlog = self._backlog, []\n",
        new="        backlog, self._backlog = [], []\n",
    ),
    ServerPitfall(
        name="log segments go that are still needed",
        row=0,
        file="storage/log.py",
        old="self._segments[0].top < keep_from:",
        new="self._segments[0].top < keep_from + 20:",
    ),
    ServerPitfall(
        name="a snapshot gets its name before it is on the disk",
        row=25,
        file="storage/snapshots.py",
        old="        _sync(self._file, self._name)\n        self._file.close()\n        self._store._publish",
        new="        self._file.close()\n        self._store._publish",
    ),
    ServerPitfall(
        name="a transaction compares one key too few",
        row=0,
        file="kv/txn.py",
        old="all(holds(space, compare) for compare in txn.compare)",
        new="all(holds(space, compare) for compare in txn.compare[1:])",
    ),
    ServerPitfall(
        name="a client takes a batch of unknown outcome for one that was never sent",
        row=36,
        file="client/writes.py",
        old="self.session, self.first_seq = session, first_seq\n",
        new="self.session, self.first_seq = session, first_seq\n        session = 0\n",
    ),
    ServerPitfall(
        name="who joins believes a follower that its name is taken",
        row=0,
        file="runtime/genesis.py",
        old="if status.node_id != status.leader:",
        new="if False:",
    ),
)


def changed(pitfall: ServerPitfall) -> tuple[str, str]:
    """Name and text of the module with the bug in it. Raises ValueError when the text to change is not there once."""
    source = (ROOT / "src/troth" / pitfall.file).read_text()
    if source.count(pitfall.old) != 1:
        raise ValueError(f"{pitfall.name}: the text to change occurs {source.count(pitfall.old)} times")
    module = "troth." + pitfall.file.removesuffix(".py").replace("/", ".")
    return module, source.replace(pitfall.old, pitfall.new)


@dataclass(frozen=True, slots=True)
class Found:
    """What broke (empty: nothing did), after how many seeds, and what is left of the run."""

    rule: str
    seeds: int = 0
    faults: int = 0
    operations: int = 0
    shrink_s: float = 0.0


def find(pitfall: ServerPitfall, *, seeds: int, shrink_within_s: float, first: int = 0) -> Found:
    """Run seeds on the changed code, in a process of its own, until one is red; then make that one small."""
    with NamedTemporaryFile("w+", suffix=".found") as told:
        child = os.fork()
        if child == 0:
            signal.alarm(30 + 5 * seeds + int(shrink_within_s) * 2)
            code = 1
            try:
                code = _search(pitfall, seeds, first, shrink_within_s, told.name)
            finally:
                os._exit(code)
        os.waitpid(child, 0)
        told.seek(0)
        lines = told.read().splitlines()
    if not lines:
        return Found("")
    return Found(lines[0], *(int(each) for each in lines[1:4]), float(lines[4]))


def _search(pitfall: ServerPitfall, seeds: int, first: int, shrink_within_s: float, told: str) -> int:
    from trial import _Changed, _forget_project

    module, source = changed(pitfall)
    _forget_project()
    sys.meta_path.insert(0, _Changed({module: source}))
    from troth.rehearsal.levels import SERVERS
    from troth.simulate.shrink import rule_of

    for seed in range(first, first + seeds):
        plan = SERVERS.draw(seed, CHAOS_SECONDS, "raft")
        violation = SERVERS.run(plan).violation
        if not violation:
            continue
        began_s = time.process_time()
        end_s = began_s + shrink_within_s

        def expired(end_s: float = end_s) -> bool:
            return time.process_time() > end_s

        small = SERVERS.shrinker(expired).shrink(plan) if shrink_within_s else None
        faults, operations = (small.faults, small.operations) if small else (0, 0)
        Path(told).write_text(
            f"{rule_of(violation)[:100]}\n{seed - first + 1}\n{faults}\n{operations}\n"
            f"{time.process_time() - began_s:.1f}\n"
        )
        return 1
    return 0


HEADER = """# Bugs put back into servers, storage and clients

What the simulation of whole servers (docs/simulation.md) breaks when a known bug is back, the number of seeds of 10
simulated seconds that it took, and what the red run shrinks to in the CPU time given (--within, in seconds). Rows are
numbers in the list that the pitfalls were collected in. The table is what one run printed: `{command}`, {commit}.

| row | pitfall | broken | seeds | shrunk to |
|---|---|---|---|---|"""


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return f"commit {done.stdout.strip() or 'unknown'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--within", type=float, default=30.0, help="seconds of CPU for making a red seed small")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(HEADER.format(command=" ".join(["python tests/mutants/servers.py", *sys.argv[1:]]), commit=_commit()))
    missed = 0
    for pitfall in SERVER_PITFALLS:
        if options.only not in pitfall.name:
            continue
        found = find(pitfall, seeds=options.seeds, shrink_within_s=options.within)
        missed += not found.rule
        small = (
            f"{found.faults} faults, {found.operations} operations ({found.shrink_s:.0f} s)" if found.rule else "-"
        )
        broken = found.rule or "**nothing**"
        print(f"| {pitfall.row or '-'} | {pitfall.name} | {broken} | {found.seeds or '-'} | {small} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
