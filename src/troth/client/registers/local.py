"""Acceptors on this machine, for a program that wants registers without running servers: `PaxosClient.local`.

Each is a process of its own, so that one can die (or be killed by a test) without the others; they talk over unix
sockets, open no port, and end with the process that started them, however that ends.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

from troth.core.register.messages import SEATS_MAX, Seat, group_of
from troth.errors import Unavailable, UsageError
from troth.ids import NodeId
from troth.runtime import interrupts
from troth.runtime.files import make_durably

READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 5.0
LAYOUT = "acceptors.json"
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}
"""Few large pages are cleared away sooner than many small ones. When an acceptor is killed the kernel does that on a
core that the others may want (`make bench-paxos`). Who has set one of these for other reasons keeps it."""


class LocalAcceptors:
    """The processes ``a1``, ``a2`` and so on, with a directory each. Made by `PaxosClient.local`."""

    def __init__(self, directory: "str | Path", count: int, *, prepare: int = 0, accept: int = 0) -> None:
        """Start them.

        Raises:
            UsageError: not even one, or too many, or no set has quorums of these sizes; *directory* can not be written,
                or holds another number of acceptors.
            Unavailable: one does not start.
        """
        if type(count) is not int or count < 1:
            raise UsageError(f"there is at least one acceptor, not {count!r}")
        if count > SEATS_MAX:
            raise UsageError(f"a set has up to {SEATS_MAX} acceptors, not {count}")
        # What can not become a set is refused before anything is started, or written down for the next time.
        seats = tuple(Seat(NodeId(number), f"a{number}") for number in range(1, count + 1))
        group_of(seats, prepare=prepare, accept=accept)
        self.names = tuple(seat.address for seat in seats)
        self.directory = Path(directory).absolute()
        try:
            make_durably(self.directory)
            self._check_layout(count)
        except OSError as error:
            raise UsageError(
                f"acceptors need a directory that can be written: {error}; give another one"
            ) from error
        self._sockets = Path(tempfile.mkdtemp(prefix="troth-"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # Also for who forgets to close it, in this process.
        weakref.finalize(self, _end, self.processes, self._sockets, os.getpid())
        try:
            for name in self.names:
                self.start(name, wait=False)
            for name in self.names:
                self._wait_ready(name)
        except BaseException:
            self.close()
            raise

    def _check_layout(self, count: int) -> None:
        path = self.directory / LAYOUT
        if path.exists():
            try:
                known = int(json.loads(path.read_text())["acceptors"])
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{path} is not what PaxosClient.local wrote ({error}): restore it, with the number of directories "
                    'a1, a2 and so on beside it, as {"acceptors": 3}; or give another directory'
                ) from None
            if known != count:
                raise UsageError(f"{self.directory} holds {known} acceptors, not {count}: give that number")
        else:
            from troth.client.backup import finish_file

            new = path.with_suffix(".new")
            with new.open("wb") as file:
                file.write(json.dumps({"acceptors": count}).encode() + b"\n")
                finish_file(file, new, path)

    @property
    def addresses(self) -> list[str]:
        """Where they listen."""
        return [self.address(name) for name in self.names]

    def address(self, name: str) -> str:
        return f"unix:{self._socket(name)}"

    def _socket(self, name: str) -> Path:
        return self._sockets / name

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a process (again), on the data it has.

        Raises:
            UsageError: it runs, or there is no such acceptor.
            Unavailable: it does not come up.
        """
        self._check(name)
        former = self.processes.get(name)
        if former is not None:
            if former.poll() is None:
                raise UsageError(f"the acceptor {name} runs; `kill` it first")
            _reap(former)  # it ended by itself
        command = [
            sys.executable,
            "-m",
            "troth.server.acceptor_process",
            str(self.directory / name),
            self.address(name),
        ]
        if threading.current_thread() is threading.main_thread():
            # The kernel's signal comes when the *thread* that started it ends.
            command += ["--parent", str(os.getpid())]
        self._socket(name).unlink(missing_ok=True)  # of one that was killed: `_wait_ready` waits for the new one
        with (self.directory / f"{name}.log").open("ab") as log, interrupts.held_back():
            self.processes[name] = subprocess.Popen(
                command,
                env={**LARGE_PAGES, **os.environ},
                stdin=subprocess.PIPE,  # it stops when we are gone, since this ends then
                stdout=log,
                stderr=log,
            )
        if wait:
            self._wait_ready(name)

    def _wait_ready(self, name: str) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._socket(name).exists():
            code = self.processes[name].poll()
            if code is not None or time.monotonic() > deadline:
                raise Unavailable(
                    f"the acceptor {name} does not come up (exit code {code}); see {self.directory / f'{name}.log'}"
                )
            time.sleep(0.005)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash.

        Raises:
            UsageError: there is no such acceptor.
        """
        process = self._process(name)
        process.kill()
        _reap(process)

    def pause(self, name: str) -> None:
        """SIGSTOP: it stands still, its connections stay open.

        Raises:
            UsageError: there is no such acceptor.
        """
        self._process(name).send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT.

        Raises:
            UsageError: there is no such acceptor.
        """
        self._process(name).send_signal(signal.SIGCONT)

    def _process(self, name: str) -> "subprocess.Popen[bytes]":
        self._check(name)
        return self.processes[name]

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise UsageError(f"no acceptor is called {name!r}; there are {', '.join(self.names)}")

    def close(self) -> None:
        """End them; their data stays."""
        _end(self.processes, self._sockets, os.getpid())


def _end(processes: "Mapping[str, subprocess.Popen[bytes]]", sockets: Path, pid: int) -> None:
    """End the *processes* that the process *pid* has started: a forked child of it leaves them alone."""
    if os.getpid() != pid:
        return
    for process in processes.values():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
    for process in processes.values():
        _reap(process)
    shutil.rmtree(sockets, ignore_errors=True)


def _reap(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
