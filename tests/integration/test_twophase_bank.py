"""Money is moved between two real databases while something dies; afterwards every transfer is accounted for.

`bank.py` has the clients, the processes and the audit. A run is: clients at work; a death; recovery by a new process
under the same name; the audit. `make test` makes a few runs of each kind, `make campaign` twenty.
"""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from bank import (
    Bank,
    Count,
    Load,
    audit,
    clients,
    recover,
    run,
)

from troth.torture.databases import DatabaseServer, PostgresServer
from troth.transactions.steps import COMMIT_STEPS, LAST_RESOURCE_STEPS, RECOVERY_STEPS

pytestmark = pytest.mark.integration

PAIRS = ("pg+pg", "pg+mariadb", "pg+sqlite")
RUNS = 2
RUNS_OF_A_CAMPAIGN = 20


@dataclass(frozen=True)
class Place:
    """Two databases to move money between."""

    name: str
    left: str
    right: str
    servers: tuple[DatabaseServer, ...]
    directory: Path

    def bank(self, number: int, log: str = "") -> Bank:
        """A new bank: accounts as at the beginning, an empty journal, and a log of its own."""
        right = f"sqlite:///{self.directory / f'{number}.db'}" if self.right == "sqlite" else self.right
        log = log or str(self.directory / f"log-{number}")
        bank = Bank(self.left, right, log, str(self.directory / f"journal-{number}"))
        bank.found()
        return bank


@pytest.fixture(params=PAIRS)
def place(
    request: pytest.FixtureRequest, postgres: PostgresServer, postgres_other: PostgresServer, tmp_path: Path
) -> Place:
    name = request.param
    if name == "pg+pg":
        return Place(name, postgres.url(), postgres_other.url(), (postgres, postgres_other), tmp_path)
    if name == "pg+mariadb":
        mariadb = request.getfixturevalue("mariadb")
        return Place(name, postgres.url(), mariadb.url(), (postgres, mariadb), tmp_path)
    return Place(name, postgres.url(), "sqlite", (postgres,), tmp_path)


def steps_of(pair: str) -> list[str]:
    """The steps that a transaction over this pair comes to."""
    if pair == "pg+sqlite":
        return [*COMMIT_STEPS, *LAST_RESOURCE_STEPS]
    return list(COMMIT_STEPS)


def run_killed_at(step: str, place: Place, number: int) -> Count:
    """One run: the coordinator is killed at *step*, somewhere in the middle of its work."""
    bank = place.bank(number)
    load = Load(seed=number, dies_at=step, after=5 + 7 * number % 40)
    assert run(clients, bank, load) == -signal.SIGKILL, f"the coordinator never came to {step}"
    assert run(recover, bank, Load(seed=number)) == 0
    return audit(bank)


@pytest.mark.parametrize("step", [*COMMIT_STEPS, *LAST_RESOURCE_STEPS])
def test_a_coordinator_killed_at_any_step_loses_nothing(step: str, place: Place) -> None:
    if step not in steps_of(place.name):
        pytest.skip("no last resource here")
    for number in range(RUNS):
        assert run_killed_at(step, place, number).ok > 0


@pytest.mark.campaign
@pytest.mark.parametrize("step", [*COMMIT_STEPS, *LAST_RESOURCE_STEPS])
def test_a_coordinator_killed_at_any_step_twenty_times(step: str, place: Place) -> None:
    if step not in steps_of(place.name):
        pytest.skip("no last resource here")
    for number in range(RUNS_OF_A_CAMPAIGN):
        run_killed_at(step, place, number)


@pytest.mark.parametrize("step", RECOVERY_STEPS)
def test_a_recovery_killed_at_any_step_is_finished_by_the_next(step: str, place: Place) -> None:
    bank = place.bank(0)
    assert run(clients, bank, Load(seed=0, dies_at="after_decision", after=20)) == -signal.SIGKILL
    assert run(recover, bank, Load(seed=0, dies_at=step)) == -signal.SIGKILL
    assert run(recover, bank, Load(seed=0)) == 0
    audit(bank)
