"""Recovery: whoever finds a branch that nobody finishes, finishes it as the log says.

Any number of processes may do this at once, at any time; the log's cells are written once, databases refuse to finish
a branch twice, and "does not exist" is never taken for "done" without asking what became of it. One pass:

1. close the epochs of coordinators that are dead (so that "no cell" means abort from now on);
2. end the sessions of closed epochs where a database shows them (so that nothing of theirs becomes prepared later);
3. for every branch listed as prepared that no living owner is about to finish (resolver.py): read its cell, and do what
   the table says (core/twophase/table.py);
4. for every decision that is not noted as applied and not listed: prove it;
5. look again until a look finds nothing: a PREPARE may have been under way (greenplum-db/gpdb#10393).

A database or a log that does not answer stops nothing but itself; the next pass tries again. One that hangs is waited
for within bounds (participants/bounded.py).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

from troth.core.twophase.gid import Epoch
from troth.transactions.core import Core
from troth.transactions.participants.bounded import Bounded
from troth.transactions.report import UNREACHABLE, Report
from troth.transactions.resolver import Resolver

_log = logging.getLogger("troth.transactions")


def tell_why_it_ended(error: Exception, told: str) -> str:
    """Log what has ended a whole pass, the log most likely; unless it is what was *told* of the one before."""
    if str(error) != told:
        _log.warning("a pass of recovery did nothing, and the next one tries again: %s", error)
    return str(error)


class Recovery:
    """Passes over all participants, by hand (`run`) or every few seconds in a thread (`start`)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._of_the_living: set[str] = set()
        """See `Resolver`; of the last pass."""

    def start(self, every_s: Callable[[], float]) -> None:
        """Make a pass now and then after each *every_s*() seconds (a function, for jitter), in a thread."""

        def loop() -> None:
            told = ""
            while not self._over.is_set():
                try:
                    self.run()
                    told = ""
                except UNREACHABLE as error:
                    told = tell_why_it_ended(error, told)
                except Exception:  # noqa: BLE001  (logged; without this thread nobody would look again)
                    _log.exception("a pass of recovery failed; the next one tries again")
                self._over.wait(every_s())

        self._thread = threading.Thread(target=loop, name="troth 2pc recovery", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a pass that is under way ends first."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def run(self, *, even_if_alive: bool = False) -> Report:
        """One pass. With *even_if_alive*, coordinators that seem to live are fenced off too.

        Raises:
            StorageError, RequestError: the log cannot be read; nothing was done.
        """
        with self._one_at_a_time:
            report = Report()
            core = self._core
            closed = self._close_epochs(even_if_alive, report)
            reached = self._fence(closed, report)
            core.on_step("fenced")
            resolver = Resolver(core, report, self._of_the_living)
            try:
                resolver.resolve(reached)
                self._of_the_living = resolver.of_the_living
                core.on_step("resolved")
                resolver.apply(reached)
                report.left = list(resolver.left)
            finally:
                try:
                    resolver.leave_barrier()
                except BaseException:
                    # Ctrl-C, perhaps twice (DESIGN.md): snapshots wait.
                    try:
                        resolver.leave_barrier()
                    finally:
                        resolver.leave_barrier()
                    raise
            self._count(report)
            return report

    # ---- the steps of a pass -----------------------------------------------------------------------------

    def _close_epochs(self, even_if_alive: bool, report: Report) -> dict[str, int]:
        """Close what can be closed; for each coordinator the newest epoch that is certainly closed.

        Whose part of the log is damaged is left, and stops nobody else's recovery. One that is opened from now on has a
        higher number, so that its sessions are never taken for old ones.
        """
        log, blocking = self._core.log, self._core.waiting.blocking
        closed = {}
        for coordinator in blocking(log.coordinators):
            is_own = coordinator.name == log.epoch.coordinator
            may_close = not is_own and (not coordinator.is_alive or even_if_alive)
            problem, is_closed = coordinator.problem, False
            if may_close and not problem:
                try:
                    is_closed = blocking(partial(log.close_epoch, coordinator.name, even_if_alive=even_if_alive))
                except UNREACHABLE as error:
                    problem = str(error)
            if problem:
                report.unreachable[f"log of {coordinator.name}"] = problem
            closed[coordinator.name] = coordinator.epoch if is_closed else coordinator.epoch - 1
        return closed

    def _fence(self, closed: dict[str, int], report: Report) -> list[Bounded]:
        """End sessions in all databases at once, so that those that hang are waited for once. Who has answered."""
        own_log = self._core.epoch.log

        def is_closed(epoch: Epoch) -> bool:
            return epoch.log == own_log and epoch.number <= closed.get(epoch.coordinator, 0)

        asked: list[tuple[Bounded, Callable[[], int]]] = []
        reached = []
        for participant in self._core.participants.asked:
            try:
                asked.append((participant, participant.fencing(is_closed)))
            except UNREACHABLE as error:
                report.unreachable[participant.name] = str(error)
        for participant, answered in asked:
            try:
                report.sessions_ended += answered()
                reached.append(participant)
            except UNREACHABLE as error:
                report.unreachable[participant.name] = str(error)
        return reached

    def _count(self, report: Report) -> None:
        metrics = self._core.metrics
        metrics.passes += 1
        metrics.recovered += Counter(
            {
                "committed": len(report.committed),
                "rolled_back": len(report.rolled_back),
                "heuristic": len(report.heuristic),
            }
        )
        try:
            metrics.heuristics = len(self._core.waiting.blocking(self._core.log.heuristics))
        except UNREACHABLE:
            pass  # what was seen last stands
        for participant in self._core.participants.asked:
            try:
                listed = [p for p in participant.prepared() if p.gid.log == self._core.epoch.log]
            except UNREACHABLE:
                continue
            metrics.in_doubt[participant.name] = len(listed)
            metrics.oldest_s[participant.name] = max((p.age_s for p in listed), default=0.0)
