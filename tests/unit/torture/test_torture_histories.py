"""What a workload has written down is what `troth verify` says it is: the same verdict, by whoever reads the file."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner
from torture_memory import MemoryClient, MemorySystem

from troth.cli.verify import verify
from troth.torture.record import Record
from troth.torture.system import Definite, Indefinite
from troth.torture.workloads import WORKLOADS

STEPS = 120


async def recorded(name: str, system: MemorySystem, path: Path) -> None:
    """Every worker of a workload in turn, *STEPS* times in all."""
    record = Record(path)
    workload = WORKLOADS[name](record, seed=5)
    clients = [MemoryClient(system) for _ in range(workload.workers)]
    await workload.prepare(MemoryClient(system))
    for number in range(STEPS):
        worker = number % workload.workers
        try:
            await workload.step(clients[worker], worker)
        except (Definite, Indefinite):
            continue
    await workload.conclude(MemoryClient(system))
    record.close()


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_history_of_every_workload_is_legal_where_the_system_is_right(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.jsonl"
    asyncio.run(recorded(name, MemorySystem(), path))
    answer = CliRunner().invoke(verify, [str(path), "--no-html"])
    assert answer.exit_code == 0, answer.output


def test_the_history_of_transfers_that_are_torn_is_illegal(tmp_path: Path) -> None:
    path = tmp_path / "transfers.jsonl"
    asyncio.run(recorded("transfers", MemorySystem("tears a transaction"), path))
    answer = CliRunner().invoke(verify, [str(path), "--no-html"])
    assert answer.exit_code == 1 and "wrong-total" in answer.output
