"""What the tests of the command line share: a runner, and a fake cluster behind `troth.connect`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from unit_cli_fakes import FakeClient

import troth
from troth.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may find, or disturb, a cluster that the person at this machine runs."""
    monkeypatch.setenv("TROTH_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.delenv("TROTH_URL", raising=False)


@pytest.fixture
def run() -> Run:
    """``run("get", "a")``: the command's result, with stdout and stderr apart."""

    def invoke(*args: str, **kwargs: Any) -> Result:
        return CliRunner().invoke(cli, args, **kwargs)

    return invoke


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeClient]:
    """``fake(get=GetReply(...))``: what `troth.connect` returns from now on."""

    def install(**answers: Any) -> FakeClient:
        client = FakeClient(**answers)
        monkeypatch.setenv("TROTH_URL", "troth://127.0.0.1:1")
        monkeypatch.setattr(troth, "connect", lambda url, **options: client)
        return client

    return install
