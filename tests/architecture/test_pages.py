"""What the pages say is there: tests, files, layers, commands and make targets."""

import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from troth.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "troth"
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "src/**/*.md") for path in ROOT.glob(pattern))
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def code_of(page: Path) -> list[str]:
    """The code spans and the lines of code blocks."""
    text = page.read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [
        *(re.sub(r"\s+", " ", span) for span in spans),
        *(line for block in blocks for line in block.splitlines()),
    ]


@of_each_page
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    missing = []
    for path, name in re.findall(r"([\w/]+\.py)::(\w+)", page.read_text()):
        files = [ROOT / path] if "/" in path else list((ROOT / "tests").rglob(path))
        if not any(file.exists() and f"def {name}(" in file.read_text() for file in files):
            missing.append(f"{path}::{name}")
    assert missing == []


def test_every_guarantee_names_the_test_that_shows_it() -> None:
    table = (ROOT / "README.md").read_text().partition("## Guarantees")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 25
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []


@of_each_page
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link}
    named = {
        path
        for code in code_of(page)
        for path in re.findall(r"(?<![\w/.])(?:tests|docs|examples|benchmarks|scripts|src)/[\w/.-]+\.\w+", code)
    }
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@of_each_page
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
    named = {found[1] for code in code_of(page) if (found := re.match(r"\s*make ([a-z0-9-]+)", code))}
    assert named <= targets


def test_make_help_lists_every_target_that_says_what_it_does() -> None:
    said = set(re.findall(r"^([\w-]+):.*## ", MAKEFILE, re.MULTILINE))
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == set(re.findall(r"^  make ([\w-]+)", told, re.MULTILINE))


@of_each_page
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    missing = []
    for code in code_of(page):
        if not (found := re.match(r"\s*troth ((?:[a-z]+ ?)*)", code)):
            continue
        command: click.Command = main
        for word in found[1].split():
            if not isinstance(command, click.Group):
                break
            with click.Context(command) as context:
                below = command.get_command(context, word)
            if below is None:
                missing += [code] if command is main else []  # else an argument of the group's own
                break
            command = below
    assert missing == []


def test_the_layers_of_the_architecture_are_those_that_are_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    enforced = next(contract["layers"] for contract in contracts if contract["name"] == "layers")
    block = ARCHITECTURE.partition("Layers import only downwards")[2].split("```")[1]
    rows = [line for line in block.splitlines() if line and not line.startswith(" ")]
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == enforced


def test_every_file_of_the_code_tour_exists() -> None:
    for code in code_of(ROOT / "ARCHITECTURE.md"):
        if re.fullmatch(r"[\w/]+\.py", code):
            assert list(SOURCE.glob(f"**/{code}")), code


def test_the_code_tour_leaves_no_package_out() -> None:
    tour = ARCHITECTURE.partition("## Code tour")[2]
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert {name for name in packages if f"`{name}/" not in tour} == set()


def test_the_index_of_the_pages_names_each_of_them() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [
        page.name for page in ROOT.glob("docs/*.md") if f"]({page.name})" not in index and page.name != "README.md"
    ] == []


def test_the_costs_of_choices_are_those_that_the_benchmarks_can_tell() -> None:
    """Row by row; the figures themselves change with each run of a benchmark until `make docs` takes them over."""
    choices = runpy.run_path(str(ROOT / "benchmarks" / "choices.py"))
    page = choices["PAGE"].read_text()
    names = [
        re.findall(r"^\| ([^|]+) \|.*make bench", text, re.MULTILINE) for text in (page, choices["written"](page))
    ]
    assert names[0] == names[1] and len(names[0]) >= 8


@of_each_page
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    assert re.findall(r"/(?:home|root|work|tmp)/\S+", page.read_text()) == []
