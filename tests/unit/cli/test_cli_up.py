"""`troth up` without its servers."""

import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from troth.cli import up as up_module
from troth.server import local
from troth.server.config import ServerConfig

Run = Callable[..., Result]


class Cluster:
    """What `up` asks of a cluster."""

    closed = False
    url = "troth://127.0.0.1:1"
    names = ()

    def __init__(self, *_: object, **_kw: object) -> None:
        self.data_dir = Path("/nowhere")
        self.servers = {"n1": self}
        self.pid = 1

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        Cluster.closed = True

    def leader(self) -> str:
        return "n1"


@pytest.fixture
def _handlers() -> Iterator[None]:
    """Put back what the command changes."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in signals]
    yield
    for each, handler in zip(signals, before, strict=True):
        signal.signal(each, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_up_ends_in_order_also_when_its_terminal_goes(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def watch_over(_: object, stop: threading.Event) -> None:
        os.kill(os.getpid(), signal.Signals[name])
        assert stop.wait(5)

    Cluster.closed = False
    signal.signal(signal.SIGHUP, lambda *_: None)
    monkeypatch.setattr(local, "LocalCluster", Cluster)
    monkeypatch.setattr(up_module, "_watch_over", watch_over)
    monkeypatch.setattr(up_module, "write_context", lambda *_: None)
    monkeypatch.setattr(up_module, "forget_context", lambda *_: None)
    result = run("up")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "stopped"
    assert Cluster.closed


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_start_that_takes_too_long_can_be_broken_off(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A server that does not come up would keep its user waiting for a minute."""

    class NeverUp(Cluster):
        def leader(self) -> str:
            os.kill(os.getpid(), signal.Signals[name])
            raise AssertionError("it went on")

    signal.signal(signal.SIGHUP, lambda *_: None)
    monkeypatch.setattr(local, "LocalCluster", NeverUp)
    Cluster.closed = False
    result = run("up")
    assert result.exit_code == 130 and Cluster.closed, result.output
    assert result.output == "stopped\n"


def test_up_takes_no_more_servers_than_a_cluster_has(run: Run) -> None:
    assert local.SIZE_MAX == up_module.NODES_MAX
    result = run("up", "--nodes", "64")
    assert result.exit_code == 2 and "1<=x<=63" in result.stderr, result.output


def test_an_empty_data_directory_is_not_the_current_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("up", "--data", "")
    assert result.exit_code == 2 and "data_dir is empty" in result.stderr, result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize(
    "names, said, suggests_a_kill",
    [(("n1",), "1 server is up", False), (("n1", "n2", "n3"), "3 servers are up", True)],
)
def test_up_suggests_to_kill_a_server_only_where_that_is_survived(
    run: Run, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], said: str, suggests_a_kill: bool
) -> None:
    monkeypatch.setattr(local, "LocalCluster", Cluster)
    monkeypatch.setattr(Cluster, "names", names)
    monkeypatch.setattr(up_module, "_watch_over", lambda *_: None)
    result = run("up")
    assert said in result.stdout and ("kill -9" in result.stdout) == suggests_a_kill


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("words, told", [((), False), (("--nodes", "5"), True), (("--nodes", "1"), False)])
def test_up_says_that_a_cluster_that_goes_on_keeps_its_size(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: bool
) -> None:
    monkeypatch.setattr(local, "LocalCluster", Cluster)
    monkeypatch.setattr(Cluster, "names", ("n1",))
    monkeypatch.setattr(up_module, "_watch_over", lambda *_: None)
    assert ("--nodes is for new clusters" in run("up", *words).stdout) == told


@pytest.mark.usefixtures("_handlers")
def test_up_goes_on_where_nothing_may_be_written_at_home(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LocalCluster", Cluster)
    monkeypatch.setattr(up_module, "_watch_over", lambda *_: None)
    monkeypatch.setenv("TROTH_CONTEXT", "/proc/nothing/is/written/here.json")
    result = run("up")
    assert result.exit_code == 0 and result.stdout.endswith("stopped\n"), result.output
    assert "export TROTH_URL=troth://127.0.0.1:1 " in result.stdout and "/proc/nothing" in result.stdout


def test_a_user_without_a_home_is_asked_for_a_url(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TROTH_CONTEXT")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    result = run("get", "k")
    assert result.exit_code == 2 and "--url" in result.stderr, result.output


def test_the_command_that_starts_a_dead_server_again_means_that_server(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServerConfig(
        name="n2",
        data_dir="/some where/n2",
        client_address="127.0.0.1:1",
        peer_address="127.0.0.1:2",
        consensus="paxos",
    )
    served: list[ServerConfig] = []
    monkeypatch.setattr("troth.server.serve.serve", served.append)
    _, *words = shlex.split(up_module._as_a_command(config))
    result = run(*words)
    assert served == [config], result.output
