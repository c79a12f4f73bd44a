"""A machine on which processes share a directory, one file-system call at a time, in an order drawn from a seed.

Each process is a greenlet that runs the real classes; before every call that touches a file, and instead of each sleep,
the machine goes on with whichever process it draws. A process may stand still for long, or die between any two calls.
Syncs may fail, and at the end the power: of a file that is left what was synced, and of the names those whose directory
was.
"""

import builtins
import os
import random
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import greenlet
import pytest

from troth.transactions.log import place

STEPS_MAX = 20_000
SWITCH_ONE_IN = 3
STAND_STILL_ONE_IN = 30
HESITATE_ONE_IN = 10
"""Before it reads, and before it syncs: what was looked at or written before may be something else by then."""
DIE_ONE_IN = 100
SLEEP_S = 0.1
FIRST_BYTES = 4096
PART_BYTES = 1500
"""A record of the test has a tenth of that."""


class Killed(BaseException):
    """The process is no more."""


class _Process(greenlet.greenlet):
    def __init__(self, work: Callable[[], None], on_death: Callable[[], None], fails_one_in: int) -> None:
        super().__init__(work)
        self.on_death = on_death
        self.fails_one_in = fails_one_in
        self.stands_until = 0
        self.hesitates = False
        self.is_killed = False


class _InParts:
    """A file that is read to its end by several system calls, between which others write."""

    def __init__(self, file: Any, step: Callable[[], None]) -> None:
        self._file, self._step = file, step
        self.seek, self.fileno = file.seek, file.fileno

    def __enter__(self) -> "_InParts":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> bytes:
        parts = [self._file.read(PART_BYTES)]
        while parts[-1]:
            self._step()
            parts.append(self._file.read(PART_BYTES))
        return b"".join(parts)


class Machine:
    """See the module."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = random.Random(seed)
        self._hub = greenlet.getcurrent()
        self._running: list[_Process] = []
        self._now = 0
        self._names: dict[Path, dict[str, int]] = {}
        """Of each directory, what its last sync has made durable."""
        self._content: dict[int, bytes] = {}
        self._files: dict[int, int] = {}
        """By inode, since the numbers of those come again."""
        for name in ("listdir", "access", "stat", "pwrite", "unlink", "rename"):
            monkeypatch.setattr(os, name, self._stepping(getattr(os, name)))
        monkeypatch.setattr(os, "open", self._stepping(partial(self._open, os.open)))
        monkeypatch.setattr(place, "open", self._open_to_read, raising=False)
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._stepping(self._sync, hesitates=True))
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self._now * SLEEP_S)

    def spawn(self, work: Callable[[], None], *, on_death: Callable[[], None], fails_one_in: int = 0) -> None:
        """*fails_one_in*: so often a sync of this process fails; 0: never."""
        self._running.append(_Process(work, on_death, fails_one_in))

    def run(self, steps: int = STEPS_MAX) -> None:
        """Until all have ended or died; whoever still runs after so many *steps* dies then."""
        current = self._running[0]
        for self._now in range(steps):
            if not self._running:
                return
            if current not in self._running or not self.rng.randrange(SWITCH_ONE_IN):
                ready = [each for each in self._running if each.stands_until <= self._now]
                if not ready:
                    continue
                current = self.rng.choice(ready)
            if not self.rng.randrange(HESITATE_ONE_IN if current.hesitates else STAND_STILL_ONE_IN):
                current.stands_until = self._now + self.rng.randrange(10, 300)
                current = self.rng.choice(self._running)
            if not self.rng.randrange(DIE_ONE_IN):
                self._kill(current)
            else:
                current.switch()
            self._running = [each for each in self._running if not each.dead]
        assert steps < STEPS_MAX, "processes go on for ever"
        for each in self._running:
            self._kill(each)
        self._running = []

    def _kill(self, process: _Process) -> None:
        process.is_killed = True
        try:
            process.throw(Killed)
        except Killed:
            pass
        process.on_death()

    def _step(self, *, hesitates: bool = False) -> None:
        here = greenlet.getcurrent()
        if isinstance(here, _Process) and here in self._running:
            if here.is_killed:
                raise Killed  # who is no more tidies up nothing
            here.hesitates = hesitates
            self._hub.switch()

    def _stepping(self, call: Callable[..., Any], *, hesitates: bool = False) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._step(hesitates=hesitates)
            return call(*arguments, **named)

        return called

    def _sleep(self, seconds: float) -> None:
        self._step()

    # ---- the disk ------------------------------------------------------------------------------------------

    def _open(self, real: Callable[..., int], path: Any, flags: int, *mode: int) -> int:
        descriptor = real(path, flags, *mode)
        if flags & os.O_EXCL:
            self._files[os.fstat(descriptor).st_ino] = len(self._content)
            self._content[len(self._content)] = b""
        return descriptor

    def _open_to_read(self, path: Any, mode: str, buffering: int) -> Any:
        self._step(hesitates=True)
        return _InParts(builtins.open(path, mode, buffering), self._step)

    def _sync(self, descriptor: int) -> None:
        here = greenlet.getcurrent()
        if isinstance(here, _Process) and here.fails_one_in and not self.rng.randrange(here.fails_one_in):
            raise OSError(5, "Input/output error")
        found = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(found.st_mode):
            each_with = ((each.name, self._files.get(each.inode())) for each in os.scandir(path))
            self._names[path] = {name: file for name, file in each_with if file is not None}
        else:
            with builtins.open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._content[self._files[found.st_ino]] = file.read()

    def is_synced(self, text: str) -> bool:
        """Whether *text* stands in what a power cut would leave of any file that was ever there."""
        return any(text.encode() in content for content in self._content.values())

    def cut_power(self) -> None:
        """And turn it on again: the files are what was synced."""
        for directory, names in self._names.items():
            for each in list(os.scandir(directory)):
                if each.name.startswith("decisions-"):
                    os.unlink(each.path)
            for name, file in names.items():
                if name.startswith("decisions-"):
                    (directory / name).write_bytes(self._content[file])
