"""Planted bugs: their text is still there, and a few of them are caught as the rest is by ``planted.py``."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import databases
import pytest
from pitfalls import Pitfall
from planted import PLANTED, changed
from survivors import tried

EACH = (*PLANTED, *databases.PLANTED)
QUICK = (
    "a batch that was acknowledged is applied again",
    "freshness counts from the confirmation",
    "the fence's own ballot is let in",
    "a renewed lease expires at its first deadline",
    "presumed abort is applied to what is open",
)
WHAT_TO_DO = """Whoever rewrites lines that a planted bug quotes rewrites the quote, in planted.txt or databases.txt:
its lines with - must occur in its file exactly once. The same bug is put into what stands there now, and must be caught
(python tests/mutants/planted.py NAME; databases.py for the other file). Where the rule is gone, the block goes too."""


def test_names_of_planted_bugs_are_their_own() -> None:
    names = [(pitfall.file, pitfall.name) for pitfall in EACH]
    assert len(set(names)) == len(names)
    assert all(pitfall.old != pitfall.new for pitfall in EACH)


def test_each_planted_bug_quotes_what_stands_in_its_file() -> None:
    stale = []
    for pitfall in EACH:
        try:
            changed(pitfall)
        except (ValueError, OSError) as error:
            stale.append(str(error))
    assert not stale, "\n".join((WHAT_TO_DO, *stale))


@pytest.mark.slow
def test_each_planted_bug_is_python() -> None:
    for pitfall in EACH:
        try:
            ast.parse(changed(pitfall))
        except SyntaxError as error:
            pytest.fail(f"{pitfall.file}: {pitfall.name}: {error}")


def test_each_planted_bug_names_what_there_is(tmp_path: Path) -> None:
    """One that dies of a NameError is caught by any test that comes past it, and says nothing about the tests."""
    for number, pitfall in enumerate(EACH):
        (tmp_path / f"{number}.py").write_text(changed(pitfall))
    names = "F821,F822,F823"  # undefined, undefined in __all__, used before it is assigned
    told = subprocess.run(
        [
            *f"{sys.executable} -m ruff check --isolated --no-cache --output-format json".split(),
            "--select",
            names,
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    found = json.loads(told.stdout)
    unknown = [f"{EACH[int(Path(each['filename']).stem)].name}: {each['message']}" for each in found]
    assert not unknown, "\n".join(unknown)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="trials fork")
@pytest.mark.parametrize("pitfall", [each for each in PLANTED if each.name in QUICK], ids=lambda each: each.name)
def test_planted_bug_is_caught(pitfall: Pitfall) -> None:
    assert tried(pitfall.file.removeprefix("src/troth/"), changed(pitfall)).caught_by
