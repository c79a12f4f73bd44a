"""Many seeds: here, in several processes, or on the machines of a Ray cluster. The same reports whichever it is."""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any

from troth.errors import UsageError
from troth.rehearsal.levels import LEVELS, Report

AHEAD = 2
"""Seeds that wait for each worker, so that none is ever idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One seed to be run."""

    level: str
    seed: int
    seconds: float
    consensus: str

    def run(self) -> Report:
        """Run it. What a campaign keeps of a green seed is only numbers."""
        level = LEVELS[self.level]
        report = level.run(level.draw(self.seed, self.seconds, self.consensus))
        report.taken = []
        if not report.violation:
            report.last_events = []
        return report


def _run(job: Job) -> Report:
    return job.run()


def run_here(jobs: Iterator[Job]) -> Iterator[Report]:
    """One after the other, in this process."""
    for job in jobs:
        yield job.run()


def run_in_processes(jobs: Iterator[Job], count: int) -> Iterator[Report]:
    """In *count* processes of this machine, as they come to an end. Ends its processes when it is closed."""
    # Ctrl-C reaches all processes of a terminal; it is this one that ends the others.
    pool = ProcessPoolExecutor(count, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        under_way: set[Future[Report]] = {pool.submit(_run, job) for job in islice(jobs, count * AHEAD)}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                for job in islice(jobs, 1):
                    under_way.add(pool.submit(_run, job))
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_on_ray(jobs: Iterator[Job], address: str = "") -> Iterator[Report]:
    """On a Ray cluster (*address*; without one, a Ray of this machine alone is started).

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UsageError(
            f"Ray is not installed here: {sys.executable} -m pip install 'ray>=2.9', or use --engine local"
        ) from error
    try:
        ray.init(address=address or None, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"there is no Ray cluster to use: {error}") from error
    try:
        remote = ray.remote(_run)
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        under_way = [remote.remote(job) for job in islice(jobs, workers * AHEAD)]
        while under_way:
            done, under_way = ray.wait(under_way, num_returns=1)
            for reference in done:
                for job in islice(jobs, 1):
                    under_way.append(remote.remote(job))
                yield ray.get(reference)
    finally:
        ray.shutdown()
