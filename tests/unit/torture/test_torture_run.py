"""A run on a system that is right, and on systems that are wrong in one way each: every bug is named."""

import json
from pathlib import Path

import pytest
from torture_memory import MemorySystem
from typing_extensions import override

from troth.errors import UsageError
from troth.torture import Outcome, Plan, run, torture
from troth.torture.background import Background
from troth.verify.verdict import Status

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CALM_SECONDS", 0.8)
    monkeypatch.setattr("troth.torture.nemesis.QUIET_AT_FIRST_S", 0.1)


def tortured(system: MemorySystem, directory: Path, seconds: float = 1.2) -> Outcome:
    return torture(system, Plan(seed=3, seconds=seconds, operations_per_second=2500), directory)


def wrong(outcome: Outcome) -> set[str]:
    return {finding.claim for finding in outcome.findings if finding.status is not Status.OK}


def test_a_system_that_is_right_keeps_all_claims(tmp_path: Path) -> None:
    system = MemorySystem()
    outcome = tortured(system, tmp_path, 2.0)
    assert outcome.status is Status.OK, outcome.text()
    assert sum(outcome.faults.values()) >= 1
    assert all(counts["ok"] > 10 and counts["unknown"] > 0 for counts in outcome.operations.values())
    assert system.calls[0] == "start" and system.calls[-1] == "stop"
    told = json.loads((tmp_path / "outcome.json").read_text())
    assert told["verdict"] == "ok" and told["seed"] == 3
    assert "<html" in (tmp_path / "registers.html").read_text()
    assert outcome.text().count("\nok ") == len(outcome.findings)


@pytest.mark.parametrize(
    ("bug", "claims"),
    [
        ("loses a write", {"every acknowledged write is present", "no write is applied twice, none is missing"}),
        ("applies twice", {"nothing is applied twice", "no write is applied twice, none is missing"}),
        ("reads stale", {"each key is linearizable"}),
        ("tears a transaction", {"no reader sees a transfer half done"}),
        ("diverges", {"all replicas hold the same state"}),
        ("dies", {"no server dies by itself"}),
        ("stays down", {"comes back when all faults are undone"}),
    ],
)
def test_a_bug_is_named(bug: str, claims: set[str], tmp_path: Path) -> None:
    system = MemorySystem(bug)
    outcome = tortured(system, tmp_path)
    assert outcome.status is Status.ILLEGAL
    assert wrong(outcome) >= claims, outcome.text()
    assert system.calls[-1] == "stop"


def test_a_fault_that_is_not_possible_now_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(system: MemorySystem, server: str) -> None:
        raise OSError("no")

    monkeypatch.setattr(MemorySystem, "kill", refuse)
    plan = Plan(seed=3, seconds=1.0, nemeses=("kill",), workloads=("counters",))
    outcome = torture(MemorySystem(), plan, tmp_path)
    assert outcome.status is Status.OK
    assert outcome.notes and "kill at" in outcome.notes[0] and "OSError: no" in outcome.notes[0]
    assert not outcome.faults


def test_the_system_is_stopped_even_if_a_client_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Background):
        @override
        def close(self) -> None:
            super().close()
            raise TimeoutError("a client hangs")

    monkeypatch.setattr(run, "Background", Hanging)
    system = MemorySystem()
    with pytest.raises(TimeoutError):
        torture(system, Plan(seed=3, seconds=0.1, workloads=("counters",)), tmp_path)
    assert system.calls[-1] == "stop"


@pytest.mark.parametrize(
    "options",
    [
        {"workloads": ("walks",)},
        {"seconds": 0},
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"seconds": 100_000 * 60.0},  # drawing the faults would take minutes, of which nobody is told
        {"operations_per_second": 0},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Plan(**{"seed": 1, "seconds": 1.0, **options})  # type: ignore[arg-type]
