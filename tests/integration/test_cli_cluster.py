"""The command line against real servers: `troth up`, then everything that a person would type."""

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
    """Runs ``troth`` commands as their user would, with a context file of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: text for name, text in os.environ.items() if not name.startswith("TROTH_")}
        self.environment = {**kept, "TROTH_CONTEXT": str(home / "context.json")}

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*TROTH, *words],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.home,
            env=self.environment,
            input=stdin,
            check=False,
        )

    def out(self, *words: str, stdin: str = "") -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *words: str) -> "subprocess.Popen[str]":
        with (self.home / "output").open("a") as log:
            return subprocess.Popen([*TROTH, *words], stdout=log, stderr=log, cwd=self.home, env=self.environment)

    @property
    def output(self) -> str:
        return (self.home / "output").read_text()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell beside a cluster of three that `troth up` runs; after it no server is left."""
    shell = Shell(tmp_path)
    up = shell.start("up", "--data", str(tmp_path / "data"))
    try:
        until(lambda: "leads." in shell.output or up.poll() is not None, why="troth up")
        assert up.poll() is None, shell.output
        pids = [int(line.split()[-1]) for line in shell.output.splitlines() if " pid " in line]
        assert len(pids) == 3
        yield shell
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0, shell.output
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert not (tmp_path / "context.json").exists()


def test_a_session_at_the_keyboard(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("put", "greeting", "hello").stderr.startswith("level=linearizable served-by=n")
    assert shell.out("get", "greeting") == "hello"
    for level in ("sequential", "session", "bounded:2s", "bounded:10", "eventual"):
        assert shell.out("get", "greeting", "--level", level) == "hello"

    lease = shell.out("lease", "grant", "60").strip()
    shell.out("put", "worker/1", "alive", "--lease", lease)
    assert "worker/1" in shell.out("lease", "ttl", lease, "--keys")
    assert shell.out("lease", "list").split() == [lease]
    assert shell.out("lease", "keep-alive", lease, "--once") == "renewed for 60 s\n"
    shell.out("lease", "revoke", lease)
    assert shell.run("get", "worker/1").returncode == 1
    assert shell.run("lease", "ttl", lease).returncode == 1

    script = "version(greeting) = 1\n\nput a 1\nput b 2\n\nget greeting\n"
    assert shell.out("txn", stdin=script).splitlines()[0] == "succeeded"
    assert shell.out("txn", stdin=script.replace("= 1", "= 7")).splitlines()[0].startswith("failed")
    watched = shell.out("watch", "--prefix", "", "--start-revision", "1", "--count", "4", "-o", "json")
    kinds = [(json.loads(line)["type"], json.loads(line)["kv"]["key"]) for line in watched.splitlines()]
    assert kinds == [("put", "greeting"), ("put", "worker/1"), ("delete", "worker/1"), ("put", "a")]

    table = tmp_path / "rows.csv"
    table.write_text("id,name\n" + "".join(f"{number},name {number}\n" for number in range(5000)))
    assert json.loads(shell.out("load", str(table), "--prefix", "row/", "-o", "json"))["rows"] == 5000
    assert shell.out("range", "--prefix", "row/", "--count-only") == "5000\n"
    assert shell.out("get", "row/4999") == "name 4999"
    assert shell.out("del", "--prefix", "row/") == "deleted 5000\n"
    revision = json.loads(shell.out("status", "-o", "json"))["servers"][0]["revision"]
    shell.out("compact", str(revision))
    assert shell.run("get", "greeting", "--revision", "2").returncode == 1
    rates = json.loads(shell.out("bench", "--seconds", "0.2", "--outstanding", "1,8", "-o", "json"))
    assert len(rates) == 6


def test_status_says_what_a_failure_costs(shell: Shell) -> None:
    healthy = shell.run("status")
    assert (healthy.returncode, healthy.stdout.splitlines()[0]) == (0, "healthy: survives 1 more failure")
    leader = json.loads(shell.out("status", "-o", "json"))["leader"]
    other = next(name for name in ("n1", "n2", "n3") if name != leader)
    shell.out("transfer", other)
    assert json.loads(shell.out("status", "-o", "json"))["leader"] == other

    pids = {line.split()[0]: int(line.split()[-1]) for line in shell.output.splitlines() if " pid " in line}
    os.kill(pids[other], signal.SIGKILL)
    shell.out("put", "k", "v")
    degraded = shell.run("status")
    assert degraded.returncode == 1
    assert degraded.stdout.startswith(f"degraded: survives 0 more failures ({other} does not answer)")
    os.kill(pids[leader], signal.SIGKILL)
    until(lambda: shell.run("status").returncode == 2, why="status 2 without a quorum")
    refused = shell.run("put", "k", "w", "--timeout", "1")
    assert refused.returncode in (3, 4)
    assert "troth" in refused.stderr.splitlines()[-1]
    assert shell.out("get", "k", "--level", "eventual", "--timeout", "2") == "v"


def test_a_snapshot_begins_a_new_cluster_that_others_join(shell: Shell, tmp_path: Path) -> None:
    shell.out("put", "greeting", "hello")
    shell.out("snapshot", "save", "backup.troth")
    damaged = bytearray((tmp_path / "backup.troth").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.troth").write_bytes(damaged)
    (tmp_path / "short.troth").write_bytes(damaged[:-5])
    for name in ("damaged.troth", "short.troth"):
        assert shell.run("snapshot", "restore", name, "--data-dir", "bad").returncode == 1
    assert not (tmp_path / "bad").exists()

    def addresses() -> tuple[str, ...]:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))

    client, peer = addresses()
    where = ("--client-address", client, "--peer-address", peer)
    shell.out("snapshot", "restore", "backup.troth", "--name", "m1", "--data-dir", "m1", *where)
    assert shell.run("snapshot", "restore", "backup.troth", "--data-dir", "m1").returncode == 2
    servers = [shell.start("serve", "--name", "m1", "--data-dir", "m1", *where)]
    try:
        new = Shell(tmp_path)
        new.environment["TROTH_URL"] = f"troth://{client}"
        until(lambda: new.run("get", "greeting").stdout == "hello", why="the restored server")
        client2, peer2 = addresses()
        where = ("--client-address", client2, "--peer-address", peer2)
        servers.append(shell.start("serve", "--name", "m2", "--data-dir", "m2", *where, "--join", client))

        def voters() -> list[str]:
            listed = json.loads(new.out("member", "list", "-o", "json"))
            return sorted(member["name"] for member in listed if member["role"] != "learner")

        until(lambda: voters() == ["m1", "m2"], why="m2 becomes a voter")
        alone = f"troth://{client2}"
        assert new.out("get", "greeting", "--level", "eventual", "--url", alone) == "hello"
        new.out("member", "remove", "m2")
        assert voters() == ["m1"]
    finally:
        for process in servers:
            process.terminate()
        for process in servers:
            process.wait(30)


def test_certs_are_all_that_tls_needs(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.out("certs", "pki", "--server", "n1=localhost")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        client, peer = (f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
    tls = ("--tls-ca", "pki/ca.pem", "--tls-cert", "pki/n1.pem", "--tls-key", "pki/n1.key")
    where = ("--client-address", client, "--peer-address", peer)
    server = shell.start("serve", "--name", "n1", "--data-dir", "n1", *where, *tls)
    try:
        url = f"troth+tls://{client}?ca=pki/ca.pem&cert=pki/client.pem&key=pki/client.key"
        until(lambda: shell.run("put", "k", "v", "--url", url).returncode == 0, why="a put over TLS")
        assert shell.out("get", "k", "--url", url) == "v"
        plain = shell.run("get", "k", "--url", f"troth://{client}", "--timeout", "2")
        assert plain.returncode == 4
        assert "troth status" in plain.stderr
    finally:
        server.terminate()
        assert server.wait(30) == 0, shell.output
