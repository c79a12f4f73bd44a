"""Red runs become small, and stay what they were."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from troth.cli.main import cli
from troth.core.raft.replication import Replication
from troth.errors import UsageError
from troth.rehearsal.levels import CORES, SERVERS, Scenario, decode_scenario
from troth.simulate.choices import Choice, Choices, faults_of, operations_of
from troth.simulate.shrink import Shrinker, Trial

pytestmark = pytest.mark.slow

sys.path.insert(0, str(Path(__file__).parents[1] / "mutants"))


def test_choices_that_are_not_kept_do_not_happen() -> None:
    choices = Choices([("crash", 1), ("op c1", 0)])
    assert [choices.take("crash") for _ in range(3)] == [False, True, False]
    assert choices.take("op c1") and not choices.take("loss")
    assert choices.taken == [("crash", 1), ("op c1", 0)]
    assert faults_of(choices.taken) == [("crash", 1)] and operations_of(choices.taken) == [("op c1", 0)]


def test_shrinking_finds_the_two_choices_that_matter() -> None:
    """Of a thousand; and the plan loses what it does not need."""
    everything: list[Choice] = [("loss", n) for n in range(900)] + [("op c1", n) for n in range(100)]
    runs = 0

    def run(plan: int, keep: object) -> Trial:
        nonlocal runs
        runs += 1
        taken = everything if keep is None else list(keep)  # type: ignore[call-overload]
        broken = ("loss", 321) in taken and ("op c1", 7) in taken and plan >= 3
        return Trial("a rule is broken (facts)" if broken else "another rule", taken, 100)

    shrinker: Shrinker[int] = Shrinker(
        run,
        simpler=lambda plan: iter([plan - 1]),
        shorter=lambda plan, us, calm: plan,
        expired=lambda: runs > 3000,
    )
    small = shrinker.shrink(10)
    assert small is not None
    assert set(small.keep) == {("loss", 321), ("op c1", 7)} and small.plan == 3
    assert (small.faults, small.operations) == (1, 1)


def test_a_green_run_is_not_shrunk() -> None:
    shrinker: Shrinker[int] = Shrinker(
        lambda plan, keep: Trial("", [], 0),
        simpler=lambda plan: iter(()),
        shorter=lambda plan, us, calm: plan,
        expired=lambda: False,
    )
    assert shrinker.shrink(1) is None


@pytest.fixture
def _hasty_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that commits what it alone holds."""

    def commit(self: Replication, role: object) -> None:
        self._commit_index = self._log.last_index

    monkeypatch.setattr(Replication, "_maybe_commit", commit)


@pytest.mark.usefixtures("_hasty_commit")
@pytest.mark.parametrize("level", ["server", "core"])
def test_a_planted_bug_shrinks_to_a_handful(level: str, tmp_path: Path) -> None:
    """Found, shrunk, written down, and replayed from what was written."""
    kind = {"server": SERVERS, "core": CORES}[level]
    plan = next(plan for plan in (kind.draw(seed, 5, "raft") for seed in range(50)) if kind.run(plan).violation)
    left = [150]

    def expired() -> bool:
        left[0] -= 1
        return left[0] < 0

    small = kind.shrinker(expired).shrink(plan)
    assert small is not None and small.faults <= 10 and small.operations <= 20
    path = tmp_path / "small.json"
    path.write_bytes(Scenario(level=kind, plan=small.plan, keep=small.keep, violation=small.violation).encode())
    again = decode_scenario(path.read_bytes())
    assert again.run().violation == small.violation
    result = CliRunner().invoke(cli, ["simulate", "replay", str(path)])
    assert result.exit_code == 1 and "violation: " in result.output


def test_a_file_that_is_no_scenario_is_refused() -> None:
    with pytest.raises(UsageError, match="no"):
        decode_scenario(b"{}")


def test_the_campaign_pins_red_seeds_and_prints_how_to_replay_them(tmp_path: Path, _hasty_commit: None) -> None:
    pin = tmp_path / "seeds.toml"
    options = ["--level", "core", "--seconds", "3", "--pin", str(pin)]
    result = CliRunner().invoke(cli, ["simulate", "--seeds", "5", *options])
    assert result.exit_code == 1 and "replay: troth simulate replay " in result.output
    pinned = pin.read_text()
    assert "[[seed]]" in pinned and 'level = "core"' in pinned
    again = CliRunner().invoke(cli, ["simulate", "--seeds", "1", "--first", "900", *options])
    assert again.exit_code == 1, "what is pinned runs first, for ever"


def test_a_green_campaign_says_so_and_draws(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["simulate", "--seeds", "2", "--seconds", "2"])
    assert result.exit_code == 0 and "2 seeds, 0 red" in result.output
    html = tmp_path / "run.html"
    drawn = CliRunner().invoke(cli, ["simulate", "replay", "3", "--seconds", "2", "--html", str(html), "--digest"])
    assert drawn.exit_code == 0 and "Every promise was kept." in drawn.output
    text = html.read_text()
    assert "http" not in text and "@DATA@" not in text and '"messages":[[' in text


def test_seeds_run_in_processes_give_the_same_reports() -> None:
    from troth.rehearsal.campaign import Job, run_here, run_in_processes

    jobs = [Job(level="server", seed=seed, seconds=2, consensus="raft") for seed in range(3)]
    here = {report.seed: report.digest for report in run_here(iter(jobs))}
    there = {report.seed: report.digest for report in run_in_processes(iter(jobs), 2)}
    assert here == there and len(set(here.values())) == 3


ON_RAY = """
from troth.rehearsal.campaign import Job, run_here, run_on_ray
jobs = [Job(level="server", seed=seed, seconds=2, consensus="raft") for seed in range(3)]
here = {report.seed: report.digest for report in run_here(iter(jobs))}
assert {report.seed: report.digest for report in run_on_ray(iter(jobs))} == here
print("same")
"""


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_seeds_run_on_ray_give_the_same_reports() -> None:
    """In a process of its own: Ray starts others, and leaves some of its files open."""
    done = subprocess.run([sys.executable, "-c", ON_RAY], capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.splitlines()[-1:] == ["same"], done.stderr


def test_without_ray_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(cli, ["simulate", "--engine", "ray", "--seeds", "1"])
    assert result.exit_code == 2 and "pip install" in result.output
