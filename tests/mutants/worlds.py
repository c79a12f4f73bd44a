"""The simulations that a mutant is tried in: what runs one seed, and what makes a red one small."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from troth.simulate.registers.plan import Plan
    from troth.simulate.registers.run import Outcomes

# Nothing of the project is imported before a mutant is in place.

REGISTERS_MS = 100
TRANSACTIONS = 8
SMALL_SEEDS = 100
"""Seeds that a world with fewer transactions is given to break the same rule."""

RESULTS = frozenset(
    {
        *("ok", "append", "unknown", "not applied", "decided", "already decided", "collected", "not collected"),
        *("acceptors changed", "acceptors not changed"),
    }
)
"""What the registers' simulation counts as an operation; all else are faults."""


def rule_of(violation: str) -> str:
    """A violation without what belongs to one run: numbers of seeds and ticks, names of transactions, facts."""
    rule = re.sub(r"^\d+: ", "", violation)
    rule = re.sub(r"t2pc\.\S+|\b\S*\.c[01]\.\S+", "a transaction", rule)
    return re.sub(r"\s*[({:]?\s*[({].*", "", rule, flags=re.DOTALL).strip()


def runner(simulation: str, chaos_seconds: int) -> Callable[[int], str]:
    """What runs one seed, and says what was violated."""
    match simulation:
        case "registers":
            from troth.simulate.registers.run import run_seed as run_registers

            return lambda seed: run_registers(seed, chaos_ms=REGISTERS_MS).violation
        case "twophase":
            from troth.simulate.twophase import World

            return lambda seed: next(iter(World(seed, transactions=TRANSACTIONS).run()), "")
        case "servers":
            from troth.rehearsal.run import run_seed as run_servers

            return lambda seed: run_servers(seed, chaos_seconds=chaos_seconds).violation
        case _:
            from troth.simulate.run import run_seed

            consensus = "paxos" if simulation == "paxos" else "raft"
            return lambda seed: run_seed(seed, chaos_seconds=chaos_seconds, consensus=consensus).violation


def shrunk(simulation: str, seed: int, rule: str, *, chaos_seconds: int, cpu_seconds: int) -> str:
    """What a red seed can be made of, found within that much CPU time; empty if that is not known."""
    end = time.process_time() + cpu_seconds

    def expired() -> bool:
        return time.process_time() > end

    match simulation:
        case "registers":
            return _shrunk_registers(seed, rule, expired)
        case "twophase":
            return _shrunk_twophase(rule, expired)
        case _:
            from troth.rehearsal.levels import LEVELS, Scenario

            level = LEVELS["server" if simulation == "servers" else "core"]
            consensus = "paxos" if simulation == "paxos" else "raft"
            plan = level.draw(seed, chaos_seconds, consensus)
            made = Scenario(level=level, plan=plan).shrunk(expired)
            return f"{made[1].faults} faults, {made[1].operations} operations" if made else ""


def _shrunk_twophase(rule: str, expired: Callable[[], bool]) -> str:
    from troth.simulate.twophase import World

    for count in range(1, TRANSACTIONS):
        for seed in range(SMALL_SEEDS):
            if expired():
                return ""
            if any(rule_of(each) == rule for each in World(seed, transactions=count).run()):
                return f"{count} transaction{'s' * (count > 1)} of each owner"
    return ""


def _shrunk_registers(seed: int, rule: str, expired: Callable[[], bool]) -> str:
    from troth.simulate.registers.plan import draw
    from troth.simulate.registers.run import Simulation

    plan = draw(seed, chaos_ms=REGISTERS_MS)
    outcome: Outcomes | None = None
    smaller = True
    while smaller and not expired():
        smaller = False
        for simpler in _simpler(plan):
            if expired():
                break
            try:
                tried = Simulation(simpler).run()
            except Exception:  # noqa: BLE001 - another bug than the one that is made small
                continue
            if rule_of(tried.violation) == rule:
                plan, outcome, smaller = simpler, tried, True
                break
    if outcome is None:
        return ""
    operations = sum(count for name, count in outcome.counts.items() if name in RESULTS)
    return f"{sum(outcome.counts.values()) - operations} faults, {operations} operations"


def _simpler(plan: "Plan") -> "Iterator[Plan]":
    """*plan* with less of one thing, what saves most first."""
    if plan.chaos_us > 1000:
        yield replace(plan, chaos_us=plan.chaos_us // 2)
    for name in (
        *("partition_us", "crash_us", "crash_all", "compact_us", "client_crash_us", "change_us", "spares"),
        *("loss", "duplicate", "delay_long", "keep_unsynced", "disk_us"),
    ):
        if getattr(plan, name):
            yield replace(plan, **{name: 0})
    for name in ("wipe", "deletes", "real_storage"):
        if getattr(plan, name):
            yield replace(plan, **{name: False})
    for name in ("clients", "processes", "keys"):
        if getattr(plan, name) > 1:
            yield replace(plan, **{name: 1})
