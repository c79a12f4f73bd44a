"""Planted bugs: their text is still there, and a few of them are caught as the rest is by ``planted.py``."""

import ast
import sys

import databases
import pytest
from pitfalls import Pitfall
from planted import PLANTED, changed
from survivors import tried

pytestmark = pytest.mark.slow

STALE_ONE_IN = 20
QUICK = (
    "a batch that was acknowledged is applied again",
    "freshness counts from the confirmation",
    "the fence's own ballot is let in",
    "a renewed lease expires at its first deadline",
    "presumed abort is applied to what is open",
)


def test_names_of_planted_bugs_are_their_own() -> None:
    names = [(pitfall.file, pitfall.name) for pitfall in PLANTED]
    assert len(set(names)) == len(names)
    assert all(pitfall.old != pitfall.new for pitfall in PLANTED)


def test_nearly_all_planted_bugs_can_still_be_put_back() -> None:
    """Whoever rewrites a line that one of them quotes rewrites the quote in planted.txt, by and by."""
    stale = []
    for pitfall in (*PLANTED, *databases.PLANTED):
        try:
            ast.parse(changed(pitfall))
        except ValueError as error:
            stale.append(str(error))
    assert len(stale) * STALE_ONE_IN <= len(PLANTED), "\n".join(stale)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("pitfall", [each for each in PLANTED if each.name in QUICK], ids=lambda each: each.name)
def test_planted_bug_is_caught(pitfall: Pitfall) -> None:
    assert tried(pitfall.file.removeprefix("src/troth/"), changed(pitfall)).caught_by
