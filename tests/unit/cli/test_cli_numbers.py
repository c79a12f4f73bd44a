"""Numbers in what commands print."""

from pathlib import Path
from typing import Any

import pytest

from troth.cli.numbers import counted
from troth.rehearsal.campaign import Job
from troth.rehearsal.levels import Report
from troth.simulate.registers.run import run_seed


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_200, "1,200 rows"), (1_000_001, "1,000,001 rows")],
)
def test_one_of_something_is_not_told_in_the_plural(count: int, told: str) -> None:
    assert counted(count, "row") == told


def test_a_campaign_of_one_seed_says_seed(run: Any) -> None:
    assert "1 seed, 0 red" in run("simulate", "--level", "core", "--seeds", "1", "--seconds", "1").output
    assert "0 red of 1 seed; " in run("simulate", "registers", "1").output


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_campaign_that_is_broken_off_says_how_far_it_came(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a simulation there is nothing that may or may not have happened."""
    kept = run_seed(0, chaos_ms=1)
    outcomes = iter([kept, kept])
    monkeypatch.setattr(
        "troth.simulate.registers.run.run_seed", lambda *_, **__: next(outcomes, None) or interrupt()
    )
    result = run("simulate", "registers", "--seeds", "9")
    assert result.exit_code == 130 and "0 red of 2 seeds; " in result.stdout
    assert result.stderr == "Interrupted.\n"

    ran = Job.run

    def until_the_third(job: Job) -> Report:
        return ran(job) if job.seed < 2 else interrupt()  # type: ignore[return-value]

    monkeypatch.setattr(Job, "run", until_the_third)
    result = run("simulate", "--level", "core", "--seeds", "9", "--seconds", "1")
    assert result.exit_code == 130 and "2 seeds, 0 red" in result.stdout
    assert result.stderr.endswith("Interrupted.\n") and "may" not in result.stderr


def test_of_the_demo_nothing_is_in_doubt(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.cli.demo.inventory", interrupt)
    result = run("demo")
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


def test_seeds_begin_at_nothing_since_no_command_replays_one_below(run: Any) -> None:
    for words in (("simulate",), ("simulate", "registers")):
        result = run(*words, "--first", "-5", "--seeds", "1")
        assert result.exit_code == 2 and "-5 is not in the range" in result.output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 3", "'x' is nothing that is said"),
        ("[[seeds]]\nseed = 1\nseconds = 2", "'seeds' is nothing that is said"),
        ('[[seed]]\nseed = 1\nseconds = 2\nengine = "paxos"', "'engine' is nothing that is said"),
        ("seed = 3", "no file of pinned seeds"),
        ("seed = [3]", "no file of pinned seeds"),
        ("[[seed]]\nseed = -1\nseconds = 2", "a seed is at least 0"),
    ],
)
def test_a_file_of_pinned_seeds_says_nothing_that_is_passed_over(
    run: Any, tmp_path: Path, text: str, told: str
) -> None:
    """A table of a misspelt name was taken without a word, and its seeds were not run."""
    pin = tmp_path / "seeds.toml"
    pin.write_text(text)
    result = run("simulate", "--level", "core", "--seeds", "1", "--seconds", "1", "--pin", str(pin))
    assert result.exit_code == 2 and told in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("get", "k", "--timeout", "abc"), "abc is not a number of seconds"),
        (("get", "k", "--timeout", "nan"), "nan is not a number of seconds"),
        (("up", "--nodes", "abc"), "'abc' is not a valid integer."),
    ],
)
def test_what_is_no_number_is_told_in_words(run: Any, words: tuple[str, ...], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 2 and told in result.stderr
