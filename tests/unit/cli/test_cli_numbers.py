"""Numbers in what commands print."""

from pathlib import Path
from typing import Any

import pytest

from troth.cli.numbers import counted


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_200, "1,200 rows"), (1_000_001, "1,000,001 rows")],
)
def test_one_of_something_is_not_told_in_the_plural(count: int, told: str) -> None:
    assert counted(count, "row") == told


def test_a_campaign_of_one_seed_says_seed(run: Any) -> None:
    assert "1 seed, 0 red" in run("simulate", "--level", "core", "--seeds", "1", "--seconds", "1").output
    assert "0 red of 1 seed; " in run("simulate", "registers", "1").output


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
