"""Seeds of the simulated cluster: a few in every check, many in the full test, and those that were red once."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from troth.core.engines import ENGINES
from troth.simulate.plan import draw
from troth.simulate.run import Outcome, run_seed

PINNED = tomllib.loads(Path(__file__).with_name("seeds.toml").read_text())["seed"]


def assert_green(outcome: Outcome) -> None:
    assert not outcome.violation, "\n".join([*outcome.last_events, outcome.violation, outcome.replay])


def is_thrifty(seed: int) -> bool:
    """Whether a Paxos leader spares acceptors in this seed."""
    return draw(seed, chaos_seconds=8, consensus="paxos").config.thrifty


@pytest.mark.parametrize("consensus", sorted(ENGINES))
@pytest.mark.parametrize("seed", range(12))
def test_smoke_seed_keeps_every_invariant(seed: int, consensus: str) -> None:
    outcome = run_seed(seed, chaos_seconds=8, consensus=consensus)
    assert_green(outcome)
    assert outcome.committed > 0


@pytest.mark.parametrize("seed", [seed for seed in range(12, 60) if is_thrifty(seed)][:10])
def test_smoke_seed_keeps_every_invariant_with_acceptors_spared(seed: int) -> None:
    outcome = run_seed(seed, chaos_seconds=8, consensus="paxos")
    assert_green(outcome)
    assert outcome.committed > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(20_000, 20_300, 50))
def test_many_seeds_keep_every_invariant_with_acceptors_spared(first: int) -> None:
    for seed in filter(is_thrifty, range(first, first + 50)):
        assert_green(run_seed(seed, chaos_seconds=20, consensus="paxos"))


@pytest.mark.parametrize(
    "pinned",
    [
        pytest.param(pinned, id=str(pinned["seed"]), marks=[pytest.mark.slow] if pinned["seconds"] > 8 else [])
        for pinned in PINNED
    ],
)
def test_seed_that_was_red_once_is_green(pinned: dict[str, Any]) -> None:
    consensus = pinned.get("consensus", "raft")
    assert_green(run_seed(pinned["seed"], chaos_seconds=pinned["seconds"], consensus=consensus))


def test_a_multi_paxos_leader_elected_by_late_promises_is_no_danger_to_a_lease() -> None:
    """A red seed once: the invariant was wrong, since the later leader has the same acceptors."""
    assert_green(run_seed(100_010, chaos_seconds=8, consensus="paxos"))


@pytest.mark.slow
@pytest.mark.parametrize("consensus", sorted(ENGINES))
@pytest.mark.parametrize("first", range(10_000, 10_300, 50))
def test_many_seeds_keep_every_invariant(first: int, consensus: str) -> None:
    for seed in range(first, first + 50):
        assert_green(run_seed(seed, chaos_seconds=20, consensus=consensus))


@pytest.mark.campaign
@pytest.mark.parametrize("first", range(100_000, 105_000, 100))
def test_thousands_of_seeds_keep_every_invariant(first: int) -> None:
    for seed in range(first, first + 100):
        assert_green(run_seed(seed, chaos_seconds=20))


@pytest.mark.slow
def test_faults_really_happen() -> None:
    """Every kind of fault that a plan can hold has happened within the first seeds."""
    seen: dict[str, int] = {}
    traces: dict[str, int] = {}
    for seed in range(300, 330):
        outcome = run_seed(seed, chaos_seconds=5)
        assert_green(outcome)
        for counts, into in ((outcome.faults, seen), (outcome.traces, traces)):
            for name, count in counts.items():
                into[name] = into.get(name, 0) + count
    faults = ("lost", "duplicated", "cut", "late", "partition", "one_way", "bridge", "crash", "crash_all", "pause")
    for name in (
        *faults,
        "shortened",
        "rot",
        "change_then_crash",
        "disk_hang",
        "clock",
        "wrong_hint",
        "transfer",
        "change",
        "compaction",
    ):
        assert seen.get(name), f"{name} never happened: {seen}"
    for name in (
        "truncate",
        "install",
        "membership",
        "removed",
        "quorum_lost",
        "disregarded",
        "leader_died",
        "transfer",
    ):
        assert traces.get(name), f"no engine ever told {name}: {traces}"


def test_same_seed_same_trace_in_any_process() -> None:
    """Two processes with different hash salts see the same bytes in the same order."""
    command = [
        *(sys.executable, "-m", "troth.simulate", "replay", "5", "--level", "core"),
        *("--seconds", "6", "--digest"),
    ]
    digests = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": salt}, check=True, capture_output=True, text=True
        ).stdout
        for salt in ("1", "77")
    }
    assert len(digests) == 1


def test_other_seed_other_trace() -> None:
    assert run_seed(5, chaos_seconds=3, record=True).digest != run_seed(6, chaos_seconds=3, record=True).digest
