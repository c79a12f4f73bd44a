"""Numbers in what commands print."""

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
