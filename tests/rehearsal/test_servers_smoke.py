"""Whole servers and real clients on virtual time: seeds that must be green, and proof that faults happen."""

import asyncio
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from troth.errors import InvariantViolation
from troth.rehearsal.judge import judge_consistency
from troth.rehearsal.levels import decode_scenario
from troth.rehearsal.loop import Clock, ProcessLoop
from troth.rehearsal.network import Network
from troth.rehearsal.plan import draw
from troth.rehearsal.run import Outcome, Rehearsal, run_seed
from troth.simulate.choices import Choices
from troth.simulate.world import World
from troth.verify.history import EventType

PINNED = sorted(Path(__file__).with_name("pinned").glob("*.json"))


def assert_green(outcome: Outcome) -> None:
    assert not outcome.violation, "\n".join(
        [outcome.plan.describe(), *outcome.last_events, outcome.trace, outcome.violation]
    )


@pytest.mark.parametrize("seed", range(1, 13))
def test_smoke_seed_keeps_every_promise(seed: int) -> None:
    outcome = run_seed(seed, chaos_seconds=10)
    assert_green(outcome)
    assert outcome.committed > 0 and outcome.operations["ok"] > 0


@pytest.mark.parametrize("seed", range(1, 7))
def test_smoke_seed_of_paxos_keeps_every_promise(seed: int) -> None:
    outcome = run_seed(seed, chaos_seconds=8, consensus="paxos")
    assert_green(outcome)
    assert outcome.committed > 0 and outcome.operations["ok"] > 0


@pytest.mark.parametrize("pinned", PINNED, ids=lambda pinned: pinned.stem)
def test_run_that_was_red_once_is_green(pinned: Path) -> None:
    """Whole plans, since what is drawn for a seed changes; each holds what was violated."""
    report = decode_scenario(pinned.read_bytes()).run()
    assert not report.violation, report.violation


@pytest.mark.parametrize("permille", [1000, 1100, 900])
def test_whoever_waits_for_what_is_left_of_a_deadline_gets_there(permille: int) -> None:
    """However little is left, and however the process's clock runs: time goes on."""
    world = World()
    clock = Clock(world)
    clock.set_rate(permille)
    errors: list[BaseException] = []
    network = Network(world, draw(1, chaos_seconds=1), Choices(), random.Random(1))
    loop = ProcessLoop(world, network, "p", clock, errors.append)
    waits: list[float] = []

    async def wait_until(deadline: float) -> None:
        while (left_s := deadline - loop.time()) > 0 and len(waits) < 10:
            waits.append(left_s)
            await asyncio.sleep(left_s)

    loop.create_task(wait_until(0.9999999e-6))
    loop.create_task(wait_until(1.2487e-3))
    world.run_until(2_000_000)
    assert not errors and loop.time() >= 1.2487e-3
    assert len(waits) < 10


FAULTS = (
    *("partition", "flap", "reset", "crash", "power", "power_all", "pause", "clock", "slow_disk", "disk_hang"),
    *("full_disk", "failed_sync", "rot", "wipe", "transfer", "change", "compaction", "hint", "late follower"),
    *("loss", "duplicate", "garble", "late", "stalled", "cut"),
    *("disk sync_failed", "disk no_space", "disk rot", "disk sector_write_lost"),
)
TOLD = (
    *("QuotaExceeded", "leases relied on", "transfers", "audits", "fresh watches", "sweeps"),
    *("leader", "truncate", "install", "snapshot", "membership", "transfer", "quorum_lost"),
)


@pytest.mark.slow
def test_every_kind_of_fault_really_happens() -> None:
    """Counted where it takes effect, over as many seeds as that needs."""
    missing = {*FAULTS, *TOLD}
    for seed in range(500, 600):
        outcome = run_seed(seed, chaos_seconds=30)
        assert_green(outcome)
        for counts in (outcome.faults, outcome.traces, outcome.operations):
            missing -= {name for name, count in counts.items() if count}
        if not missing:
            return
    raise AssertionError(f"never happened: {sorted(missing)}")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20_000, 20_060, 20))
def test_many_seeds_keep_every_promise(first: int) -> None:
    for seed in range(first, first + 20):
        assert_green(run_seed(seed, chaos_seconds=45))


def test_same_seed_same_bytes_in_any_process() -> None:
    """Two processes with different hash salts send the same bytes at the same times."""
    program = (
        "from troth.rehearsal.run import run_seed\n"
        "outcome = run_seed(8, chaos_seconds=8, traffic=True)\n"
        "print(outcome.digest, outcome.violation, outcome.events)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": salt},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for salt in ("1", "77")
    }
    assert len(told) == 1


def test_other_seed_other_bytes() -> None:
    one, other = (run_seed(seed, chaos_seconds=2, traffic=True).digest for seed in (8, 9))
    assert one != other


def test_leaderless_registers_are_used_beside_the_log() -> None:
    """A seed with clients of registers: they are answered while servers fail, and what they saw is judged."""
    plan = replace(draw(4, chaos_seconds=5), calm=False, servers=3, register_clients=3, think_us=20_000)
    rehearsal = Rehearsal(plan)
    outcome = rehearsal.run()
    assert not outcome.violation, outcome.violation
    assert outcome.operations["register"] > 20
    # One answer that is wrong is noticed.
    answered = next(
        number
        for number, event in enumerate(rehearsal.record.cells)
        if event.type is EventType.OK and event.f == "get" and event.value is not None
    )
    rehearsal.record.cells[answered] = msgspec.structs.replace(rehearsal.record.cells[answered], value="nobody's")
    with pytest.raises(InvariantViolation, match=r"not linearizable \(registers\)"):
        judge_consistency(rehearsal.record)
