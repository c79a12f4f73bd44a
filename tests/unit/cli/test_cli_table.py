"""The table of commands, and what `--help` costs."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from troth.cli import exit_codes
from troth.cli.exit_codes import EXIT_USAGE
from troth.cli.main import COMMANDS, Entry, cli
from troth.cli.reference import reference
from troth.server import ending

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., Result]
ENTRIES = [(name, entry) for section in COMMANDS.values() for name, entry in section.items()]


def leaves(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None
            yield from leaves((*path, name), child)
    else:
        yield path, command


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_the_line_in_the_help_is_the_command_s_own(name: str, entry: Entry) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(limit=200).rstrip(".") == entry.summary.rstrip(".")


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_every_command_shows_an_example(name: str, entry: Entry) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    of_the_group = command.epilog or ""
    for path, leaf in leaves((name,), command):
        shown = f"{leaf.help}{leaf.epilog or ''}{of_the_group}"
        assert f"  troth {path[0]}" in shown, f"troth {' '.join(path)} has no example"


def codes_in(text: str) -> list[int]:
    """The codes that *text* lists, each with its meaning behind it, up to the end of the sentence."""
    (listed,) = re.findall(r"Exit codes: (.*?)\.(?:\s|$)", text, re.DOTALL)
    return [int(number) for number in re.findall(r"(?:^|[;,]\s+)(\d+)\s", listed)]


def test_the_exit_codes_in_the_help_are_those_of_the_table() -> None:
    table = [
        getattr(exit_codes, name) for name in ("EXIT_REFUSED", "EXIT_USAGE", "EXIT_UNKNOWN", "EXIT_UNAVAILABLE")
    ]
    assert codes_in(cli.epilog or "") == [0, *table, exit_codes.EXIT_INTERRUPTED]


def test_the_exit_codes_of_a_server_are_listed_in_full() -> None:
    codes = [code for name, code in vars(ending).items() if name.startswith("EXIT_")]
    serve = cli.get_command(click.Context(cli), "serve")
    assert serve is not None and codes_in(serve.help or "") == codes
    assert codes_in((ROOT / "src/troth/server/DESIGN.md").read_text()) == codes


def test_the_written_reference_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == reference(), "run `make docs`"


@pytest.mark.parametrize(
    "line",
    [
        "bench --seconds -1",
        "bench --value-bytes -4",
        "certs --days 0",
        "range --prefix a --limit -1",
        "get a --revision -1",
        "watch a --start-revision -1",
        "simulate --seconds 0",
        "torture --rate 0",
        "verify pyproject.toml --timeout 0",
        "member add h:1 --within -1",
    ],
)
def test_a_number_that_makes_no_sense_is_wrong_usage(line: str) -> None:
    result = CliRunner().invoke(cli, line.split())
    assert result.exit_code == EXIT_USAGE and "not in the range" in result.output


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli, ["up", "--data", str(tmp_path / "file" / "below")])
    assert result.exit_code == EXIT_USAGE and f"{tmp_path}/file/below: Not a directory" in result.output


def test_help_loads_neither_the_client_nor_rich() -> None:
    code = (
        "import sys; from troth.cli.main import cli; cli.main(['--help'], standalone_mode=False);"
        "print(sorted({'asyncio', 'rich', 'msgspec', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("typed", "meant"), [("stauts", "status"), ("delete", "del"), ("ls", "range"), ("endpoint", "status")]
)
def test_a_command_that_does_not_exist_is_told_with_the_one_that_is_meant(
    run: Run, typed: str, meant: str
) -> None:
    result = run(typed)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: No such command '{typed}'. Did you mean '{meant}'?"
    assert "mean" not in run("frobnicate").stderr
