"""Money is moved between two real databases while something dies; afterwards every transfer is accounted for.

`bank.py` has the clients, the processes and the audit. A run is: clients at work; a death; recovery by a new process
under the same name; the audit. `make test` makes a few runs of each kind, `make campaign` twenty.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bank import (
    Bank,
    Count,
    Load,
    acknowledged,
    audit,
    clients,
    end_all,
    end_of,
    prepared,
    recover,
    run,
    start,
    stopped,
)

from troth.server.local import LocalCluster
from troth.torture.databases import DatabaseServer, PostgresServer
from troth.transactions.steps import COMMIT_STEPS, LAST_RESOURCE_STEPS, RECOVERY_STEPS

pytestmark = pytest.mark.integration

PAIRS = ("pg+pg", "pg+mariadb", "pg+sqlite")
RUNS = {"pg+pg": 2, "pg+mariadb": 1, "pg+sqlite": 1}
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


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    end_all()


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
        # One branch is prepared, so that nothing is between two.
        return [*(step for step in COMMIT_STEPS if not step.startswith("between")), *LAST_RESOURCE_STEPS]
    return list(COMMIT_STEPS)


def run_killed_at(step: str, place: Place, number: int) -> Count:
    """One run: the coordinator is killed at *step*, somewhere in the middle of its work."""
    bank = place.bank(number)
    load = Load(seed=number, dies_at=step, after=25 + 13 * number % 60)
    assert run(clients, bank, load) == -signal.SIGKILL, f"the coordinator never came to {step}"
    assert run(recover, bank, Load(seed=number)) == 0
    return audit(bank)


@pytest.mark.parametrize("step", [*COMMIT_STEPS, *LAST_RESOURCE_STEPS])
def test_a_coordinator_killed_at_any_step_loses_nothing(step: str, place: Place) -> None:
    if step not in steps_of(place.name):
        pytest.skip("no transaction over these two comes to this step")
    for number in range(RUNS[place.name]):
        assert run_killed_at(step, place, number).ok > 0


@pytest.mark.campaign
@pytest.mark.parametrize("step", [*COMMIT_STEPS, *LAST_RESOURCE_STEPS])
def test_a_coordinator_killed_at_any_step_twenty_times(step: str, place: Place) -> None:
    if step not in steps_of(place.name):
        pytest.skip("no transaction over these two comes to this step")
    for number in range(RUNS_OF_A_CAMPAIGN):
        assert run_killed_at(step, place, number).ok > 0


@pytest.mark.parametrize("step", RECOVERY_STEPS)
def test_a_recovery_killed_at_any_step_is_finished_by_the_next(step: str, place: Place) -> None:
    bank = place.bank(0)
    assert run(clients, bank, Load(seed=0, dies_at="after_decision", after=20)) == -signal.SIGKILL
    assert run(recover, bank, Load(seed=0, dies_at=step)) == -signal.SIGKILL
    assert run(recover, bank, Load(seed=0)) == 0
    assert audit(bank).unknown > 0


@pytest.mark.parametrize("step", ["after_prepares", "after_first_commit"])
def test_two_recoveries_at_once_are_harmless(step: str, place: Place) -> None:
    bank = place.bank(0)
    assert run(clients, bank, Load(seed=0, dies_at=step, after=20)) == -signal.SIGKILL
    recoveries = [start(recover, bank, Load(seed=0)) for _ in range(2)]
    assert [end_of(process) for process in recoveries] == [0, 0]
    audit(bank)


@pytest.mark.parametrize(
    "step", ["after_prepares", "before_decision", "decision_written", "after_decision", "between_commits"]
)
def test_a_paused_coordinator_is_fenced_off(step: str, place: Place) -> None:
    """SIGSTOP in the middle; another process takes over and finishes; SIGCONT: nothing it does counts any more."""
    if step not in steps_of(place.name):
        pytest.skip("no transaction over these two comes to this step")
    bank = place.bank(0)
    load = Load(seed=0, count=100_000, dies_at=step, after=20, with_signal=signal.SIGSTOP)
    zombie = start(clients, bank, load)
    assert stopped(zombie)
    taken_over = run(recover, bank, Load(seed=0, takes_over=True))
    if place.name != "pg+sqlite":
        # SQLite's paused writer keeps its file locked, in the middle of a commit even for readers: then nobody can take
        # over before it goes on, and its own commit decides. That costs time, and must cost nothing else.
        assert taken_over == 0
        assert prepared(bank.left) + prepared(bank.right) == []
    assert zombie.pid is not None
    os.kill(zombie.pid, signal.SIGCONT)
    acknowledged(bank, 40, zombie)
    Path(bank.stop).touch()
    assert end_of(zombie) == 0
    assert run(recover, bank, Load(seed=0)) == 0
    count = audit(bank)
    assert count.failed + count.unknown > 0
    # What each client had under way, and perhaps began before it was known; not everything from then on.
    assert Path(bank.journal).read_text().count("epoch was closed") <= 2 * load.clients


@pytest.mark.parametrize("victim", [0, 1], ids=["left", "right"])
def test_a_killed_database_server_loses_nothing(victim: int, place: Place) -> None:
    """kill -9 under load, and a restart: the same coordinator goes on, and leaves nothing in doubt."""
    if victim >= len(place.servers):
        pytest.skip("SQLite has no server")
    bank, server = place.bank(0), place.servers[victim]
    process = start(clients, bank, Load(seed=0, count=100_000))
    for _ in range(2):
        acknowledged(bank, 40, process)
        server.kill()
        server.start()
    acknowledged(bank, 40, process)
    Path(bank.stop).touch()
    assert end_of(process) == 0
    assert run(recover, bank, Load(seed=0)) == 0
    audit(bank)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3) as cluster:
        yield cluster


def test_the_death_of_the_logs_leader_loses_nothing(place: Place, cluster: LocalCluster) -> None:
    bank = place.bank(0, log=cluster.url)
    process = start(clients, bank, Load(seed=0, count=100_000))
    acknowledged(bank, 40, process)
    leader = cluster.leader()
    cluster.kill(leader)
    acknowledged(bank, 40, process)
    cluster.restart(leader)
    Path(bank.stop).touch()
    assert end_of(process) == 0
    assert run(recover, bank, Load(seed=0)) == 0
    audit(bank)


@pytest.mark.parametrize("step", ["after_prepares", "after_decision"])
def test_any_machine_finishes_what_a_dead_one_left_in_a_replicated_log(
    step: str, place: Place, cluster: LocalCluster
) -> None:
    bank = place.bank(0, log=cluster.url)
    assert run(clients, bank, Load(seed=0, dies_at=step, after=20)) == -signal.SIGKILL
    assert run(recover, bank, Load(seed=0, takes_over=True)) == 0
    audit(bank)
