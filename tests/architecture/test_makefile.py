"""What make would do, asked without doing it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = sorted(set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE)))
PATH = "/usr/local/bin:/usr/bin:/bin"


def make(*arguments: str, cwd: Path = ROOT) -> str:
    """What make says, in the environment of somebody who has just come."""
    done = subprocess.run(
        ["make", *arguments], cwd=cwd, env={"PATH": PATH}, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("DATA", [], "troth-data"),
        ("DATA", ["DATA=else where"], "else where"),
        ("INPUT", [], ""),
        ("INPUT", ["INPUT=rows.csv"], "rows.csv"),
    ],
)
def test_a_recipe_sees_the_variables_that_the_makefile_sets(name: str, arguments: list[str], value: str) -> None:
    assert make("-s", "--eval", f'said:; @echo "$${name}"', "said", *arguments) == f"{value}\n"


def test_make_up_names_three_servers_and_a_directory() -> None:
    assert '.venv/bin/troth up --nodes 3 --data "$DATA"' in make("-n", "up")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone in which whatever is run leaves its name in the file ``ran``."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    ran = '#!/bin/sh\necho "$0 $*" >>ran\n'
    for path in re.findall(r"scripts/[\w-]+\.(?:sh|txt)|pyproject\.toml", MAKEFILE):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(ran)
        (tmp_path / path).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for program in re.findall(r"\$\(BIN\)/([\w-]+)", MAKEFILE):
        (tmp_path / ".venv/bin" / program).write_text(ran)
        (tmp_path / ".venv/bin" / program).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("target", TARGETS)
def test_asked_what_it_would_do_make_does_nothing(target: str, clone: Path) -> None:
    before = sorted(clone.rglob("*"))
    assert make("-n", target, cwd=clone)
    assert sorted(clone.rglob("*")) == before


def test_make_test_installs_and_then_runs_both_halves(clone: Path) -> None:
    make("test", cwd=clone)
    ran = (clone / "ran").read_text().splitlines()
    assert [line.split(' -m "')[0] for line in ran] == [
        "scripts/setup.sh dev",
        "scripts/setup.sh dev,databases",
        "scripts/packages.sh scripts/debian-browser.txt",
        ".venv/bin/pytest -n 2 -m not integration and not campaign",
        ".venv/bin/pytest -m integration and not campaign",
    ]


@pytest.mark.parametrize(
    ("program", "asked"),
    [
        ("scripts/setup.sh", "dev,databases"),
        ("scripts/packages.sh", "*"),
        (".venv/bin/pytest", "-n"),
        (".venv/bin/pytest", "-m"),
    ],
)
def test_make_test_runs_what_it_can_and_says_that_something_failed(program: str, asked: str, clone: Path) -> None:
    (clone / program).write_text(f'#!/bin/sh\necho "$0 $*" >>ran\ncase $1 in {asked}) exit 1; esac\n')
    done = subprocess.run(["make", "test"], cwd=clone, env={"PATH": PATH}, capture_output=True, check=False)
    assert done.returncode == 2
    assert (clone / "ran").read_text().count("pytest") == 2
