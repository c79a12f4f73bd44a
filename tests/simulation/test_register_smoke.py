"""Leaderless registers under every fault: a few seeds in each check, many in the full test."""

import subprocess
import sys
from collections import Counter

import pytest

from troth.simulate.registers.run import Outcomes, run_seed

FAULTS = (
    *(
        "lost",
        "late",
        "duplicated",
        "partition",
        "crash",
        "client crash",
        "compaction",
        "wipe",
        "change taken back",
    ),
    *("rival that never pauses", "client dead in the middle", "client back from before a deletion"),
    "acceptors at other addresses",
)


def assert_green(outcome: Outcomes) -> None:
    assert not outcome.violation, "\n".join([outcome.plan.describe(), outcome.violation, outcome.replay])


@pytest.mark.parametrize("first", [0, pytest.param(20, marks=pytest.mark.slow)])
def test_smoke_seeds_of_registers_keep_every_claim(first: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, first + 20):
        outcome = run_seed(seed, chaos_ms=60)
        assert_green(outcome)
        assert outcome.counts["ok"] + outcome.counts["append"] + outcome.counts["unknown"] > 0
        seen.update(outcome.counts)
    assert [name for name in FAULTS if not seen[name]] == [], "what never happens is not tested"


RED_ONCE = {
    44: "a refusal of one copy of an accept was taken for the refusal of all",
    177: "an operator gave up when it could not know what became of its decision",
    593: "a collection believed a quorum that had forgotten the tombstone",
    1025: "a collection gave up at the first conflict",
    2244: "an operator decided on from a configuration that another one had ended already",
    4279: "a put of unknown outcome came true late, which is allowed",
    1003585: "the calm began while an operator of before was still changing the acceptors",
}


@pytest.mark.parametrize("seed", RED_ONCE)
def test_register_seed_that_was_red_once_is_green(seed: int) -> None:
    assert_green(run_seed(seed, chaos_ms=100))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100_000, 100_500, 100))
def test_many_seeds_of_registers_keep_every_claim(first: int) -> None:
    for seed in range(first, first + 100):
        assert_green(run_seed(seed, chaos_ms=100))


@pytest.mark.campaign
@pytest.mark.parametrize("first", range(1_000_000, 1_010_000, 500))
def test_thousands_of_seeds_of_registers_keep_every_claim(first: int) -> None:
    for seed in range(first, first + 500):
        assert_green(run_seed(seed, chaos_ms=100))


@pytest.mark.slow
def test_faults_of_registers_really_happen() -> None:
    seen: Counter[str] = Counter()
    for seed in range(200, 320):
        seen.update(run_seed(seed, chaos_ms=60).counts)
    for name in (
        *FAULTS,
        *("ok", "append", "unknown", "not applied", "decided", "already decided", "collected", "not collected"),
        *("acceptors changed", "acceptors not changed"),
    ):
        assert seen[name], f"{name} never happened: {seen}"


def test_same_register_seed_same_history_in_any_process() -> None:
    program = "from troth.simulate.registers.run import run_seed; print(run_seed(6, chaos_ms=50).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": salt},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for salt in ("1", "77")
    }
    assert len(digests) == 1
