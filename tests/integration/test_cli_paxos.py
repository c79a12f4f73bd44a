"""`troth acceptor` and `troth paxos`, as a person would type them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_cluster import until

pytestmark = pytest.mark.integration

TROTH = [sys.executable, "-c", "from troth.cli.main import main; main()"]


class Shell:
    """Commands against acceptors that `troth acceptor` runs."""

    def __init__(self, home: Path, count: int) -> None:
        self.home = home
        kept = {name: text for name, text in os.environ.items() if not name.startswith("TROTH_")}
        with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in with_ports]
        for each in with_ports:
            each.close()
        self.environment = {**kept, "TROTH_URL": "troth://" + ",".join(self.addresses[:3])}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for address in self.addresses:
            self.start(address)

    def start(self, address: str) -> None:
        with (self.home / "log").open("ab") as log:
            self.processes[address] = subprocess.Popen(
                [
                    *TROTH,
                    "acceptor",
                    "--data-dir",
                    str(self.home / address.replace(":", "-")),
                    "--listen",
                    address,
                ],
                stdout=log,
                stderr=log,
                env=self.environment,
            )

        def listens() -> bool:
            host, _, port = address.rpartition(":")
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        until(listens, why="troth acceptor")

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*TROTH, "paxos", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            check=False,
        )

    def out(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            assert process.wait(20) in (0, -signal.SIGKILL)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, 4)
    try:
        yield shell
    finally:
        shell.close()


def test_everything_that_the_help_shows(shell: Shell) -> None:
    assert shell.run("get", "colour").returncode == 1
    shell.out("put", "colour", "red")
    assert shell.out("get", "colour") == "red"
    shell.out("cas", "colour", "red", "green")
    refused = shell.run("cas", "colour", "red", "blue")
    assert (refused.returncode, refused.stdout) == (1, "green")
    shell.out("cas", "fresh", "-", "x", "--absent")
    assert shell.out("change", "visits", "--add", "1") == "1"
    assert shell.out("change", "visits", "--add", "4") == "5"
    assert shell.out("change", "colour", "--append", "ish") == "greenish"
    assert shell.out("change", "colour", "--exec", "tr a-z A-Z") == "GREENISH"
    failed = shell.run("change", "colour", "--exec", "false")
    assert failed.returncode == 1
    assert "nothing was changed" in failed.stderr
    assert shell.out("propose", "builder", "host-3") == "host-3"
    assert shell.out("propose", "builder", "host-4") == "host-3"
    decided = shell.run("put", "builder", "host-5")
    assert decided.returncode == 1
    assert "never changes again" in decided.stderr
    assert json.loads(shell.out("get", "visits", "-o", "json"))["value"] == "5"
    shell.out("delete", "colour")
    assert shell.run("delete", "colour").returncode == 1
    assert shell.out("collect") == "collected 0\n"
    assert shell.run("change", "visits").returncode == 2


def test_the_set_of_acceptors_is_shown_and_changed(shell: Shell) -> None:
    shell.out("put", "k", "v")
    assert len(shell.out("acceptors", "list").splitlines()) == 4
    shell.out("acceptors", "set", *shell.addresses)
    shell.out("acceptors", "set", *shell.addresses[1:])
    gone = shell.addresses[0]
    shell.processes[gone].kill()
    shell.processes[gone].wait()
    listed = json.loads(shell.out("acceptors", "list", "-o", "json"))
    assert sorted(row["address"] for row in listed) == sorted(shell.addresses[1:])
    assert shell.out("get", "k") == "v"
    shell.processes[shell.addresses[1]].kill()
    shell.processes[shell.addresses[1]].wait()
    ill = shell.run("acceptors", "list")
    assert ill.returncode == 1
    assert "Connection refused" in ill.stdout
    assert shell.run("acceptors", "set", shell.addresses[0], "--timeout", "1").returncode == 4


def test_without_a_quorum_a_command_says_so(shell: Shell) -> None:
    shell.out("put", "k", "v")
    for address in shell.addresses[:2]:
        shell.processes[address].kill()
        shell.processes[address].wait()
    done = shell.run("get", "k", "--timeout", "0.5")
    assert done.returncode == 4
    assert "nothing was changed" in done.stderr


def test_an_acceptor_is_not_served_to_other_machines_in_plain_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [*TROTH, "acceptor", "--data-dir", str(tmp_path / "a"), "--listen", "0.0.0.0:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "without TLS" in done.stderr
