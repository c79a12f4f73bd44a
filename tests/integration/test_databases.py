"""The database servers that other tests start: they keep what they acknowledged, and nothing of them stays behind."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from troth.torture.databases import DatabaseServer, MariaDBServer, PostgresServer

pytestmark = pytest.mark.integration

SERVERS = [PostgresServer, MariaDBServer]


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Whether the process ends in time (a zombie has ended)."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("kind", SERVERS)
def test_a_killed_server_keeps_what_was_committed_and_what_was_prepared(kind: type[DatabaseServer]) -> None:
    with kind() as server:
        engine = sa.create_engine(server.url(), poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("create table kept (n int primary key)"))
            connection.execute(sa.text("insert into kept values (1)"))
        connection = engine.connect()
        transaction = connection.begin_twophase("in-doubt")
        connection.execute(sa.text("insert into kept values (2)"))
        transaction.prepare()
        connection.invalidate()
        server.kill()
        server.start()
        with engine.connect() as connection:
            assert connection.scalars(sa.text("select n from kept order by n")).all() == [1]
            if kind is PostgresServer:
                names = connection.scalars(sa.text("select gid from pg_prepared_xacts")).all()
            else:
                names = [row[3].decode() for row in connection.execute(sa.text("xa recover"))]
        assert names == ["in-doubt"]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_does_not_outlive_the_process_that_started_it(kind: type[DatabaseServer]) -> None:
    script = (
        f"from troth.torture.databases import {kind.__name__} as Server\n"
        "server = Server(); server.start(); print(server.pid, server.directory, flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    pid, directory = child.stdout.readline().split()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert gone(int(pid))
    child.stdin.close()
    child.stdout.close()
    subprocess.run(["rm", "-rf", directory], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("kind", SERVERS)
def test_servers_start_for_somebody_who_is_not_root(kind: type[DatabaseServer]) -> None:
    script = (
        f"from troth.torture.databases import {kind.__name__} as Server\n"
        "with Server() as server: print(server.pid, server.directory.owner())"
    )
    nobody = pwd.getpwnam("nobody")
    words = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--"]
    if subprocess.run([*words, sys.executable, "-c", "import troth"], cwd="/", capture_output=True).returncode:
        pytest.skip("this checkout cannot be read by others")
    done = subprocess.run([*words, sys.executable, "-c", script], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "nobody"
