"""Tries one mutant: the changed source takes the place of a module, and the tests of the core run on it.

Each trial is a forked process, so that nothing imported by one is seen by the next. The simulation is tried when the
tests have noticed nothing.
"""

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import worlds

ROOT = Path(__file__).parents[2]
TESTS = ("tests/unit/core", "tests/paper", "tests/scenarios")
QUICK = "not integration and not slow and not campaign"
PATIENCE_SECONDS = 120
CPU_SECONDS = 20
SEED_SECONDS = 10
"""CPU time that the last seed may take."""
MEMORY_BYTES = 1 << 30
"""What a trial may use: a mutant that goes round for ever, or grows for ever, is caught by that."""

STACK_BYTES = 1 << 20
M_ARENA_MAX = -8
"""As in malloc.h."""
CLUMSY = (NameError, AttributeError, TypeError)
"""Whoever runs the line once sees these: a mutant that dies of one may be no bug that anybody would ship, and that it
is caught says nothing about the tests."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who caught a mutant: a test's name, ``simulation: rule``, or nobody (empty)."""

    caught_by: str
    seeds: int = 0
    shrunk: str = ""
    """What is left of the red seed: the fewest faults and operations under which the same rule breaks."""
    died_of: str = ""
    """The error of Python's own that the changed source ended with, if it was one of `CLUMSY`."""
    not_asked: tuple[str, ...] = ()
    """Test files that had to be left out, since all of their tests are slow: they may well catch it."""


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads changed sources in place of modules."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in self._sources else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._sources[module.__name__], f"<mutant {module.__name__}>", "exec"), module.__dict__)


def module_name(path: str) -> str:
    """``src/troth/core/quorum.py`` -> ``troth.core.quorum``."""
    return path.removeprefix("src/").removesuffix(".py").replace("/", ".")


def try_mutant(
    sources: dict[str, str],
    *,
    tests: Sequence[str] = TESTS,
    seeds: int = 0,
    first: int = 0,
    chaos_seconds: int = 10,
    simulation: str = "core",
    cpu_seconds: int = 0,
    shrink_seconds: int = 0,
    tests_seconds: int = CPU_SECONDS,
) -> Verdict:
    """Run the tests, then up to *seeds* simulated clusters, with *sources* (module name -> text) in place.

    Args:
        cpu_seconds: no seed begins after so much CPU time, if given.
        shrink_seconds: CPU time for making the red seed of a core small.
        tests_seconds: CPU time for the tests; a mutant that takes longer goes round for ever.

    Raises:
        ValueError: there is no such module, so that nothing would be changed.
    """
    for name in sources:
        if not (ROOT / "src" / name.replace(".", "/")).with_suffix(".py").is_file():
            raise ValueError(f"there is no module {name}")
    with tempfile.NamedTemporaryFile("w+", suffix=".verdict") as told:
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE_SECONDS + 4 * seeds + 4 * shrink_seconds)
            limit = tests_seconds + shrink_seconds + (cpu_seconds + SEED_SECONDS if cpu_seconds else seeds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            _threads_are_small()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            code = 1
            try:
                limits = (cpu_seconds or 1 << 30, shrink_seconds)
                code = _trial(sources, tests, seeds, first, chaos_seconds, told.name, simulation, limits)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        said = told.read()
    if said:
        return msgspec.json.decode(said, type=Verdict)
    if os.WIFSIGNALED(status):
        return Verdict("does not come to an end")
    return Verdict("" if os.WEXITSTATUS(status) == 0 else "fails outside of any test")


def _threads_are_small() -> None:
    """Or else a few dozen take all of `MEMORY_BYTES`, and what is right fails: each has a stack of 8 MiB, and eight
    for each core reserve 64 MiB each for what they allocate."""
    threading.stack_size(STACK_BYTES)
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def _tell(told: str, verdict: Verdict) -> None:
    Path(told).write_bytes(msgspec.json.encode(verdict))


class FirstFailure:
    """Remembers which test failed, and why; and which files had no test that was to be run."""

    def __init__(self) -> None:
        self.name = ""
        self.died_of: str | None = None
        self.not_asked: tuple[str, ...] = ()
        self._deselected: dict[str, None] = {}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._deselected |= dict.fromkeys(item.path.name for item in items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        asked = {item.path.name for item in session.items}
        self.not_asked = tuple(name for name in self._deselected if name not in asked)

    def pytest_exception_interact(self, call: pytest.CallInfo[object]) -> None:
        error = call.excinfo.value if call.excinfo else None
        if self.died_of is None:
            is_its_own = isinstance(error, CLUMSY) and _raised_in(error).startswith("<mutant ")
            self.died_of = f"{type(error).__name__}: {error}" if is_its_own else ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid.split("/")[-1]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name = f"import of {report.nodeid}"


def _raised_in(error: BaseException) -> str:
    """The name of the file with the line at which *error* arose."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_code.co_filename if frames else ""


def forget_project() -> None:
    """Let the changed sources be imported anew, and the tests with them, whatever the parent has imported."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name.split(".")[0] == "troth" or (file.startswith(str(ROOT / "tests")) and name != "conftest"):
            del sys.modules[name]


def _trial(
    sources: dict[str, str],
    tests: Sequence[str],
    seeds: int,
    first: int,
    chaos_seconds: int,
    told: str,
    simulation: str,
    limits: tuple[int, int],
) -> int:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    forget_project()
    sys.meta_path.insert(0, Changed(sources))
    if tests:
        seen = FirstFailure()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-m", QUICK, *tests]
        # The time-out of a test takes the place of the alarm: who waits for ever uses no CPU time.
        options += ["-o", f"timeout={PATIENCE_SECONDS}"]
        code = pytest.main(options, plugins=[seen])
        # If no test is quick none has failed.
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            _tell(told, Verdict(seen.name or "pytest", died_of=seen.died_of or ""))
            return 1
        _tell(told, Verdict("", not_asked=seen.not_asked))
    if seeds:
        run = worlds.runner(simulation, chaos_seconds)
        for seed in range(first, first + seeds):
            if time.process_time() > limits[0]:
                _tell(told, Verdict("", seed - first))
                return 0
            # It stands there if this process is ended in the middle of the seed.
            _tell(told, Verdict("simulation: does not come to an end", seed - first + 1))
            try:
                violation = run(seed)
            except Exception as error:  # noqa: BLE001 - whatever a mutant does, it was noticed
                violation = type(error).__name__
            if violation:
                rule = worlds.rule_of(violation)
                verdict = Verdict(f"simulation: {rule}", seed - first + 1)
                _tell(told, verdict)
                if limits[1]:
                    small = worlds.shrunk(
                        simulation, seed, rule, chaos_seconds=chaos_seconds, cpu_seconds=limits[1]
                    )
                    _tell(told, replace(verdict, shrunk=small))
                return 1
        _tell(told, Verdict(""))
    return 0
