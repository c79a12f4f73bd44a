"""What a `RaftServer` makes of its pipe, with the test at the other end instead of a process."""

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import pytest

from troth.errors import Unavailable
from troth.server.process import UNANSWERED_MAX, RaftServer


@pytest.fixture
def server() -> Any:
    made = RaftServer(name="n1", data_dir="/nowhere/n1")
    made._process = SimpleNamespace(
        pid=os.getpid(), sentinel=0, exitcode=None, is_alive=lambda: False, join=lambda timeout_s=None: None
    )
    made._greeted = True
    yield made
    made.close()


def test_a_late_answer_is_not_taken_for_that_to_the_next_command(server: Any) -> None:
    with pytest.raises(Unavailable):
        server._call("status", None, 0.01)
    late, command, _ = server._child_pipe.recv()
    assert command == "status"
    server._child_pipe.send((late, None, "old"))
    server._child_pipe.send((late + 1, None, "new"))
    assert server._call("status", None, 1.0) == "new"


def test_a_server_that_answers_nothing_is_not_sent_commands_for_ever(server: Any) -> None:
    """The pipe would be full some day, and whoever writes to it wait for ever: we, or the server when it goes on."""
    for _ in range(3 * UNANSWERED_MAX):
        with pytest.raises(Unavailable, match="does not answer"):
            server._call("status", None, 0.001)
    sent = []
    while server._child_pipe.poll(0):
        sent.append(server._child_pipe.recv()[0])
    assert len(sent) == UNANSWERED_MAX
    for number in sent:
        server._child_pipe.send((number, None, "late"))
    server._child_pipe.send((sent[-1] + 1, None, "in time"))
    assert server._call("status", None, 1.0) == "in time"


def test_threads_may_wait_for_one_server(server: Any) -> None:
    """One of them takes the greeting; the others do not wait for a second one."""
    server._greeted = False
    alive, _ = ends = socket.socketpair()
    server._process.sentinel = alive.fileno()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        for end in ends:
            stack.enter_context(end)
        waiting = [pool.submit(server.wait_ready) for _ in range(4)]
        server._child_pipe.send(("ready", 7))
        done = wait(waiting, timeout=5).not_done
        for _ in done:
            server._child_pipe.send(("ready", 8))  # so that the pool can end
    assert not done and server.node_id == 7


def test_a_thread_waits_no_longer_than_it_said_for_another_that_waits_for_an_answer(server: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(server._call, "status", None, 60.0)
        number, _, _ = server._child_pipe.recv()
        with pytest.raises(Unavailable, match="does not answer"):
            server._call("status", None, 0.01)
        assert not patient.done()
        server._child_pipe.send((number, None, "in time"))
        assert patient.result(5) == "in time"


_NOBODY_READS = """
import asyncio, multiprocessing
from troth.core.interface import Trace
from troth.server.control import Control
from troth.server.process import EVENTS_MAX
from troth.server.serve import _Parent

spawn = multiprocessing.get_context("spawn")
queue = spawn.Queue(EVENTS_MAX)
ours, theirs = spawn.Pipe()

async def main():
    control = Control(pipe=ours, ready=None, events=queue, die_with_parent=False, parent=0, log_file="")
    parent = _Parent(control, "n1")
    for index in range(EVENTS_MAX):
        parent.on_event(Trace(name="commit", facts={"index": index, "text": "x" * 100}))

asyncio.run(main())
"""


def test_a_server_whose_events_nobody_reads_ends_all_the_same() -> None:
    assert subprocess.run([sys.executable, "-c", _NOBODY_READS], timeout=120, check=False).returncode == 0


_FILES = """
import resource, sys
from troth.server.ending import clients_that_fit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[1])))
print(clients_that_fit(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("hard", "says"), [("4000", "1000 2024"), ("1500", "750 1500"), ("64", "32 64")])
def test_clients_do_not_take_the_files_that_the_server_needs(hard: str, says: str) -> None:
    found = subprocess.run([sys.executable, "-c", _FILES, hard], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == says
