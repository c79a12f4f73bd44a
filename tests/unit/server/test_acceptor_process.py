"""An acceptor that runs alone, as a process."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from troth.errors import InvariantViolation, UsageError
from troth.runtime.acceptors import AcceptorNode
from troth.runtime.files import DiskFiles
from troth.server import acceptor_process
from troth.server.acceptor_process import AcceptorConfig, AcceptorPort, run_acceptor
from troth.server.ending import EXIT_BUG, EXIT_FAILED, EXIT_STORAGE


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def the_log_of_this_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_process, "set_up", lambda **settings: None)


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process has exited with."""
    found: list[int] = []

    def end(code: int) -> None:
        found.append(code)
        raise Ended

    monkeypatch.setattr(acceptor_process.os, "_exit", end)
    return found


def test_a_second_one_on_the_same_directory_leaves_the_first_its_socket(tmp_path: Path, codes: list[int]) -> None:
    files = DiskFiles(tmp_path / "data")
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(tmp_path / "a1"))
        first.listen()
        with pytest.raises(Ended):
            run_acceptor(AcceptorConfig(data_dir=str(tmp_path / "data"), listen=f"unix:{tmp_path / 'a1'}"))
        assert codes == [EXIT_STORAGE]
        with socket.socket(socket.AF_UNIX) as proposer:
            proposer.connect(str(tmp_path / "a1"))
    files.close()


def test_it_does_not_go_on_after_a_bug_of_its_own(
    tmp_path: Path, codes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = AcceptorNode.__init__

    def make(node: AcceptorNode, *args: object, **kwargs: object) -> None:
        def fail() -> None:
            raise InvariantViolation("as asked")

        made(node, *args, **kwargs)  # type: ignore[arg-type]
        node._loop.call_soon(fail)

    monkeypatch.setattr(AcceptorNode, "__init__", make)
    monkeypatch.setattr(acceptor_process.DiskMachine, "settle", lambda machine: None)
    with pytest.raises(Ended):
        run_acceptor(AcceptorConfig(data_dir=str(tmp_path / "data"), listen=f"unix:{tmp_path / 'a1'}"))
    assert codes == [EXIT_BUG]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_whose_parent_died_before_it_asked_for_the_signal_does_not_start(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "data"), f"unix:{tmp_path / 'a1'}", "--parent", "0"]
    command = [sys.executable, "-m", "troth.server.acceptor_process", *arguments]
    assert subprocess.run(command, stdin=subprocess.PIPE, timeout=30, check=False).returncode == EXIT_FAILED
    assert not (tmp_path / "data").exists()


def test_tls_takes_all_three_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs all of"):
        AcceptorConfig(data_dir=str(tmp_path), listen="h1:7301", tls_ca="ca.pem", tls_cert="a1.pem")


def test_an_acceptor_alone_loads_nothing_of_servers() -> None:
    """Its size is what the kernel has to clear away when it is killed, on a core that the others want."""
    unwanted = ("troth.replica", "troth.kv", "troth.core.leading", "troth.core.raft", "troth.core.paxos", "click")
    code = (
        "import sys, troth.server.acceptor_process; "
        f"print([name for name in sys.modules if name.startswith({unwanted})])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_session_hears_whether_its_answers_are_read() -> None:
    connection = AcceptorPort(MagicMock()).accept()
    assert isinstance(connection, asyncio.Protocol)
    connection.pause_writing()
    connection.resume_writing()
    session = MagicMock()
    connection._session = session  # type: ignore[attr-defined]
    connection.pause_writing()
    connection.resume_writing()
    assert [call[0] for call in session.method_calls] == ["pause_writing", "resume_writing"]


def test_its_log_is_written_as_a_servers_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path / 'a'}"
    words = ["acceptor", "--data-dir", str(tmp_path / "data"), "--listen", listen, "--log-format", "json"]
    asked = "from troth.cli.main import main; main()"
    with subprocess.Popen([sys.executable, "-c", asked, *words], stderr=subprocess.PIPE) as acceptor:
        assert acceptor.stderr is not None
        first = json.loads(acceptor.stderr.readline())
        acceptor.terminate()
        last = json.loads(acceptor.stderr.read())
    assert (first["event"], first["listen"], last["event"]) == ("serving", listen, "stopped")
    assert first["server"] == "acceptor" and first["time"].endswith("Z")
    assert acceptor.returncode == 0
