"""What a command names when something is not installed works as it stands, from a checkout as from anywhere."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from troth.cli.main import cli

EXTRAS = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize(
    "missing, extra, arguments",
    [
        ("sqlalchemy", "sql", ["tx", "list", "--log", "log", "--db", "a=sqlite://"]),
        ("ray", "ray", ["simulate", "--engine", "ray", "--seeds", "1"]),
    ],
)
def test_the_command_that_installs_what_is_missing_works_without_a_registry_that_knows_troth(
    missing: str, extra: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    command = " ".join(result.output.split())
    assert f"{sys.executable} -m pip install " + " ".join(f"'{each}'" for each in EXTRAS[extra]) in command


def test_the_name_of_what_needs_an_extra_tells_how_to_install_it() -> None:
    program = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "try:\n    from troth import TwoPhaseCommit\nexcept ImportError as error:\n    print(error)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.startswith("TwoPhaseCommit needs SQLAlchemy")
    assert "-m pip install " + " ".join(f"'{each}'" for each in EXTRAS["sql"]) in told
